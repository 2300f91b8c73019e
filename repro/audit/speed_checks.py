"""The speed checks of a rerun: what is timed is what is scored, nothing is remembered, no work is skipped.

A check that this machine's noise leaves undecided is made again with more rounds, up to a limit that the page states.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from repro.audit.claims import RUN_AGAIN, Examination, Outcome
from repro.audit.stage_files import Accuracy, Honesty, Judged
from repro.audit.times import validity
from repro.graph.making import Done
from repro.graph.pipeline import Node, Output, StageDefinition
from repro.record.measuring import LEAST_DURATION_S, LEAST_EXECUTIONS
from repro.record.stage_files import SustainedFile
from repro.run.execute import execute
from repro.run.options import Options
from repro.run.record import SUSTAINED, read_observed, read_output
from repro.run.request import graph_of
from repro.run.session import Session
from repro.run.target import settle

HONESTY = StageDefinition("honesty", "runtime", whole_machine=True, host_bound=True, timeout_s=2 * 3600.0)
MOST_TRIES = 4
_HONEST, _DISHONEST = "honest", "dishonest"


def examine_speeds(outcome: Outcome, options: Options, session: Session, rounds: int) -> None:
    """Claims for each batch size, by the stages `honesty` and `measure` on results that this session has stored."""
    for size in options.request.batch_sizes:
        found: list[tuple[Accuracy, Honesty]] = []
        text = f"batch size {size}: what is timed is what is scored: outputs of timed executions equal the scored ones"
        with outcome.examine(f"timed-is-scored@{size}", text, RUN_AGAIN) as it:
            found = _honesty(session, options, size, rounds)
            accuracy = found[0][0]
            unequal = sorted({name for one, _ in found for name in one.unequal})
            it.wrong += [f"{name} differs from what the stage infer gave" for name in unequal]
            if not accuracy.outputs_compared or accuracy.equal != (not accuracy.unequal):
                it.missing.append("no output was compared")
            it.evidence.append(f"{accuracy.outputs_compared} outputs of {len(accuracy.batches)} batches")
        if found:
            _examine_ratios(outcome, size, [times for _, times in found])
        text = f"batch size {size}: this machine's own throughput is averaged over enough executions and time"
        with outcome.examine(f"own-speed-valid@{size}", text, RUN_AGAIN) as it:
            _examine_own_speed(it, session, options, size)


def _examine_ratios(outcome: Outcome, size: int, tries: list[Honesty]) -> None:
    text = f"batch size {size}: repeated inputs are not faster than fresh ones"
    with outcome.examine(f"no-caching@{size}", text, RUN_AGAIN) as it:
        _judged(it, [(times.caching, times.rounds) for times in tries], "repeated / fresh")
    text = f"batch size {size}: zeros, which are timed, take as long as speech"
    with outcome.examine(f"no-shortcut@{size}", text, RUN_AGAIN) as it:
        _judged(it, [(times.content, times.rounds) for times in tries], "zeros / speech")


def _judged(it: Examination, tries: list[tuple[Judged, int]], what: str) -> None:
    """The first try that decides counts; those before it are evidence."""
    for judged, rounds in tries:
        low, high = judged.interval_95
        line = (
            f"{what}: median {judged.median:.3f}, 95 % interval {low:.3f} to {high:.3f}, limit {judged.limit:.2f} "
            f"from 1, {rounds} rounds"
        )
        if judged.verdict == _DISHONEST:
            it.wrong.append(line)
        elif judged.verdict == _HONEST:
            it.evidence.append(line)
        else:
            it.evidence.append(f"{line}: undecided")
            continue
        return
    it.missing.append(
        f"{what}: undecided in {len(tries)} tries, the last of {tries[-1][1]} rounds: run again on a quiet machine"
    )


def _honesty(session: Session, options: Options, size: int, rounds: int) -> list[tuple[Accuracy, Honesty]]:
    """The stage honesty, again with twice the rounds while a ratio is undecided."""
    tries: list[tuple[Accuracy, Honesty]] = []
    undecided = True
    while undecided and len(tries) < MOST_TRIES:
        if tries:
            session.console.say(f"the speed checks of batch size {size} are undecided: again with {rounds} rounds")
        done = _run(session, options, {f"honesty@{size}": _honesty_node(session, options, size, rounds)})
        stage = done[f"honesty@{size}"]
        times = read_observed(stage, "honesty.json", Honesty)
        tries.append((read_output(stage, "accuracy.json", Accuracy), times))
        verdicts = {judged.verdict for one in tries for judged in (one[1].caching, one[1].content)}
        undecided = times.fresh_batches > 0 and not all(_decided(tries, name) for name in ("caching", "content"))
        undecided = undecided and _DISHONEST not in verdicts
        rounds *= 2
    return tries


def _decided(tries: list[tuple[Accuracy, Honesty]], name: str) -> bool:
    return any(getattr(times, name).verdict in (_HONEST, _DISHONEST) for _, times in tries)


def _honesty_node(session: Session, options: Options, size: int, rounds: int) -> Node:
    nodes = graph_of(options.request, session.paths)
    precision = {name: value for name, value in nodes[f"infer@{size}"].parameters.items() if name == "precision"}
    inputs = {
        "model": Output(f"convert@{size}"),
        "batches": Output(f"batches@{size}"),
        "outputs": Output(f"infer@{size}"),
    }
    return Node(f"honesty@{size}", HONESTY, inputs, {"bs": str(size), "rounds": str(rounds), **precision}, size)


def _examine_own_speed(it: Examination, session: Session, options: Options, size: int) -> None:
    """Measure again with more executions while they are too few, or too short, or disturbed."""
    loop = options.request.loop
    lacks: list[str] = []
    for attempt in range(1, MOST_TRIES + 1):
        done = _run(session, replace(options, request=replace(options.request, loop=loop)), {})
        times_ms = read_observed(done[f"measure@{size}"], SUSTAINED, SustainedFile).times_ms
        lacks, facts = validity(times_ms)
        it.evidence += facts
        if not lacks:
            return
        if attempt < MOST_TRIES:
            total_s = math.fsum(times_ms) / 1000.0
            loop = max(LEAST_EXECUTIONS, 2 * loop, math.ceil(1.2 * loop * LEAST_DURATION_S / total_s))
            session.console.say(f"the speed of batch size {size} is not decided: again with {loop} executions")
    it.missing += lacks
    it.evidence.append(f"{MOST_TRIES} tries")


def _run(session: Session, options: Options, more: Mapping[str, Node]) -> dict[str, Done]:
    """Run a graph and some more nodes; what is stored by this rerun is not run again."""
    nodes = {**graph_of(options.request, session.paths), **more}
    return execute(session, options, settle(session.paths, session.architecture, options), nodes).done
