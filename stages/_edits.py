"""Edit distances, error counts, pooled rates, and how sure a rate is."""

import collections

import numpy as np
from rapidfuzz.distance import Levenshtein

RESAMPLES = 10000
SEED = 20261122
INTERVAL_METHOD = (
    "percentile bootstrap of the pooled rate: {} resamples of whole utterances with replacement, "
    "numpy RandomState seed {}, 2.5 % and 97.5 % by nearest rank".format(RESAMPLES, SEED)
)


def characters(reference, hypothesis):
    """Unit-cost edits between two strings, character by character."""
    return Levenshtein.distance(reference, hypothesis)


def alignment(reference, hypothesis):
    """How one list of phones becomes the other with the fewest unit-cost edits.

    Returns:
        (substitutions, insertions, deletions, confusions): three counts, whose sum is the distance, and a Counter
        of (reference phone, hypothesis phone). Where several alignments are shortest, rapidfuzz's choice.
    """
    counts = {"replace": 0, "insert": 0, "delete": 0}
    confusions = collections.Counter()
    for tag, at_reference, at_hypothesis in Levenshtein.editops(reference, hypothesis).as_list():
        counts[tag] += 1
        if tag == "replace":
            confusions[reference[at_reference], hypothesis[at_hypothesis]] += 1
    return counts["replace"], counts["insert"], counts["delete"], confusions


def percent(edits, length):
    """100 * edits / length; None where there is nothing to divide by."""
    return 100.0 * edits / length if length else None


def interval_95(edits, lengths):
    """A 95 % interval of `percent(sum(edits), sum(lengths))`, as INTERVAL_METHOD says.

    Args:
        edits, lengths: one integer an utterance.

    Returns:
        [low, high] in percent, or None without utterances.
    """
    if not len(edits) or not sum(lengths):
        return None
    # RandomState's stream is frozen by NumPy's policy, and the sums are integers: equal bytes everywhere.
    random = np.random.RandomState(SEED)
    drawn = random.randint(0, len(edits), size=(RESAMPLES, len(edits)))
    totals = np.asarray(lengths, dtype=np.int64)[drawn].sum(axis=1)
    wrong = np.asarray(edits, dtype=np.int64)[drawn].sum(axis=1)
    rates = np.sort(100.0 * wrong / np.maximum(totals, 1))
    low = int(np.ceil(RESAMPLES * 0.025)) - 1
    return [float(rates[low]), float(rates[RESAMPLES - 1 - low])]
