"""`invoke demo.train`: makes the demo checkpoint anew, in its container, and pins it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base.confined import read_below
from repro.base.errors import StageFailed, VerificationFailed
from repro.base.files import make_shared_folder, sha256_bytes, write_atomic
from repro.base.pace import time_factor
from repro.base.paths import Paths
from repro.container.image import Image
from repro.container.job import Engine, Limits
from repro.display.console import Console
from repro.graph.code import snapshot
from repro.graph.leavings import read_document, take_in
from repro.graph.pipeline import STAGES, Node, Output, Request
from repro.graph.stage_job import PIDS, StageJob, run_job
from repro.graph.store import Result, Workspace
from repro.run.inputs import check_demo_corpus, demo_checkpoint_path
from repro.run.request import graph_of
from repro.run.session import Session

_KEY = "demo_train"
_CHECKPOINT_BYTES = 1 << 30
_PERCENT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?")


@dataclass(frozen=True)
class _Rate:
    """A phone error rate: percent as text, edits, phones."""

    per_percent: str
    edits: int
    phones: int


def train(paths: Paths, console: Console, engine_name: str, epochs: int) -> None:
    """Train the demo checkpoint in the exporter image, put it into data/demo and pin it in conf/demo.toml.

    A training that is stopped or killed goes on where it was when the command is given again.

    Raises:
        StageFailed: the training ended with an error.
        VerificationFailed: it left something else than a checkpoint and its summary.
    """
    session = Session(paths, console)
    nodes = graph_of(Request(batch_sizes=(8,)), paths)
    needed = {key: nodes[key] for key in ("demo_corpus", "corpus", "features")}
    session.codes.read({_KEY, *(node.stage.name for node in needed.values())})
    choice = session.engine(engine_name, fetch=True)
    images = session.images({STAGES[_KEY].image, *(n.stage.image for n in needed.values())}, fetch=True)
    state = paths.results / "demo-train"
    make_shared_folder(state)
    with session.store.in_use():
        done = session.runner(choice.engine, session.keys(images)).run(needed)
        results = {key: item.result for key, item in done.items()}
        check_demo_corpus(paths.conf, results["demo_corpus"])
        parameters = {"state": "/run/state", **({"epochs": str(epochs)} if epochs else {})}
        inputs = {"corpus": Output("corpus"), "features": Output("features"), "data": Output("demo_corpus")}
        node = Node(_KEY, STAGES[_KEY], inputs, parameters)
        work = session.store.workspace()
        try:
            _run(session, choice.engine, images[node.stage.image], _job(session, images, node, results, work, state))
            rates = _rates(work)
            _keep(paths, read_below(work.result / "out", "checkpoint.pth", _CHECKPOINT_BYTES), rates, console)
        finally:
            work.close()
    shutil.rmtree(state)


def _job(
    session: Session, images: Mapping[str, Image], node: Node, results: Mapping[str, Result], work: Workspace,
    state: Path,
) -> StageJob:  # fmt: skip
    limits = Limits(timeout_s=node.stage.timeout_s * time_factor(), memory_bytes=node.stage.memory_bytes, pids=PIDS)
    return StageJob(
        name=_KEY,
        image=images[node.stage.image],
        argv=node.argv(),
        code=snapshot(session.codes.of(node.stage.name), session.paths.code, session.cache),
        inputs={name: results[s.node].out for name, s in node.inputs.items() if isinstance(s, Output)},
        work=work.result,
        limits=limits,
        state={"state": state},
    )


def _run(session: Session, engine: Engine, image: Image, stage: StageJob) -> None:
    console = session.console
    engine.prepare(image)
    console.started(_KEY)
    log = stage.work.parent / "stage.log"
    outcome, said = run_job(engine, stage, log, lambda done, total, what: console.progress(_KEY, done, total, what))
    if outcome.exit_code != 0:
        console.failed(_KEY, said.error or f"exit code {outcome.exit_code}")
        raise StageFailed(
            f"the training ended with exit code {outcome.exit_code}: {said.error or 'see its last lines'}",
            detail="\n".join(said.tail),
            hint="\n".join(said.hints) or "the same command goes on where it was",
        )
    take_in(_KEY, stage.work, [log], STAGES[_KEY].leaves, session.cache)
    console.finished(_KEY, outcome.wall_s, cached=False)


def _rates(work: Workspace) -> dict[str, _Rate]:
    """The error rates that the training states, each held to its form: they are written into conf/demo.toml."""
    summary = read_document(work.result / "out", "summary.json", f"{_KEY}: summary.json")
    try:
        return {split: _rate(summary["rates"][split]) for split in ("dev", "test")}
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationFailed(f"{_KEY}: summary.json states no error rates: {error}") from error


def _rate(stated: Mapping[str, Any]) -> _Rate:
    percent, edits, phones = str(stated["per_percent"]), stated["edits"], stated["phones"]
    if not _PERCENT.fullmatch(percent) or type(edits) is not int or type(phones) is not int:
        raise ValueError("a rate is a number in percent, of whole numbers of edits and phones")
    return _Rate(percent, edits, phones)


def _keep(paths: Paths, weights: bytes, rates: Mapping[str, _Rate], console: Console) -> None:
    """Put the checkpoint in its place, then its hash into conf/demo.toml: between the two, a run says what is wrong."""
    digest = sha256_bytes(weights)
    write_atomic(demo_checkpoint_path(paths), weights)
    conf = paths.conf / "demo.toml"
    head, section, _ = conf.read_text(encoding="utf-8").partition("[checkpoint]")
    dev, test = rates["dev"], rates["test"]
    pinned = f"""
sha256 = "{digest}"
bytes = {len(weights)}

# Phone error rates of the stored weights: PyTorch 1.8.0, greedy, every utterance. They say nothing
# about TIMIT.
[checkpoint.per_percent]
dev = {dev.per_percent}              # {dev.edits} edits of {dev.phones} phones
test = {test.per_percent}             # {test.edits} of {test.phones}
"""
    write_atomic(conf, (head + section + pinned).encode())
    console.say(f"data/demo/checkpoint.pth: sha256 {digest}")
    console.say("conf/demo.toml holds its hash and error rates; state how it was trained in data/demo/README.md")
