"""The speed checks: what is honest, what is caught, and that noise accuses nobody."""

from __future__ import annotations

import random

import numpy as np
import pytest

from stages import honesty


def around(centre: float, spread: float, count: int = 40) -> list[float]:
    chance = random.Random(3)
    return [centre + chance.uniform(-spread, spread) for _ in range(count)]


@pytest.mark.parametrize(
    ("ratios", "only_faster", "verdict"),
    [
        (around(1.0, 0.05), True, honesty.HONEST),
        (around(1.0, 0.05), False, honesty.HONEST),
        (around(0.5, 0.05), True, honesty.DISHONEST),
        (around(0.5, 0.05), False, honesty.DISHONEST),
        (around(1.5, 0.05), False, honesty.DISHONEST),
        (around(1.5, 0.05), True, honesty.HONEST),
        (around(0.9, 0.3), False, honesty.UNDECIDED),
    ],
)
def test_ratios_are_judged_by_their_whole_interval(ratios, only_faster, verdict):
    assert honesty.judge(ratios, only_faster=only_faster)["verdict"] == verdict


def test_with_one_batch_alone_caching_cannot_be_decided():
    assert honesty.judge(around(1.0, 0.01), only_faster=True, decidable=False)["verdict"] == honesty.UNDECIDED


@pytest.mark.parametrize("count", [10, 11, 30, 101])
def test_the_interval_of_a_median_covers_it_as_often_as_promised(count: int):
    chance, inside = random.Random(count), 0
    for _ in range(400):
        low, _, high = honesty.median_interval([chance.random() for _ in range(count)])
        inside += low <= 0.5 <= high
    assert inside >= 0.93 * 400


class _Clock:
    """Time that passes only while the network computes."""

    def __init__(self):
        self.now_s = 100.0

    def perf_counter(self):
        return self.now_s


class _Progress:
    def advance(self):
        pass


def rounds_of(monkeypatch, seconds_of):
    clock = _Clock()
    monkeypatch.setattr(honesty, "time", clock)
    seen = []

    def run(rows):
        clock.now_s += seconds_of(rows)
        return rows

    zeros = np.zeros((1, 2), dtype=np.float32)
    batches = [np.full((1, 2), 1.0 + n, dtype=np.float32) for n in range(4)]
    times = honesty.time_rounds(run, zeros, batches, 12, _Progress(), lambda n, out: seen.append((n, float(out[0, 0]))))
    assert all(value == 1.0 + number for number, value in seen)
    assert {number for number, _ in seen} == {0, 1, 2, 3}
    return times


def ratio(times, kind):
    ratios = [a / b for a, b in zip(times[kind], times["fresh"])]
    return honesty.judge(ratios, only_faster=kind == "repeated")["verdict"]


def test_a_network_that_remembers_its_last_inputs_is_caught(monkeypatch):
    known = set()

    def seconds_of(rows):
        key = float(rows[0, 0])
        repeated = key == 1.0 and key in known
        known.add(key)
        return 0.001 if repeated else 0.1

    assert ratio(rounds_of(monkeypatch, seconds_of), "repeated") == honesty.DISHONEST


def test_a_network_that_skips_work_for_zeros_is_caught(monkeypatch):
    times = rounds_of(monkeypatch, lambda rows: 0.1 if rows.any() else 0.02)
    assert ratio(times, "zeros") == honesty.DISHONEST
    assert ratio(times, "repeated") == honesty.HONEST


def test_a_network_that_does_its_work_is_honest(monkeypatch):
    times = rounds_of(monkeypatch, lambda rows: 0.1)
    assert ratio(times, "zeros") == ratio(times, "repeated") == honesty.HONEST


def test_times_are_milliseconds_of_the_network_alone(monkeypatch):
    now_s = [5.0]
    monkeypatch.setattr(honesty.time, "perf_counter", lambda: now_s[0])

    def run(_rows):
        now_s[0] += 0.5

    def look(_number, _output):
        now_s[0] += 7.0

    times_ms = honesty.time_rounds(run, "zeros", ["one", "two"], 3, _Progress(), look)
    assert times_ms == {kind: [500.0] * 3 for kind in ("zeros", "fresh", "repeated")}
