"""From log-probabilities to phone sequences: the reference's greedy and beam decoders.

Both take many utterances at once: NumPy's price is by the call, so a frame of a hundred utterances costs little more
than one of a single one.

Class ids are the model's: 0 is the CTC blank, 1 is UNK, and units (the 39 phones) start at 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import numpy as np

from stages.shared import elementary

BLANK = 0
UNK = 1
FIRST_UNIT = 2

LOG_ZERO = -99999999.0  # what stands for log(0); far below any sum over 195 frames
SEARCH_NON_BLANK_FROM = 0.1  # a frame whose other classes have less than this together is not searched at all
_LIKELY = 8  # classes of a frame that are tried first
REPEAT_BLANK_BELOW = 0.9  # under this blank probability in the frame before, a repeated label needs a blank path


def symbols(units: Sequence[str]) -> list[str]:
    """Names of all classes in id order; `units` is the list of phones, blank is an empty name."""
    return ["", "UNK"] + list(units)


def greedy(logprobs: np.ndarray) -> list[int]:
    """Best class per frame, repeats of the frame before and blanks removed.

    Args:
        logprobs: (frames, classes) floating point.

    Returns:
        list of class ids; UNK may be among them, the blank never.
    """
    return greedy_batch(logprobs[:, np.newaxis], [len(logprobs)])[0]


def greedy_batch(outputs: np.ndarray, frames: Sequence[int]) -> list[list[int]]:
    """`greedy` of the first utterances of a batch.

    Args:
        outputs: (frames, batch, classes) floating point, as the model gives it.
        frames: of each of these utterances, in order, how many frames count.

    Returns:
        list of lists of class ids, one per utterance.
    """
    best = np.argmax(outputs[:, : len(frames)], axis=2).T
    kept = best != BLANK
    kept[:, 1:] &= best[:, 1:] != best[:, :-1]
    kept &= np.arange(best.shape[1]) < np.asarray(frames)[:, np.newaxis]
    labels, ends = best[kept].tolist(), np.cumsum(kept.sum(axis=1)).tolist()
    return [labels[start:end] for start, end in zip([0] + ends, ends)]


class BeamResult(NamedTuple):
    """A beam search's best labelling, and what happened that the reference has no answer for.

    Attributes:
        labels: list of class ids, possibly empty.
        empty_survived: the empty labelling was among the last beams (the reference raises IndexError).
        underflowed: a searched frame held a probability of exactly 0 (the reference raises ValueError).
    """

    labels: list[int]
    empty_survived: bool
    underflowed: bool


def beam(logprobs: np.ndarray, lm_next: np.ndarray, lm_end: np.ndarray, width: int) -> BeamResult:
    """`beams` of one utterance."""
    return beams([logprobs], lm_next, lm_end, width)[0]


def beams(utterances: Sequence[np.ndarray], lm_next: np.ndarray, lm_end: np.ndarray, width: int) -> list[BeamResult]:
    """Prefix beam search with a bigram language model, as the reference does it.

    Each kept labelling has the log-probability of its paths that end in a blank and of all its paths. Frames that
    are nearly all blank are skipped; a label equal to the last one extends the blank paths only, unless the frame
    before was nearly all blank. At the end the best `width` labellings get the language model's probability of
    ending there, every score is divided by the labelling's length, and the best wins; ties go to the one that was
    reached first.

    The utterances are searched side by side, each on its own: what is found does not depend on its company.

    Args:
        utterances: list of (frames, classes) floating point, natural logarithms.
        lm_next: (classes, classes) float64; [i, k] is the weighted log-probability of k after i, and row BLANK
            that of k at the start.
        lm_end: (classes,) float64, that of ending after i; [BLANK] for an empty labelling.
        width: labellings kept per frame, at least 1.

    Returns:
        list of BeamResult. A probability of 0 counts as LOG_ZERO, and an empty labelling has length 1 and ends by
        the model's probability of ending at the start.
    """
    if not utterances:
        return []
    frames = _SearchedFrames(utterances, lm_next)
    search = _Search(frames.counts, lm_next, width)
    for step in range(max(frames.counts)):
        search.advance(*frames.at(step))
    return search.results(lm_end, frames.underflowed)


class _SearchedFrames:
    """The frames that a beam search looks at, of many utterances.

    Attributes:
        counts: how many they are, by utterance.
        underflowed: whether one of them holds a probability of 0, by utterance.
    """

    def __init__(self, utterances: Sequence[np.ndarray], lm_next: np.ndarray) -> None:
        logprobs = np.concatenate(utterances)
        lengths = np.array([len(utterance) for utterance in utterances])
        # exp and log in float64, rounded where the reference holds float32: the same bits on every CPU.
        blank = _float32_probabilities(logprobs[:, BLANK])
        # The subtraction in float32 and the comparison in float64, as the reference's NumPy scalars do.
        searched = np.flatnonzero((1 - blank).astype(np.float64) >= SEARCH_NON_BLANK_FROM)
        owner = np.repeat(np.arange(len(utterances)), lengths)
        starts = np.cumsum(lengths) - lengths
        before = np.arange(len(blank)) - 1
        nonempty = lengths > 0
        before[starts[nonempty]] += lengths[nonempty]  # the reference's frame before the first one is the last one
        self._needs_blank = blank[before[searched]].astype(np.float64) < REPEAT_BLANK_BELOW

        probabilities = _float32_probabilities(logprobs[searched])
        positive = np.where(probabilities > 0, probabilities, 1).astype(np.float64)
        self._logs = np.where(probabilities > 0, elementary.log(positive), LOG_ZERO)
        zero = owner[searched[(probabilities == 0).any(axis=1)]]
        self.underflowed = np.bincount(zero, minlength=len(utterances)) > 0
        counts = np.bincount(owner[searched], minlength=len(utterances))
        self.counts = counts.tolist()
        # Long ones first, so that those that still have a frame are the first ones of every array.
        order = _longest_first(counts)
        self._first = (np.cumsum(counts) - counts)[order]
        self._ordered = counts[order]
        self._likely, self._others = _likely_classes(self._logs, lm_next)

    def at(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The n longest utterances' frame: logarithms (n, classes), whether repeating needs a blank, likely classes."""
        rows = self._first[: np.count_nonzero(self._ordered > step)] + step
        return self._logs[rows], self._needs_blank[rows], self._likely[rows], self._others[rows]


