"""The demo training's pure parts: schedule, batches, alignment, and what it refuses to read."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from _demo_cases import Tree
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from stages.demo import data as training_data
from stages.demo import recipe
from stages.shared import architecture
from stages.shared.stage import StageError

ROOT = Path(__file__).resolve().parents[2]


@given(st.integers(1, 5000))
def test_learning_rate_rises_to_its_peak_and_falls_to_almost_nothing(num_steps):
    rates = [recipe.learning_rate(step, num_steps, 0.5) for step in range(num_steps)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.5)
    assert rates[:peak] == sorted(rates[:peak]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert min(rates) > 0 and (num_steps < 1000 or rates[-1] < 1e-5)


def test_alignment_helps_for_two_fifths_of_the_training():
    weights = [recipe.alignment_weight(step, 100) for step in (0, 20, 40, 99)]
    assert weights == pytest.approx([1.0, 0.5, 0.0, 0.0])


@given(st.lists(st.integers(1, 195), min_size=1, max_size=80), st.integers(1, 20), st.integers(0, 9))
def test_every_utterance_is_in_one_batch_that_fits_the_model(halves, batch_size, epoch):
    lengths = [2 * half for half in halves]
    batches = recipe.epoch_batches(lengths, batch_size, 7, epoch)
    assert sorted(index for indices, _ in batches for index in indices) == list(range(len(lengths)))
    for indices, extra in batches:
        assert len(indices) <= batch_size
        assert extra >= 0 and extra % 2 == 0
        assert max(lengths[index] for index in indices) + extra <= architecture.ROWS


def test_epochs_differ_and_repeat():
    def plan(epoch):
        return [list(indices) for indices, _ in recipe.epoch_batches(range(100, 200, 2), 8, 1, epoch)]

    assert plan(0) == plan(0)
    assert plan(0) != plan(1)


def test_frames_know_the_phone_at_their_middle():
    # Output frame 0 stands for feature frames 0 to 2: its middle is at sample 160 + 200.
    assert list(training_data.frame_classes([360, 1001, 1640], [5, 6, 7], 4)) == [6, 6, 7, 7]
    assert list(training_data.frame_classes([361, 1000, 1641], [5, 6, 7], 4)) == [5, 7, 7, 7]


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)))
def test_edit_distance_is_rapidfuzzs(reference, hypothesis):
    assert training_data.edit_distance(reference, hypothesis) == Levenshtein.distance(reference, hypothesis)


# Reading


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_examples_hold_stacked_rows_class_ids_and_aligned_frames(tree):
    first, second = tree.write({"A_1": (41, ["p0", "p38"]), "B_2": (40, ["p1"])}).read()
    assert (first.utterance, first.rows.shape, first.rows.dtype) == ("A_1", (22, 243), np.float32)
    assert not first.rows[-1].any()
    assert first.labels == [2, 40] and list(first.frames) == [2] * 5 + [40] * 6
    assert len(second.rows) == 20 and list(second.frames) == [3] * 10


def test_without_the_corpus_no_frame_is_aligned(tree):
    assert tree.write({"A_1": (40, ["p0"])}).read(with_times=False)[0].frames is None


def test_labels_and_times_that_disagree_are_refused(tree):
    tree.write({"A_1": (40, ["p0", "p1"])})
    (tree.data / "A_1.PHN").write_text("0 100 p0\n", encoding="ascii")
    with pytest.raises(StageError, match=r"A_1\.PHN: 1 phones, but 2 labels"):
        tree.read()


def test_times_that_are_no_numbers_are_refused(tree):
    tree.write({"A_1": (40, ["p0"])})
    (tree.data / "A_1.PHN").write_text("0 ten p0\n", encoding="ascii")
    with pytest.raises(StageError, match=r"A_1\.PHN: not lines"):
        tree.read()


def test_a_phone_outside_units_is_refused_with_its_utterance(tree):
    with pytest.raises(StageError, match="A_1: phone 'zz'"):
        tree.write({"A_1": (40, ["zz"])}).read()


def test_an_utterance_that_the_model_cannot_take_is_refused_by_name(tree):
    with pytest.raises(StageError, match="A_1: 800 frames, over 780"):
        tree.write({"A_1": (800, ["p0"])}).read()


def test_units_of_another_size_are_refused(tree):
    (tree.corpus / "units").write_text("aa\nb\n", encoding="ascii")
    with pytest.raises(StageError, match="2 phones, the model has 39"):
        training_data.read_units(str(tree.corpus))


def test_rows_are_padded_with_zeros(tree):
    examples = tree.write({"A_1": (40, ["p0"])}).read()
    batch = training_data.padded(examples, 390)
    assert batch.shape == (1, 390, 243) and batch.dtype == np.float32
    assert (batch[0, :20] == examples[0].rows).all() and not batch[0, 20:].any()


def test_demo_checkpoint_of_the_repository_is_the_pinned_one():
    data = (ROOT / "data" / "demo" / "checkpoint.pth").read_bytes()
    assert len(data) <= 36000000
    assert f'sha256 = "{hashlib.sha256(data).hexdigest()}"' in (ROOT / "conf" / "demo.toml").read_text("utf-8")
