"""What a person reads of a bench: a line per figure while it runs, then Markdown, and HTML with plots."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

import repro.report
from repro.base.templates import html_templates, text_templates
from repro.bench import history
from repro.bench.figure import AT_LEAST, Figure, shown
from repro.bench.goals import GOALS
from repro.report import markdown as markdown_text
from repro.report.canvas import WIDTH, Canvas

_TEMPLATES = Path(__file__).parent / "templates"
_STYLE = Path(repro.report.__file__).parent / "templates" / "report.css"
_WORDS = {True: "met", False: "NOT MET", None: ""}
_TONES = {True: "good", False: "bad", None: ""}
_DECISIONS = {each.title: each.decision for each in GOALS}
_ROW, _NAMES, _VALUES = 22, 330, 110
_REACH = 8.0  # a bar ends at eight times its bound, or an eighth of it


def line(figure: Figure) -> str:
    """One figure, for the terminal."""
    return _line(figure.as_json())


def _line(figure: Mapping[str, Any]) -> str:
    text = f"{figure['name']}: {shown(figure['value'])} {figure['unit']}"
    if figure["bound"] is not None:
        text += f"  ({figure['relation']} {shown(figure['bound'])}: {_WORDS[figure['met']]})"
    return text


def markdown(document: Mapping[str, Any]) -> str:
    """The table as Markdown; every value in it is escaped."""
    return text_templates(_TEMPLATES, markdown_text.escape).get_template("bench.md.j2").render(**_values(document))


def html(document: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> str:
    """The table and its plots as one page without a script.

    Args:
        earlier: the runs of the history file, oldest first, this one not among them.
    """
    return html_templates(_TEMPLATES).get_template("bench.html.j2").render(
        **_values(document),
        style=Markup(_STYLE.read_text(encoding="utf-8")),  # noqa: S704 - a file of this repository
        bounds=_bounds_plot(document["figures"]),
        changes=_changes(document, earlier),
    )  # fmt: skip


def summary(document: Mapping[str, Any]) -> str:
    """The closing lines on the terminal: how many bounds are met, and each that is not."""
    judged = [figure for figure in document["figures"] if figure["met"] is not None]
    missed = [figure for figure in judged if not figure["met"]]
    lines = [f"bounds met: {len(judged) - len(missed)} of {len(judged)}"]
    lines += [f"  not met: {figure['goal']}: {_line(figure)}" for figure in missed]
    lines += [f"  not measured: {area}: {reason}" for area, reason in document["could_not"].items()]
    return "\n".join(lines)


def _values(document: Mapping[str, Any]) -> dict[str, Any]:
    groups = []
    for goal, figures in itertools.groupby(document["figures"], key=lambda figure: figure["goal"]):
        rows = [
            {
                "name": figure["name"],
                "value": f"{shown(figure['value'])} {figure['unit']}",
                "spread": " to ".join(shown(value) for value in figure["spread"]) if figure["spread"] else "",
                "bound": f"{figure['relation']} {shown(figure['bound'])}" if figure["bound"] is not None else "",
                "met": _WORDS[figure["met"]],
                "tone": _TONES[figure["met"]],
                "samples": figure["samples"],
                "formula": figure["formula"],
                "checked": figure["checked"],
                "note": figure["note"],
            }
            for figure in figures
        ]
        groups.append({"goal": goal, "decision": _DECISIONS.get(goal, ""), "rows": rows})
    return {"document": document, "groups": groups, "summary": summary(document).splitlines()}


def _bounds_plot(figures: Sequence[Mapping[str, Any]]) -> Markup:
    """Each figure as a multiple of its bound, on a logarithmic axis: right of the middle is met."""
    judged = [figure for figure in figures if figure["met"] is not None and figure["value"] > 0 and figure["bound"]]
    if not judged:
        return Markup("")
    canvas = Canvas("Figures as multiples of their bounds", _ROW * len(judged) + 30)
    middle, half = (_NAMES + WIDTH - _VALUES) / 2, (WIDTH - _VALUES - _NAMES) / 2
    for index, figure in enumerate(judged):
        ratio = figure["value"] / figure["bound"]
        ratio = ratio if figure["relation"] == AT_LEAST else 1 / ratio
        reach = max(-1.0, min(1.0, math.log(ratio) / math.log(_REACH))) * half
        y = 22 + index * _ROW
        label = _line(figure)
        words = f"{figure['goal'].split(' ')[0]} {figure['name']}"
        canvas.text(_NAMES - 8, y + 15, words if len(words) <= 52 else words[:51] + "…", "tick", "end")
        canvas.bar(min(middle, middle + reach), y + 3, abs(reach), _ROW - 7, _TONES[figure["met"]] + " bar", label)
        canvas.text(WIDTH - _VALUES + 6, y + 15, f"{shown(ratio)} times", "tick")
    canvas.line(middle, 16, middle, 24 + _ROW * len(judged), "grid")
    canvas.text(middle, 12, "bound", "axis", "middle")
    return canvas.done()


def _changes(document: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each figure beside the median of its earlier values on such a processor."""
    rows = []
    for figure in document["figures"]:
        values = history.values_of(figure, earlier, document["host"])
        if values:
            before = sorted(values)[len(values) // 2]
            change = f"{figure['value'] / before:.3f} times" if before else ""
            rows.append(
                {
                    "name": history.key(figure),
                    "before": shown(before),
                    "runs": len(values),
                    "now": shown(figure["value"]),
                    "change": change,
                    "plot": _sparkline([*values, figure["value"]], history.key(figure)),
                }
            )
    return rows


def _sparkline(values: Sequence[float], title: str) -> Markup:
    """The values of a figure from run to run, oldest left."""
    low, high = min(values), max(values)
    canvas = Canvas(title, 60)
    step = (WIDTH - 20) / max(1, len(values) - 1)
    points = [
        (10 + index * step, 50 - (value - low) / ((high - low) or 1.0) * 40) for index, value in enumerate(values)
    ]
    for (x1, y1), (x2, y2) in zip(points, points[1:]):
        canvas.line(x1, y1, x2, y2, "ours whisker")
    canvas.dot(*points[-1], "speed ours", f"{title}: {shown(values[-1])}")
    return canvas.done()
