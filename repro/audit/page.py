"""The outcome of an audit as a page that an auditor can sign: audit.json, and the same as Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

import repro.report
from repro.audit.claims import (
    ATTESTED,
    CLAIMED,
    IF_RERUN,
    PROVEN,
    RECOMPUTED,
    REFUTED,
    RUN_AGAIN,
    UNVERIFIED,
    Claim,
    Outcome,
)
from repro.audit.statements import AUDIT_FILE, code_digest
from repro.base.files import pretty_json, sha256_bytes, write_atomic
from repro.base.templates import html_templates, text_templates
from repro.report import markdown

_TEMPLATES = Path(__file__).parent / "templates"
_STYLE = Path(repro.report.__file__).parent / "templates" / "report.css"
_TITLES = {
    "verify": "Audit of a run",
    "rerun": "A run repeated",
    "challenge": "The images built again",
    "compare": "Two runs compared",
}
_HEADINGS = {
    REFUTED: "Refuted",
    UNVERIFIED: "Could not verify",
    RECOMPUTED: "Proven here: recomputed from these bytes",
    RUN_AGAIN: "Proven here: run again on this machine, with the same outcome",
    IF_RERUN: "True if rerun: not run by this audit",
    ATTESTED: "Attested, not proven",
    CLAIMED: "Claimed by both records, and read by nobody",
}
_TONES = {
    REFUTED: "bad", UNVERIFIED: "open", IF_RERUN: "open", ATTESTED: "open", CLAIMED: "open",
    RECOMPUTED: "good", RUN_AGAIN: "good",
}  # fmt: skip
LEGEND = {
    PROVEN: "computed by this audit from bytes that it read, or run again by this audit with the same outcome",
    IF_RERUN: "the bytes are those that the record names, and whether the code makes them of its inputs was not tried: "
    "`invoke audit.rerun` tries it",
    ATTESTED: "consistent, and believed on the word of whoever signed it",
    CLAIMED: "two records give the same digest, and the bytes were not here to read",
    REFUTED: "bytes are here and contradict the claim",
    UNVERIFIED: "bytes, a tool or a machine are missing; nothing is known to be wrong",
}


def sentence(outcome: Outcome) -> str:
    """The whole outcome in one line, as the exit code has it."""
    counts, known = outcome.counts(), outcome.explanation()
    if counts[REFUTED]:
        first = outcome.of_status(REFUTED)[0]
        return f"Refuted: {counts[REFUTED]} of {len(outcome.claims)} claims, the first of them: {first.text}."
    if counts[UNVERIFIED]:
        open_claims = f"{counts[UNVERIFIED]} of {len(outcome.claims)} claims could not be verified"
        return f"Nothing is refuted; {open_claims}. Of the others: {known}."
    return f"Every claim holds: {known}."


def write_page(outcome: Outcome, folder: Path) -> None:
    """Write audit.json, audit.md and audit.html into a folder; equal outcomes give equal bytes."""
    document = pretty_json({**outcome.as_json(), "verifier": code_digest()})
    write_atomic(folder / AUDIT_FILE, document)
    write_atomic(folder / "audit.md", _markdown(outcome, document).encode())
    write_atomic(folder / "audit.html", _html(outcome, document).encode())


class _Section(NamedTuple):
    """The claims below one heading of the page."""

    heading: str
    tone: str
    claims: list[Claim]


def _sections(outcome: Outcome) -> Iterator[tuple[str, str, list[Claim]]]:
    for name, heading in _HEADINGS.items():
        found = outcome.of_status(name) if name in (REFUTED, UNVERIFIED) else outcome.holding(name)
        if found:
            yield name, heading, found


def _values(outcome: Outcome, document: bytes) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "title": _TITLES[outcome.kind],
        "sentence": sentence(outcome),
        "legend": LEGEND,
        "sections": [_Section(heading, _TONES[name], found) for name, heading, found in _sections(outcome)],
        "json_sha256": sha256_bytes(document),
    }


def _markdown(outcome: Outcome, document: bytes) -> str:
    template = text_templates(_TEMPLATES, markdown.escape).get_template("audit.md.j2")
    return template.render(**_values(outcome, document))


def _html(outcome: Outcome, document: bytes) -> str:
    style = _STYLE.read_text(encoding="utf-8")
    found = outcome.counts()
    tone = "bad" if found[REFUTED] else "open" if found[UNVERIFIED] else "good"
    return html_templates(_TEMPLATES).get_template("audit.html.j2").render(
        **_values(outcome, document),
        tone=tone,
        style=Markup(style),  # noqa: S704 - a file of this repository, nothing of the record
    )  # fmt: skip
