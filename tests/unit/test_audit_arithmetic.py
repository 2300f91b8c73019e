"""The audit's arithmetic and the stages' agree, though they share no code."""

from __future__ import annotations

import random
from array import array
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from repro.audit import arithmetic, stage_files
from repro.audit.times import validity
from repro.base.errors import VerificationFailed
from stages import measure
from stages.scoring import decode
from stages.scoring import edits as edit_distance

PHONES = some.lists(some.sampled_from(["aa", "b", "ch", "d", "sil"]), max_size=14)


@given(PHONES, PHONES)
def test_distances_and_alignments_are_the_stage_s(reference, hypothesis):
    substitutions, insertions, deletions, confusions = edit_distance.alignment(reference, hypothesis)
    counted = (substitutions, insertions, deletions, Counter(confusions))
    assert arithmetic.alignment(reference, hypothesis) == counted
    assert arithmetic.distance(reference, hypothesis) == substitutions + insertions + deletions


@given(some.text("ab c", max_size=80), some.text("ab c", max_size=80))
def test_character_edits_are_the_stage_s(reference, hypothesis):
    assert arithmetic.distance(reference, hypothesis) == edit_distance.characters(reference, hypothesis)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 65])
def test_bootstrap_intervals_are_the_stage_s_to_the_last_bit(count: int):
    chance = random.Random(count)
    edits = [chance.randrange(9) for _ in range(count)]
    lengths = [chance.randrange(20, 60) for _ in range(count)]
    others = [chance.randrange(40) for _ in range(count)]
    found = arithmetic.intervals_95([edits, others], [lengths, lengths])
    assert found == edit_distance.intervals_95([(edits, lengths), (others, lengths)])
    assert arithmetic.intervals_95([[]], [[]]) == [None]


@given(some.integers(0, 2**32 - 1), some.integers(1, 12))
def test_decoded_symbols_are_the_stage_s(seed: int, frames: int):
    logprobs = np.random.RandomState(seed).randint(-3, 0, size=(frames, 4)).astype("<f4")  # many ties
    found = arithmetic.greedy_symbols([array("f", frame.tobytes()) for frame in logprobs])
    assert found == decode.greedy(logprobs)


@given(some.lists(some.floats(0.01, 1e4), min_size=1, max_size=50), some.integers(1, 64))
def test_speeds_are_the_stage_s_but_for_rounding(times_ms, batch_size):
    found, expected = arithmetic.speeds(times_ms, batch_size), measure.statistics(times_ms, batch_size)
    for name, value in expected["latency_ms"].items():
        assert found[name] == pytest.approx(value, rel=1e-9)
    assert found["throughput_utterances_per_s"] == pytest.approx(expected["throughput_utterances_per_s"], rel=1e-9)


def test_arrays_are_read_as_numpy_wrote_them_and_nothing_else_is(tmp_path):
    values = np.arange(24, dtype="<f4").reshape(2, 3, 4)
    np.save(tmp_path / "a.npy", values)
    shape, found = stage_files.read_npy((tmp_path / "a.npy").read_bytes(), "a.npy")
    assert shape == (2, 3, 4)
    assert list(found) == values.ravel().tolist()
    for wrong in (values.astype("<f8"), np.asfortranarray(values)):
        np.save(tmp_path / "b.npy", wrong)
        with pytest.raises(VerificationFailed, match=r"b\.npy"):
            stage_files.read_npy((tmp_path / "b.npy").read_bytes(), "b.npy")
    with pytest.raises(VerificationFailed, match="are not the values of shape"):
        stage_files.read_npy((tmp_path / "a.npy").read_bytes()[:-4], "a.npy")


@pytest.mark.parametrize(
    ("times_ms", "said"),
    [
        ([150.0] * 100, []),
        ([150.0] * 99, ["too few"]),
        ([1.0] * 100, ["too short"]),
        ([100.0] * 95 + [9000.0] * 5, ["uncertain"]),
    ],
)
def test_a_figure_needs_executions_time_and_calm(times_ms, said):
    lacks, facts = validity(times_ms)
    assert [word for word in ("too few", "too short", "uncertain") if word in " ".join(lacks)] == said
    assert facts


def test_a_rate_of_nothing_is_none():
    assert [arithmetic.percent(*given) for given in ((0, 0), (3, 0), (0, 4), (1, 8))] == [None, None, 0.0, 12.5]
