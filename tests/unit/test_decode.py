"""Greedy and beam decoding, against the reference's outputs and against a plain, slow beam search."""

import math

import numpy as np
import pytest
from _plain_beam import plain_beam
from _score_cases import EXPECTED, GOLDEN, UNITS, posteriors
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.formats import arpa
from stages.scoring import decode

NAMES = decode.symbols(UNITS)


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_greedy_decodes_as_the_reference(batch_size):
    for logprobs, text in zip(posteriors(), EXPECTED[f"Greedy/bs{batch_size}"]["decoded"]):
        assert "".join(" " + NAMES[k] for k in decode.greedy(logprobs)) == text


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_beam_decodes_as_the_reference(batch_size):
    following, ending = arpa.read(str(GOLDEN / "score/lm_phone_bg.arpa")).tables(UNITS, 0.1)
    for logprobs, text in zip(posteriors(), EXPECTED[f"Beam/bs{batch_size}"]["decoded"]):
        result = decode.beam(logprobs, following, ending, 10)
        assert " ".join(NAMES[k] for k in result.labels) == text
        assert not result.empty_survived and not result.underflowed


def test_greedy_keeps_a_label_repeated_after_a_blank():
    logprobs = np.log(np.eye(3)[[0, 2, 2, 0, 2, 1, 1]] * 0.9 + 0.03)
    assert decode.greedy(logprobs) == [2, 2, 1]


def test_greedy_of_no_frames_is_empty():
    assert decode.greedy(np.zeros((0, 5))) == []


def slow_beam(probabilities, following, ending, width):
    """The search as REFERENCE words it, one labelling at a time, in linear probabilities."""
    beams = {(): (1.0, 0.0, 1.0)}  # labelling -> paths that end in blank, in a label, all
    best = lambda found: sorted(found, key=lambda y: -found[y][2])[:width]  # noqa: E731
    for t, frame in enumerate(probabilities):
        if float(1 - frame[0]) < 0.1:
            continue
        found = {}

        def add(labels, blank, label, found=found):
            old = found.get(labels, (0.0, 0.0, 0.0))
            found[labels] = (old[0] + blank, old[1] + label, old[2] + blank + label)

        for y in best(beams):
            blank, label, total = beams[y]
            add(y, total * frame[0], label * frame[y[-1]] if y else 0.0)
            for k in range(1, len(frame)):
                source = blank if y and y[-1] == k and probabilities[t - 1][0] < 0.9 else total
                add((*y, k), 0.0, source * frame[k] * math.exp(following[y[-1] if y else 0, k]))
        beams = found
    scores = {
        y: (math.log(beams[y][2]) + ending[y[-1] if y else 0]) / max(len(y), 1) for y in best(beams) if beams[y][2] > 0
    }
    return max(scores.values()), scores


@settings(max_examples=60)
@given(st.integers(0, 2**31 - 1), st.integers(1, 12), st.integers(3, 5), st.integers(1, 6))
def test_beam_finds_what_a_slow_search_finds(seed, frames, classes, width):
    random = np.random.RandomState(seed)
    raw = random.gamma(0.3, size=(frames, classes)) + 1e-6
    raw[:, 0] *= random.choice([0.5, 5.0, 50.0])
    probabilities = (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)
    alpha = random.choice([0.1, 1.0])
    following = np.log(random.dirichlet(np.ones(classes), size=classes)) * alpha
    ending = np.log(random.uniform(0.001, 1, classes)) * alpha
    result = decode.beam(np.log(probabilities.astype(np.float64)), following, ending, width)
    best, scores = slow_beam(probabilities.astype(np.float64), following, ending, width)
    assert scores[tuple(result.labels)] == pytest.approx(best, rel=1e-5)


# Logarithms on a grid of quarters tie often, and few classes merge often; -200 underflows to a probability of 0.
GRIDS = [[-0.25, -0.5, -1.0, -2.0], [-0.01, -0.05, -3.0, -6.0], [-0.5, -1.0, -200.0], None]


def any_utterance(random, classes):
    frames, grid = random.randint(0, 30), GRIDS[random.randint(len(GRIDS))]
    if grid is None:
        raw = random.gamma(0.2, size=(frames, classes)) + 1e-7
        return np.log(raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)
    return random.choice(grid, size=(frames, classes)).astype(np.float32)


@settings(max_examples=150)
@given(st.integers(0, 2**31 - 1), st.integers(2, 6), st.integers(1, 9), st.integers(1, 8), st.booleans())
def test_beams_are_those_of_one_utterance_at_a_time(seed, classes, width, utterances, flat):
    random = np.random.RandomState(seed)
    batch = [any_utterance(random, classes) for _ in range(utterances)]
    following = np.zeros((classes, classes)) if flat else -random.exponential(0.3, (classes, classes))
    ending = -random.exponential(0.3, classes)
    for logprobs, result in zip(batch, decode.beams(batch, following, ending, width)):
        labels, empty_survived, underflowed, _ = plain_beam(logprobs, following, ending, width)
        assert (result.labels, result.empty_survived, result.underflowed) == (labels, empty_survived, underflowed)


