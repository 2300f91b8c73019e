"""A record held against the published table: reproduced, not reproduced, or not comparable, with every reason.

A figure is compared only like for like. One precondition that fails makes it not comparable, whatever its value;
all that fail are listed. A run is reproduced if every figure was compared and holds, not reproduced if a compared
one does not, and not comparable otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repro.base import versions
from repro.guide.published import CER, METRICS, THROUGHPUT, WER, Published, Row, edits_allowed

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not-reproduced"
NOT_COMPARABLE = "not-comparable"

_CLAIMS = {CER: "character error rate", WER: "phone error rate (published as WER)", THROUGHPUT: "throughput"}
_UNITS = {CER: "%", WER: "%", THROUGHPUT: "utterances/s"}
_TOLERANCE_UNITS = {CER: "percentage points", WER: "percentage points", THROUGHPUT: "utterances/s"}


def verdict(record: Mapping[str, Any], published: Published) -> dict[str, Any]:
    """Compare every result of a record with the published table.

    Args:
        record: the record, still without its verdict.
        published: the table.

    Returns:
        {"outcome", "reasons": [text], "caveats": [text], "source", "table": [published rows], "checks": [{"claim",
        "batch_size", "metric", "published", "found", "difference", "unit", "tolerance", "tolerance_unit",
        "tolerance_reason", "status", "reasons"}]}.
    """
    machine = _machine_reasons(record, published)
    accuracy = _accuracy_reasons(record, published)
    speed = _speed_reasons(record, published)
    checks = []
    for result in record["results"]:
        row = published.rows.get(result["batch_size"])
        own = {metric: _own_reasons(result, metric, row) for metric in METRICS}
        for metric in METRICS:
            common = machine + (speed if metric == THROUGHPUT else accuracy)
            checks.append(_check(result, metric, row, published, common + own[metric]))
    outcome = _outcome([check["status"] for check in checks])
    return {
        "outcome": outcome,
        "reasons": _summary(outcome, checks),
        "caveats": _caveats(record),
        "source": published.title,
        "table": [_table_row(row) for _, row in sorted(published.rows.items())],
        "checks": checks,
    }


def _caveats(record: Mapping[str, Any]) -> list[str]:
    """What no comparison can rule out."""
    checkpoint = record["checkpoint"]
    if checkpoint["kind"] == "demo":
        return []
    return [
        f"no hash of the published checkpoint is published: that sha256 {checkpoint['sha256']} is it, is trusted "
        f"({checkpoint.get('trust') or 'not checked'})"
    ]


def _table_row(row: Row) -> dict[str, Any]:
    """A published row as numbers, so that a record can be read without conf/published.toml."""
    figures = {metric: float(text) for metric, text in row.printed.items()}
    return {"batch_size": row.batch_size, "utterances": row.utterances, **figures}


def _outcome(statuses: list[str]) -> str:
    if NOT_REPRODUCED in statuses:
        return NOT_REPRODUCED
    if statuses and all(status == REPRODUCED for status in statuses):
        return REPRODUCED
    return NOT_COMPARABLE


def _summary(outcome: str, checks: list[dict[str, Any]]) -> list[str]:
    """The reasons of the checks that decided, each once, in order; of a success, what was compared."""
    if not checks:
        return ["the run holds no result"]
    if outcome == REPRODUCED:
        return [f"all {len(checks)} figures were compared like for like and lie within their tolerances"]
    deciding = [check for check in checks if check["status"] == outcome]
    return list(dict.fromkeys(reason for check in deciding for reason in check["reasons"]))


def _machine_reasons(record: Mapping[str, Any], published: Published) -> list[str]:
    """Why nothing of this run compares: another device or toolchain."""
    wanted, request = published.preconditions, record["request"]
    reasons = []
    if request["device"] != wanted.device:
        reasons.append(
            f"device: ran on the {request['device'].upper()}; the table is of the {wanted.device.upper()} {wanted.chip}"
        )
    if request.get("num_devices", 1) > 1:
        reasons.append(f"device: the batches were shared by {request['num_devices']} chips; the table is of one")
    if request.get("precision"):
        reasons.append(f"precision: {request['precision']}, as was asked for; the table's is the vendor's default")
    if request.get("precision_mode"):
        reasons.append(f"precision: atc's {request['precision_mode']}; the table's is the vendor's default")
    if request["toolchain"] != wanted.toolchain:
        reasons.append(f"toolchain: {request['toolchain']}; the table's is {wanted.toolchain}")
    rows = [
        row
        for row in record["toolchain"]
        if row["status"] != "same"
        and row.get("kind", "table") == "table"
        and not is_excepted(row, record["host"], published)
    ]
    for row in rows:
        found = f"found {row['found']}" if row["found"] else "absent"
        reasons.append(f"toolchain: {row['component']}: required {row['required']}, {found}")
    if request["device"] == wanted.device and not any(
        row["component"] == "chip" and row["found"] == wanted.chip for row in record["toolchain"]
    ):
        reasons.append(f"chip: {wanted.chip} was not identified by a probe")
    return list(dict.fromkeys(reasons))


def is_excepted(row: Mapping[str, str], host: Mapping[str, Any], published: Published) -> bool:
    """Whether the table's footnote about this host's card covers a component that is not as required."""
    card = str(host.get("card", ""))
    return any(
        exception.card in card
        and row["component"] == exception.component
        and _accepted(row["found"], exception.accepts)
        for exception in published.card_exceptions
    )


def _accepted(found: str, versions_accepted: Sequence[str]) -> bool:
    return any(versions.same(found, other) for other in versions_accepted)


def _accuracy_reasons(record: Mapping[str, Any], published: Published) -> list[str]:
    """Why no error rate of this run compares: other data, another checkpoint, another decoder."""
    wanted, request = published.preconditions, record["request"]
    data, checkpoint = record["data"], record["checkpoint"]
    split = request["split"]
    reasons = []
    if data["kind"] != wanted.data:
        what = "the demo corpus (synthetic speech)" if data["kind"] == "demo" else "a corpus of the user's"
        reasons.append(f"data: {what}, not TIMIT")
    elif not data["timit_counts_match"]:
        reasons.append("data: the counts of speakers and utterances are not TIMIT's")
    if checkpoint["kind"] != wanted.checkpoint:
        reasons.append(f"checkpoint: the {checkpoint['kind']} checkpoint, not the published one")
    if split != wanted.split:
        reasons.append(f"split: {split}; the table is of the {wanted.split} set")
    else:
        for what, found, needed in (
            ("utterances", data["utterances"].get(split), wanted.utterances),
            ("phones", data.get("phones", {}).get(split), wanted.phones),
        ):
            if found != needed:
                reasons.append(f"data: {split} has {found} {what}; TIMIT's has {needed}")
    decode = request["decode"]["type"]
    if decode != wanted.decode:
        reasons.append(f"decoder: {decode}; the table is of {wanted.decode}")
    return reasons


def _speed_reasons(record: Mapping[str, Any], published: Published) -> list[str]:
    """Why no speed of this run compares. Data and weights do not enter: it is measured on zeros."""
    loop = record["request"].get("loop")
    if loop != published.preconditions.loop:
        return [f"throughput: averaged over {loop} executions, not {published.preconditions.loop}"]
    return []


def _own_reasons(result: Mapping[str, Any], metric: str, row: Row | None) -> list[str]:
    """Why this figure of this batch size does not compare."""
    size = result["batch_size"]
    if row is None:
        return [f"batch size {size} is not in the table"]
    if metric == THROUGHPUT:
        return []
    found = result["published"]
    if found["utterances"] != row.utterances:
        return [
            f"batch size {size}: {found['utterances']} utterances scored; the table's figure is of {row.utterances}"
        ]
    length_name = "phones" if metric == WER else "characters"
    length = found[length_name]
    if not edits_allowed(row.printed[metric], length):
        return [
            f"batch size {size}: the references have {length} {length_name}, of which no whole number of edits is "
            f"the published {row.printed[metric]} %: they are not the references that it was scored with"
        ]
    return []


def _check(
    result: Mapping[str, Any], metric: str, row: Row | None, published: Published, reasons: list[str]
) -> dict[str, Any]:
    size = result["batch_size"]
    found = result[THROUGHPUT] if metric == THROUGHPUT else result["published"][metric]
    claimed = float(row.printed[metric]) if row else None
    tolerance = published.tolerances[metric]
    allowed = None if claimed is None else tolerance.absolute(claimed)
    difference = None if claimed is None or found is None else found - claimed
    status = NOT_COMPARABLE
    reasons = list(reasons)
    if not reasons and difference is not None and allowed is not None:
        status = REPRODUCED if abs(difference) <= allowed else NOT_REPRODUCED
        if status == NOT_REPRODUCED:
            reasons.append(
                f"batch size {size}: {_CLAIMS[metric]} {found:.4f} {_UNITS[metric]}, published {claimed:.4f}: "
                f"{abs(difference):.4f} {'above' if difference > 0 else 'below'}, tolerance {allowed:.4f}"
            )
    return {
        "claim": f"{_CLAIMS[metric]} at batch size {size}",
        "batch_size": size,
        "metric": metric,
        "published": claimed,
        "found": found,
        "difference": difference,
        "unit": _UNITS[metric],
        "tolerance": allowed,
        "tolerance_unit": _TOLERANCE_UNITS[metric],
        "tolerance_reason": tolerance.reason,
        "status": status,
        "reasons": reasons,
    }
