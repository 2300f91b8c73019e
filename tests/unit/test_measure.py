"""The figures of pure inference, by hand-computed cases, and how long is measured."""

import json
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from _stage_cases import progress_of

pytest.importorskip("onnxruntime")

from stages import measure
from stages.shared.stage import Progress


class Clock:
    """Time that passes in executions alone: `seconds` each, or a list of them."""

    def __init__(self, monkeypatch, seconds):
        self.now_s, self.calls, self.rows = 1000.0, 0, []
        self._seconds = seconds
        monkeypatch.setattr(measure.time, "perf_counter", lambda: self.now_s)

    def run(self, rows):
        self.rows.append(rows)
        seconds = self._seconds
        self.now_s += seconds[self.calls % len(seconds)] if isinstance(seconds, list) else seconds
        self.calls += 1


def test_throughput_and_percentiles_follow_the_formula():
    result = measure.statistics([10.0] * 9 + [110.0], 8)
    assert result["throughput_utterances_per_s"] == 1000 * 8 / 20.0
    assert result["formula"] == "1000*batchsize/mean(times_ms)"
    latency = result["latency_ms"]
    assert (latency["mean"], latency["median"]) == (20.0, 10.0)
    assert (latency["p50"], latency["min"], latency["max"]) == (10.0, 10.0, 110.0)
    assert latency["p90"] == pytest.approx(20.0)
    assert latency["p99"] == pytest.approx(101.0)


def test_percentiles_are_those_of_their_names():
    assert measure.statistics(list(np.arange(101.0) ** 2), 3) == {
        "batch_size": 3,
        "formula": "1000*batchsize/mean(times_ms)",
        "latency_ms": {
            "mean": 3350.0, "median": 2500.0, "min": 0.0, "max": 10000.0, "p50": 2500.0, "p90": 8100.0, "p99": 9801.0,
        },
        "loop": 101,
        "throughput_utterances_per_s": 3000 / 3350,
        "times_ms": [float(number) ** 2 for number in range(101)],
    }  # fmt: skip


def test_times_are_milliseconds_of_single_executions(monkeypatch):
    clock = Clock(monkeypatch, [0.5, 0.25, 0.125])
    told = []
    times = measure.time_executions(clock.run, None, 3, Progress("test", 3), measure.Limit(), told.append)
    assert (times, told) == ([500.0, 250.0, 125.0], [1, 2, 3])


def test_the_warm_up_is_not_counted(monkeypatch):
    clock = Clock(monkeypatch, 1.0)
    rows = np.zeros(1)
    loops = measure.time_loops(clock.run, rows, 5)
    assert (clock.calls, [len(times) for times in loops]) == (6, [5])
    assert all(given is rows for given in clock.rows), "the very rows that were asked for, each time"


@pytest.mark.parametrize(("execution_s", "loops"), [(0.125, 1), (0.0625, 2), (0.03125, 4), (0.015625, 7)])
def test_loops_follow_until_ten_seconds_are_timed(monkeypatch, execution_s, loops):
    clock = Clock(monkeypatch, execution_s)
    clock.now_s = 0.0
    found = measure.time_loops(clock.run, None, 100)
    assert [len(times) for times in found] == [100] * loops
    assert clock.calls == 1 + 100 * loops
    assert sum(map(sum, found)) == pytest.approx(1000 * execution_s * 100 * loops)


def test_a_quick_look_stays_one(monkeypatch):
    clock = Clock(monkeypatch, 0.001)
    assert len(measure.time_loops(clock.run, None, measure.LEAST_EXECUTIONS - 1)) == 1


def test_figures_of_the_first_loop_and_of_all_are_kept_apart():
    loops = [[10.0, 20.0], [40.0, 10.0]]
    first, every = measure.statistics(loops[0], 4), measure.sustained(loops, 4)
    assert (first["loop"], first["times_ms"], first["throughput_utterances_per_s"]) == (2, [10.0, 20.0], 4000 / 15.0)
    assert (every["loop"], every["loops"], every["times_ms"]) == (2, 2, [10.0, 20.0, 40.0, 10.0])
    assert (every["throughput_utterances_per_s"], every["latency_ms"]["max"]) == (4000 / 20.0, 40.0)
    assert set(every["figures"]) == {"measure.json", "sustained.json"}
    assert every["least_seconds"] == 10.0 and every["batch_size"] == 4
    assert every["each"] == [
        {"loop": 2, "throughput_utterances_per_s": 4000 / 15.0},
        {"loop": 2, "throughput_utterances_per_s": 4000 / 25.0},
    ]


