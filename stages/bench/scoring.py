"""Times the reference's ways of scoring, told here in words of our own, beside the stage's: for the bench alone.

Utterances and the strings that they must decode to are the reference's own outputs. out/checks.json: what was found
equal. obs/times.json: seconds per utterance, one list per method with one element per round; methods take turns.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import time
from typing import Any, Callable, Dict, Iterable, Sequence, Tuple

import numpy as np

from stages.formats import arpa, kaldi_io
from stages.formats.labels import read_lines, read_table
from stages.scoring import decode
from stages.scoring import edits as edit_distance
from stages.shared.stage import parser, read_json, run, write_json

WIDTH, ALPHA = 10, 0.1
MANY = 200  # a list of a few microseconds is timed so often in one go
TOGETHER = 28  # copies of each utterance that are searched side by side: as many as the stage takes together


def main(arguments: Sequence[str]) -> None:
    command = parser(__doc__)
    command.add_argument("--score", required=True, metavar="DIR", help="posteriors.npz, expected.json, ARPA file")
    command.add_argument("--data", required=True, metavar="DIR", help="units and dev/ of the same utterances")
    command.add_argument("--rounds", required=True, type=int)
    options = command.parse_args(arguments)
    units = read_lines(os.path.join(options.data, "units"))
    expected = read_json(os.path.join(options.score, "expected.json"))
    model = arpa.read(os.path.join(options.score, "lm_phone_bg.arpa"))
    posteriors = _posteriors(options, len(expected["Beam/bs1"]["decoded"]))

    edits = _Edits(expected["Greedy/bs1"]["origin"], expected["Greedy/bs1"]["decoded"])
    beam = _Beam(posteriors, units, model)
    methods: dict[str, tuple[Callable[[], list[Any]], int]] = {
        "edits_reference": (edits.reference, len(edits.pairs)),
        "edits_ours": (edits.ours, len(edits.pairs) * MANY),
        "beam_reference": (beam.reference, len(posteriors)),
        "beam_ours": (beam.ours, len(posteriors) * TOGETHER),
        "beam_ours_alone": (beam.ours_alone, len(posteriors)),
    }
    times: dict[str, list[float]] = collections.defaultdict(list)
    found: dict[str, list[Any]] = {}
    for number in range(options.rounds):
        for name in sorted(methods, reverse=number % 2 == 1):
            method, utterances = methods[name]
            began_s = time.perf_counter()
            found[name] = method()
            times[name].append((time.perf_counter() - began_s) / utterances)
    strings = expected["Beam/bs1"]["decoded"]
    write_json(
        os.path.join(options.out, "checks.json"),
        {
            "edits_equal": found["edits_ours"] == found["edits_reference"],
            "edits_printed": edits.printed(found["edits_ours"]) == [expected["Greedy/bs1"][k][0] for k in _PRINTED],
            "beam_reference_equal": found["beam_reference"] == strings,
            "beam_ours_equal": found["beam_ours"] == strings * TOGETHER and found["beam_ours_alone"] == strings,
            "utterances": len(strings),
        },
    )
    with open(os.path.join(options.obs, "times.json"), "w", encoding="utf-8") as stream:
        json.dump(times, stream)


_PRINTED = ("cer", "wer")


def _posteriors(options: argparse.Namespace, count: int) -> list[np.ndarray]:
    """The first utterances' log-probabilities, (frames, 41) float32 each."""
    frames = {}
    for utterance, features in kaldi_io.read_archive(os.path.join(options.data, "dev", "fbank.ark")):
        rows = (len(features) + 1) // 2
        frames[utterance] = (rows + rows % 2) // 2
    order = [utterance for utterance, _ in read_table(os.path.join(options.data, "dev", "phn_text"))]
    with np.load(os.path.join(options.score, "posteriors.npz")) as arrays:
        logprobs = arrays["logprobs"]
    return [logprobs[i, : frames[utterance]] for i, utterance in enumerate(order[:count])]


class _Edits:
    """Both error counts of each utterance: (character edits, phone edits)."""

    def __init__(self, references: Sequence[str], hypotheses: Sequence[str]) -> None:
        self.pairs = list(zip(references, hypotheses))
        self._phones = [(a.split(), b.split()) for a, b in self.pairs]

    def reference(self) -> list[tuple[int, int]]:
        """A full table for the characters, and one for the phones."""
        return [
            (textbook_distance(*characters), textbook_distance(*phones))
            for characters, phones in zip(self.pairs, self._phones)
        ]

    def ours(self) -> list[tuple[int, int]]:
        """The same two as the stage counts them: the characters' distance, and the phones' alignment with its pairs."""
        for _ in range(MANY):
            found = []
            for (reference, hypothesis), (phones, spoken) in zip(self.pairs, self._phones):
                edits = edit_distance.characters(reference, hypothesis)
                found.append((edits, sum(edit_distance.alignment(phones, spoken)[:3])))
        return found

    def printed(self, edits: Sequence[tuple[int, int]]) -> list[str]:
        """CER and WER as the reference prints them."""
        characters = sum(len(reference) for reference, _ in self.pairs)
        phones = sum(len(reference) for reference, _ in self._phones)
        rates = (sum(cer for cer, _ in edits) / characters, sum(wer for _, wer in edits) / phones)
        return ["{:.4f}".format(100 * rate) for rate in rates]