def _likely_classes(logs: np.ndarray, lm_next: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes that may add most to a labelling, in ascending order, and how much any of the others adds at most.

    Returns:
        (frames, LIKELY) classes, never the blank, and (frames,) float64.
    """
    most = logs[:, UNK:] + lm_next[:, UNK:].max(axis=0)
    if most.shape[1] <= _LIKELY:
        return np.tile(np.arange(UNK, UNK + most.shape[1]), (len(logs), 1)), np.full(len(logs), -np.inf)
    best_first = np.argpartition(-most, _LIKELY, axis=1)
    others = _picked(most, best_first[:, _LIKELY : _LIKELY + 1])[:, 0]
    return np.sort(best_first[:, :_LIKELY], axis=1) + UNK, others


class _Labellings:
    """A growing tree of labellings, the empty one of each utterance at its roots.

    A labelling is known by its number: equal numbers are equal labellings, also where one is dropped and found again.
    """

    def __init__(self, roots: int, classes: int, capacity: int) -> None:
        self._count = roots
        self._children = np.zeros((roots + capacity, classes), dtype=np.int32)  # 0: none yet; no root is a child
        self._parents = np.zeros(roots + capacity, dtype=np.int32)
        self._last = np.zeros(roots + capacity, dtype=np.int32)
        self.lengths = np.zeros(roots + capacity, dtype=np.int32)

    def extended(self, numbers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The numbers of labellings extended by one label each; no pair may be given twice."""
        found = self._children[numbers, labels]
        new = np.flatnonzero(found == 0)
        while self._count + len(new) > len(self._parents):
            self._children, self._parents = _doubled(self._children), _doubled(self._parents)
            self._last, self.lengths = _doubled(self._last), _doubled(self.lengths)
        added = np.arange(self._count, self._count + len(new))
        self._count += len(new)
        parents, labels = numbers[new], labels[new]
        found[new] = self._children[parents, labels] = added
        self._parents[added], self._last[added] = parents, labels
        self.lengths[added] = self.lengths[parents] + 1
        return found

    def labels(self, number: int) -> list[int]:
        """The list of class ids of a labelling."""
        labels = []
        for _ in range(self.lengths[number]):
            labels.append(int(self._last[number]))
            number = self._parents[number]
        return labels[::-1]


class _Reached(NamedTuple):
    """What a frame leaves of each utterance's labellings, (n, width) arrays.

    Attributes:
        totals, blanks, non_blanks: logarithms of all paths, and of those that end in a blank and in a label.
        row: the labelling that each comes from.
        label: the one that it is extended by, BLANK where it stays.
    """

    totals: np.ndarray
    blanks: np.ndarray
    non_blanks: np.ndarray
    row: np.ndarray
    label: np.ndarray


class _Search:
    """The kept labellings of many utterances, (utterances, width) arrays, the best first; absent ones have -inf."""

    def __init__(self, counts: Sequence[int], lm_next: np.ndarray, width: int) -> None:
        count = len(counts)
        self._order = _longest_first(np.array(counts, dtype=np.int64))
        self._next = np.ascontiguousarray(lm_next)
        self._repeated = np.diagonal(lm_next).copy()
        self._tree = _Labellings(count, len(lm_next), (1 + width // 2) * sum(counts))
        self._nodes = np.full((count, width), -1)
        self._nodes[:, 0] = np.arange(count)
        self._parents = np.full((count, width), -2)
        self._last = np.full((count, width), BLANK)
        self._totals = np.full((count, width), -np.inf)
        self._totals[:, 0] = 0.0
        self._blanks = self._totals.copy()
        self._non_blanks = np.full((count, width), LOG_ZERO)

    def advance(self, logs: np.ndarray, needs_blank: np.ndarray, likely: np.ndarray, others: np.ndarray) -> None:
        """One frame of the first n utterances: every kept labelling stays, and is extended by every class.

        Only the likely classes are looked at where none of the others can reach what is kept.

        Args:
            logs: (n, classes) float64.
            needs_blank: (n,) bool, whether a repeated label needs a path that ends in a blank.
            likely, others: as `_likely_classes` gives them.
        """
        count, classes = logs.shape
        reached = self._reach(slice(count), logs, needs_blank, likely)
        # Sums are rounded, but never past each other: what is below the last one that is kept is below it by far.
        most = np.maximum(self._totals[:count].max(axis=1), self._blanks[:count].max(axis=1)) + others
        unsure = np.flatnonzero((others > -np.inf) & (most >= reached.totals[:, -1]))
        if len(unsure):
            every = np.tile(np.arange(UNK, classes), (len(unsure), 1))
            again = self._reach(unsure, logs[unsure], needs_blank[unsure], every)
            for values, better in zip(reached, again):
                values[unsure] = better
        self._keep(count, reached)

    def _reach(self, at: Any, logs: np.ndarray, needs_blank: np.ndarray, likely: np.ndarray) -> _Reached:
        """What utterances `at` keep after a frame, as (n, width) arrays, the best first."""
        totals, blanks, last = self._totals[at], self._blanks[at], self._last[at]
        before = np.where(needs_blank[:, np.newaxis], blanks, totals)  # what a repeated label extends
        own = _picked(logs, last)  # of each labelling's last label
        # Column 0 of a row is the labelling itself, the others are its extensions.
        cells = np.empty(last.shape + (1 + likely.shape[1],))
        extended = cells[:, :, 1:]
        label = likely[:, np.newaxis]
        spoken = self._next.take(last[:, :, np.newaxis] * logs.shape[1] + label)
        np.add(spoken, _picked(logs, likely)[:, np.newaxis], extended)
        extended += totals[:, :, np.newaxis]
        np.copyto(
            extended, (own + self._repeated[last] + before)[:, :, np.newaxis], where=label == last[:, :, np.newaxis]
        )

        stay_blank = totals + logs[:, BLANK, np.newaxis]
        stay_label = np.where(last != BLANK, self._non_blanks[at] + own, LOG_ZERO)
        stay = _add(stay_blank, stay_label)
        stay[totals == -np.inf] = -np.inf

        # A labelling and the same one as its parent's extension become one, where it was met first.
        rows, classes = last.shape[1], logs.shape[1]
        met = np.tile(np.arange(rows) * classes, (len(last), 1))
        same = np.flatnonzero(self._parents[at][:, :, np.newaxis] == self._nodes[at][:, np.newaxis])
        u, row, parent = np.unravel_index(same, (len(last), rows, rows))
        added, from_label = last[u, row], last[u, parent]
        extension = logs[u, added] + self._next[from_label, added]
        extension += np.where(added == from_label, before[u, parent], totals[u, parent])
        stays = row < parent
        stay[u, row] = _add_in_order(stay[u, row], extension, stays)
        stay_label[u, row] = _add_in_order(stay_label[u, row], extension, stays)
        stay_blank[u, row] = np.where(stays, np.maximum(stay_blank[u, row], LOG_ZERO), stay_blank[u, row])
        met[u, row] = np.where(stays, row * classes, parent * classes + added)
        pair, column = np.nonzero(likely[u] == added[:, np.newaxis])
        extended[u[pair], parent[pair], column] = -np.inf
        cells[:, :, 0] = stay

        every_met = np.empty(cells.shape, dtype=np.int64)
        every_met[:, :, 0] = met
        np.add(np.arange(rows)[:, np.newaxis] * classes, label, every_met[:, :, 1:])
        flat = cells.reshape(len(last), -1)
        chosen = _best(flat, every_met.reshape(flat.shape), rows)
        row, column = np.divmod(chosen, cells.shape[2])
        best = _picked(flat, chosen)
        stays = column == 0
        return _Reached(
            best,
            np.where(stays, _picked(stay_blank, row), LOG_ZERO),
            np.where(stays, _picked(stay_label, row), best),
            row,
            np.where(stays, BLANK, _picked(likely, np.maximum(column - 1, 0))),
        )

    def _keep(self, count: int, found: _Reached) -> None:
        """Take over what `_reach` found for the first `count` utterances."""
        totals, blanks, non_blanks, row, label = found
        stays, absent = label == BLANK, totals == -np.inf
        above = _picked(self._nodes[:count], row)
        nodes = above.copy()
        new = ~(stays | absent)
        nodes[new] = self._tree.extended(above[new], label[new])
        self._parents[:count] = np.where(stays, _picked(self._parents[:count], row), above)
        self._last[:count] = np.where(stays, _picked(self._last[:count], row), label)
        self._nodes[:count], self._totals[:count] = nodes, totals
        self._blanks[:count], self._non_blanks[:count] = blanks, non_blanks
        # What is absent is nobody's parent or child, and no path comes from it.
        for values, nothing in ((self._nodes, -1), (self._parents, -2), (self._blanks, -np.inf)):
            values[:count][absent] = nothing

    def results(self, lm_end: np.ndarray, underflowed: np.ndarray) -> list[BeamResult]:
        """A BeamResult per utterance, in the order in which they were given."""
        lengths = np.maximum(self._tree.lengths[self._nodes], 1)
        best = np.argmax((self._totals + lm_end[self._last]) / lengths, axis=1)
        results = []
        for utterance, place in enumerate(np.argsort(self._order).tolist()):
            labels = self._tree.labels(self._nodes[place, best[place]])
            empty_survived = bool((self._nodes[place] == place).any())
            results.append(BeamResult(labels, empty_survived, bool(underflowed[utterance])))
        return results


def _best(values: np.ndarray, met: np.ndarray, width: int) -> np.ndarray:
    """The columns of the `width` largest values of each row, the largest first; of equal ones, the one met first.

    Args:
        values, met: (n, columns), `met` integers that differ within a row.
    """
    negative = -values
    columns = np.argpartition(negative, width - 1, axis=1)[:, :width]
    chosen = _picked(negative, columns)
    columns = np.take_along_axis(columns, np.lexsort((_picked(met, columns), chosen)), axis=1)
    # Among values equal to the last one that is taken, the partition takes any.
    worst = chosen.max(axis=1)
    tied = np.flatnonzero(np.count_nonzero(negative <= worst[:, np.newaxis], axis=1) > width)
    if len(tied):
        columns[tied] = np.lexsort((met[tied], negative[tied]))[:, :width]
    return columns


def _picked(array: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """np.take_along_axis(array, columns, axis=1), which takes three times as long."""
    return array.take(np.arange(len(array))[:, np.newaxis] * array.shape[1] + columns)


def _float32_probabilities(logprobs: np.ndarray) -> np.ndarray:
    return elementary.exp(logprobs.astype(np.float64)).astype(np.float32)


def _longest_first(counts: np.ndarray) -> np.ndarray:
    return np.argsort(-counts, kind="stable")


def _doubled(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, np.zeros_like(array)])


def _add_in_order(stay: np.ndarray, extension: np.ndarray, stays: np.ndarray) -> np.ndarray:
    """`_add` of what was met first and what was met second."""
    return _add(np.where(stays, stay, extension), np.where(stays, extension, stay))


def _add(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """log(exp(left) + exp(right)), where a side at LOG_ZERO or below adds nothing."""
    summed = elementary.logaddexp(np.maximum(left, LOG_ZERO), np.maximum(right, LOG_ZERO))
    return np.where(left <= LOG_ZERO, right, np.where(right <= LOG_ZERO, left, summed))
