"""The page of a sweep, of the report's parts: a table and pictures over the matrix, the spread, every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from markupsafe import Markup

from repro.base.files import pretty_json, write_atomic
from repro.report.canvas import WIDTH, Canvas, round_values
from repro.report.parts import Bullet, Section, digest, interval, mark, number, status, table
from repro.report.view import Judged, View, demo_notice
from repro.report.writer import html_of, markdown_of
from repro.sweep.figures import AXES, Row, document_of, percent, rows_of
from repro.sweep.matrix import Sweep
from repro.sweep.running import Failed, Finished, Swept
from repro.sweep.variance import LEVELS

_Point = tuple[Row, float, Optional[Sequence[float]], Sequence[float]]  # figure, interval, single runs
FILE, PAGE, TEXT = "sweep.json", "sweep.html", "sweep.md"
_ROW, _LABELS, _VALUES, _MOST_DRAWN = 22, 330, 90, 200
_STYLES = dict(zip(LEVELS, ("heat heat4", "bar", "made", "phase", "same")))
_FORMULA = (
    "Nested random effects: throughput of a loop = mean + driver + host + chip + run + loop. Each variance is "
    "estimated from the sums of squares between the groups of its level, set equal to their expectations, which allow "
    "for unequal numbers (Gower 1962, Biometrics 18:537-542; Searle, Casella, McCulloch 1992, Variance Components, "
    "chapter 5). "
    "Loops of one run follow each other, and the model takes them as independent."
)


def write_page(sweep: Sweep, swept: Swept, folder: Path) -> None:
    """Write sweep.json, sweep.html and sweep.md into a folder."""
    rows = rows_of(swept)
    view = view_of(sweep, swept, rows)
    pictures = {
        "wer": _rates(rows), "throughput": _speeds(rows), "variance": _variances(rows),
    }  # fmt: skip
    write_atomic(folder / FILE, pretty_json(document_of(sweep, swept)))
    write_atomic(folder / TEXT, markdown_of(view).encode())
    write_atomic(folder / PAGE, html_of(view, pictures).encode())


def view_of(sweep: Sweep, swept: Swept, rows: Sequence[Row]) -> View:
    """The page before any format."""
    finished = [ended for ended in swept.cells if isinstance(ended, Finished)]
    failed = [ended for ended in swept.cells if isinstance(ended, Failed)]
    sections = [_failed(failed)] if failed else []
    if rows:
        sections += [_matrix(rows), _spread(rows), _machines(finished), _runs(finished)]
    return View(
        title=sweep.title or "A sweep of the LSTM-CTC phoneme recogniser",
        verdicts=[summary(swept)],
        demo_notice=next((demo_notice(one.record) for one in finished if demo_notice(one.record)), ""),
        figures=table(AXES, []),
        facts=[
            ("cells", str(len(swept.cells))),
            ("configurations", str(len(rows))),
            ("repeats", str(sweep.repeats)),
            ("split", sweep.run.split),
            ("executions of a loop", str(sweep.run.loop)),
            ("steps of all cells", str(swept.asked)),
            ("different steps", str(swept.different)),
            ("made now", str(swept.made)),
        ],
        sections=sections,
        caption="",
    )


def summary(swept: Swept) -> Judged:
    """Whether every cell has its record."""
    count = len(swept.cells)
    failed = sum(isinstance(ended, Failed) for ended in swept.cells)
    steps = (
        f"{swept.asked} steps were asked for; {swept.different} of them differ, and each of these ran once or was "
        f"stored: {swept.made} ran now."
    )
    if failed:
        return Judged(f"{failed} of {count} cells failed", f"The others are whole. {steps}", "bad")
    return Judged(f"Every one of {count} cells has its record", steps, "good")


def _failed(failed: Sequence[Failed]) -> Section:
    return Section(
        "Cells that failed", bullets=[Bullet(one.reason, one.cell.name) for one in failed], folded=False,
        notes=["The same command runs them again, and takes everything else from the store."],
    )  # fmt: skip


def _matrix(rows: Sequence[Row]) -> Section:
    found = []
    for row in rows:
        demo, complete = mark(row.runs[0].record), row.result.complete
        found.append([
            *row.values,
            number(complete.wer_percent, 4, demo),
            interval(complete.interval_95.wer_percent),
            number(complete.cer_percent, 4, demo),
            interval(complete.interval_95.cer_percent),
            number(row.mean, 2, demo),
            _with_interval(row),
            len(row.runs),
            "" if row.spread_percent is None else number(row.spread_percent, 2, " %"),
            number(row.result.latency_ms.median, 2),
        ])  # fmt: skip
    columns = [
        *AXES[:-1], "#B", "#WER %", "#95 %", "#CER %", "#95 %", "#utterances/s", "#95 % of the mean", "#runs",
        "#spread", "#ms, median",
    ]  # fmt: skip
    return Section(
        "Figures over the matrix",
        sentences=[
            "Rates are of every utterance (complete protocol), with the interval over utterances. A throughput is the "
            "mean of the runs, all loops of a run together, with the interval of that mean by Student's t."
        ],
        plots=["wer", "throughput"],
        tables=[table(columns, found)],
        caption="A dot is a figure, a line its 95 % interval; small squares are single runs.",
        folded=False,
    )


def _with_interval(row: Row) -> str:
    if row.interval is None:
        return "none: one run"
    return f"{interval(row.interval)} over {row.over}"


def _spread(rows: Sequence[Row]) -> Section:
    found = [
        [
            row.label if part.level == LEVELS[0] else "",
            part.level,
            part.groups,
            part.freedom,
            "" if part.deviation is None else number(part.deviation, 4),
            percent(part.share),
            part.note,
        ]
        for row in rows
        for part in row.parts
    ]
    return Section(
        "What the spread of the throughput comes from",
        plots=["variance"],
        tables=[table(["configuration", "level", "#groups", "#d.f.", "#s.d., utterances/s", "#share", "note"], found)],
        caption="The share of each level in the variance of one loop's throughput, as far as it is told.",
        notes=[_FORMULA],
        folded=False,
    )


def _machines(finished: Sequence[Finished]) -> Section:
    counted = Counter((one.machine.host, one.machine.chip, one.machine.driver or "none") for one in finished)
    return Section(
        "Where speeds were measured",
        tables=[table(["host, by a digest", "chip", "driver", "#runs"], [[*place, n] for place, n in counted.items()])],
        notes=["The digest tells hosts apart and says nothing else about them."],
        lead=f"{len({place[0] for place in counted})} hosts, {len(counted)} chips",
    )


def _runs(finished: Sequence[Finished]) -> Section:
    rows = [
        [
            one.cell.name,
            one.run,
            status(one.record.verdict.outcome),
            f"{one.steps[0] - one.steps[1]} of {one.steps[0]}",
            digest(one.record.identity.results),
            digest(one.record_sha256),
        ]
        for one in finished
    ]
    return Section(
        "The run of each cell",
        tables=[
            table(["cell", "folder in artifacts/runs", "verdict", "#stored", "identity of results", "record"], rows)
        ],
        notes=["Repeats of one configuration have one identity of results: only their speeds differ."],
        lead=f"{len(rows)} records",
    )


def _rates(rows: Sequence[Row]) -> Markup:
    points: list[_Point] = []
    for row in rows:
        complete = row.result.complete
        if complete.wer_percent is not None:
            points.append((row, complete.wer_percent, complete.interval_95.wer_percent, ()))
    return _forest("WER by configuration, %, 95 %", "wer_percent", points)


def _speeds(rows: Sequence[Row]) -> Markup:
    return _forest(
        "Throughput by configuration, utterances/s, 95 %", "speed",
        [(row, row.mean, row.interval, row.speeds if len(row.speeds) > 1 else ()) for row in rows],
    )  # fmt: skip


def _forest(title: str, style: str, points: Sequence[_Point]) -> Markup:
    """A row per configuration: a dot, its interval as a line, single runs as small squares."""
    drawn = points[:_MOST_DRAWN]
    reach = [value for _, dot, bounds, singles in drawn for value in (dot, *(bounds or ()), *singles)]
    if not reach:
        return Markup("")
    ticks = round_values(min(0.0, *reach) if min(reach) < 0.4 * max(reach) else min(reach), max(reach))
    canvas = Canvas(title, _ROW * len(drawn) + 50)
    bottom, right = 24 + _ROW * len(drawn), WIDTH - _VALUES

    def at_x(value: float) -> float:
        return _LABELS + (value - ticks[0]) / ((ticks[-1] - ticks[0]) or 1.0) * (right - _LABELS)

    canvas.text(_LABELS, 14, title, "axis")
    for tick in ticks:
        canvas.line(at_x(tick), 22, at_x(tick), bottom, "grid")
        canvas.text(at_x(tick), bottom + 16, f"{tick:g}", "tick", "middle")
    for place, (row, dot, bounds, singles) in enumerate(drawn):
        y = 24 + _ROW * (place + 0.5)
        canvas.text(_LABELS - 8, y + 4, _short(row.label), "tick", "end")
        if bounds is not None:
            canvas.line(at_x(bounds[0]), y, at_x(bounds[1]), y, f"{style} whisker")
        for single in singles:
            canvas.bar(at_x(single) - 2, y - 6, 4, 4, f"{style} band", f"{row.label}, one run: {single:.4f}")
        canvas.dot(at_x(dot), y, f"{style} ours", f"{row.label}: {dot:.4f}")
        canvas.text(right + 8, y + 4, f"{dot:.2f}", "tick")
    return canvas.done()


def _variances(rows: Sequence[Row]) -> Markup:
    """A bar per configuration, in parts: the shares of the levels that are told."""
    drawn = [row for row in rows if any(part.share for part in row.parts)][:_MOST_DRAWN]
    if not drawn:
        return Markup("")
    canvas = Canvas("Shares of the throughput's variance", _ROW * len(drawn) + 28)
    width = WIDTH - _VALUES - _LABELS
    for place, level in enumerate(LEVELS):
        canvas.bar(_LABELS + 80 * place, 4, 12, 12, _STYLES[level], level)
        canvas.text(_LABELS + 80 * place + 17, 14, level, "tick")
    for place, row in enumerate(drawn):
        y, x = 24 + _ROW * place, float(_LABELS)
        canvas.text(_LABELS - 8, y + 14, _short(row.label), "tick", "end")
        for part in row.parts:
            if part.share:
                canvas.bar(x, y + 2, part.share * width, _ROW - 6, _STYLES[part.level],
                           f"{row.label}, {part.level}: {percent(part.share)}")  # fmt: skip
                x += part.share * width
    return canvas.done()


def _short(label: str) -> str:
    return label if len(label) <= 52 else label[:51] + "…"
