"""The error rates alone held against the published ones, whatever device and toolchain they are of.

Rates do not depend on speed, so that a run on a CPU or with a newer CANN can be held against the table where data,
split, decoder and utterances are the table's and a checkpoint was given. What else differs is listed beside the
outcome: it may be the cause of a difference. The strict verdict is not changed by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from repro.guide.conditions import accuracy_reasons, machine_reasons, own_reasons
from repro.guide.published import CER, WER, Published, edits_allowed
from repro.record.document import Findings
from repro.record.judgement import Accuracy, Consistency, CurveFit, RateCheck, RateName
from repro.record.scores import Protocol, Result

RATES: tuple[RateName, ...] = (CER, WER)
FIT_SIZES = 3
"""A curve is fitted over this many batch sizes or more."""

_SIMULATOR = "npu-simulator"
_PLACES = 4
"""Decimals of the published rates: a finer difference is none of the table's."""


def accuracy_alone(record: Findings, published: Published) -> Accuracy:
    """The second verdict: `consistent` where every rate with a published one was compared and holds.

    It is `inconsistent` where a compared rate lies outside its tolerance, and `not-compared` otherwise.
    """
    reasons = accuracy_reasons(record, published)
    if record.request.device == _SIMULATOR:
        reasons = ["device: a simulator of an NPU, made for tests", *reasons]
    checks = [_check(result, rate, published, reasons) for result in record.results for rate in RATES]
    outcome = _outcome([check for check in checks if check.published is not None])
    said = [reason for check in checks if check.status != "consistent" for reason in check.reasons]
    return Accuracy(
        outcome=outcome,
        reasons=tuple(dict.fromkeys(said)),
        differs=() if outcome == "not-compared" else tuple(machine_reasons(record, published)),
        checks=tuple(checks),
        fits=tuple(_fits(checks)),
    )


def _outcome(checks: Sequence[RateCheck]) -> Consistency:
    statuses = {check.status for check in checks}
    if "inconsistent" in statuses:
        return "inconsistent"
    return "consistent" if statuses == {"consistent"} else "not-compared"


def _check(result: Result, rate: RateName, published: Published, reasons: Sequence[str]) -> RateCheck:
    found, row = result.published, published.rows.get(result.batch_size)
    why = [*reasons, *own_reasons(result, rate, row)]
    value: float | None = getattr(found, rate)
    claimed = float(row.printed[rate]) if row else None
    difference = None if claimed is None or value is None else value - claimed
    tolerance = None if claimed is None else published.tolerances[rate].absolute(claimed)
    status: Consistency = "not-compared"
    if not why and difference is not None and tolerance is not None:
        holds = abs(difference) <= tolerance
        status = "consistent" if holds else "inconsistent"
        if not holds:
            name = "phone error rate" if rate == WER else "character error rate"
            why = [
                f"batch size {result.batch_size}: {name} {value:.4f} %, published {claimed:.4f} %: "
                f"{abs(difference):.4f} points {'above' if difference > 0 else 'below'}, tolerance {tolerance:.4f}"
            ]
    allowed = edits_allowed(row.printed[rate], _length(found, rate)) if row else ()
    return RateCheck(
        batch_size=result.batch_size,
        metric=rate,
        published=claimed,
        found=value,
        difference=difference,
        tolerance=tolerance,
        published_edits=allowed[0] if len(allowed) == 1 else None,
        found_edits=found.edits.wer if rate == WER else found.edits.cer,
        status=status,
        reasons=tuple(why),
    )


def _length(found: Protocol, rate: RateName) -> int:
    return found.phones if rate == WER else found.characters


def _fits(checks: Sequence[RateCheck]) -> list[CurveFit]:
    """For each rate, the published curve moved by one offset, over the batch sizes that were compared."""
    fits = []
    for rate in RATES:
        differences = {
            check.batch_size: check.difference
            for check in checks
            if check.metric == rate and check.status != "not-compared" and check.difference is not None
        }
        if len(differences) >= FIT_SIZES:
            offset = math.fsum(differences.values()) / len(differences)
            remainders = tuple(round(value - offset, _PLACES) for value in differences.values())
            fits.append(
                CurveFit(
                    metric=rate,
                    batch_sizes=tuple(differences),
                    offset=round(offset, _PLACES),
                    remainders=remainders,
                )
            )
    return fits
