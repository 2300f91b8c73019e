"""The load beside a measurement, as /proc/stat tells it."""

import time

import pytest

from stages.shared import load

STAT = """cpu  100 0 100 1000 0 0 0 0 0 0
cpu0 10 1 5 100 7 2 3 4 9 0
cpu1 20 0 10 200 0 0 0 0 0 0
cpu11 500 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


@pytest.mark.parametrize(
    ("cores", "found"),
    [({0}, (0.21, 0.04)), ({1}, (0.30, 0.0)), ({0, 1}, (0.51, 0.04)), ({2}, None), ({0, 2}, None), ({11}, (5.0, 0.0))],
)
def test_busy_is_all_but_idle_and_waiting_of_these_cores_alone(cores, found):
    assert load.busy_seconds(STAT, cores, 100.0) == (found and pytest.approx(found))


@pytest.mark.parametrize("text", ["", "cpu0\n", "cpu0 1 2 3\n", "cpux 1 2 3 4 5 6 7 8\n"])
def test_a_kernel_that_does_not_tell_gives_nothing(text):
    assert load.busy_seconds(text, {0}, 100.0) is None


def test_readings_count_from_the_first_and_own_work_is_told_from_others():
    watched = load.Load()
    until_s = time.process_time() + 0.3
    while time.process_time() < until_s:
        pass
    watched.note(3)
    document = watched.document()
    first, last = document["readings"]
    assert set(first.values()) == {0}
    assert last["executions"] == 3 and last["own_s"] >= 0.25 and last["wall_s"] >= 0.25


def test_readings_in_between_are_a_second_apart(monkeypatch):
    monkeypatch.setattr(load.time, "monotonic", lambda: 100.0)
    watched = load.Load()
    watched.note_now_and_then(1)
    assert len(watched.document()["readings"]) == 1


def test_a_machine_without_proc_has_no_reading(monkeypatch):
    monkeypatch.setattr(load, "_STAT", "/nowhere/stat")
    watched = load.Load()
    watched.note(1)
    assert watched.document()["readings"] == []
