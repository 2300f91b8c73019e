"""`invoke audit.rerun`: every stage again, in the same images on this machine, and each output held to the record's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repro.audit.claims import Examination, Outcome
from repro.audit.compare import compare_runs
from repro.audit.evidence import Evidence, open_run
from repro.audit.results import validity
from repro.audit.stages import request_of
from repro.base.paths import Paths, given_path
from repro.base.temporary import temporary_folder
from repro.display.console import Console
from repro.graph.cache import StatCache
from repro.graph.making import Done
from repro.graph.pipeline import Node, Output, StageDefinition
from repro.graph.sources import digest_source
from repro.machine.facts import architecture
from repro.run.inputs import DEMO, demo_checkpoint_path, find_data, users_checkpoint
from repro.run.options import Options
from repro.run.reproduce import reproduce
from repro.run.request import graph_of
from repro.run.session import Session
from repro.run.target import PINNED, PORTABLE, lacking_for_pinned

HONESTY = StageDefinition("honesty", "runtime", whole_machine=True, host_bound=True, timeout_s=2 * 3600.0)
_NAMES = ("the record", "this machine")
_CPU = "cpu"


@dataclass(frozen=True)
class Rerun:
    """How to run again. `data` and `checkpoint` are options as of `invoke reproduce`; '' looks in data/."""

    data: str = ""
    checkpoint: str = ""
    engine: str = "auto"
    fetch: bool = True
    rounds: int = 30


def rerun(evidence: Evidence, how: Rerun, console: Console) -> Outcome:
    """Run everything that a record asked for again, into a folder of its own, and compare output by output.

    Nothing that is stored already is taken. The folder is removed, unless something differs: then it is kept, and
    the outcome says where.
    """
    record = evidence.record
    outcome = Outcome("rerun", f"record.json sha256 {evidence.sha256}")
    found: dict[str, Path | None] = {}
    with outcome.examine("inputs", "the data set and the checkpoint here are those of the record") as it:
        found = _inputs(it, evidence, how)
    if outcome.error() is not None:
        return outcome
    temporary = temporary_folder(evidence.paths.temporary, "rerun")
    try:
        _run(outcome, evidence, Paths(evidence.paths.root, temporary.path), found, how, console)
        if outcome.of_status("refuted"):
            kept = temporary.keep("rerun").name
            outcome.facts.append(("outputs of this machine", f"kept in {kept} of the results' tmp folder"))
    finally:
        temporary.close()
    outcome.facts.append(("verdict claimed", record["verdict"]["outcome"]))
    return outcome


def _inputs(it: Examination, evidence: Evidence, how: Rerun) -> dict[str, Path | None]:
    record, paths = evidence.record, evidence.paths
    data = None
    if record["data"]["kind"] != DEMO:
        data = find_data(paths, how.data)
        _hold(it, data, "data set", record["data"]["fingerprint"])
    if record["checkpoint"]["kind"] == DEMO:
        checkpoint: Path | None = demo_checkpoint_path(paths)
    else:
        checkpoint = given_path("--checkpoint", how.checkpoint) if how.checkpoint else users_checkpoint(paths)
    _hold(it, checkpoint, "checkpoint", record["checkpoint"]["sha256"])
    return {"data": data, "checkpoint": checkpoint}


def _hold(it: Examination, place: Path | None, what: str, expected: str) -> None:
    if place is None or not place.exists():
        it.missing.append(f"the {what} is not here: give it with --{what.partition(' ')[0]} (the record: {expected})")
        return
    found = digest_source(place, StatCache(None), what)
    if found != expected:
        it.missing.append(f"the {what} here has the digest {found}, the record's {expected}: it is another one")
    it.evidence.append(f"{what}: {found}")


def _run(
    outcome: Outcome,
    evidence: Evidence,
    fresh: Paths,
    found: Mapping[str, Path | None],
    how: Rerun,
    console: Console,
) -> None:
    record = evidence.record
    request = request_of({**record, "request": {**record["request"], "device": _CPU}}, **found)
    asked = request.pinned
    lacking = lacking_for_pinned(evidence.paths, architecture()) if asked else []
    if lacking:
        request = replace(request, pinned=())
    options = Options(
        request=request,
        data_option=str(found["data"] or DEMO),
        checkpoint_option=DEMO if record["checkpoint"]["kind"] == DEMO else str(found["checkpoint"]),
        engine=how.engine,
        toolchain=PINNED if request.pinned else PORTABLE,
        fetch=how.fetch,
    )
    made: list[Evidence] = []
    with outcome.examine("run", "every stage runs again on this machine") as it:
        made_now = reproduce(options, fresh, console)
        made.append(open_run(fresh.runs / "latest", evidence.paths))
        it.evidence.append(f"engine {made_now.engine.name}, {len(made_now.stages)} stages, none stored")
    if not made:
        return
    again = made[0]
    outcome.facts += [
        ("the record was made on", _machine(record)),
        ("run again on", _machine(again.record)),
    ]
    if record["request"]["device"] != _CPU:
        with outcome.examine("device", "the record's device computes the same again") as it:
            it.missing.append(f"the record is of device {record['request']['device']}; this machine ran on its CPU")
    if asked:
        with outcome.examine("toolchain", "the record's pinned images run again") as it:
            it.missing += lacking
            it.evidence.append(f"pinned in the record: {', '.join(asked)}")
    compare_runs(outcome, evidence, again, _NAMES)
    _examine_honesty(outcome, options, fresh, how, console)


def _machine(record: Mapping[str, Any]) -> str:
    host = record["host"]
    return f"{host.get('cpu', 'unknown')}, {host.get('cores', '?')} cores, {record['engine']['name']}"


def _examine_honesty(outcome: Outcome, options: Options, fresh: Paths, how: Rerun, console: Console) -> None:
    """Claims of the stage `honesty` for each batch size."""
    done: dict[str, Done] = {}
    with outcome.examine("honesty", "the speed checks ran on this machine") as it:
        done = run_honesty(options, fresh, how, console)
        it.evidence.append(f"{how.rounds} rounds a batch size")
    for size in options.request.batch_sizes:
        node = done.get(f"honesty@{size}")
        if node is None:
            continue
        accuracy = json.loads((node.result.out / "accuracy.json").read_bytes())
        timed = json.loads((node.result.obs / "honesty.json").read_bytes())
        text = f"batch size {size}: what is timed is what is scored: outputs of timed executions equal the scored ones"
        with outcome.examine(f"timed-is-scored@{size}", text) as it:
            it.wrong += [f"{name} differs from what the stage infer gave" for name in accuracy["unequal"]]
            if not accuracy["outputs_compared"] or accuracy["equal"] != (not accuracy["unequal"]):
                it.missing.append("no output was compared")
            it.evidence.append(f"{accuracy['outputs_compared']} outputs of {len(accuracy['batches'])} batches")
        text = f"batch size {size}: repeated inputs are not faster than fresh ones"
        with outcome.examine(f"no-caching@{size}", text) as it:
            _judged(it, timed["caching"], "repeated / fresh")
        text = f"batch size {size}: zeros, which are timed, take as long as speech"
        with outcome.examine(f"no-shortcut@{size}", text) as it:
            _judged(it, timed["content"], "zeros / speech")
        measured = json.loads((done[f"measure@{size}"].result.obs / "measure.json").read_bytes())
        text = f"batch size {size}: this machine's own throughput is averaged over enough executions and time"
        with outcome.examine(f"speed-valid@{size}", text) as it:
            lacks, facts = validity(measured["times_ms"])
            it.missing += lacks
            it.evidence += facts


def run_honesty(options: Options, fresh: Paths, how: Rerun, console: Console) -> dict[str, Done]:
    """Run the stage `honesty` upon results that are stored in `fresh`; returns every step, the earlier ones too."""
    session = Session(fresh, console)
    nodes = graph_of(options.request, fresh)
    for size in options.request.batch_sizes:
        precision = {name: value for name, value in nodes[f"infer@{size}"].parameters.items() if name == "precision"}
        inputs = {
            "model": Output(f"convert@{size}"),
            "batches": Output(f"batches@{size}"),
            "outputs": Output(f"infer@{size}"),
        }
        key = f"honesty@{size}"
        nodes[key] = Node(key, HONESTY, inputs, {"bs": str(size), "rounds": str(how.rounds), **precision}, size)
    choice = session.engine(options.engine, fetch=how.fetch)
    images = session.images({node.stage.image for node in nodes.values()}, fetch=how.fetch)
    return session.runner(choice.engine, session.keys(images)).run(nodes)


def _judged(it: Examination, judged: Mapping[str, Any], what: str) -> None:
    low, high = judged["interval_95"]
    line = (
        f"{what}: median {judged['median']:.3f}, 95 % interval {low:.3f} to {high:.3f}, limit {judged['limit']:.2f} "
        "from 1"
    )
    if judged["verdict"] == "dishonest":
        it.wrong.append(line)
    elif judged["verdict"] != "honest":
        it.missing.append(f"{line}: too uncertain to say; run again on a quiet machine, or with more --rounds")
    else:
        it.evidence.append(line)
