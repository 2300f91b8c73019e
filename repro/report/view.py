"""What the report says, before any format: sections of sentences, lists and tables, made from a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from repro.guide.verdict import NOT_COMPARABLE, NOT_REPRODUCED, REPRODUCED
from repro.record import Record
from repro.record.document import Request
from repro.report import details, figures
from repro.report.parts import Bullet, Section, claims_of, engine_name

_HEADLINES = {
    REPRODUCED: "Reproduced: every published figure that was asked for was compared like for like and holds",
    NOT_REPRODUCED: "Not reproduced: a figure was compared like for like and lies outside its tolerance",
    NOT_COMPARABLE: "Not comparable with the published table",
}
_TONES = {REPRODUCED: "good", NOT_REPRODUCED: "bad", NOT_COMPARABLE: "open"}


@dataclass(frozen=True)
class View:
    """A report: its title, the verdict's headline, tone ('good', 'bad', 'open'), demo notice and sections."""

    title: str
    headline: str
    tone: str
    demo_notice: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]


def make_view(record: Record) -> View:
    """Everything a report says of this record, in order."""
    outcome = record.verdict.outcome
    return View(
        title="Reproduction of the LSTM-CTC phoneme recogniser: report of one run",
        headline=_HEADLINES[outcome],
        tone=_TONES[outcome],
        demo_notice=demo_notice(record),
        facts=_facts(record),
        sections=[_verdict(record), *figures.sections(record), *details.sections(record)],
    )


def demo_notice(record: Record) -> str:
    """One sentence that says what of this run is the demo's, or nothing."""
    if record.request.device == "npu-simulator":
        return (
            "This is a test: it ran on a simulator of an NPU, which computes on a CPU. "
            "Its speeds are no NPU's, and nothing of it is compared."
        )
    if not record.is_demo:
        return ""
    data = ["the demo corpus (synthetic speech)"] if record.data.kind == "demo" else []
    checkpoint = ["the demo checkpoint"] if record.checkpoint.kind == "demo" else []
    return (
        f"This is a demo: it ran on {' and '.join(data + checkpoint)}. "
        "Its figures say that the pipeline works, and nothing about TIMIT or the published model."
    )


def _facts(record: Record) -> list[tuple[str, str]]:
    request = record.request
    return [
        ("batch sizes", ", ".join(str(size) for size in request.batch_sizes)),
        ("data", f"{record.data.kind}, {request.split} set"),
        ("checkpoint", record.checkpoint.kind),
        ("decoder", request.decode.type),
        ("device", request.device),
        *_number_format(request),
        ("toolchain", request.toolchain),
        ("engine", engine_name(record)),
        ("started", record.observations.started_at),
        ("identity", record.identity.sha256),
    ]


def _number_format(request: Request) -> list[tuple[str, str]]:
    if not request.precision:
        return []
    told = "chosen with --precision; the network's outputs depend on whether the processor has AMX, and not on threads"
    return [("number format", f"{request.precision}, {told} or batch size")]


def compared(record: Record) -> list[str]:
    """What was compared like for like, claim by claim."""
    return [
        f"{check.claim}: {check.status.replace('-', ' ')}"
        for check in record.verdict.checks
        if check.status != NOT_COMPARABLE
    ]


def not_comparable(record: Record) -> list[Bullet]:
    """Every reason for which something was not compared, with what it concerns."""
    checks = [check for check in record.verdict.checks if check.status == NOT_COMPARABLE]
    reasons = dict.fromkeys(reason for check in checks for reason in check.reasons)
    return [
        Bullet(reason, claims_of([check for check in checks if reason in check.reasons], record)) for reason in reasons
    ]


def _verdict(record: Record) -> Section:
    judged = record.verdict
    holds = compared(record)
    sentences = [f"Held against: {judged.source}."] if judged.source else []
    if holds:
        sentences.append(f"Compared like for like: {'; '.join(holds)}.")
    else:
        sentences.append("Nothing was compared: no figure of this run was made under the table's conditions.")
    if judged.outcome == NOT_REPRODUCED:
        sentences += [f"{reason}." for reason in judged.reasons]
    bullets = not_comparable(record)
    if bullets:
        sentences.append("Not comparable, and why:")
    notes = [f"Not to be ruled out: {caveat}." for caveat in judged.caveats]
    return Section("What was compared, and what was not", sentences=sentences, bullets=bullets, notes=notes)
