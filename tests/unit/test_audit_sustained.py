"""Figures of all loops: held to the first loop's, on a CPU by their times and on an NPU by the vendor's statistics."""

from types import SimpleNamespace

import msgspec
import pytest

from repro.audit import times
from repro.audit.claims import Examination
from repro.base.errors import VerificationFailed
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
