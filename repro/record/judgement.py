"""The verdict: a record held against the published table."""

from __future__ import annotations

from typing import Literal, Optional

from repro.base.values import Amount, Count, Positive, Real, Strict

Outcome = Literal["reproduced", "not-reproduced", "not-comparable"]
MetricName = Literal["cer_percent", "wer_percent", "throughput_utterances_per_s"]


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


class Verdict(Strict, frozen=True):
    """The record held against the published table; `caveats` are what no comparison can rule out."""

    outcome: Outcome
    reasons: tuple[str, ...]
    caveats: tuple[str, ...]
    source: str
    table: tuple[TableRow, ...]
    checks: tuple[Check, ...]
