"""From log-probabilities to phone sequences: the reference's greedy and beam decoders.

Both take many utterances at once: NumPy's price is by the call, so a frame of a hundred utterances costs little more
than one of a single one.

Class ids are the model's: 0 is the CTC blank, 1 is UNK, and units (the 39 phones) start at 2.
"""

import numpy as np

BLANK = 0
UNK = 1
FIRST_UNIT = 2

LOG_ZERO = -99999999.0  # what stands for log(0); far below any sum over 195 frames
SEARCH_NON_BLANK_FROM = 0.1  # a frame whose other classes have less than this together is not searched at all
_NEW_A_FRAME = 5  # room for so many new labellings a frame from the start; what is not used costs no memory
REPEAT_BLANK_BELOW = 0.9  # under this blank probability in the frame before, a repeated label needs a blank path


def symbols(units):
    """Names of all classes in id order; `units` is the list of phones, blank is an empty name."""
    return ["", "UNK"] + list(units)


def greedy(logprobs):
    """Best class per frame, repeats of the frame before and blanks removed.

    Args:
        logprobs: (frames, classes) floating point.

    Returns:
        list of class ids; UNK may be among them, the blank never.
    """
    return greedy_batch(logprobs[:, np.newaxis], [len(logprobs)])[0]


def greedy_batch(outputs, frames):
    """`greedy` of the first utterances of a batch.

    Args:
        outputs: (frames, batch, classes) floating point, as the model gives it.
        frames: of each of these utterances, in order, how many frames count.

    Returns:
        list of lists of class ids, one an utterance.
    """
    best = np.argmax(outputs[:, : len(frames)], axis=2).T
    kept = best != BLANK
    kept[:, 1:] &= best[:, 1:] != best[:, :-1]
    kept &= np.arange(best.shape[1]) < np.asarray(frames)[:, np.newaxis]
    labels, ends = best[kept].tolist(), np.cumsum(kept.sum(axis=1)).tolist()
    return [labels[start:end] for start, end in zip([0] + ends, ends)]


class BeamResult:
    """A beam search's best labelling, and what happened that the reference has no answer for.

    Attributes:
        labels: list of class ids, possibly empty.
        empty_survived: the empty labelling was among the last beams (the reference raises IndexError).
        underflowed: a searched frame held a probability of exactly 0 (the reference raises ValueError).
    """

    def __init__(self, labels, empty_survived, underflowed):
        self.labels = labels
        self.empty_survived = empty_survived
        self.underflowed = underflowed


def beam(logprobs, lm_next, lm_end, width):
    """`beams` of one utterance."""
    return beams([logprobs], lm_next, lm_end, width)[0]


def beams(utterances, lm_next, lm_end, width):
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
        width: labellings kept a frame, at least 1.

    Returns:
        list of BeamResult. A probability of 0 counts as LOG_ZERO, and an empty labelling has length 1 and ends by
        the model's probability of ending at the start.
    """
    if not utterances:
        return []
    frames = _SearchedFrames(utterances)
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

    def __init__(self, utterances):
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
        with np.errstate(divide="ignore"):
            self._logs = np.maximum(np.log(probabilities.astype(np.float64)), LOG_ZERO)
        zero = owner[searched[(probabilities == 0).any(axis=1)]]
        self.underflowed = np.bincount(zero, minlength=len(utterances)) > 0
        counts = np.bincount(owner[searched], minlength=len(utterances))
        self.counts = counts.tolist()
        # Long ones first, so that those that still have a frame are the first ones of every array.
        order = _longest_first(counts)
        self._first = (np.cumsum(counts) - counts)[order]
        self._ordered = counts[order]

    def at(self, step):
        """The logarithms (n, classes) of the n longest utterances' frame, and whether repeating needs a blank."""
        rows = self._first[: np.count_nonzero(self._ordered > step)] + step
        return self._logs[rows], self._needs_blank[rows]


