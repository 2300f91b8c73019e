"""CTC's prefix beam search with a bigram, a second time, from its definition and with the standard library alone.

Nothing here is shared with the stages, and nothing needs NumPy, which the host does not have. Both searches add the
same numbers in the same order, but take exp, log and log(1 + exp) from different libraries, whose last bits may
differ. So labellings whose scores lie within rounding of the best one are all returned: that the record's is among
them is what can be claimed, and where it is not, it is wrong.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from repro.base.errors import VerificationFailed
from repro.base.foreign import shown

LOG_ZERO = -99999999.0
SEARCHED_FROM = 0.1  # of a frame's probability is not the blank's: less than this, and the frame is left out
CLEARLY_BLANK = 0.9  # of the frame before: from here on a repeated symbol is a new one without a blank path
ROUNDING = 1e-9  # relative: far over what 195 frames of float64 sums can differ by, far under two real scores
_LARGEST_LOG = 1e6
_MOST_LOGPROB = 1.0  # a logarithm of a probability is 0 at most; this leaves room for half precision
_BLANK = 0
_START, _END, _UNKNOWN = "<s>", "</s>", "<unk>"
_NEVER_LOG10 = -99.0

Labels = tuple[int, ...]


@dataclass(frozen=True)
class Language:
    """A back-off bigram as the search asks for it.

    Attributes:
        following: [i][k] is the weighted natural logarithm of P(k | i); row 0 is that after the sentence's start.
        ending: [i] likewise of the sentence's end after i.
        missing: what the search asks for and the model has no entry for, sorted.
    """

    following: list[list[float]]
    ending: list[float]
    missing: list[str]


def read_language(data: bytes, units: Sequence[str], weight: float, what: str) -> Language:
    """Read an ARPA file of order two.

    P(w | v) is the bigram's, else v's back-off weight times w's unigram; a word without an entry counts as <unk>.

    Args:
        data: the file.
        units: the phones, in class order.
        weight: what logarithms are multiplied by.
        what: names the file in messages.

    Raises:
        VerificationFailed: it is not such a file.
    """
    unigrams: dict[str, tuple[float, float]] = {}
    bigrams: dict[tuple[str, str], float] = {}
    section = ""
    try:
        for line in data.decode("utf-8").splitlines():
            fields = line.split()
            if not fields or fields[0] == "ngram":
                continue
            if fields[0].startswith("\\"):
                section = fields[0]
            elif section == "\\1-grams:":
                unigrams[fields[1]] = (_log10(fields[0]), _log10(fields[2]) if len(fields) > 2 else 0.0)
            elif section == "\\2-grams:":
                bigrams[fields[1], fields[2]] = _log10(fields[0])
    except (UnicodeDecodeError, ValueError, IndexError) as error:
        raise VerificationFailed(f"{what} is not an ARPA file: {shown(error, 100)}") from error
    if section != "\\end\\" or not unigrams:
        raise VerificationFailed(f"{what} is not a whole ARPA file")
    rarest = min((logp for logp, _ in unigrams.values() if logp > _NEVER_LOG10), default=_NEVER_LOG10)
    unknown = unigrams.get(_UNKNOWN, (rarest, 0.0))

    def natural(before: str, word: str) -> float:
        known = bigrams.get((before, word))
        if known is None:
            known = unigrams.get(before, unknown)[1] + unigrams.get(word, unknown)[0]
        return known * math.log(10.0) * weight

    names = [_START, _UNKNOWN, *units]
    return Language(
        [[0.0, *(natural(before, word) for word in names[1:])] for before in names],
        [natural(before, _END) for before in names],
        sorted({_START, _END, _UNKNOWN, *units} - set(unigrams)),
    )


def _log10(text: str) -> float:
    value = float(text)
    if not -_LARGEST_LOG <= value <= _LARGEST_LOG:
        raise ValueError(f"{text} is not the logarithm of a probability")
    return value


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        best: the labelling with the highest score.
        contenders: every labelling whose score is the highest within rounding, the best one first.
        empty_survived: the empty labelling was among the last ones.
        underflowed: a searched frame holds a probability that is 0 in float32.
    """

    best: Labels
    contenders: tuple[Labels, ...]
    empty_survived: bool
    underflowed: bool


