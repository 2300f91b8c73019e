"""The published table with its preconditions and tolerances: conf/published.toml as types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from repro.base.errors import UsageError
from repro.base.toml import read_toml
from repro.record.judgement import MetricName

CER: Literal["cer_percent"] = "cer_percent"
WER: Literal["wer_percent"] = "wer_percent"
THROUGHPUT: Literal["throughput_utterances_per_s"] = "throughput_utterances_per_s"
METRICS: tuple[MetricName, ...] = (CER, WER, THROUGHPUT)
_PRINTED_DECIMALS = 4


@dataclass(frozen=True)
class Tolerance:
    """How far a found value may lie from the published one: percentage points, or relative to it; the other is 0."""

    reason: str
    points: float = 0.0
    relative: float = 0.0

    def absolute(self, published: float) -> float:
        """The tolerance in the metric's own unit."""
        return self.points or self.relative * published


@dataclass(frozen=True)
class Row:
    """One row of the table. `printed` holds each metric as the guide prints it."""

    batch_size: int
    utterances: int
    printed: Mapping[str, str]


@dataclass(frozen=True)
class CardException:
    """A card for which another version of a component is right."""

    card: str
    component: str
    accepts: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Preconditions:
    """What must hold for a figure to be comparable at all."""

    data: str
    split: str
    utterances: int
    phones: int
    decode: str
    device: str
    chip: str
    toolchain: str
    loop: int
    checkpoint: str


@dataclass(frozen=True)
class Published:
    """The whole of conf/published.toml that a verdict needs."""

    title: str
    preconditions: Preconditions
    tolerances: Mapping[str, Tolerance]
    rows: Mapping[int, Row]
    card_exceptions: tuple[CardException, ...]


def load_published(path: Path) -> Published:
    """Read conf/published.toml.

    Raises:
        UsageError: it cannot be read, or a key is missing, unknown or of the wrong kind.
    """
    content = read_toml(path)
    try:
        rows = [_row(row) for row in content["row"]]
        return Published(
            title=f"{content['source']['title']}, revision {content['source']['revision']}",
            preconditions=Preconditions(**content["preconditions"]),
            tolerances={metric: Tolerance(**content["tolerance"][metric]) for metric in METRICS},
            rows={row.batch_size: row for row in rows},
            card_exceptions=tuple(
                CardException(**{**entry, "accepts": tuple(entry["accepts"])})
                for entry in content.get("card_exception", [])
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not a published table: {error}", hint="restore it from the repository") from error


def _row(row: Mapping[str, Any]) -> Row:
    printed: dict[str, str] = {metric: str(row[metric]) for metric in METRICS}
    for metric, text in printed.items():
        if len(text.partition(".")[2]) != _PRINTED_DECIMALS:
            raise ValueError(f"{metric} of batch size {row['batch_size']} is not printed with 4 decimals: {text}")
    return Row(batch_size=int(row["batch_size"]), utterances=int(row["utterances"]), printed=printed)


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
