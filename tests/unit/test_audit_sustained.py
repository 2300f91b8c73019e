"""Figures of all loops: held to the first loop's, on a CPU by their times and on an NPU by the vendor's statistics."""

from types import SimpleNamespace

import msgspec
import pytest
from msgspec import UNSET

from repro.audit import times
from repro.audit.claims import Examination
from repro.base.errors import VerificationFailed
from repro.guide.disturbance import while_measuring
from repro.record.measuring import MachineFile
from repro.record.stage_files import SustainedFile
from repro.run.record import sustained
from stages import measure

LOOP, SIZE = 100, 4


def latency(mean):
    return {"mean": mean, "median": mean, "min": mean, "max": mean, "p50": mean, "p90": None, "p99": mean}


def npu(mean, loop=LOOP, **more):
    return {"batch_size": SIZE, "formula": times._FORMULAS[1], "latency_ms": latency(mean), "loop": loop,
            "throughput_utterances_per_s": 1000.0 * SIZE / mean, "times_ms": [], **more}  # fmt: skip


def longest(mean, loops, **more):
    return {**npu(mean, loops=loops, figures={}, least_seconds=10.0), **more}


def examined(measured, whole):
    """(what is wrong, what is missing) of a run with these two files."""
    files = {"measure.json": measured, "sustained.json": whole}
    stage = SimpleNamespace(key=f"measure@{SIZE}", observations=SimpleNamespace(files=files))
    evidence = SimpleNamespace(
        stage=lambda key: stage,
        observed=lambda stage, name: msgspec.json.encode(files[name]),
        record=SimpleNamespace(request=SimpleNamespace(device="npu" if not measured["times_ms"] else "cpu")),
    )
    it = Examination()
    times.examine_validity(it, evidence, SIZE)
    return it.wrong, it.missing


def measured_npu(mean):
    return npu(mean, provider="CANN 6.3.RC1", devices=1, simulator=False)


def test_npu_figure_is_valid_by_its_longest_run():
    assert examined(measured_npu(12.5), longest(12.0, 9)) == ([], [])


def test_npu_figure_of_a_short_run_alone_is_not():
    wrong, missing = examined(measured_npu(12.5), longest(12.5, 1))
    assert wrong == []
    assert "1.2 s of timed work are too short" in missing[0]


@pytest.mark.parametrize(
    "whole", [longest(12.0, 1), longest(12.0, 9, loop=50), dict(longest(12.0, 9), formula="x"),
              dict(longest(12.0, 9), batch_size=8)],
)  # fmt: skip
def test_npu_figures_that_do_not_fit_the_guides_command_are_wrong(whole):
    assert examined(measured_npu(12.5), whole)[0]


def test_npu_figures_with_times_or_without_a_mean_are_refused():
    for whole in (dict(longest(12.0, 9), times_ms=[1.0]), dict(longest(12.0, 9), latency_ms=latency(0.0))):
        with pytest.raises(VerificationFailed, match="no figures of the vendor's tool"):
            examined(measured_npu(12.5), whole)


def cpu(times_ms):
    return dict(measure.statistics(times_ms, SIZE), provider="kernels", threads=2)


def test_cpu_figure_is_valid_by_all_loops():
    loops = [[60.0] * LOOP, [61.0] * LOOP]
    assert examined(cpu(loops[0]), measure.sustained(loops, SIZE)) == ([], [])
    assert "too short" in examined(cpu(loops[0]), measure.sustained(loops[:1], SIZE))[1][0]


def test_cpu_figures_of_other_times_are_wrong():
    loops = [[60.0] * LOOP, [61.0] * LOOP]
    whole = measure.sustained(loops, SIZE)
    assert examined(cpu(loops[1]), whole)[0]
    assert examined(cpu(loops[0]), dict(whole, loops=3))[0]
    assert examined(cpu(loops[0]), dict(whole, throughput_utterances_per_s=1.0))[0]