@dataclass(frozen=True)
class _Kept:
    labels: Labels
    blank: float
    label: float
    total: float

    @property
    def last(self) -> int:
        return self.labels[-1] if self.labels else _BLANK


def search(frames: Sequence[Sequence[float]], language: Language, width: int) -> Found:
    """Find the best labelling.

    Args:
        frames: each frame's natural logarithms, one a class; class 0 is the blank.
        language: of as many classes.
        width: labellings kept a frame.

    Raises:
        VerificationFailed: a value is not a logarithm of a probability.
    """
    try:
        probabilities = [array("f", map(math.exp, frame)) for frame in frames]
    except OverflowError as error:
        raise VerificationFailed("the outputs are no logarithms of probabilities") from error
    if not all(value <= _MOST_LOGPROB for frame in frames for value in frame):
        raise VerificationFailed("the outputs are no logarithms of probabilities")
    kept = [_Kept((), 0.0, LOG_ZERO, 0.0)]
    underflowed = False
    for place, frame in enumerate(probabilities):
        if array("f", [1.0 - frame[_BLANK]])[0] < SEARCHED_FROM:
            continue
        underflowed |= min(frame) == 0.0
        logs = [max(math.log(value), LOG_ZERO) if value > 0.0 else LOG_ZERO for value in frame]
        needs_blank = probabilities[place - 1][_BLANK] < CLEARLY_BLANK
        kept = _advance(kept, logs, language.following, width, needs_blank=needs_blank)
    scores = [(one.total + language.ending[one.last]) / max(len(one.labels), 1) for one in kept]
    highest = max(scores)
    best = scores.index(highest)
    near = [
        one.labels
        for place, (one, score) in enumerate(zip(kept, scores))
        if place != best and math.isclose(score, highest, rel_tol=ROUNDING)
    ]
    return Found(
        kept[best].labels, (kept[best].labels, *near), any(not one.labels for one in kept), underflowed
    )  # fmt: skip


def _advance(
    kept: Sequence[_Kept], logs: Sequence[float], following: Sequence[Sequence[float]], width: int, *, needs_blank: bool
) -> list[_Kept]:
    """One frame: each labelling stays or takes one more symbol; the `width` likeliest go on, ties by who was first."""
    classes = len(logs)
    labels: list[float] = []  # of the paths that end in a symbol; entry row * classes is the labelling that stays
    totals: list[float] = []  # of all paths
    blanks: dict[int, float] = {}  # of the paths that end in a blank; none for a labelling that just grew
    for row, one in enumerate(kept):
        line = [log + weight + one.total for log, weight in zip(logs, following[one.last])]
        if needs_blank and one.labels:
            line[one.last] = logs[one.last] + following[one.last][one.last] + one.blank
        line[_BLANK] = one.label + logs[one.last] if one.labels else LOG_ZERO
        blanks[row * classes] = one.total + logs[_BLANK]
        labels += line
        line[_BLANK] = _either(blanks[row * classes], line[_BLANK])
        totals += line
    rows = {one.labels: row for row, one in enumerate(kept)}
    merged = set()
    for row, one in enumerate(kept):
        parent = rows.get(one.labels[:-1]) if one.labels else None
        if parent is not None:  # the labelling that stays is also its parent, grown: one and the same
            first, second = sorted((row * classes, parent * classes + one.last))
            labels[first] = _either(labels[first], labels[second])
            totals[first] = _either(totals[first], totals[second])
            blanks[first] = _either(blanks.get(first, LOG_ZERO), blanks.get(second, LOG_ZERO))
            merged.add(second)
    places = [place for place in range(len(totals)) if place not in merged] if merged else range(len(totals))
    chosen = heapq.nlargest(width, places, key=totals.__getitem__)
    result = []
    for place in chosen:
        row, symbol = divmod(place, classes)
        grown = kept[row].labels + ((symbol,) if symbol != _BLANK else ())
        result.append(_Kept(grown, blanks.get(place, LOG_ZERO), labels[place], totals[place]))
    return result


def _either(one: float, other: float) -> float:
    """log(exp(one) + exp(other)); what stands for log(0) adds nothing."""
    if one <= LOG_ZERO:
        return other
    if other <= LOG_ZERO:
        return one
    return max(one, other) + math.log1p(math.exp(-abs(one - other)))
