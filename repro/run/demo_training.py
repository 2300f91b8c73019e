"""`invoke demo.train`: makes the demo checkpoint anew, in its container, and pins it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.base.errors import StageFailed
from repro.base.files import sha256_file, write_atomic
from repro.base.paths import Paths
from repro.container.job import Job, Limits, Mount
from repro.display.console import Console
from repro.graph.code import read_code, snapshot
from repro.graph.log import StageLog
from repro.graph.pipeline import STAGES, Node, Output, Request
from repro.graph.store import Result
from repro.run.inputs import check_demo_corpus, demo_checkpoint_path
from repro.run.request import graph_of
from repro.run.session import Session

_KEY = "demo_train"


def train(paths: Paths, console: Console, engine_name: str, epochs: int) -> None:
    """Train the demo checkpoint in the exporter image, put it into data/demo and pin it in conf/demo.toml.

    A training that is stopped or killed goes on where it was when the command is given again.

    Raises:
        StageFailed: the training ended with an error.
    """
    session = Session(paths, console)
    nodes = graph_of(Request(batch_sizes=(8,)), paths)
    needed = {key: nodes[key] for key in ("demo_corpus", "corpus", "features")}
    choice = session.engine(engine_name, fetch=True)
    images = session.images({STAGES[_KEY].image, *(n.stage.image for n in needed.values())}, fetch=True)
    done = session.runner(choice.engine, session.keys(images)).run(needed)
    results = {key: item.result for key, item in done.items()}
    check_demo_corpus(paths.conf, session.architecture, results["demo_corpus"])
    parameters = {"state": "/run/state"}
    if epochs:
        parameters["epochs"] = str(epochs)
    inputs = {"corpus": Output("corpus"), "features": Output("features"), "data": Output("demo_corpus")}
    node = Node(_KEY, STAGES[_KEY], inputs, parameters)
    state = paths.results / "demo-train"
    state.mkdir(parents=True, exist_ok=True)
    session.store.clean_up()
    work = session.store.workspace()
    try:
        summary = _run(session, choice.engine, images[node.stage.image], node, results, state, work.result, console)
        _keep(paths, work.result / "out" / "checkpoint.pth", summary, console)
    finally:
        work.close()
    shutil.rmtree(state)


def _run(
    session: Session, engine: Any, image: Any, node: Node, results: Mapping[str, Result], state: Path, work: Path,
    console: Console,
) -> dict[str, Any]:  # fmt: skip
    engine.prepare(image)
    code = snapshot(read_code(session.paths.root, node.stage.name), session.paths.code)
    mounts = [Mount(code, "/run/code"), Mount(state, "/run/state", writable=True)]
    mounts += [Mount(results[s.node].out, f"/run/in/{n}") for n, s in node.inputs.items() if isinstance(s, Output)]
    mounts += [Mount(work / name, f"/run/{name}", writable=True) for name in ("out", "obs")]
    job = Job(
        image,
        node.argv(),
        tuple(mounts),
        {"PYTHONPATH": "/run/code"},
        limits=Limits(timeout_s=node.stage.timeout_s, memory_bytes=node.stage.memory_bytes, pids=1024),
        name=_KEY,
    )
    console.started(_KEY)
    with StageLog(work / "stage.log", lambda done, total, what: console.progress(_KEY, done, total, what)) as log:
        outcome = engine.run(job, log.line)
    if outcome.exit_code != 0:
        console.failed(_KEY)
        raise StageFailed(
            f"the training ended with exit code {outcome.exit_code}: {log.error or 'see its last lines'}",
            detail="\n".join(log.tail()),
            hint="\n".join(log.hints) or "the same command goes on where it was",
        )
    console.finished(_KEY, outcome.wall_s, cached=False)
    summary: dict[str, Any] = json.loads((work / "out" / "summary.json").read_bytes())
    return summary


def _keep(paths: Paths, trained: Path, summary: Mapping[str, Any], console: Console) -> None:
    """Put the checkpoint in its place, then its hash into conf/demo.toml: between the two, a run says what is wrong."""
    digest = sha256_file(trained)
    target = demo_checkpoint_path(paths)
    write_atomic(target, trained.read_bytes())
    conf = paths.conf / "demo.toml"
    head, section, _ = conf.read_text(encoding="utf-8").partition("[checkpoint]")
    rates = summary["rates"]
    pinned = f"""
sha256 = "{digest}"
bytes = {target.stat().st_size}

# Phone error rates of the stored weights on amd64's corpus: PyTorch 1.8.0, greedy, every utterance. They say nothing
# about TIMIT.
[checkpoint.per_percent]
dev = {rates["dev"]["per_percent"]}              # {rates["dev"]["edits"]} edits of {rates["dev"]["phones"]} phones
test = {rates["test"]["per_percent"]}             # {rates["test"]["edits"]} of {rates["test"]["phones"]}
"""
    write_atomic(conf, (head + section + pinned).encode())
    console.say(f"data/demo/checkpoint.pth: sha256 {digest}")
    console.say("conf/demo.toml holds its hash and error rates; state how it was trained in data/demo/README.md")
