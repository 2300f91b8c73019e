"""The report's part about measuring: which figure is which, the spread between loops, and the machine meanwhile."""

from __future__ import annotations

from markupsafe import Markup

from repro.record import Record
from repro.record.measuring import Series
from repro.report.canvas import WIDTH, Canvas
from repro.report.parts import Bullet, Section, Table, mark, number, table

TITLE = "While it was measured"
_ROW, _LABELS, _VALUES = 24, 250, 120


def section(record: Record) -> Section | None:
    """Figures of the first loop and of all, and what was observed; None for a record that an earlier version wrote."""
    if not any(result.sustained or result.while_measuring for result in record.results):
        return None
    sentences = [
        "The first loop is the published table's condition, and the only figure that is held against it. The figure of "
        "all loops together is the one to quote: loops of as many executions follow the first until 10 s were timed."
    ]
    bullets = [
        Bullet(f"batch size {result.batch_size}: {reason}, so that its throughput is not compared")
        for result in record.results
        if result.while_measuring
        for reason in result.while_measuring.disturbances
    ]
    watched = [result.while_measuring for result in record.results if result.while_measuring]
    notes = [f"Not told by {seen.seen_by}: {'; '.join(seen.not_told)}." for seen in watched if seen.not_told]
    notes += [
        f"Read by {seen.seen_by}; that took {seen.cost_percent:.2g} % of the cores' time." for seen in watched[:1]
    ]
    return Section(
        TITLE,
        sentences,
        bullets=bullets,
        plots=["measuring"],
        tables=[part for part in (_loops(record), _observed(record)) if part.rows],
        notes=list(dict.fromkeys(notes)),
    )


def _loops(record: Record) -> Table:
    demo, rows = mark(record), []
    for result in record.results:
        whole = result.sustained
        if not whole:
            continue
        first = result.throughput_utterances_per_s
        rows.append([result.batch_size, "the first loop: the table's condition", result.measured.loop, "",
                     number(first, 4, demo), "", ""])  # fmt: skip
        spread = "one loop" if whole.spread_percent is None else f"{whole.spread_percent:.2f} %{demo}"
        rows.append([result.batch_size, f"all loops ({len(whole.loops)}): to quote", whole.executions,
                     number(whole.timed_s, 1), number(whole.throughput_utterances_per_s, 4, demo), spread,
                     "yes" if whole.long_enough else "no: a quick look"])  # fmt: skip
    columns = ["#B", "figure", "#executions", "#s timed", "#utterances/s", "#spread between loops", "long enough"]
    return table(columns, rows)


def _observed(record: Record) -> Table:
    rows = [
        [
            result.batch_size,
            name_of(series),
            f"{series.minimum:.4g}",
            f"{series.mean:.4g}",
            f"{series.maximum:.4g}",
            series.count,
        ]
        for result in record.results
        if result.while_measuring
        for series in result.while_measuring.series
    ]
    return table(["#B", "observed", "#lowest", "#mean", "#highest", "#readings"], rows)


def name_of(series: Series) -> str:
    """What was read, of what, in which unit."""
    of = "" if series.kind == "load of others" else f" of {_subject(series)}"
    return f"{series.kind}{of}, {series.unit}"


def _subject(series: Series) -> str:
    return "the processor" if series.chip is None else f"device {series.chip}"


def drawing(record: Record) -> Markup:
    """Every series over the time of the measurement, one row each, from its lowest to its highest value."""
    rows = [
        (f"B = {result.batch_size}: {name_of(series)}", series)
        for result in record.results
        if result.while_measuring
        for series in result.while_measuring.series
        if len(series.points) > 1
    ]
    if not rows:
        return Markup("")
    canvas = Canvas("Readings while it was measured, from the first to the last", _ROW * len(rows) + 8)
    for number_of_row, (name, series) in enumerate(rows):
        top = 6 + number_of_row * _ROW
        canvas.text(_LABELS - 8, top + 14, name, "tick", "end")
        span = series.maximum - series.minimum
        step = (WIDTH - _LABELS - _VALUES) / (len(series.points) - 1)
        ys = [top + 16 - 12 * ((point - series.minimum) / span if span else 0.5) for point in series.points]
        for place, (before, after) in enumerate(zip(ys, ys[1:])):
            canvas.line(_LABELS + place * step, before, _LABELS + (place + 1) * step, after, "ours speed")
        canvas.text(WIDTH - _VALUES + 8, top + 14, f"{series.minimum:.4g} to {series.maximum:.4g}", "tick")
    return canvas.done()
