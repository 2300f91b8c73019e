"""A record's speeds and times: throughput and latency from the raw times, and times held to each other.

No time can be recomputed: what holds here is attested. But times that cannot be are refuted: figures that the raw times
do not give, executions that take longer than the stage they ran in, steps that last longer than their run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from repro.audit import arithmetic
from repro.audit.claims import Examination
from repro.audit.evidence import Evidence
from repro.audit.leaves import differences
from repro.audit.stage_files import InferSummary, MeasureSummary
from repro.base import typed_json
from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.graph.leavings import HOST_WATCH
from repro.guide.disturbance import while_measuring
from repro.record.measuring import LEAST_DURATION_S, LEAST_EXECUTIONS, LoadFile, MachineFile
from repro.record.scores import Result
from repro.record.stage_files import MeasureFile, SustainedFile
from repro.run.record import LOAD, sustained

PRINTED = 1e-6  # relative: what a tool rounds away when it prints
ROUNDING = 1e-9  # relative: two orders of summation, or two ways to write a percentile
MOST_UNCERTAINTY = 0.05  # half a 95 % interval of the mean, relative: the tolerance of the published throughput
_CLOCKS_S = 0.01  # wall times are kept to the millisecond, and the two clocks of a stage are not read at once
_MEASURE, _SUSTAINED, _THROUGHPUT = "measure.json", "sustained.json", "throughput_utterances_per_s"
_FORMULAS = ("1000*batchsize/mean(times_ms)", "1000*batchsize/NPU_compute_time.mean")


def read_times(evidence: Evidence, size: int) -> MeasureFile:
    """measure.json as the record's own run left it.

    Raises:
        CouldNotVerify: it is not here, or a later run of the same measurement has taken its place.
        VerificationFailed: its bytes are not those that its digest names, or hold no times.
    """
    stage = evidence.stage(f"measure@{size}")
    measured = typed_json.read(evidence.observed(stage, _MEASURE), MeasureFile, what=f"{stage.key}: {_MEASURE}")
    on_cpu = evidence.record.request.device == "cpu"
    if on_cpu != bool(measured.times_ms):  # the vendor's tool prints statistics, and no list
        raise VerificationFailed(f"{stage.key}: {_MEASURE} holds {len(measured.times_ms)} times")
    if measured.formula != _FORMULAS[not on_cpu]:
        raise VerificationFailed(f"{stage.key}: {_MEASURE} has the formula {measured.formula!r}")
    return measured


def examine_speed(it: Examination, evidence: Evidence, result: Result, path: str) -> None:
    """Whether a result's throughput and latency follow from the raw times, and these fit into their stage."""
    size = result.batch_size
    measured = read_times(evidence, size)
    it.wrong += differences(result.measured, measured.figures(), f"{path}.measured")
    it.wrong += differences(result.latency_ms, measured.latency_ms, f"{path}.latency_ms")
    it.wrong += differences(
        result.throughput_utterances_per_s, measured.throughput_utterances_per_s, f"{path}.throughput_utterances_per_s"
    )
    if measured.batch_size != size:
        it.wrong.append(f"the times are of batch size {measured.batch_size}")
    summary = evidence.read(evidence.stage(f"measure@{size}"), "summary.json", MeasureSummary)
    loops = {measured.loop, summary.loop, evidence.record.request.loop}
    if len(loops) != 1 or (measured.times_ms and len(measured.times_ms) not in loops):
        it.wrong.append(
            f"{len(measured.times_ms)} executions were timed; request.loop is {evidence.record.request.loop}"
        )
    _examine_model(it, evidence, size, summary)
    found = {**msgspec.to_builtins(measured.latency_ms), _THROUGHPUT: measured.throughput_utterances_per_s}
    if measured.times_ms:
        expected = arithmetic.speeds(measured.times_ms, size)
        it.wrong += _not_near(found, expected, _MEASURE)
    else:
        _examine_statistics(it, measured)
    whole = _sustained(it, evidence, size, measured)
    _examine_all_loops(it, result, whole, path)
    _examine_watched(it, evidence, result, path)
    timed_ms = (whole or measured).times_ms
    _examine_walls(it, evidence, size, math.fsum(timed_ms) or measured.loop * measured.latency_ms.mean)
    it.evidence.append(
        f"{len(measured.times_ms) or 'no list of'} raw times; the arithmetic is recomputed, the times themselves only "
        "the machine of the run could see"
    )
    it.open_to.append("times of a faster machine, or none at all: nobody can find that in a file; measure again")


def _examine_model(it: Examination, evidence: Evidence, size: int, summary: MeasureSummary) -> None:
    """Whether the model that was timed is the converted one."""
    convert = evidence.stage(f"convert@{size}")
    models = {file.sha256 for name, file in convert.outputs.files.items() if name.endswith((".onnx", ".om"))}
    if summary.model_sha256 not in models:
        it.wrong.append(f"measure@{size}: it timed the model {summary.model_sha256}, which convert@{size} did not give")


