"""The figures of one batch size: rates by two protocols, speed, and how far the implementations agree."""

from __future__ import annotations

from typing import Annotated, Literal, Optional, Union

from msgspec import UNSET, Meta, UnsetType

from repro.base.values import Amount, Count, Positive, Printed, Real, Strict
from repro.record.measuring import Latency as Latency
from repro.record.measuring import Sustained, WhileMeasuring

Interval = tuple[Amount, Amount]


class Edits(Strict, frozen=True):
    """Edits pooled over utterances."""

    cer: Count
    wer: Count


class WerCounts(Strict, frozen=True):
    """The phone edits by their kind."""

    substitutions: Count
    insertions: Count
    deletions: Count


class Interval95(Strict, frozen=True):
    """95 % intervals of the rates; null where no utterance is scored."""

    cer_percent: Optional[Interval]
    wer_percent: Optional[Interval]
    method: str


class Confusion(Strict, frozen=True):
    """How often one phone was recognised as another."""

    reference: str
    hypothesis: str
    count: Positive


class Protocol(Strict, frozen=True):
    """One protocol's pooled scores; rates and intervals are null where no utterance is scored."""

    utterances: Count
    phones: Count
    characters: Count
    cer_percent: Optional[Amount]
    wer_percent: Optional[Amount]
    cer_printed: Optional[Printed]
    wer_printed: Optional[Printed]
    edits: Edits
    wer_counts: WerCounts
    interval_95: Interval95
    confusions: tuple[Confusion, ...]


class HandledUtterances(Strict, frozen=True):
    """Utterances on which the reference implementation would fail, and what is done instead."""

    utterances: tuple[str, ...]
    handled: str


class HandledSymbols(Strict, frozen=True):
    """Phones that the language model lacks, and what is done with them."""

    symbols: tuple[str, ...]
    handled: str


class ReferenceWouldFail(Strict, frozen=True):
    """What the reference's beam search could not have decoded."""

    empty_labelling_survived: HandledUtterances
    probability_underflowed_to_zero: HandledUtterances
    symbols_missing_in_language_model: HandledSymbols


class Decoder(Strict, frozen=True):
    """The decoder as the stage score describes it; for Beam with its settings."""

    type: Literal["Greedy", "Beam"]
    beam_width: Union[Positive, UnsetType] = UNSET
    lm_alpha: Union[Real, UnsetType] = UNSET
    reference_would_fail: Union[ReferenceWouldFail, UnsetType] = UNSET


class Excluded(Strict, frozen=True):
    """An utterance that was left out, and why."""

    utterance: str
    reason: str


class Measured(Strict, frozen=True):
    """How the speed was measured: on the CPU with `threads`, on the NPU with `devices`."""

    batch_size: Positive
    formula: str
    loop: Positive
    provider: str
    throughput_utterances_per_s: Amount
    threads: Union[Positive, UnsetType] = UNSET
    devices: Union[Positive, UnsetType] = UNSET
    simulator: Union[bool, UnsetType] = UNSET


class Pair(Strict, frozen=True):
    """How far two implementations of the network agree on the same inputs."""

    max_abs: Real
    cosine: Real
    relative_euclidean: Real
    kl: Real
    rmse: Real
    mean_relative: Real
    frames: Count
    scored_frames: Count
    symbols_changed: Count
    utterances: Count
    within_thresholds: bool


class Thresholds(Strict, frozen=True):
    """The vendor's limits of the agreement's figures, by figure."""

    at_least: dict[str, Real]
    at_most: dict[str, Real]


class Comparison(Strict, frozen=True):
    """The agreement of PyTorch, the exported graph and the converted one.

    `reference_batch_size` is that of PyTorch's own run, which serves every batch size; older records do not say it,
    and are of runs in which it was `batch_size`.
    """

    batch_size: Positive
    formulas: dict[str, str]
    thresholds: Thresholds
    torch_onnx: Pair
    torch_converted: Pair
    onnx_converted: Pair
    within_thresholds: bool
    reference_batch_size: Union[Positive, UnsetType] = UNSET


class Result(Strict, frozen=True):
    """Everything found at one batch size; the last two stand in records of this version and later."""

    batch_size: Positive
    published: Annotated[Protocol, Meta(description="As the reference's scripts score, their defects included.")]
    complete: Annotated[Protocol, Meta(description="Every utterance, clean strings: the figures to quote.")]
    decode: Decoder
    excluded: tuple[Excluded, ...]
    throughput_utterances_per_s: Amount
    latency_ms: Latency
    measured: Measured
    comparison: Comparison
    sustained: Union[Sustained, UnsetType] = UNSET
    while_measuring: Union[WhileMeasuring, UnsetType] = UNSET