def recorded(measured, whole, observed=(), **of_result):
    """What an audit finds wrong with a record's figures of all loops and of the machine, held to these files."""
    files = {"sustained.json": whole, **dict(observed)}
    stage = SimpleNamespace(key=f"measure@{SIZE}", observations=SimpleNamespace(files=files))
    evidence = SimpleNamespace(stage=lambda key: stage, observed=lambda stage, name: msgspec.json.encode(files[name]))
    fields = {"batch_size": SIZE, "measured": SimpleNamespace(loop=measured["loop"]),
              "sustained": UNSET, "while_measuring": UNSET, **of_result}  # fmt: skip
    result, it = SimpleNamespace(**fields), Examination()
    times._examine_all_loops(it, result, msgspec.convert(whole, SustainedFile), "r")
    times._examine_watched(it, evidence, result, "r")
    return it.wrong


LOOPS = [[60.0] * LOOP, [61.0] * LOOP]
MACHINE = {"cost_share": 0.001, "problems": [], "readings": [], "seen_by": "the kernel", "throttle_events": 3}
HOST = (("machine.json", MACHINE),)


def true_fields():
    return {
        "sustained": sustained(msgspec.convert(measure.sustained(LOOPS, SIZE), SustainedFile)),
        "while_measuring": while_measuring(msgspec.convert(MACHINE, MachineFile), None, LOOP),
    }


def test_what_a_record_says_of_all_loops_and_of_the_machine_is_what_was_observed():
    assert recorded(cpu(LOOPS[0]), measure.sustained(LOOPS, SIZE), HOST, **true_fields()) == []


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("sustained", {"throughput_utterances_per_s": 99.0}, "r.sustained.throughput_utterances_per_s is 99.0"),
        ("sustained", {"spread_percent": 0.1}, "r.sustained.spread_percent is 0.1"),
        ("sustained", {"long_enough": False}, "r.sustained.long_enough is False"),
        ("while_measuring", {"disturbances": ()}, "r.while_measuring.disturbances[0] is missing"),
        ("while_measuring", {"cost_percent": 0.0}, "r.while_measuring.cost_percent is 0.0"),
    ],
)
def test_a_record_that_says_something_else_is_wrong(part, change, said):
    fields = true_fields()
    fields[part] = msgspec.structs.replace(fields[part], **change)
    assert said in "\n".join(recorded(cpu(LOOPS[0]), measure.sustained(LOOPS, SIZE), HOST, **fields))


def test_a_record_that_leaves_out_what_was_observed_is_wrong():
    for part in ("sustained", "while_measuring"):
        fields = {**true_fields(), part: UNSET}
        assert any(
            f"r.{part}" in line for line in recorded(cpu(LOOPS[0]), measure.sustained(LOOPS, SIZE), HOST, **fields)
        )


def test_a_record_of_what_nobody_observed_is_wrong():
    wrong = recorded(cpu(LOOPS[0]), measure.sustained(LOOPS, SIZE), **true_fields())
    assert wrong == ["r.while_measuring: measure@4 has no machine.json"]


def test_loops_whose_throughput_is_not_that_of_their_times_are_wrong():
    whole = measure.sustained(LOOPS, SIZE)
    whole["each"][1]["throughput_utterances_per_s"] *= 1.01
    assert "loop 1 has not the throughput of its times" in recorded(cpu(LOOPS[0]), whole, HOST, **true_fields())[0]
    whole["each"].pop()
    assert "its loops have not 200 executions" in recorded(cpu(LOOPS[0]), whole, HOST, **true_fields())[0]


def test_a_file_of_an_earlier_version_without_loops_supports_no_figure_of_them():
    whole = measure.sustained(LOOPS, SIZE)
    del whole["each"]
    assert recorded(cpu(LOOPS[0]), whole) == []
    assert "does not tell the loops" in recorded(cpu(LOOPS[0]), whole, HOST, **true_fields())[0]