def test_the_limit_follows_the_first_executions():
    limit = measure.Limit()
    try:
        assert limit.follow([1.0, 2.0], 100) == 600.0
        assert limit.follow([1000.0, 80000.0, 2000.0], 100) == 80000.0  # of 80 s each: ten times as long as expected
        alive = [each for each in threading.enumerate() if isinstance(each, threading.Timer)]
        assert len(alive) == 1 or all(each.finished.is_set() for each in alive[:-1])
    finally:
        limit.stop()


@pytest.mark.parametrize(("loop", "followed"), [(1, [(1, 1)]), (2, [(2, 1)]), (3, [(3, 1)]), (9, [(3, 7)])])
def test_the_limit_begins_with_the_third_execution_for_those_that_are_left(monkeypatch, loop, followed):
    clock = Clock(monkeypatch, 0.5)
    told = []

    class Limit:
        def follow(self, first_ms, remaining):
            told.append((len(first_ms), remaining))
            assert first_ms == [500.0] * len(first_ms)

        def stop(self):
            told.append("stopped")

    measure.time_executions(clock.run, None, loop, Progress("test", loop), Limit(), lambda done: None)
    assert told == [*followed, "stopped"]


def test_a_new_limit_takes_the_place_of_the_one_before_and_a_stopped_one_waits_no_more():
    limit = measure.Limit()
    limit.stop()
    timers = []
    for _ in range(2):
        limit.follow([1.0], 5)
        timers.append(limit._timer)
    try:
        assert [each.finished.is_set() for each in timers] == [True, False]
        assert all(each.daemon for each in timers), "a limit keeps no process from ending"
        assert (timers[1].interval, timers[1].args) == (600.0, (0.001, 5, 600.0))
    finally:
        limit.stop()
    assert timers[1].finished.is_set()


def test_progress_and_load_are_told_after_each_execution_of_all_loops(monkeypatch):
    clock = Clock(monkeypatch, 0.0625)
    told, notes = progress_of(measure.stage, monkeypatch), []

    class Load:
        def note(self, executions):
            notes.append(("note", executions))

        def note_now_and_then(self, executions):
            notes.append(("now and then", executions))

    measure.time_loops(clock.run, None, 100, Load())
    assert told == [("measure", 100), *[1] * 100, ("measure, 6 of 10 s timed", 100), *[1] * 100]
    assert notes == [
        ("note", 0),
        *[("note" if done % 100 == 0 else "now and then", done) for done in range(1, 201)],
    ]


STUCK = """
import time
from stages import measure
from stages.shared.stage import Progress
measure._LEAST_LIMIT_S, measure._LIMIT_FACTOR = 0.3, 0.0
calls = []
def run(rows):
    calls.append(rows)
    if len(calls) == 4:
        time.sleep(60)
measure.time_executions(run, None, 9, Progress("test", 9), measure.Limit(), lambda done: None)
"""


def test_executions_that_take_far_longer_than_the_first_ones_end_the_stage_with_a_message():
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    last = done.stderr.splitlines()[-1]
    assert re.match(r"error: the first executions took up to 0\.\d+ s each; 7 more did not end within 0 s", last)
    assert "hint: something disturbs this machine" in done.stderr
    assert done.stdout == ""


def test_the_stage_writes_both_figures_and_no_time_among_its_results(tmp_path, monkeypatch):
    class Network:
        description, threads = "stand-in", 1

        run = None

    clock = Clock(monkeypatch, 0.0625)
    required = []
    Network.require_batch_size = staticmethod(required.append)
    Network.run = staticmethod(clock.run)
    monkeypatch.setattr(measure.precision, "open_network", lambda path, precision: Network)
    (tmp_path / "model.onnx").write_bytes(b"model")
    for name in ("out", "obs"):
        (tmp_path / name).mkdir()
    measure.main(
        ["--model", str(tmp_path), "--bs", "4", "--out", str(tmp_path / "out"), "--obs", str(tmp_path / "obs")]
    )
    measured, every = (json.loads((tmp_path / "obs" / name).read_text()) for name in ("measure.json", "sustained.json"))
    assert (measured["loop"], len(measured["times_ms"]), every["loops"], len(every["times_ms"])) == (100, 100, 2, 200)
    assert measured["throughput_utterances_per_s"] == every["throughput_utterances_per_s"] == 4 / 0.0625
    load = json.loads((tmp_path / "obs" / "load.json").read_text())
    assert [reading["executions"] for reading in load["readings"]][:: len(load["readings"]) - 1] == [0, 200]
    assert {100, 200} <= {reading["executions"] for reading in load["readings"]}
    assert (measured["provider"], measured["threads"], required) == ("stand-in", 1, [4])
    assert {(rows.shape, rows.dtype.name, rows.any()) for rows in clock.rows} == {((4, 390, 243), "float32", False)}
