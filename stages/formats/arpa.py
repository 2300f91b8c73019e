"""ARPA language models of order two: reading, writing, and looking up with back-off."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from stages.scoring import decode
from stages.shared import elementary
from stages.shared.stage import StageError, atomic_file

START = "<s>"
END = "</s>"
UNKNOWN = "<unk>"
NEVER_LOG10 = -99.0  # what ARPA files write for a probability of 0


class Bigram:
    """A back-off bigram.

    Attributes:
        unigrams: word -> (log10 probability, log10 back-off weight).
        bigrams: (word, word) -> log10 probability.
    """

    def __init__(self, unigrams: dict[str, tuple[float, float]], bigrams: dict[tuple[str, str], float]) -> None:
        self.unigrams = unigrams
        self.bigrams = bigrams

    def log10(self, before: str, word: str) -> float:
        """log10 of P(word | before): the bigram's, or the back-off weight of `before` plus the unigram's.

        A word the model lacks is taken as <unk>, or, where there is none, as likely as its rarest word and without
        a back-off weight; the reference raises KeyError there.
        """
        if (before, word) in self.bigrams:
            return self.bigrams[before, word]
        return self._entry(before)[1] + self._entry(word)[0]

    def _entry(self, word: str) -> tuple[float, float]:
        if word in self.unigrams:
            return self.unigrams[word]
        if UNKNOWN in self.unigrams:
            return self.unigrams[UNKNOWN]
        return min(logp for logp, _ in self.unigrams.values() if logp > NEVER_LOG10), 0.0

    def missing(self, units: Sequence[str]) -> list[str]:
        """Names of what a decoder will ask for and the model has no entry for, sorted."""
        return sorted(set([START, END, UNKNOWN] + list(units)) - set(self.unigrams))

    def tables(self, units: Sequence[str], weight: float) -> tuple[np.ndarray, np.ndarray]:
        """The model as `decode.beam` wants it: weighted natural logarithms by class id.

        Returns:
            (classes, classes) and (classes,) float64; the blank's row and element stand for the sentence's start,
            UNK for <unk>.
        """
        names = [START, UNKNOWN] + list(units)
        scale = elementary.LN10
        following = np.zeros((len(names), len(names)))
        for i, before in enumerate(names):
            for k in range(decode.UNK, len(names)):
                following[i, k] = self.log10(before, names[k]) * scale * weight
        ending = np.array([self.log10(before, END) * scale * weight for before in names])
        return following, ending


def read(path: str) -> Bigram:
    """Parse an ARPA file of order 1 or 2, or refuse it by file and line.

    Columns are separated by tabs or spaces; a missing back-off weight is 0. The counts of the header must hold.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            lines = [line.strip() for line in stream]
    except (OSError, ValueError) as error:
        raise StageError("cannot read the language model {}: {}".format(path, error))
    announced, unigrams, bigrams, section = {}, {}, {}, None
    for number, line in enumerate(lines, 1):
        try:
            if not line:
                continue
            if line.startswith("\\"):
                section = line
            elif section == "\\data\\":
                order, count = line.replace("ngram", "", 1).split("=")
                announced[int(order)] = int(count)
            elif section == "\\1-grams:":
                fields = line.split()
                unigrams[fields[1]] = (float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0)
            elif section == "\\2-grams:":
                fields = line.split()
                bigrams[fields[1], fields[2]] = float(fields[0])
        except (IndexError, ValueError):
            raise StageError("{}: line {} is not an ARPA entry: {!r}".format(path, number, line))
    found = {1: len(unigrams), 2: len(bigrams)}
    wrong = [
        "{} {}-grams announced, {} found".format(count, order, found.get(order, "none readable"))
        for order, count in sorted(announced.items())
        if found.get(order) != count
    ]
    if section != "\\end\\" or not unigrams or not announced or wrong:
        reason = "; ".join(wrong) or "no \\data\\ section, no unigrams or no \\end\\"
        raise StageError(
            "{} is not a whole ARPA bigram: {}".format(path, reason),
            "Make it again with the stage lm; models of a higher order cannot be used.",
        )
    return Bigram(unigrams, bigrams)


def write(path: str, model: Bigram) -> None:
    """Write a Bigram, sorted by word, six decimals."""
    with atomic_file(path, "w") as stream:
        stream.write("\n\\data\\\n")
        stream.write("ngram 1={}\nngram 2={}\n".format(len(model.unigrams), len(model.bigrams)))
        stream.write("\n\\1-grams:\n")
        for word, (logp, backoff) in sorted(model.unigrams.items()):
            stream.write("{:.6f}\t{}\t{:.6f}\n".format(logp, word, backoff))
        stream.write("\n\\2-grams:\n")
        for (before, word), logp in sorted(model.bigrams.items()):
            stream.write("{:.6f}\t{} {}\n".format(logp, before, word))
        stream.write("\n\\end\\\n")
