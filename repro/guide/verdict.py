"""A record held against the published table: reproduced, not reproduced, or not comparable, with every reason.

A figure is compared only like for like. One precondition that fails makes it not comparable, whatever its value;
all that fail are listed. A run is reproduced if every figure was compared and holds, not reproduced if a compared
one does not, and not comparable otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from repro.base import versions
from repro.guide.published import CER, METRICS, THROUGHPUT, WER, Published, Row, edits_allowed
from repro.record.document import Findings, Host, Request, ToolchainRow
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
    machine = _machine_reasons(record, published)
    accuracy = machine + _accuracy_reasons(record, published)
    speed = machine + _speed_reasons(record, published)
    checks = []
    for result in record.results:
        row = published.rows.get(result.batch_size)
        for metric in METRICS:
            reasons = (speed if metric == THROUGHPUT else accuracy) + _own_reasons(result, metric, row)
            checks.append(_check(result, metric, published, reasons))
    outcome = _outcome([check.status for check in checks])
    return Verdict(
        outcome=outcome,
        reasons=_summary(outcome, checks),
        caveats=_caveats(record),
        source=published.title,
        table=tuple(_table_row(row) for _, row in sorted(published.rows.items())),
        checks=tuple(checks),
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


def _machine_reasons(record: Findings, published: Published) -> list[str]:
    """Why nothing of this run compares: another device or toolchain."""
    wanted, request = published.preconditions, record.request
    reasons = [*_device_reasons(request, published), *_precision_reasons(request)]
    if request.toolchain != wanted.toolchain:
        reasons.append(f"toolchain: {request.toolchain}; the table's is {wanted.toolchain}")
    for row in record.toolchain:
        if row.status != "same" and row.kind == "table" and not is_excepted(row, record.host, published):
            found = f"found {row.found}" if row.found else "absent"
            reasons.append(f"toolchain: {row.component}: required {row.required}, {found}")
    if request.device == wanted.device and not any(
        row.component == "chip" and row.found == wanted.chip for row in record.toolchain
    ):
        reasons.append(f"chip: {wanted.chip} was not identified by a probe")
    return list(dict.fromkeys(reasons))


def _device_reasons(request: Request, published: Published) -> list[str]:
    wanted = published.preconditions
    reasons = []
    if request.device != wanted.device:
        reasons.append(
            f"device: ran on the {request.device.upper()}; the table is of the {wanted.device.upper()} {wanted.chip}"
        )
    chips = request.num_devices or 1
    if chips > 1:
        reasons.append(f"device: the batches were shared by {chips} chips; the table is of one")
    return reasons


def _precision_reasons(request: Request) -> list[str]:
    reasons = []
    if request.precision:
        reasons.append(f"precision: {request.precision}, as was asked for; the table's is the vendor's default")
    if request.precision_mode:
        reasons.append(f"precision: atc's {request.precision_mode}; the table's is the vendor's default")
    return reasons


def is_excepted(row: ToolchainRow, host: Host, published: Published) -> bool:
    """Whether the table's footnote about this host's card covers a component that is not as required."""
    return any(
        exception.card in (host.card or "")
        and row.component == exception.component
        and any(versions.same(row.found, accepted) for accepted in exception.accepts)
        for exception in published.card_exceptions
    )


def _accuracy_reasons(record: Findings, published: Published) -> list[str]:
    """Why no error rate of this run compares: other data, another checkpoint, another decoder."""
    wanted, request = published.preconditions, record.request
    data, checkpoint = record.data, record.checkpoint
    reasons = []
    if data.kind != wanted.data:
        what = "the demo corpus (synthetic speech)" if data.kind == "demo" else "a corpus of the user's"
        reasons.append(f"data: {what}, not TIMIT")
    elif not data.timit_counts_match:
        reasons.append("data: the counts of speakers and utterances are not TIMIT's")
    if checkpoint.kind != wanted.checkpoint:
        reasons.append(f"checkpoint: the {checkpoint.kind} checkpoint, not the published one")
    if request.split != wanted.split:
        reasons.append(f"split: {request.split}; the table is of the {wanted.split} set")
    else:
        for what, counts, needed in (
            ("utterances", data.utterances, wanted.utterances),
            ("phones", data.phones, wanted.phones),
        ):
            found = getattr(counts, request.split)
            if found != needed:
                reasons.append(f"data: {request.split} has {found} {what}; TIMIT's has {needed}")
    if request.decode.type != wanted.decode:
        reasons.append(f"decoder: {request.decode.type}; the table is of {wanted.decode}")
    return reasons


def _speed_reasons(record: Findings, published: Published) -> list[str]:
    """Why no speed of this run compares. Data and weights do not enter: it is measured on zeros."""
    loop = record.request.loop
    if loop != published.preconditions.loop:
        return [f"throughput: averaged over {loop} executions, not {published.preconditions.loop}"]
    return []


def _own_reasons(result: Result, metric: MetricName, row: Row | None) -> list[str]:
    """Why this figure of this batch size does not compare."""
    size, found = result.batch_size, result.published
    if row is None:
        return [f"batch size {size} is not in the table"]
    if metric == THROUGHPUT:
        return []
    if found.utterances != row.utterances:
        return [f"batch size {size}: {found.utterances} utterances scored; the table's figure is of {row.utterances}"]
    length_name, length = ("phones", found.phones) if metric == WER else ("characters", found.characters)
    if not edits_allowed(row.printed[metric], length):
        return [
            f"batch size {size}: the references have {length} {length_name}, of which no whole number of edits is "
            f"the published {row.printed[metric]} %: they are not the references that it was scored with"
        ]
    return []


def figure(result: Result, metric: MetricName) -> float | None:
    """What was found of a metric of the table; None where nothing was scored."""
    if metric == THROUGHPUT:
        return result.throughput_utterances_per_s
    return result.published.cer_percent if metric == CER else result.published.wer_percent


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
