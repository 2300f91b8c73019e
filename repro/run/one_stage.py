"""`invoke stage.NAME`: one stage with all that it needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from repro.base.errors import UsageError
from repro.base.paths import Paths
from repro.display.console import Console
from repro.graph.pipeline import NPU_STAGES, PINNED_IMAGES, closure
from repro.run.execute import execute
from repro.run.inputs import DEMO_CORPUS
from repro.run.options import Options
from repro.run.request import aim, graph_of, resolve
from repro.run.session import Session
from repro.run.target import NPU, PINNED, PORTABLE


def run_stages(options: Options, stage: str, paths: Paths, console: Console) -> list[Path]:
    """Run one stage, for every batch size asked for, with all that it needs; returns the out/ folders."""
    session = Session(paths, console, options.on)
    if stage in NPU_STAGES.values():
        options = replace(options, request=replace(options.request, device=NPU))
    if options.toolchain == PINNED and stage in PINNED_IMAGES:  # its own image is all that is asked for
        options = replace(options, toolchain=PORTABLE, pinned=(stage,))
    target = aim(options, session)
    request, _ = resolve(options, paths, session.cache, target)
    if stage == DEMO_CORPUS:
        request = replace(request, data=None)
    if stage == "lm":
        request = replace(request, decode="Beam")
    nodes = graph_of(request, paths)
    targets = [key for key, node in nodes.items() if node.stage.name == stage]
    if not targets:
        raise UsageError(f"stage {stage} has no part in a run with --device {request.device}",
                         hint=f"there it is {NPU_STAGES.get(stage, 'left out')}")  # fmt: skip
    needed = closure(nodes, targets)
    with session.store.in_use():
        done = execute(session, options, target, needed, set(targets) if options.force else set()).done
    return [done[key].result.out for key in targets]
