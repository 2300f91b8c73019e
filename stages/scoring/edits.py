"""Edit distances, error counts, pooled rates, and how sure a rate is."""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

RESAMPLES = 10000
SEED = 20261122
_BAND = 31
_DRAWN_AT_ONCE = 1 << 16  # 512 KiB of draws, which stay in a core's cache while they are used
INTERVAL_METHOD = (
    "percentile bootstrap of the pooled rate: {} resamples of whole utterances with replacement, "
    "numpy RandomState seed {}, 2.5 % and 97.5 % by nearest rank".format(RESAMPLES, SEED)
)


class Alignment(NamedTuple):
    """How one list of phones becomes another: three counts, whose sum is the distance, and the substitutions.

    Attributes:
        confusions: (reference phone, hypothesis phone), one for each substitution.
    """

    substitutions: int
    insertions: int
    deletions: int
    confusions: list[tuple[str, str]]


def characters(reference: str, hypothesis: str) -> int:
    """Unit-cost edits between two strings, character by character."""
    # Where the edits are so few, the algorithm's band fits into one machine word, however long the strings are.
    edits = Levenshtein.distance(reference, hypothesis, score_cutoff=_BAND)
    return edits if edits <= _BAND else Levenshtein.distance(reference, hypothesis)


def alignment(reference: Sequence[str], hypothesis: Sequence[str]) -> Alignment:
    """How one list of phones becomes the other with the fewest unit-cost edits.

    Where several alignments are shortest, it is rapidfuzz's choice.
    """
    edits = Levenshtein.editops(reference, hypothesis).as_list()
    confusions = [(reference[i], hypothesis[j]) for kind, i, j in edits if kind == "replace"]
    others = len(edits) - len(confusions)
    # Insertions and deletions differ by as much as the lengths do.
    insertions = (others + len(hypothesis) - len(reference)) // 2
    return Alignment(len(confusions), insertions, others - insertions, confusions)


def percent(edits: int, length: int) -> float | None:
    """100 * edits / length; None where there is nothing to divide by."""
    return 100.0 * edits / length if length else None


def intervals_95(measures: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float] | None]:
    """A 95 % interval of `percent(sum(edits), sum(lengths))` for each measure, as INTERVAL_METHOD says.

    All measures are of the same utterances, so one drawing serves them all; it is made in pieces, so that memory does
    not grow with the utterances.

    Args:
        measures: list of (edits, lengths), each one integer of 0 or more per utterance.

    Returns:
        A list of [low, high] in percent, or None for a measure without utterances or length.
    """
    arrays = [(np.asarray(edits, dtype=np.int64), np.asarray(lengths, dtype=np.int64)) for edits, lengths in measures]
    columns = [_columns(edits, lengths) for edits, lengths in arrays]
    sums = [[np.zeros(RESAMPLES, dtype=np.int64) for _ in tables] for tables, _ in columns]
    count = len(arrays[0][0]) if arrays else 0
    # RandomState's stream is frozen by NumPy's policy, and the sums are integers: equal bytes everywhere. Drawing the
    # same number in several calls gives the same numbers.
    random = np.random.RandomState(SEED)
    rows = max(1, _DRAWN_AT_ONCE // max(1, count))
    for first in range(0, RESAMPLES, rows):
        resamples = slice(first, min(first + rows, RESAMPLES))
        for at in range(0, count, _DRAWN_AT_ONCE):
            size = (resamples.stop - first, min(count - at, _DRAWN_AT_ONCE))
            drawn = random.randint(0, count, size=size)
            for (tables, _), totals in zip(columns, sums):
                for table, total in zip(tables, totals):
                    # Nothing is out of range to be clipped; the mode that checks for it takes half as long again.
                    total[resamples] += table.take(drawn, mode="clip").sum(axis=1)
    return [
        _percentiles(*(divmod(totals[0], scale) if scale else totals)) if lengths.sum() else None
        for (_, lengths), (_, scale), totals in zip(arrays, columns, sums)
    ]


def _columns(edits: np.ndarray, lengths: np.ndarray) -> tuple[list[np.ndarray], int]:
    """What to sum per resample: ([edits * scale + lengths], scale), or ([edits, lengths], 0) where int64 is too small.

    A resample then reads one table in place of two, and reading from random places is most of its time.
    """
    if not len(edits):
        return [], 0
    scale = len(lengths) * int(lengths.max()) + 1
    if scale * (len(edits) * int(edits.max()) + 1) > np.iinfo(np.int64).max:
        return [edits, lengths], 0
    return [edits * scale + lengths], scale


def _percentiles(wrong: np.ndarray, totals: np.ndarray) -> list[float]:
    """[2.5 %, 97.5 %] of the resamples' rates, by nearest rank."""
    rates = np.sort(100.0 * wrong / np.maximum(totals, 1))
    low = int(np.ceil(RESAMPLES * 0.025)) - 1
    return [float(rates[low]), float(rates[RESAMPLES - 1 - low])]
