"""The beam search one utterance and one frame at a time: what `stages.scoring.decode.beams` must find, bit for bit.

It was the project's own before utterances were searched side by side; its strings are the reference's on golden.
"""

import numpy as np

from stages.scoring.decode import BLANK, LOG_ZERO, REPEAT_BLANK_BELOW, SEARCH_NON_BLANK_FROM
from stages.shared import elementary


def plain_beam(logprobs, lm_next, lm_end, width):
    """(labels, empty_survived, underflowed, scores of the last labellings) of one utterance."""
    probabilities = elementary.exp(logprobs.astype(np.float64)).astype(np.float32)
    logs = np.full(probabilities.shape, LOG_ZERO)
    logs[probabilities > 0] = elementary.log(probabilities[probabilities > 0].astype(np.float64))
    blank = probabilities[:, BLANK]
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
    scores = (totals[keep] + lm_end[last]) / lengths
    return list(final[int(np.argmax(scores))]), () in final, underflowed, scores


def _advance(prefixes, totals, blanks, non_blanks, logs, lm_next, needs_blank):
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
    summed = elementary.logaddexp(np.maximum(left, LOG_ZERO), np.maximum(right, LOG_ZERO))
    return np.where(left <= LOG_ZERO, right, np.where(right <= LOG_ZERO, left, summed))