def _examine_statistics(it: Examination, measured: MeasureFile) -> None:
    """Figures of the vendor's tool, which keeps no list of times: held to its own formula."""
    if measured.latency_ms.mean <= 0:
        raise VerificationFailed(f"{_MEASURE}: a mean of {measured.latency_ms.mean} ms is no time of an execution")
    expected = 1000.0 * measured.batch_size / measured.latency_ms.mean
    throughput = measured.throughput_utterances_per_s
    if (measured.devices or 1) == 1 and not math.isclose(throughput, expected, rel_tol=PRINTED):
        it.wrong.append(f"{_MEASURE}: throughput {throughput} is not 1000 * batch size / mean = {expected}")
    latency = measured.latency_ms
    if (
        not latency.min <= latency.median <= latency.p99 <= latency.max
        or not latency.min <= latency.mean <= latency.max
    ):
        it.wrong.append(f"{_MEASURE}: minimum, median, mean, 99th percentile and maximum are not in order")


def _sustained(it: Examination, evidence: Evidence, size: int, measured: MeasureFile) -> SustainedFile | None:
    """The figures of all loops, held to those of the first; None where only the first was timed.

    On the NPU they are those of one longer run, and the vendor's tool keeps no list of times.
    """
    stage = evidence.stage(f"measure@{size}")
    if _SUSTAINED not in stage.observations.files:
        return None
    whole = typed_json.read(evidence.observed(stage, _SUSTAINED), SustainedFile, what=f"{stage.key}: {_SUSTAINED}")
    if (whole.loop, whole.batch_size, whole.formula) != (measured.loop, size, measured.formula):
        it.wrong.append(f"{_SUSTAINED}: its loop, batch size or formula is not that of {_MEASURE}")
    if not measured.times_ms:
        if whole.times_ms or whole.latency_ms.mean <= 0:
            raise VerificationFailed(f"{stage.key}: {_SUSTAINED} holds no figures of the vendor's tool")
        if whole.loops == 1:
            it.wrong += differences(whole.latency_ms, measured.latency_ms, _SUSTAINED)
        return whole
    expected = arithmetic.speeds(whole.times_ms, size) if whole.times_ms else {}
    found = {**msgspec.to_builtins(whole.latency_ms), _THROUGHPUT: whole.throughput_utterances_per_s}
    it.wrong += _not_near(found, expected, _SUSTAINED)
    if len(whole.times_ms) != measured.loop * whole.loops:
        it.wrong.append(f"{_SUSTAINED}: {len(whole.times_ms)} times are not {whole.loops} loops of {measured.loop}")
    if whole.times_ms[: measured.loop] != measured.times_ms:
        it.wrong.append(f"{_SUSTAINED}: its first {measured.loop} times are not those of {_MEASURE}")
    return whole


def _examine_all_loops(it: Examination, result: Result, whole: SustainedFile | None, path: str) -> None:
    """Whether the figures of all loops in the record are those of the file, and each loop's follow from its times."""
    if whole is None or not whole.each:
        if result.sustained:
            it.wrong.append(f"{path}.sustained: {_SUSTAINED} does not tell the loops")
        return
    if sum(each.loop for each in whole.each) != whole.loop * whole.loops:
        it.wrong.append(f"{_SUSTAINED}: its loops have not {whole.loop * whole.loops} executions together")
    start = 0
    for number, each in enumerate(whole.each) if whole.times_ms else ():
        times_ms = whole.times_ms[start : start + each.loop]
        start += each.loop
        expected = arithmetic.speeds(times_ms, whole.batch_size)[_THROUGHPUT] if times_ms else 0.0
        if not math.isclose(each.throughput_utterances_per_s, expected, rel_tol=ROUNDING):
            it.wrong.append(f"{_SUSTAINED}: loop {number} has not the throughput of its times, {expected!r}")
    it.wrong += differences(result.sustained or {}, sustained(whole), f"{path}.sustained")


def _examine_watched(it: Examination, evidence: Evidence, result: Result, path: str) -> None:
    """Whether what the record says of the machine meanwhile is what was read."""
    stage = evidence.stage(f"measure@{result.batch_size}")
    if HOST_WATCH not in stage.observations.files:
        if result.while_measuring:
            it.wrong.append(f"{path}.while_measuring: {stage.key} has no {HOST_WATCH}")
        return
    machine = typed_json.read(evidence.observed(stage, HOST_WATCH), MachineFile, what=f"{stage.key}: {HOST_WATCH}")
    load = None
    if LOAD in stage.observations.files:
        load = typed_json.read(evidence.observed(stage, LOAD), LoadFile, what=f"{stage.key}: {LOAD}")
    expected = while_measuring(machine, load, result.measured.loop)
    it.wrong += differences(result.while_measuring or {}, expected, f"{path}.while_measuring")


