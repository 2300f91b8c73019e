"""Variance components: held to published formulas and to drawn data, and honest about what is not told."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.sweep.variance import LEVELS, components, interval_of_mean


def by_level(values, levels=LEVELS):
    return {part.level: part for part in components(values, levels)}


def test_a_balanced_one_way_design_is_the_textbook_s():
    groups = {"a": [10.0, 12.0, 11.0], "b": [15.0, 14.0, 16.0], "c": [9.0, 10.0, 8.0]}
    found = by_level([((name,), value) for name, values in groups.items() for value in values], ("run", "loop"))
    within = statistics.mean(statistics.variance(values) for values in groups.values())
    between = 3 * statistics.variance([statistics.mean(values) for values in groups.values()])
    assert found["loop"].variance == pytest.approx(within)
    assert found["run"].variance == pytest.approx((between - within) / 3)
    assert (found["run"].freedom, found["loop"].freedom) == (2, 6)


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5), min_size=2, max_size=6))
def test_an_unbalanced_one_way_design_is_searle_s(groups):
    """Searle, Casella, McCulloch: n0 = (N - sum n_i^2 / N) / (a - 1)."""
    count = sum(len(values) for values in groups)
    if count == len(groups):
        return  # one value each: nothing tells the two apart
    found = by_level([((str(i),), value) for i, values in enumerate(groups) for value in values], ("run", "loop"))
    means = [statistics.fmean(values) for values in groups]
    whole = sum(len(v) * m for v, m in zip(groups, means)) / count
    within = sum((y - m) ** 2 for v, m in zip(groups, means) for y in v) / (count - len(groups))
    between = sum(len(v) * (m - whole) ** 2 for v, m in zip(groups, means)) / (len(groups) - 1)
    n0 = (count - sum(len(v) ** 2 for v in groups) / count) / (len(groups) - 1)
    assert found["loop"].variance == pytest.approx(within, abs=1e-6)
    assert found["run"].variance == pytest.approx((between - within) / n0, rel=1e-6, abs=1e-6)


def test_drawn_parts_of_five_levels_are_found_again_without_bias():
    truth = {"driver": 4.0, "host": 9.0, "chip": 1.0, "run": 2.0, "loop": 0.5}
    draw = random.Random(7)
    sums = dict.fromkeys(LEVELS, 0.0)
    rounds = 300
    for _ in range(rounds):
        values = []
        for d in range(3):
            driver = draw.gauss(0, truth["driver"] ** 0.5)
            for h in range(1 + d):  # unequal numbers
                host = draw.gauss(0, truth["host"] ** 0.5)
                for c in range(2):
                    chip = draw.gauss(0, truth["chip"] ** 0.5)
                    for r in range(1 + (h + c) % 3):
                        run = draw.gauss(0, truth["run"] ** 0.5)
                        for _ in range(2):
                            value = 100 + driver + host + chip + run + draw.gauss(0, truth["loop"] ** 0.5)
                            values.append(((f"{d}", f"{d}{h}", f"{c}", f"{r}"), value))
        for part in components(values):
            sums[part.level] += part.variance
    for level, total in sums.items():
        assert total / rounds == pytest.approx(truth[level], rel=0.35), level


def test_what_a_sweep_cannot_tell_apart_is_said_and_not_guessed():
    one_host = [(("", "h", "c", str(run)), 10.0 + run + loop / 10) for run in range(3) for loop in range(2)]
    found = by_level(one_host)
    assert [found[level].variance for level in ("driver", "host", "chip")] == [None] * 3
    assert found["host"].note == "not told: one host only"
    assert found["run"].variance is not None and found["run"].note.startswith("few groups (d.f. 2)")
    single_loops = by_level([(("", "h", "c", str(run)), float(run)) for run in range(3)])
    assert single_loops["loop"].note == "not told apart: one loop per run; its part is in that of the run"
    one_chip_each = by_level([(("", h, "c", r), 1.0 * int(h) + int(r)) for h in "12" for r in "12"])
    assert one_chip_each["chip"].note == "not told apart: one chip per host; its part is in that of the host"
    alone = by_level([(("", "h", "c", "1"), 5.0)])
    assert all(part.variance is None and part.share is None for part in alone.values())
    assert alone["loop"].note == "not told: one loop only, and one value"


def test_a_negative_estimate_counts_as_nothing_and_is_named():
    values = [((run,), value) for run, each in {"a": [1.0, 9.0], "b": [2.0, 8.0]}.items() for value in each]
    found = by_level(values, ("run", "loop"))
    assert found["run"].variance < 0 and found["run"].share == 0.0 and found["run"].deviation == 0.0
    assert found["run"].note.startswith("the estimate came out below 0")
    assert found["loop"].share == 1.0


@pytest.mark.parametrize(("count", "t"), [(2, 12.706), (3, 4.303), (6, 2.571), (11, 2.228), (31, 2.042), (101, 1.984)])
def test_the_interval_of_a_mean_is_student_s(count, t):
    values = [float(number % 2) for number in range(count)]
    low, high = interval_of_mean(values)
    reach = t * statistics.stdev(values) / count**0.5
    assert (high - low) / 2 == pytest.approx(reach, rel=5e-4)
    assert (low + high) / 2 == pytest.approx(statistics.fmean(values))


def test_one_value_has_no_interval():
    assert interval_of_mean([3.0]) is None
