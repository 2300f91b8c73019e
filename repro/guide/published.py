"""The published table with its preconditions and tolerances: conf/published.toml as types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from repro.base.errors import UsageError
from repro.base.toml import read_toml
from repro.base.values import Amount, Count, Positive, Printed, Strict
from repro.record.judgement import MetricName

CER: Literal["cer_percent"] = "cer_percent"
WER: Literal["wer_percent"] = "wer_percent"
THROUGHPUT: Literal["throughput_utterances_per_s"] = "throughput_utterances_per_s"
METRICS: tuple[MetricName, ...] = (CER, WER, THROUGHPUT)


class Tolerance(Strict, frozen=True):
    """How far a found value may lie from the published one: percentage points, or relative to it; the other is 0."""

    reason: str
    points: Amount = 0.0
    relative: Amount = 0.0

    def absolute(self, published: float) -> float:
        """The tolerance in the metric's own unit."""
        return self.points or self.relative * published


class Row(Strict, frozen=True):
    """One row of the table, as the guide prints it."""

    batch_size: Positive
    utterances: Count
    cer_percent: Printed
    wer_percent: Printed
    throughput_utterances_per_s: Printed

    @property
    def printed(self) -> dict[str, str]:
        """Each metric as the guide prints it."""
        return {metric: getattr(self, metric) for metric in METRICS}


class CardException(Strict, frozen=True):
    """A card for which another version of a component is right."""

    card: str
    component: str
    accepts: tuple[str, ...]
    reason: str


class Preconditions(Strict, frozen=True):
    """What must hold for a figure to be comparable at all."""

    data: str
    split: str
    utterances: Count
    phones: Count
    decode: str
    device: str
    chip: str
    toolchain: str
    loop: Positive
    checkpoint: str


class _Source(Strict, frozen=True):
    title: str
    revision: str


class _Tolerances(Strict, frozen=True):
    cer_percent: Tolerance
    wer_percent: Tolerance
    throughput_utterances_per_s: Tolerance


class _File(Strict, frozen=True):
    """conf/published.toml; `older` is an older table of the publisher's, which tests hold the tolerances to."""

    source: _Source
    preconditions: Preconditions
    tolerance: _Tolerances
    row: tuple[Row, ...]
    older: dict[str, Any]
    card_exception: tuple[CardException, ...] = ()


@dataclass(frozen=True)
class Published:
    """The whole of conf/published.toml that a verdict needs."""

    title: str
    preconditions: Preconditions
    tolerances: Mapping[MetricName, Tolerance]
    rows: Mapping[int, Row]
    card_exceptions: tuple[CardException, ...]


def load_published(path: Path) -> Published:
    """Read conf/published.toml.

    Raises:
        UsageError: it cannot be read, or a key is missing, unknown or of the wrong kind.
    """
    try:
        content = msgspec.convert(read_toml(path), _File)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path} is not a published table: {error}", hint="restore it from the repository") from error
    return Published(
        title=f"{content.source.title}, revision {content.source.revision}",
        preconditions=content.preconditions,
        tolerances={metric: getattr(content.tolerance, metric) for metric in METRICS},
        rows={row.batch_size: row for row in content.row},
        card_exceptions=content.card_exception,
    )


def edits_allowed(printed_percent: str, length: int) -> tuple[int, ...]:
    """The whole numbers of edits that, over `length` phones or characters, print as this percentage.

    Mostly none: for 15,000 phones two neighbouring rates are 0.0067 apart, and four decimals are finer, so that a
    printed rate also tells which reference lengths are possible.

    Args:
        printed_percent: such as '18.8003'.
        length: of all references together.
    """
    # With r ten-thousandths of a percent, |100 e / length - r / 10^4| <= 1 / (2 * 10^4), in whole numbers.
    ten_thousandths = int(printed_percent.replace(".", ""))
    nearest = ten_thousandths * length // 10**6
    return tuple(
        edits
        for edits in range(max(nearest - 1, 0), nearest + 3)
        if length > 0 and 2 * abs(10**6 * edits - ten_thousandths * length) <= length
    )