def textbook_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Levenshtein's distance by the full table of (len(left) + 1) x (len(right) + 1) cells."""
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i in range(len(left) + 1):
        table[i][0] = i
    for j in range(len(right) + 1):
        table[0][j] = j
    for i in range(1, len(left) + 1):
        for j in range(1, len(right) + 1):
            if left[i - 1] == right[j - 1]:
                table[i][j] = table[i - 1][j - 1]
            else:
                table[i][j] = 1 + min(table[i - 1][j], table[i][j - 1], table[i - 1][j - 1])
    return table[-1][-1]


class _Beam:
    """Beam decoding of the same utterances in three ways; each gives a list of strings."""

    def __init__(self, posteriors: Sequence[np.ndarray], units: Sequence[str], model: arpa.Bigram) -> None:
        self._posteriors = posteriors
        self._names = decode.symbols(units)
        self._model = model
        self._next, self._end = model.tables(units, ALPHA)

    def reference(self) -> list[str]:
        """One labelling and one class at a time, the language model asked by word for each."""
        return [self._text(labelling_by_labelling(p, self._names, self._model)) for p in self._posteriors]

    def ours(self) -> list[str]:
        """Side by side, as the stage does it."""
        results = decode.beams(list(self._posteriors) * TOGETHER, self._next, self._end, WIDTH)
        return [self._text(result.labels) for result in results]

    def ours_alone(self) -> list[str]:
        """The same search with one utterance at a time."""
        return [self._text(decode.beam(p, self._next, self._end, WIDTH).labels) for p in self._posteriors]

    def _text(self, labels: Iterable[int]) -> str:
        return " ".join(self._names[k] for k in labels)


_ZERO = decode.LOG_ZERO
Beams = Dict[Tuple[int, ...], Tuple[float, float, float]]
"""Labelling -> logarithms of its paths that end in a blank, of those that end in its last label, of all."""


def labelling_by_labelling(logprobs: np.ndarray, names: Sequence[str], model: arpa.Bigram) -> tuple[int, ...]:
    """The prefix beam search as it is described, over a dictionary of labellings; returns the best one's class ids.

    Nothing is worked out ahead: each class of each labelling takes its logarithm and asks the language model. A
    labelling has three logarithms: of its paths that end in a blank, of those that end in its last label, of all.
    """
    words = [arpa.START, arpa.UNKNOWN, *names[2:]]
    probabilities = np.exp(logprobs.astype(np.float64)).astype(np.float32)
    beams: Beams = {(): (0.0, _ZERO, 0.0)}
    for t, frame in enumerate(probabilities):
        if float(1 - frame[0]) < decode.SEARCH_NON_BLANK_FROM:
            continue
        blank_before = float(probabilities[t - 1][0])
        reached: Beams = {}
        for labelling, (blank, label, total) in _most_probable(beams):
            before = words[labelling[-1] if labelling else 0]
            for k in range(len(frame)):
                log = _log(frame[k])
                if k == 0:
                    repeated = label + _log(frame[labelling[-1]]) if labelling else _ZERO
                    _arrive(reached, labelling, total + log, repeated)
                    continue
                source = total
                if labelling and labelling[-1] == k and blank_before < decode.REPEAT_BLANK_BELOW:
                    source = blank
                spoken = model.log10(before, words[k]) * math.log(10.0) * ALPHA
                _arrive(reached, (*labelling, k), _ZERO, log + spoken + source)
        beams = reached
    ended: list[tuple[float, tuple[int, ...]]] = []
    for labelling, (_, _, total) in _most_probable(beams):
        end = model.log10(words[labelling[-1] if labelling else 0], arpa.END) * math.log(10.0) * ALPHA
        ended.append(((total + end) / max(len(labelling), 1), labelling))
    return max(ended, key=lambda item: item[0])[1]


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else _ZERO


def _most_probable(beams: Beams) -> list[tuple[tuple[int, ...], tuple[float, float, float]]]:
    return sorted(beams.items(), key=lambda item: item[1][2], reverse=True)[:WIDTH]


def _arrive(reached: Beams, labelling: tuple[int, ...], blank: float, label: float) -> None:
    """More paths to a labelling."""
    old = reached.get(labelling, (_ZERO, _ZERO, _ZERO))
    blank, label = _added(old[0], blank), _added(old[1], label)
    reached[labelling] = (blank, label, _added(blank, label))


def _added(left: float, right: float) -> float:
    """log(exp(left) + exp(right))."""
    if left <= _ZERO:
        return right
    if right <= _ZERO:
        return left
    high, low = (left, right) if left > right else (right, left)
    return high + math.log1p(math.exp(low - high))


if __name__ == "__main__":
    run(main)
