"""A record held against the published table: reproduced, not reproduced, or not comparable, with every reason.

A figure is compared only like for like. One precondition that fails makes it not comparable, whatever its value;
all that fail are listed. A run is reproduced if every figure was compared and holds, not reproduced if a compared
one does not, and not comparable otherwise. The error rates alone are also held against the table: repro.guide.accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from repro.guide.accuracy import accuracy_alone
from repro.guide.conditions import accuracy_reasons, machine_reasons, own_reasons, speed_reasons
from repro.guide.published import CER, METRICS, THROUGHPUT, WER, Published, Row
from repro.record.document import Findings
from repro.record.judgement import Check, MetricName, Outcome, TableRow, Verdict
from repro.record.scores import Result

REPRODUCED: Literal["reproduced"] = "reproduced"
NOT_REPRODUCED: Literal["not-reproduced"] = "not-reproduced"
NOT_COMPARABLE: Literal["not-comparable"] = "not-comparable"

_CLAIMS = {CER: "character error rate", WER: "phone error rate (published as WER)", THROUGHPUT: "throughput"}
_UNITS = {CER: "%", WER: "%", THROUGHPUT: "utterances/s"}
_TOLERANCE_UNITS = {CER: "percentage points", WER: "percentage points", THROUGHPUT: "utterances/s"}


def verdict(record: Findings, published: Published) -> Verdict:
    """Compare every result of a record with the published table; a verdict that the record has already is not read."""
    machine = machine_reasons(record, published)
    rates = accuracy_reasons(record, published)
    accuracy = machine + rates
    speed = machine + speed_reasons(record, published)
    checks = []
    for result in record.results:
        row = published.rows.get(result.batch_size)
        for metric in METRICS:
            reasons = (speed if metric == THROUGHPUT else accuracy) + own_reasons(result, metric, row)
            checks.append(_check(result, metric, published, reasons))
    outcome = _outcome([check.status for check in checks])
    return Verdict(
        outcome=outcome,
        reasons=_summary(outcome, checks),
        caveats=_caveats(record),
        source=published.title,
        table=tuple(_table_row(row) for _, row in sorted(published.rows.items())),
        checks=tuple(checks),
        accuracy=accuracy_alone(record, published),
    )


def _caveats(record: Findings) -> tuple[str, ...]:
    """What no comparison can rule out."""
    checkpoint = record.checkpoint
    if checkpoint.kind == "demo":
        return ()
    return (
        f"no hash of the published checkpoint is published: that sha256 {checkpoint.sha256} is it, is trusted "
        f"({checkpoint.trust or 'not checked'})",
    )


def _table_row(row: Row) -> TableRow:
    """A published row as numbers, so that a record can be read without conf/published.toml."""
    return TableRow(
        batch_size=row.batch_size,
        utterances=row.utterances,
        cer_percent=float(row.printed[CER]),
        wer_percent=float(row.printed[WER]),
        throughput_utterances_per_s=float(row.printed[THROUGHPUT]),
    )


def _outcome(statuses: Sequence[Outcome]) -> Outcome:
    if NOT_REPRODUCED in statuses:
        return NOT_REPRODUCED
    if statuses and all(status == REPRODUCED for status in statuses):
        return REPRODUCED
    return NOT_COMPARABLE


def _summary(outcome: Outcome, checks: Sequence[Check]) -> tuple[str, ...]:
    """The reasons of the checks that decided, each once, in order; of a success, what was compared."""
    if not checks:
        return ("the run holds no result",)
    if outcome == REPRODUCED:
        return (f"all {len(checks)} figures were compared like for like and lie within their tolerances",)
    return tuple(dict.fromkeys(reason for check in checks if check.status == outcome for reason in check.reasons))


def figure(result: Result, metric: MetricName) -> float | None:
    """What was found of a metric of the table; None where nothing was scored."""
    return result.throughput_utterances_per_s if metric == THROUGHPUT else getattr(result.published, metric)


def _check(result: Result, metric: MetricName, published: Published, reasons: list[str]) -> Check:
    size, found = result.batch_size, figure(result, metric)
    row = published.rows.get(size)
    claimed = float(row.printed[metric]) if row else None
    tolerance = published.tolerances[metric]
    allowed = None if claimed is None else tolerance.absolute(claimed)
    difference = None if claimed is None or found is None else found - claimed
    status: Outcome = NOT_COMPARABLE
    if not reasons and difference is not None and allowed is not None:
        status = REPRODUCED if abs(difference) <= allowed else NOT_REPRODUCED
        if status == NOT_REPRODUCED:
            reasons = [
                f"batch size {size}: {_CLAIMS[metric]} {found:.4f} {_UNITS[metric]}, published {claimed:.4f}: "
                f"{abs(difference):.4f} {'above' if difference > 0 else 'below'}, tolerance {allowed:.4f}"
            ]
    return Check(
        claim=f"{_CLAIMS[metric]} at batch size {size}",
        batch_size=size,
        metric=metric,
        published=claimed,
        found=found,
        difference=difference,
        unit=_UNITS[metric],
        tolerance=allowed,
        tolerance_unit=_TOLERANCE_UNITS[metric],
        tolerance_reason=tolerance.reason,
        status=status,
        reasons=tuple(reasons),
    )
