"""The verdict: a record held against the published table."""

from __future__ import annotations

from typing import Literal, Optional, Union

from msgspec import UNSET, UnsetType

from repro.base.values import Amount, Count, Positive, Real, Strict

Outcome = Literal["reproduced", "not-reproduced", "not-comparable"]
MetricName = Literal["cer_percent", "wer_percent", "throughput_utterances_per_s"]
RateName = Literal["cer_percent", "wer_percent"]
Consistency = Literal["consistent", "inconsistent", "not-compared"]


class Check(Strict, frozen=True):
    """One published figure held against one found."""

    claim: str
    batch_size: Positive
    metric: MetricName
    published: Optional[Real]
    found: Optional[Real]
    difference: Optional[Real]
    unit: str
    tolerance: Optional[Real]
    tolerance_unit: str
    tolerance_reason: str
    status: Outcome
    reasons: tuple[str, ...]


class TableRow(Strict, frozen=True):
    """A row of the published table."""

    batch_size: Count
    utterances: Count
    cer_percent: Amount
    wer_percent: Amount
    throughput_utterances_per_s: Amount


class RateCheck(Strict, frozen=True):
    """A published error rate held against one found on the same utterances, on whatever device.

    The edits are those of found and published rate; no published ones where no whole number gives the rate.
    """

    batch_size: Positive
    metric: RateName
    published: Optional[Real]
    found: Optional[Real]
    difference: Optional[Real]
    tolerance: Optional[Real]
    published_edits: Optional[Count]
    found_edits: Count
    status: Consistency
    reasons: tuple[str, ...]


class CurveFit(Strict, frozen=True):
    """The published rates over B moved by `offset` percentage points, the one that leaves the smallest squares.

    The remainders are the found rates less the moved curve, in percentage points, by batch size. Rates of one model
    move with B only because other utterances are scored, so that they are near 0 where utterances and model are the
    table's.
    """

    metric: RateName
    batch_sizes: tuple[Positive, ...]
    offset: Real
    remainders: tuple[Real, ...]


class Accuracy(Strict, frozen=True):
    """The error rates alone held against the table's, whatever device and toolchain they are of.

    `differs` is what was not like for like, and may be the cause of a difference.
    """

    outcome: Consistency
    reasons: tuple[str, ...]
    differs: tuple[str, ...]
    checks: tuple[RateCheck, ...]
    fits: tuple[CurveFit, ...]


class Verdict(Strict, frozen=True):
    """The record held against the published table; `caveats` are what no comparison can rule out."""

    outcome: Outcome
    reasons: tuple[str, ...]
    caveats: tuple[str, ...]
    source: str
    table: tuple[TableRow, ...]
    checks: tuple[Check, ...]
    accuracy: Union[Accuracy, UnsetType] = UNSET
