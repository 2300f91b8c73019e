"""From log-probabilities to phone sequences: the reference's greedy and beam decoders.

Class ids are the model's: 0 is the CTC blank, 1 is UNK, and units (the 39 phones) start at 2.
"""

import numpy as np

BLANK = 0
UNK = 1
FIRST_UNIT = 2

LOG_ZERO = -99999999.0  # what stands for log(0); far below any sum over 195 frames
SEARCH_NON_BLANK_FROM = 0.1  # a frame whose other classes have less than this together is not searched at all
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
    best = np.argmax(logprobs, axis=1)
    changed = np.ones(len(best), dtype=bool)
    changed[1:] = best[1:] != best[:-1]
    return [int(k) for k in best[changed & (best != BLANK)]]


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
    """Prefix beam search with a bigram language model, as the reference does it.

    Each kept labelling has the log-probability of its paths that end in a blank and of all its paths. Frames that
    are nearly all blank are skipped; a label equal to the last one extends the blank paths only, unless the frame
    before was nearly all blank. At the end the best `width` labellings get the language model's probability of
    ending there, every score is divided by the labelling's length, and the best wins; ties go to the one that was
    reached first.

    Args:
        logprobs: (frames, classes) floating point, natural logarithms.
        lm_next: (classes, classes) float64; [i, k] is the weighted log-probability of k after i, and row BLANK
            that of k at the start.
        lm_end: (classes,) float64, that of ending after i; [BLANK] for an empty labelling.
        width: labellings kept a frame, at least 1.

    Returns:
        BeamResult. A probability of 0 counts as LOG_ZERO, and an empty labelling has length 1 and ends by the
        model's probability of ending at the start.
    """
    # exp and log in float64, rounded where the reference holds float32: the same bits on every CPU.
    probabilities = np.exp(logprobs.astype(np.float64)).astype(np.float32)
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(probabilities.astype(np.float64)), LOG_ZERO)
    blank = probabilities[:, BLANK]
    # The subtraction in float32 and the comparison in float64, as the reference's NumPy scalars do.
    searched = np.flatnonzero((1 - blank).astype(np.float64) >= SEARCH_NON_BLANK_FROM)
    underflowed = bool((probabilities[searched] == 0).any())

    prefixes = [()]
    totals, blanks = np.zeros(1), np.zeros(1)
    non_blanks = np.full(1, LOG_ZERO)
    for t in searched:
        keep = np.argsort(-totals, kind="stable")[:width]
        prefixes = [prefixes[i] for i in keep]
        needs_blank = float(blank[t - 1]) < REPEAT_BLANK_BELOW
        prefixes, totals, blanks, non_blanks = _advance(
            prefixes, totals[keep], blanks[keep], non_blanks[keep], logs[t], lm_next, needs_blank
        )

    keep = np.argsort(-totals, kind="stable")[:width]
    final = [prefixes[i] for i in keep]
    last = [prefix[-1] if prefix else BLANK for prefix in final]
    lengths = np.array([max(len(prefix), 1) for prefix in final])
    best = int(np.argmax((totals[keep] + lm_end[last]) / lengths))
    return BeamResult(list(final[best]), () in final, underflowed)


def _advance(prefixes, totals, blanks, non_blanks, logs, lm_next, needs_blank):
    """One frame: every kept labelling stays, and is extended by every class.

    `logs` is (classes,). Returns (prefixes, totals, blanks, non_blanks) of the labellings reached, in the order in
    which the reference meets them: a labelling, then its extensions by rising class id, then the next labelling.
    """
    rows, classes = len(prefixes), len(logs)
    last = np.array([prefix[-1] if prefix else BLANK for prefix in prefixes])
    nonempty = np.array([bool(prefix) for prefix in prefixes])

    # Column k > 0 of a row is its extension by class k; column 0, the blank's, is the labelling itself.
    extended = logs[np.newaxis, :] + lm_next[last] + totals[:, np.newaxis]
    if needs_blank:
        at = np.flatnonzero(nonempty)
        extended[at, last[at]] = logs[last[at]] + lm_next[last[at], last[at]] + blanks[at]
    stay_blank = totals + logs[BLANK]
    stay_label = np.where(nonempty, non_blanks + logs[last], LOG_ZERO)

    new_non_blanks = extended
    new_non_blanks[:, BLANK] = stay_label
    new_blanks = np.full((rows, classes), LOG_ZERO)
    new_blanks[:, BLANK] = stay_blank
    new_totals = extended.copy()
    new_totals[:, BLANK] = _add(stay_blank, stay_label)

    alive = np.ones((rows, classes), dtype=bool)
    row_of = {prefix: row for row, prefix in enumerate(prefixes)}
    for row, prefix in enumerate(prefixes):
        parent = row_of.get(prefix[:-1]) if prefix else None
        if parent is None:
            continue
        # The labelling is also its parent's extension: both become one, where it was met first.
        here, there = (row, BLANK), (parent, prefix[-1])
        first, second = (here, there) if here < there else (there, here)
        for values in (new_non_blanks, new_blanks, new_totals):
            values[first] = _add(values[first], values[second])
        alive[second] = False

    reached = [prefixes[row] if k == BLANK else prefixes[row] + (int(k),) for row, k in zip(*np.nonzero(alive))]
    return reached, new_totals[alive], new_blanks[alive], new_non_blanks[alive]


def _add(left, right):
    """log(exp(left) + exp(right)), where a side at LOG_ZERO or below adds nothing."""
    summed = np.logaddexp(left, right)
    return np.where(left <= LOG_ZERO, right, np.where(right <= LOG_ZERO, left, summed))
