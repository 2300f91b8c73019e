"""A Witten-Bell bigram of the train labels, as an ARPA file: the language model that Beam decoding needs.

The reference's training recipe makes it with IRSTLM's defaults (build-lm.sh -n 2, then compile-lm to text); this is
the same estimate, in the same numbers, without IRSTLM.
"""

from __future__ import annotations

import collections
import os
from typing import Iterable, Iterator, Sequence

import numpy as np

from stages.formats import arpa
from stages.shared import elementary
from stages.shared.stage import StageError, parser, run

# IRSTLM pads the start of its input with <s>, so that its counts hold this many (<s>, <s>), whatever the text.
START_PADDING = 2
_RESERVED = frozenset((arpa.START, arpa.END, arpa.UNKNOWN))


def estimate(sentences: Iterable[Sequence[str]]) -> arpa.Bigram:
    """Witten-Bell, interpolated, as IRSTLM computes it.

    With c for counts, N(h) for how often h is followed by anything and T(h) by how many different words:
    P(w | h) = c(h, w) / (N(h) + T(h)) + backoff(h) * P(w), with backoff(h) = T(h) / (N(h) + T(h)).
    P(w) = (c(w) + 1) / D and P(<unk>) = (T + 1) / D, with T different words, <s> counted once, and
    D = sum of c(w) + T + (T + 1).

    Args:
        sentences: an iterable of lists of words, without <s> and </s>.

    Returns:
        arpa.Bigram. </s> and <unk> have the back-off weight 1: nothing follows them.
    """
    follows: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    counts: collections.Counter[str] = collections.Counter()
    for sentence in sentences:
        words = [arpa.START, *sentence, arpa.END]
        counts.update(words[1:])
        for before, word in zip(words, words[1:]):
            follows[before][word] += 1
    counts[arpa.START] = 1
    follows[arpa.START][arpa.START] = START_PADDING

    types = len(counts)
    denominator = sum(counts.values()) + types + types + 1
    probability = {word: (count + 1) / denominator for word, count in counts.items()}
    probability[arpa.UNKNOWN] = (types + 1) / denominator

    unigrams, bigrams = {}, {}
    for word in probability:
        total, kinds = sum(follows[word].values()), len(follows[word])
        backoff = kinds / (total + kinds) if kinds else 1.0
        unigrams[word] = (_log10(probability[word]), _log10(backoff))
        for following, count in follows[word].items():
            seen = count / (total + kinds) + backoff * probability[following]
            bigrams[word, following] = _log10(seen)
    return arpa.Bigram(unigrams, bigrams)


def _log10(value: float) -> float:
    """The same on every processor: the C library's `math.log10` need not be."""
    return float(elementary.log10(np.array([value]))[0])


def main(arguments: Sequence[str]) -> None:
    options = parser(__doc__)
    options.add_argument("--corpus", required=True, metavar="DIR", help="result folder of the stage corpus")
    parsed = options.parse_args(arguments)
    path = os.path.join(parsed.corpus, "train", "phn_text")
    model = estimate(_sentences(path))
    if set(model.unigrams) <= _RESERVED:
        raise StageError("{} holds no phone: no language model can be estimated".format(path))
    arpa.write(os.path.join(parsed.out, "lm_phone_bg.arpa"), model)


def _sentences(path: str) -> Iterator[list[str]]:
    """The words of each line but its first, the utterance, one line at a time; the counts are all that is kept."""
    try:
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                words = line.split()[1:]
                if not line.strip():
                    continue
                reserved = sorted(_RESERVED.intersection(words))
                if reserved:
                    raise StageError("{} uses {} as a phone, which ARPA reserves".format(path, ", ".join(reserved)))
                yield words
    except (OSError, ValueError) as error:
        raise StageError("cannot read {}: {}".format(path, error))


if __name__ == "__main__":
    run(main)
