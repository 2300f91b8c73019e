"""`invoke reproduce --plan`: what would run and why; nothing is run."""

from __future__ import annotations

from collections.abc import Mapping

from repro.base.errors import VerificationFailed
from repro.base.paths import Paths
from repro.base.strict_json import parse
from repro.display.console import Console
from repro.graph.keys import Keys, difference
from repro.graph.pipeline import Node, Output
from repro.graph.store import Result, Store, fingerprint_of
from repro.images.build import describe_missing
from repro.images.layer_index import known_images
from repro.images.runnable import HINT
from repro.run.engine_when_needed import check_name
from repro.run.execute import cannot_run
from repro.run.options import Options
from repro.run.request import aim, graph_of, resolve
from repro.run.session import Session
from repro.run.target import Target

STORED = "stored"


def plan(options: Options, paths: Paths, console: Console) -> list[str]:
    """What would run and why, a line a step; runs nothing and writes nothing but locks of what was looked at."""
    check_name(options.engine)
    session = Session(paths, console, options.on)
    target = aim(options, session)
    request, _ = resolve(options, paths, session.cache, target)
    nodes = graph_of(request, paths)
    troubles, steps = plan_steps(session, target, nodes, force=options.force)
    return [*troubles, *(f"{key:<16} {told}" for key, told in steps.items())]


def plan_steps(
    session: Session, target: Target, nodes: Mapping[str, Node], *, force: bool = False
) -> tuple[list[str], dict[str, str]]:
    """What stands in the way of a graph, a line each; and by step what would be done and why, or `STORED`."""
    paths = session.paths
    names = sorted({node.stage.image for node in nodes.values()})
    images = known_images(paths, names, session.architecture)
    refused = cannot_run(session, nodes, nodes if force else ())
    lines = [f"cannot run: {why}" for why in refused.values()] + ([f"-> {HINT}"] if refused else [])
    lines += describe_missing(paths, names, session.architecture)
    keys = session.keys(images, target.accelerator)
    results: dict[str, Result] = {}
    return lines, {key: _plan_of(node, keys, session.store, results, force=force) for key, node in nodes.items()}


def _plan_of(node: Node, keys: Keys, store: Store, results: dict[str, Result], *, force: bool) -> str:
    if node.stage.image not in keys.images:
        return f"run: image {node.stage.image} is not built yet"
    waiting = sorted({s.node for s in node.inputs.values() if isinstance(s, Output) and s.node not in results})
    if waiting:
        return "run unless its inputs come out as before: after " + ", ".join(waiting)
    key = keys.key(node, results)
    stored = store.load(fingerprint_of(key))
    if stored is not None:
        results[node.key] = stored
        if not force:
            return STORED
        return "run again: --force (its result must come out the same)"
    last = store.last_of(node.key)
    if last is None:
        return "run: never run before"
    try:
        old = parse((store.path(last) / "result.json").read_bytes(), what="result.json")
        return "run: " + ", ".join(difference(old["key"], key))
    except (FileNotFoundError, VerificationFailed, KeyError, TypeError, AttributeError):
        return "run: its last result was removed or damaged"
