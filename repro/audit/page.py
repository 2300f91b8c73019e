"""The outcome of an audit as a page that an auditor can sign: audit.json, and the same as Markdown and HTML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

import repro.report
from repro.audit.claims import ATTESTED, PROVEN, REFUTED, UNVERIFIED, Outcome
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
    ATTESTED: "Attested, not proven",
    PROVEN: "Proven here",
}
_TONES = {REFUTED: "bad", UNVERIFIED: "open", ATTESTED: "open", PROVEN: "good"}
LEGEND = (
    "Proven here: computed by this audit from bytes that it read. Attested: consistent, and believed on the word of "
    "whoever signed it. Refuted: bytes are here and contradict the claim. Could not verify: bytes, a tool or a machine "
    "are missing; nothing is known to be wrong."
)


def sentence(outcome: Outcome) -> str:
    """The whole outcome in one line."""
    counts = outcome.counts()
    if counts[REFUTED]:
        first = outcome.of_status(REFUTED)[0]
        return f"Refuted: {counts[REFUTED]} of {len(outcome.claims)} claims, the first of them: {first.text}."
    if counts[UNVERIFIED]:
        return f"Nothing is refuted; {counts[UNVERIFIED]} of {len(outcome.claims)} claims could not be verified."
    return f"Every claim holds: {counts[PROVEN]} proven here, {counts[ATTESTED]} attested."


def write_page(outcome: Outcome, folder: Path) -> None:
    """Write audit.json, audit.md and audit.html into a folder; equal outcomes give equal bytes."""
    document = pretty_json(outcome.as_json())
    write_atomic(folder / "audit.json", document)
    write_atomic(folder / "audit.md", _markdown(outcome, document).encode())
    write_atomic(folder / "audit.html", _html(outcome, document).encode())


def _values(outcome: Outcome, document: bytes) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "title": _TITLES[outcome.kind],
        "sentence": sentence(outcome),
        "legend": LEGEND,
        "order": list(_HEADINGS),
        "headings": _HEADINGS,
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
        tones=_TONES,
        tone=tone,
        style=Markup(style),  # noqa: S704 - a file of this repository, nothing of the record
    )  # fmt: skip