def _examine_walls(it: Examination, evidence: Evidence, size: int, timed_ms: float) -> None:
    _longer(it, f"measure@{size}", timed_ms / 1000.0, evidence.stage(f"measure@{size}").observations.wall_s)
    infer = evidence.stage(f"infer@{size}")
    for name in ("result_summary.json", "tail_summary.json"):
        if evidence.record.request.device != "cpu" or name not in infer.observations.files:
            continue
        try:
            data = evidence.observed(infer, name)
        except CouldNotVerify:
            continue  # a later run of the same stage: its times are not this run's
        summary = typed_json.read(data, InferSummary, what=f"{infer.key}: {name}")
        spent_s = math.fsum(summary.npu_compute_time_list) / 1000.0 / summary.streams
        _longer(it, infer.key, spent_s, infer.observations.wall_s)


def _longer(it: Examination, key: str, inside_s: float, wall_s: float) -> None:
    if inside_s > wall_s + _CLOCKS_S:
        it.wrong.append(f"{key}: its executions took {inside_s:.3f} s, the whole stage {wall_s:.3f} s")


def examine_spans(it: Examination, evidence: Evidence) -> None:
    """Whether the steps and phases of a run lie within the run."""
    seen = evidence.record.observations
    for name, started_s, seconds in (
        *((f"phase {phase.name}", phase.started_s, phase.seconds) for phase in seen.phases),
        *((f"step {step.key}", step.started_s, step.wall_s) for step in seen.steps),
    ):
        if started_s + seconds > seen.wall_s + _CLOCKS_S:
            it.wrong.append(f"{name} ends {started_s + seconds:.3f} s after the start of a run of {seen.wall_s:.3f} s")
    stages = {stage.key: stage for stage in evidence.record.stages}
    steps = {step.key: step for step in seen.steps}
    it.wrong += [
        f"observations.steps names {key}, which is no stage of the record" for key in steps if key not in stages
    ]
    it.wrong += [f"observations.steps does not name {key}" for key in stages if key not in steps]
    for key in sorted(stages.keys() & steps.keys()):
        stage, step = stages[key], steps[key]
        if stage.cached != step.cached:
            it.wrong.append(f"{key} is cached in stages or in observations.steps, and not in the other")
        elif not stage.cached:
            _longer(it, f"{key} (step)", stage.observations.wall_s, step.wall_s)


def _not_near(found: Mapping[str, float | None], expected: Mapping[str, float], path: str) -> list[str]:
    wrong = [f"{path}: {name} is missing or not known" for name in sorted(set(found) ^ set(expected))]
    for name in sorted(set(found) & set(expected)):
        value = found[name]
        if value is None or not math.isclose(value, expected[name], rel_tol=ROUNDING):
            wrong.append(f"{path}: {name} is {value!r}; recomputed: {expected[name]!r}")
    return wrong


def examine_validity(it: Examination, evidence: Evidence, size: int) -> None:
    """Whether a speed is averaged over enough executions and time."""
    measured = read_times(evidence, size)
    whole = _sustained(it, evidence, size, measured)
    figures = whole or measured
    if figures.times_ms:
        lacks, facts = validity(figures.times_ms)
    else:
        count = measured.loop * (whole.loops if whole else 1)
        lacks, facts = _enough(count, count * figures.latency_ms.mean / 1000.0)
    it.missing += lacks
    it.evidence += facts


def _enough(count: int, total_s: float) -> tuple[list[str], list[str]]:
    lacks = []
    if count < LEAST_EXECUTIONS:
        lacks.append(f"{count} executions are too few for a figure: at least {LEAST_EXECUTIONS} (--loop)")
    if total_s < LEAST_DURATION_S:
        wanted = math.ceil(count * LEAST_DURATION_S / max(total_s, 1e-3) / 100) * 100
        lacks.append(
            f"{total_s:.1f} s of timed work are too short for a figure: at least {LEAST_DURATION_S:.0f} s; on that "
            f"machine `invoke reproduce --loop {wanted}` gives it"
        )
    return lacks, [f"{count} executions in {total_s:.1f} s"]


def validity(times_ms: Sequence[float]) -> tuple[list[str], list[str]]:
    """What keeps these times from being a figure, and what was looked at.

    Args:
        times_ms: of every execution, in order.
    """
    count, total_s = len(times_ms), math.fsum(times_ms) / 1000.0
    mean = math.fsum(times_ms) / count
    lacks, facts = _enough(count, total_s)
    if count > 1:
        deviation = math.sqrt(math.fsum((time - mean) ** 2 for time in times_ms) / (count - 1))
        uncertainty = 1.96 * deviation / math.sqrt(count) / mean
        facts.append(f"mean {mean:.3f} ms, its 95 % interval +- {100 * uncertainty:.2f} %")
        if uncertainty > MOST_UNCERTAINTY:
            lacks.append(
                f"the mean is uncertain by {100 * uncertainty:.1f} %, over {100 * MOST_UNCERTAINTY:.0f} %: the machine "
                "was disturbed"
            )
    return lacks, facts
