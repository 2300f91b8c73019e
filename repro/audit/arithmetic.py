"""The score's arithmetic a second time, from published definitions and with the standard library alone.

Nothing here is shared with the stages: other algorithms in other code must come to the same whole numbers.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from random import Random

RESAMPLES = 10000
BOOTSTRAP_SEED = 20261122
_MT_WORDS = 624
_BLANK = 0


def greedy_symbols(frames: Sequence[Sequence[float]]) -> list[int]:
    """CTC's best path: the likeliest class of each frame, repeats merged, then blanks (class 0) left out.

    Args:
        frames: each frame's log-probabilities, one a class.
    """
    symbols = []
    last = _BLANK
    for frame in frames:
        best = frame.index(max(frame))
        if best not in (last, _BLANK):
            symbols.append(best)
        last = best
    return symbols


def distance(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> int:
    """Levenshtein's distance with unit costs, by Hyyrö's bit-parallel form of Myers' algorithm (2003)."""
    if not reference:
        return len(hypothesis)
    places: dict[Hashable, int] = {}
    for position, symbol in enumerate(reference):
        places[symbol] = places.get(symbol, 0) | 1 << position
    mask = (1 << len(reference)) - 1
    last = 1 << (len(reference) - 1)
    positive, negative, score = mask, 0, len(reference)
    for symbol in hypothesis:
        equal = places.get(symbol, 0)
        diagonal = (((equal & positive) + positive) ^ positive) | equal | negative
        up = negative | ~(diagonal | positive) & mask
        down = positive & diagonal
        score += bool(up & last) - bool(down & last)
        up = (up << 1 | 1) & mask
        down = down << 1 & mask
        positive = down | ~(diagonal | up) & mask
        negative = up & diagonal
    return score


def alignment(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[int, int, int, Counter[tuple[str, str]]]:
    """Substitutions, insertions, deletions and confusions of a shortest alignment.

    Where several are shortest, the one that is found walking back from the end and preferring a deletion, then an
    insertion, then the diagonal: the choice that the record's figures are made with.
    """
    start = 0
    while start < min(len(reference), len(hypothesis)) and reference[start] == hypothesis[start]:
        start += 1
    reference, hypothesis = reference[start:], hypothesis[start:]
    end = 0
    while end < min(len(reference), len(hypothesis)) and reference[-1 - end] == hypothesis[-1 - end]:
        end += 1
    reference, hypothesis = reference[: len(reference) - end], hypothesis[: len(hypothesis) - end]
    table = _distances(reference, hypothesis)
    row, column = len(hypothesis), len(reference)
    substitutions = insertions = deletions = 0
    confusions: Counter[tuple[str, str]] = Counter()
    while row and column:
        if table[row][column] == table[row][column - 1] + 1:
            deletions += 1
            column -= 1
            continue
        row -= 1
        if row and table[row][column] == table[row][column - 1] - 1:
            insertions += 1
            continue
        column -= 1
        if reference[column] != hypothesis[row]:
            substitutions += 1
            confusions[reference[column], hypothesis[row]] += 1
    return substitutions, insertions + row, deletions + column, confusions


def _distances(reference: Sequence[str], hypothesis: Sequence[str]) -> list[list[int]]:
    """[row][column]: the distance of the first `row` hypothesis and the first `column` reference symbols."""
    table = [list(range(len(reference) + 1))]
    for row, heard in enumerate(hypothesis, 1):
        above, line = table[-1], [row]
        for column, said in enumerate(reference, 1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (said != heard)))
        table.append(line)
    return table


def percent(edits: int, length: int) -> float | None:
    """100 * edits / length; None where there is nothing to divide by."""
    return 100.0 * edits / length if length else None


def _twister(seed: int) -> Random:
    """The Mersenne Twister as its authors seed it with one number (init_genrand), which random.seed() does not do."""
    words = [seed]
    for position in range(1, _MT_WORDS):
        words.append((1812433253 * (words[-1] ^ words[-1] >> 30) + position) & 0xFFFFFFFF)
    twister = Random()  # noqa: S311 - a published sequence is wanted, no secret
    twister.setstate((3, (*words, _MT_WORDS), None))
    return twister


def intervals_95(edits: Sequence[Sequence[int]], lengths: Sequence[Sequence[int]]) -> list[list[float] | None]:
    """The 95 % percentile bootstrap of several pooled rates over the same utterances.

    10,000 resamples of whole utterances with replacement; each draw takes 32 bits of the Mersenne Twister, masks
    them to the bits that the number of utterances needs, and draws again where they are too many.

    Args:
        edits: for each rate, the edits of each utterance.
        lengths: for each rate, the reference lengths of each utterance.

    Returns:
        For each rate [low, high] in percent, by nearest rank at 2.5 % and 97.5 %; None without utterances.
    """
    count = len(edits[0]) if edits else 0
    if not count:
        return [None for _ in edits]
    mask = (1 << (count - 1).bit_length()) - 1
    drawn = _draws(count, mask)
    rates: list[list[float]] = [[] for _ in edits]
    for _ in range(RESAMPLES):
        chosen = next(drawn)
        for rate, wrong, total in zip(rates, edits, lengths):
            rate.append(
                100.0 * sum(map(wrong.__getitem__, chosen)) / max(sum(map(total.__getitem__, chosen)), 1)
            )  # fmt: skip
    low = math.ceil(RESAMPLES * 0.025) - 1
    found: list[list[float] | None] = []
    for rate, total in zip(rates, lengths):
        rate.sort()
        found.append([rate[low], rate[RESAMPLES - 1 - low]] if sum(total) else None)
    return found


def _draws(count: int, mask: int) -> Iterator[list[int]]:
    twister = _twister(BOOTSTRAP_SEED)
    kept: list[int] = []
    while True:
        while len(kept) < count:
            words = array("I", twister.getrandbits(32 * 65536).to_bytes(4 * 65536, "little")) if mask else [0] * count
            kept += [word & mask for word in words if word & mask < count]
        yield kept[:count]
        del kept[:count]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the sorted values lie, by linear interpolation."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def speeds(times_ms: Sequence[float], batch_size: int) -> dict[str, float]:
    """Throughput (utterances/s) and latency (ms) of executions, by the record's formulas."""
    mean = math.fsum(times_ms) / len(times_ms)
    return {
        "throughput_utterances_per_s": 1000.0 * batch_size / mean,
        "mean": mean,
        "median": percentile(times_ms, 0.5),
        "min": min(times_ms),
        "max": max(times_ms),
        "p50": percentile(times_ms, 0.5),
        "p90": percentile(times_ms, 0.9),
        "p99": percentile(times_ms, 0.99),
    }