def test_beams_keep_the_same_bits_as_one_utterance_at_a_time():
    following, ending = arpa.read(str(GOLDEN / "score/lm_phone_bg.arpa")).tables(UNITS, 0.1)
    batch = posteriors()
    frames = decode._SearchedFrames(batch, following)
    search = decode._Search(frames.counts, following, 10)
    for step in range(max(frames.counts)):
        search.advance(*frames.at(step))
    lengths = np.maximum(search._tree.lengths[search._nodes], 1)
    scores = ((search._totals + ending[search._last]) / lengths)[np.argsort(search._order)]
    for logprobs, found in zip(batch, scores):
        assert found.tobytes() == plain_beam(logprobs, following, ending, 10)[3].tobytes()


@pytest.mark.parametrize("width", [1, 41, 64, 300])
def test_beams_of_any_width_are_those_of_one_utterance_at_a_time(width):
    following, ending = arpa.read(str(GOLDEN / "score/lm_phone_bg.arpa")).tables(UNITS, 0.1)
    batch = [logprobs[:25] for logprobs in posteriors()[:3]]
    for logprobs, result in zip(batch, decode.beams(batch, following, ending, width)):
        assert result.labels == plain_beam(logprobs, following, ending, width)[0]


def test_beams_of_no_utterance_are_none():
    assert decode.beams([], np.zeros((3, 3)), np.zeros(3), 4) == []


@settings(max_examples=60)
@given(st.integers(0, 2**31 - 1), st.integers(1, 6))
def test_greedy_of_a_batch_is_that_of_each_utterance(seed, batch):
    random = np.random.RandomState(seed)
    outputs = random.choice([0.0, 1.0, 2.0], size=(9, batch, 4)).astype(np.float32)
    frames = random.randint(0, 10, size=random.randint(0, batch + 1)).tolist()
    expected = [[k for k, before in zip(best, [None, *best]) if k not in (0, before)]
                for best in ([int(np.argmax(frame)) for frame in outputs[:count, row]]
                             for row, count in enumerate(frames))]  # fmt: skip
    assert decode.greedy_batch(outputs, frames) == expected


@pytest.mark.parametrize(
    ("blank_before", "labels"),
    [(0.60, [1]), (0.89, [1]), (0.905, [1, 1])],
)
def test_beam_repeats_a_label_without_a_blank_path_only_after_a_frame_nearly_all_blank(blank_before, labels):
    # The frame before is searched up to 0.9 of blank, and skipped above; a bonus makes the repetition win if it may.
    frames = np.array([[0.05, 0.9, 0.05], [blank_before, 0.999 - blank_before, 0.001], [0.05, 0.9, 0.05]])
    following = np.zeros((3, 3))
    following[1, 1] = 3.0
    following[:, 2] = -9.0
    start = 1 if blank_before < 0.9 else 0
    assert decode.beam(np.log(frames[start:]), following, np.zeros(3), 3).labels == labels


def test_beam_adds_the_end_of_the_sentence_before_dividing_by_the_length():
    # [1]: (log 0.6 - 1.2) / 1 = -1.71; [1, 2]: (log 0.4 - 2) / 2 = -1.46. Divided first it would be -2.46, and lose.
    frames = np.log([[1e-9, 1 - 2e-9, 1e-9], [0.6, 1e-9, 0.4 - 1e-9]])
    ending = np.array([0.0, -1.2, -2.0])
    assert decode.beam(frames, np.zeros((3, 3)), ending, 3).labels == [1, 2]


def test_beam_of_silence_is_empty_and_says_that_the_reference_would_fail():
    logprobs = np.log(np.tile([0.95, 0.03, 0.02], (5, 1)))
    result = decode.beam(logprobs, np.zeros((3, 3)), np.zeros(3), 4)
    assert (result.labels, result.empty_survived) == ([], True)


def test_beam_survives_a_probability_that_underflows_to_zero():
    logprobs = np.array([[-1.0, -0.5, -200.0], [-2.0, -200.0, -0.1]])
    result = decode.beam(logprobs, np.zeros((3, 3)), np.zeros(3), 2)
    assert result.underflowed and result.labels == [1, 2]


def test_beam_skips_nearly_blank_frames_even_when_they_underflow():
    logprobs = np.array([[-1.0, -0.5, -2.0], [-0.01, -200.0, -5.0]])
    assert not decode.beam(logprobs, np.zeros((3, 3)), np.zeros(3), 2).underflowed
