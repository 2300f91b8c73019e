"""Writing the report's files."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from repro.base.files import write_atomic
from repro.base.templates import html_templates, policy_hash, text_templates
from repro.record import Record
from repro.report import markdown, plots
from repro.report.view import View, make_view

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(record: Record, folder: Path) -> None:
    """Write report.md and report.html into a run's folder.

    Args:
        record: a whole record, its verdict included.
        folder: where record.json lies.
    """
    write_atomic(folder / "report.md", render_markdown(record).encode())
    write_atomic(folder / "report.html", render_html(record).encode())


def render_markdown(record: Record) -> str:
    """The report as Markdown; every value in it is escaped."""
    return markdown_of(make_view(record))


def render_html(record: Record) -> str:
    """The report as one HTML file that needs no network: style and plots are inside."""
    return html_of(make_view(record), plots.draw(record))


def markdown_of(view: View) -> str:
    """Any page of ours as Markdown; every value in it is escaped."""
    return text_templates(_TEMPLATES, markdown.escape).get_template("report.md.j2").render(view=view)


def html_of(view: View, pictures: Mapping[str, Markup]) -> str:
    """Any page of ours as one HTML file that needs no network. Pictures are by the names that its sections have."""
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    return html_templates(_TEMPLATES).get_template("report.html.j2").render(
        view=view,
        style=Markup(style),  # noqa: S704 - a file of this package, nothing of the record
        style_hash=policy_hash(style),
        plots=collections.defaultdict(Markup, pictures),
    )  # fmt: skip