class _Labellings:
    """A growing tree of labellings, the empty one of each utterance at its roots.

    A labelling is known by its number: equal numbers are equal labellings, also where one is dropped and found again.
    """

    def __init__(self, roots, classes, capacity):
        self._count = roots
        self._parents = np.zeros(roots + capacity, dtype=np.int32)
        self._last = np.zeros(roots + capacity, dtype=np.int32)
        self.lengths = np.zeros(roots + capacity, dtype=np.int32)
        # Most are dropped before they have a child: only those that do get a row in the table of children.
        self._row_of = np.zeros(roots + capacity, dtype=np.int32)  # 0: none yet
        self._num_rows = 1
        self._children = np.zeros((1 + roots + capacity // 4, classes), dtype=np.int32)  # 0: none; no root is a child

    def extended(self, numbers, labels):
        """The numbers of labellings extended by a label each; no pair may be given twice."""
        rows = self._rows(numbers)
        found = self._children[rows, labels]
        new = np.flatnonzero(found == 0)
        while self._count + len(new) > len(self._parents):
            self._parents, self._last = _doubled(self._parents), _doubled(self._last)
            self.lengths, self._row_of = _doubled(self.lengths), _doubled(self._row_of)
        added = np.arange(self._count, self._count + len(new))
        self._count += len(new)
        parents, labels = numbers[new], labels[new]
        found[new] = self._children[rows[new], labels] = added
        self._parents[added], self._last[added] = parents, labels
        self.lengths[added] = self.lengths[parents] + 1
        return found

    def _rows(self, numbers):
        """Their rows in the table of children, given to those that have none."""
        missing = np.unique(numbers[self._row_of[numbers] == 0])
        while self._num_rows + len(missing) > len(self._children):
            self._children = _doubled(self._children)
        self._row_of[missing] = np.arange(self._num_rows, self._num_rows + len(missing))
        self._num_rows += len(missing)
        return self._row_of[numbers]

    def labels(self, number):
        """The list of class ids of a labelling."""
        labels = []
        for _ in range(self.lengths[number]):
            labels.append(int(self._last[number]))
            number = self._parents[number]
        return labels[::-1]


class _Search:
    """The kept labellings of many utterances, (utterances, width) arrays, the best first; absent ones have -inf."""

    def __init__(self, counts, lm_next, width):
        count = len(counts)
        self._order = _longest_first(np.array(counts, dtype=np.int64))
        self._next = lm_next
        self._repeated = np.diagonal(lm_next).copy()
        self._tree = _Labellings(count, len(lm_next), _NEW_A_FRAME * sum(counts))
        self._nodes = np.full((count, width), -1)
        self._nodes[:, 0] = np.arange(count)
        self._parents = np.full((count, width), -2)
        self._last = np.full((count, width), BLANK)
        self._totals = np.full((count, width), -np.inf)
        self._totals[:, 0] = 0.0
        self._blanks = self._totals.copy()
        self._non_blanks = np.full((count, width), LOG_ZERO)

    def advance(self, logs, needs_blank):
        """One frame of the first n utterances: every kept labelling stays, and is extended by every class.

        Args:
            logs: (n, classes) float64.
            needs_blank: (n,) bool, whether a repeated label needs a path that ends in a blank.
        """
        count, classes = logs.shape
        totals, blanks, last = self._totals[:count], self._blanks[:count], self._last[:count]
        own = np.take_along_axis(logs, last, axis=1)  # of each labelling's last label
        # Column k > 0 of a row is its extension by class k; column 0, the blank's, is the labelling itself.
        reached = self._next[last]
        reached += logs[:, np.newaxis]
        reached += totals[:, :, np.newaxis]
        before = np.where(needs_blank[:, np.newaxis], blanks, totals)
        np.put_along_axis(reached, last[:, :, np.newaxis], (own + self._repeated[last] + before)[:, :, np.newaxis], 2)

        stay_blank = totals + logs[:, BLANK, np.newaxis]
        stay_label = np.where(last != BLANK, self._non_blanks[:count] + own, LOG_ZERO)
        stay = _add(stay_blank, stay_label)
        stay[totals == -np.inf] = -np.inf
        reached[:, :, BLANK] = stay

        flat = reached.reshape(count, -1)
        merged = np.full(flat.shape, -1, dtype=np.int32)
        self._merge(count, flat, merged, stay, stay_blank, stay_label)
        chosen = _best(flat, self._totals.shape[1])
        self._keep(count, chosen, flat, merged, stay_blank, stay_label)

    def _merge(self, count, flat, merged, stay, stay_blank, stay_label):
        """Make one of each labelling and the same one as its parent's extension, where it was met first."""
        nodes, parents, last = self._nodes[:count], self._parents[:count], self._last[:count]
        u, row, parent = np.nonzero(parents[:, :, np.newaxis] == nodes[:, np.newaxis])
        classes = flat.shape[1] // nodes.shape[1]
        label = last[u, row]
        here, there = row * classes + BLANK, parent * classes + label
        extension = flat[u, there]
        stays = row < parent
        kept, label_paths, all_paths = stay_blank[u, row], stay_label[u, row], stay[u, row]
        stay_label[u, row] = _add_in_order(label_paths, extension, stays)
        stay_blank[u, row] = np.where(stays & (kept <= LOG_ZERO), LOG_ZERO, kept)
        flat[u, np.where(stays, here, there)] = _add_in_order(all_paths, extension, stays)
        flat[u, np.where(stays, there, here)] = -np.inf
        merged[u, there] = row

    def _keep(self, count, chosen, flat, merged, stay_blank, stay_label):
        """Take over the chosen cells of `flat`, (count, width) column numbers."""
        classes = flat.shape[1] // chosen.shape[1]
        row, label = np.divmod(chosen, classes)
        totals = np.take_along_axis(flat, chosen, axis=1)
        # An extension that is also a kept labelling has that one's row in `merged`.
        source = np.where(label == BLANK, row, np.take_along_axis(merged, chosen, axis=1))
        known = source >= 0
        nodes = np.take_along_axis(self._nodes[:count], source, axis=1)
        above = np.take_along_axis(self._nodes[:count], row, axis=1)
        self._blanks[:count] = np.where(known, np.take_along_axis(stay_blank, source, axis=1), LOG_ZERO)
        self._non_blanks[:count] = np.where(known, np.take_along_axis(stay_label, source, axis=1), totals)
        absent = totals == -np.inf
        new = ~(known | absent)
        nodes[new] = self._tree.extended(above[new], label[new])
        self._parents[:count] = np.where(label == BLANK, np.take_along_axis(self._parents[:count], row, axis=1), above)
        self._last[:count] = np.where(label == BLANK, np.take_along_axis(self._last[:count], row, axis=1), label)
        self._nodes[:count] = nodes
        self._totals[:count] = totals
        # What is absent is nobody's parent or child, and no path comes from it.
        for values, nothing in ((self._nodes, -1), (self._parents, -2), (self._blanks, -np.inf)):
            values[:count][absent] = nothing

    def results(self, lm_end, underflowed):
        """A BeamResult an utterance, in the order in which they were given."""
        lengths = np.maximum(self._tree.lengths[self._nodes], 1)
        best = np.argmax((self._totals + lm_end[self._last]) / lengths, axis=1)
        results = [None] * len(self._order)
        for place, utterance in enumerate(self._order.tolist()):
            labels = self._tree.labels(self._nodes[place, best[place]])
            empty_survived = bool((self._nodes[place] == place).any())
            results[utterance] = BeamResult(labels, empty_survived, bool(underflowed[utterance]))
        return results


def _best(values, width):
    """The columns of the `width` largest values of each row, the largest first; of equal ones, the first one first."""
    negative = -values
    columns = np.argpartition(negative, width - 1, axis=1)[:, :width]
    columns.sort(axis=1)
    chosen = np.take_along_axis(negative, columns, axis=1)
    order = np.argsort(chosen, axis=1, kind="stable")
    columns = np.take_along_axis(columns, order, axis=1)
    worst = chosen.max(axis=1)
    # Among values equal to the last one that is taken, the partition takes any.
    tied = np.flatnonzero(np.count_nonzero(negative <= worst[:, np.newaxis], axis=1) > width)
    columns[tied] = np.argsort(negative[tied], axis=1, kind="stable")[:, :width]
    return columns


def _float32_probabilities(logprobs):
    return np.exp(logprobs.astype(np.float64)).astype(np.float32)


def _longest_first(counts):
    return np.argsort(-counts, kind="stable")


def _doubled(array):
    return np.concatenate([array, np.zeros_like(array)])


def _add_in_order(stay, extension, stays):
    """`_add` of what was met first and what was met second."""
    return _add(np.where(stays, stay, extension), np.where(stays, extension, stay))


def _add(left, right):
    """log(exp(left) + exp(right)), where a side at LOG_ZERO or below adds nothing."""
    summed = np.logaddexp(left, right)
    return np.where(left <= LOG_ZERO, right, np.where(right <= LOG_ZERO, left, summed))
