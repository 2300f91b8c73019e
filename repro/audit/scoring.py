"""The scores of a batch size, recomputed from the network's stored outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

from repro.audit import arithmetic, beam
from repro.audit.stage_files import Outputs, ScoredUtterance, Spoken
from repro.record.scores import Confusion, Edits, Interval, Interval95, Protocol, WerCounts
from repro.record.stage_files import Entry

PUBLISHED, COMPLETE = "published", "complete"
INTERVAL_METHOD = (
    f"percentile bootstrap of the pooled rate: {arithmetic.RESAMPLES} resamples of whole utterances with replacement, "
    f"numpy RandomState seed {arithmetic.BOOTSTRAP_SEED}, 2.5 % and 97.5 % by nearest rank"
)


@dataclass(frozen=True)
class Utterance:
    """What an utterance is scored from: its labels, and the decoded symbols' names."""

    name: str
    reference: tuple[str, ...]
    phones_heard: tuple[str, ...]
    in_published: bool


def class_names(units: Sequence[str]) -> list[str]:
    """The classes' names in order: the blank (empty), UNK, the phones."""
    return ["", "UNK", *units]


def published_text(heard: Sequence[str], decode: str) -> str:
    """A hypothesis as the published protocol writes it: Greedy's starts with a space."""
    return "".join(" " + phone for phone in heard) if decode == "Greedy" else " ".join(heard)


class Decoder(Interface):
    """Turns one utterance's frames into symbols: `Greedy` or `Beam`."""

    def symbols(self, name: str, frames: Sequence[Sequence[float]], /) -> Sequence[int]:
        """Class ids of an utterance's labelling; `frames` are natural logarithms, one per class."""


class Greedy:
    """CTC's best path."""

    def symbols(self, _name: str, frames: Sequence[Sequence[float]], /) -> Sequence[int]:
        return arithmetic.greedy_symbols(frames)


class Beam:
    """Prefix beam search with the record's bigram.

    Attributes:
        empty: utterances whose last labellings held the empty one.
        underflowed: utterances with a probability of 0 in a frame that is searched.
        ties: utterances where the claimed labelling scores as high as the best one, within rounding.

    Args:
        language: the bigram, weighted.
        width: labellings kept per frame.
        claimed: by utterance, the class ids that the record claims: they count where they are as good as the best.
    """

    def __init__(self, language: beam.Language, width: int, claimed: Mapping[str, tuple[int, ...]]) -> None:
        self._language, self._width, self._claimed = language, width, claimed
        self.empty: list[str] = []
        self.underflowed: list[str] = []
        self.ties: list[str] = []

    def symbols(self, name: str, frames: Sequence[Sequence[float]], /) -> Sequence[int]:
        found = beam.search(frames, self._language, self._width)
        if found.empty_survived:
            self.empty.append(name)
        if found.underflowed:
            self.underflowed.append(name)
        claimed = self._claimed.get(name)
        if claimed is not None and claimed != found.best and claimed in found.contenders:
            self.ties.append(name)
            return claimed
        return found.best


def heard(entry: Entry, outputs: Outputs, names: Sequence[str], decoder: Decoder) -> tuple[str, ...]:
    """Decode one utterance's symbols, by their names."""
    frames = outputs.frames(entry.row, entry.output_frames)
    return tuple(names[symbol] for symbol in decoder.symbols(entry.id, frames))


@dataclass(frozen=True)
class Scored:
    """What `score` gives: utterances.jsonl's objects in order, and score.json's two protocols."""

    lines: tuple[ScoredUtterance, ...]
    published: Protocol
    complete: Protocol


def score(utterances: Sequence[Utterance], decode: str) -> Scored:
    """Score every utterance and pool them by both protocols."""
    lines: list[ScoredUtterance] = []
    confusions: list[Counter[tuple[str, str]]] = []
    for utterance in utterances:
        symbols = list(utterance.phones_heard)
        substitutions, insertions, deletions, confused = arithmetic.alignment(utterance.reference, symbols)
        reference = " ".join(utterance.reference)
        wer_edits = arithmetic.distance(utterance.reference, symbols)
        spoken = {
            protocol: Spoken(hypothesis=text, cer_edits=arithmetic.distance(reference, text), wer_edits=wer_edits)
            for protocol, text in ((PUBLISHED, published_text(symbols, decode)), (COMPLETE, " ".join(symbols)))
        }
        confusions.append(confused)
        lines.append(
            ScoredUtterance(
                id=utterance.name,
                in_published=utterance.in_published,
                reference=reference,
                phones=len(utterance.reference),
                wer_counts=WerCounts(substitutions=substitutions, insertions=insertions, deletions=deletions),
                published=spoken[PUBLISHED],
                complete=spoken[COMPLETE],
            )
        )
    pairs = list(zip(lines, confusions))
    return Scored(
        tuple(lines),
        _pooled([pair for pair in pairs if pair[0].in_published], PUBLISHED),
        _pooled(pairs, COMPLETE),
    )


def _pooled(pairs: Sequence[tuple[ScoredUtterance, Counter[tuple[str, str]]]], protocol: str) -> Protocol:
    lines = [line for line, _ in pairs]
    spoken: list[Spoken] = [getattr(line, protocol) for line in lines]
    phones = [line.phones for line in lines]
    characters = [len(line.reference) for line in lines]
    cer_edits = [one.cer_edits for one in spoken]
    wer_edits = [one.wer_edits for one in spoken]
    cer = arithmetic.percent(sum(cer_edits), sum(characters))
    wer = arithmetic.percent(sum(wer_edits), sum(phones))
    cer_interval, wer_interval = arithmetic.intervals_95([cer_edits, wer_edits], [characters, phones])
    confusions: Counter[tuple[str, str]] = Counter()
    for _, confused in pairs:
        confusions.update(confused)
    return Protocol(
        utterances=len(lines),
        phones=sum(phones),
        characters=sum(characters),
        cer_percent=cer,
        wer_percent=wer,
        cer_printed=None if cer is None else f"{cer:.4f}",
        wer_printed=None if wer is None else f"{wer:.4f}",
        edits=Edits(cer=sum(cer_edits), wer=sum(wer_edits)),
        wer_counts=WerCounts(
            substitutions=sum(line.wer_counts.substitutions for line in lines),
            insertions=sum(line.wer_counts.insertions for line in lines),
            deletions=sum(line.wer_counts.deletions for line in lines),
        ),
        interval_95=Interval95(
            cer_percent=_interval(cer_interval), wer_percent=_interval(wer_interval), method=INTERVAL_METHOD
        ),
        confusions=tuple(
            Confusion(reference=reference, hypothesis=hypothesis, count=count)
            for (reference, hypothesis), count in sorted(confusions.items(), key=lambda item: (-item[1], item[0]))
        ),
    )


def _interval(found: list[float] | None) -> Interval | None:
    return None if found is None else (found[0], found[1])
