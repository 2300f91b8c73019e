"""What stages write into out/ and obs/ for a record to be made of: their JSON files as types."""

from __future__ import annotations

from typing import Literal

from repro.base.values import Amount, Count, Positive, Strict
from repro.record.scores import Decoder, Excluded, Latency, Measured, Protocol


class Protocols(Strict, frozen=True):
    """The two protocols' pooled scores."""

    published: Protocol
    complete: Protocol


class ScoreFile(Strict, frozen=True):
    """score's score.json."""

    batch_size: Positive
    split: Literal["train", "dev", "test"]
    decode: Decoder
    protocols: Protocols
    excluded: tuple[Excluded, ...]


class MeasureFile(Measured, frozen=True, kw_only=True):
    """measure's obs/measure.json; `times_ms` of each execution, empty on the NPU."""

    latency_ms: Latency
    times_ms: tuple[Amount, ...]

    def figures(self) -> Measured:
        """Without the times."""
        return Measured(**{name: getattr(self, name) for name in Measured.__struct_fields__})


class BatchedUtterance(Strict, frozen=True):
    """Where an utterance lies in the batches, and how many rows of it are real."""

    id: str
    batch: Count
    row: Count
    stacked_frames: Count
    output_frames: Count


class BatchesFile(Strict, frozen=True):
    """batches' manifest.json."""

    batch_size: Positive
    columns: Positive
    rows: Positive
    num_batches: Count
    num_tail_batches: Count
    split: Literal["train", "dev", "test"]
    utterances: tuple[BatchedUtterance, ...]
    excluded: tuple[Excluded, ...]


class SplitSummary(Strict, frozen=True):
    """What a split of the data set holds."""

    speakers: Count
    utterances: Count
    phones: Count


class SplitSummaries(Strict, frozen=True):
    """What each split holds."""

    train: SplitSummary
    dev: SplitSummary
    test: SplitSummary


class TimitCounts(Strict, frozen=True):
    """Whether the counts of speakers, utterances and phones are TIMIT's."""

    matches: bool
    deviations: tuple[str, ...]


class CorpusFile(Strict, frozen=True):
    """corpus' summary.json."""

    splits: SplitSummaries
    excluded: tuple[Excluded, ...]
    second_copies_ignored: Count
    timit: TimitCounts


class ProbeFile(Strict, frozen=True):
    """probe's probe.json: what is installed in an image, with its version."""

    python: str
    implementation: str
    glibc: str
    wheels: dict[str, str]
    debs: dict[str, str]
    found: dict[str, str]
    simulator: bool
