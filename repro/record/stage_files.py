"""What stages write into out/ and obs/ for a record to be made of: their JSON files as types."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from repro.base.foreign import shown
from repro.base.values import Amount, Count, Positive, Strict
from repro.record.measuring import LoopFigure
from repro.record.scores import Decoder, Excluded, Latency, Measured, Protocol

FRAMES = 195  # of the network's output
ROWS = 390  # of its input
MOST_TIMES = 10_000_000
Milliseconds = Annotated[float, Meta(gt=0, le=1e9)]
Times = Annotated[tuple[Milliseconds, ...], Meta(max_length=MOST_TIMES)]


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
    """measure's obs/measure.json; `times_ms` of each execution, empty on the NPU: the vendor's tool keeps no list."""

    latency_ms: Latency
    times_ms: Times

    def figures(self) -> Measured:
        """Without the times."""
        return Measured(**{name: getattr(self, name) for name in Measured.__struct_fields__})


class SustainedFile(Strict, frozen=True):
    """measure's obs/sustained.json: the figures of all its loops together; on the NPU without a list of times.

    `each` is empty in results of versions that did not write it.
    """

    batch_size: Positive
    figures: dict[str, str]
    formula: str
    latency_ms: Latency
    least_seconds: Amount
    loop: Positive
    loops: Positive
    throughput_utterances_per_s: Amount
    times_ms: Times
    each: tuple[LoopFigure, ...] = ()


class Entry(Strict, frozen=True):
    """An utterance's place in the batches, and its length in the network's input and output."""

    id: str
    batch: Count
    row: Count
    stacked_frames: Annotated[int, Meta(ge=2, le=ROWS)]
    output_frames: Annotated[int, Meta(ge=1, le=FRAMES)]


class Manifest(Strict, frozen=True):
    """batches' manifest.json."""

    batch_size: Positive
    split: str
    rows: Positive
    columns: Positive
    num_batches: Count
    num_tail_batches: Annotated[int, Meta(ge=0, le=1)]
    utterances: tuple[Entry, ...]
    excluded: tuple[Excluded, ...]

    def __post_init__(self) -> None:
        size, count = self.batch_size, len(self.utterances)
        if (self.num_batches, self.num_tail_batches) != (count // size, int(count % size > 0)):
            raise ValueError(f"{count} utterances do not fill {self.num_batches} batches and {self.num_tail_batches}")
        if len({entry.id for entry in self.utterances}) != count:
            raise ValueError("an utterance stands there twice")
        for place, entry in enumerate(self.utterances):
            if (entry.batch, entry.row) != divmod(place, size):
                raise ValueError(f"utterance {shown(entry.id)} is not in the next place of the batches")
            if entry.stacked_frames != 2 * entry.output_frames:
                raise ValueError(f"utterance {shown(entry.id)} has not half as many output frames as rows")

    def output_name(self, batch: int) -> str:
        """The path of a batch's outputs below the out/ of infer and reference."""
        return f"{'result' if batch < self.num_batches else 'tail'}/inputs_{batch}_0.npy"

    @property
    def batches(self) -> range:
        """The numbers of the batches, the tail included."""
        return range(self.num_batches + self.num_tail_batches)


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
