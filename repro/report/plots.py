"""The report's plots, as SVG inside the page: no script, no file beside it, colours from the page's style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from repro.record import Record
from repro.report.canvas import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Canvas, round_values
from repro.report.parts import NAMES, mark, rates
from repro.report.timeline import IMAGE, LAYER, PHASE, STAGE, spans_of

_ROW = 22
_TOP_CONFUSIONS = 15


def draw(record: Record) -> dict[str, Markup]:
    """Every plot by name; one that the record has nothing for is empty."""
    return {
        "errors": _errors(record),
        "speed": _speed(record),
        "confusions": _confusions(record),
        "times": _times(record),
    }


# A series over batch sizes: name, class, 'dot' or 'square', values, and intervals (none for published figures).
_Series = tuple[str, str, str, Mapping[int, float], Mapping[int, Sequence[float]]]


def _by_size(
    title: str,
    series: Sequence[_Series],
    unit: str,
) -> Markup:
    """Points over batch sizes: each series is (name, class, 'dot' or 'square', values, intervals)."""
    sizes = sorted({size for *_, values, _bounds in series for size in values})
    reach = [
        v for *_, values, bounds in series for v in (*values.values(), *(b for pair in bounds.values() for b in pair))
    ]
    if not reach:
        return Markup("")
    ticks = round_values(min(0.0, *reach) if min(reach) < 0.4 * max(reach) else min(reach), max(reach))
    canvas = Canvas(title, HEIGHT)
    bottom = HEIGHT - BOTTOM

    def at_y(value: float) -> float:
        return bottom - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - TOP)

    for tick in ticks:
        canvas.line(LEFT, at_y(tick), WIDTH - RIGHT, at_y(tick), "grid")
        canvas.text(LEFT - 8, at_y(tick) + 4, f"{tick:g}", "tick", "end")
    slot = (WIDTH - RIGHT - LEFT) / len(sizes)
    for index, size in enumerate(sizes):
        canvas.text(LEFT + slot * (index + 0.5), bottom + 18, str(size), "tick", "middle")
    canvas.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "batch size", "axis", "middle")
    legend_x = float(LEFT)
    for number, (name, style, shape, values, bounds) in enumerate(series):
        offset = (number - (len(series) - 1) / 2) * min(18.0, slot / (len(series) + 1))
        draw_point = canvas.dot if shape == "dot" else canvas.square
        draw_point(legend_x + 5, 14, style, name)
        canvas.text(legend_x + 14, 18, name, "legend")
        legend_x += 30 + 6.3 * len(name)
        for index, size in enumerate(sizes):
            x = LEFT + slot * (index + 0.5) + offset
            if size in bounds:
                low, high = bounds[size]
                canvas.line(x, at_y(low), x, at_y(high), f"{style} whisker")
            if size in values:
                draw_point(x, at_y(values[size]), style, f"{name}, B = {size}: {values[size]:.4f} {unit}")
    return canvas.done()


def _errors(record: Record) -> Markup:
    series: list[_Series] = []
    for metric, theirs in (
        ("wer_percent", {row.batch_size: row.wer_percent for row in record.verdict.table}),
        ("cer_percent", {row.batch_size: row.cer_percent for row in record.verdict.table}),
    ):
        values: dict[int, float] = {}
        bounds: dict[int, Sequence[float]] = {}
        for result in record.results:
            ((rate, interval),) = [(rate, found) for name, rate, found in rates(result.published) if name == metric]
            if rate is not None:
                values[result.batch_size] = rate
            if interval is not None:
                bounds[result.batch_size] = interval
        name = NAMES[metric]
        series.append((f"{name} % published", f"{metric} theirs", "square", theirs, {}))
        series.append((f"{name} % this run{mark(record)}, 95 %", f"{metric} ours", "dot", values, bounds))
    return _by_size("Error rates by batch size, published protocol, beside the published table", series, "%")


def _speed(record: Record) -> Markup:
    device = record.request.device.upper()
    series: list[_Series] = [
        (
            "published, NPU: utterances/s",
            "speed theirs",
            "square",
            {row.batch_size: row.throughput_utterances_per_s for row in record.verdict.table},
            {},
        ),
        (
            f"this run, {device}{mark(record)}",
            "speed ours",
            "dot",
            {result.batch_size: result.throughput_utterances_per_s for result in record.results},
            {},
        ),
    ]
    return _by_size("Throughput by batch size beside the published table", series, "utterances/s")


def _bars(title: str, rows: Sequence[tuple[str, float, float, str, str]], left: int) -> Markup:
    """Horizontal bars: (label, from, length, class, value's text), from and length in one unit."""
    if not rows:
        return Markup("")
    canvas = Canvas(title, _ROW * len(rows) + 8)
    room = WIDTH - left - 120
    reach = max(start + length for _, start, length, _, _ in rows) or 1.0
    for index, (label, start, length, style, value) in enumerate(rows):
        y = 4 + index * _ROW
        canvas.text(left - 8, y + 15, label, "tick", "end")
        canvas.bar(left + start / reach * room, y + 3, length / reach * room, _ROW - 7, style, f"{label}: {value}")
        canvas.text(left + (start + length) / reach * room + 6, y + 15, value, "tick")
    return canvas.done()


def _confusions(record: Record) -> Markup:
    if not record.results:
        return Markup("")
    rows = [
        (f"{_short(entry.reference)} → {_short(entry.hypothesis)}", 0.0, float(entry.count), "bar",
         f"{entry.count}{mark(record)}")
        for entry in record.results[0].complete.confusions[:_TOP_CONFUSIONS]
    ]  # fmt: skip
    return _bars("Most confused phones: reference, and what it was recognised as", rows, 140)


def _short(text: str) -> str:
    return text if len(text) <= 10 else text[:9] + "…"


def _times(record: Record) -> Markup:
    """Phases, layers built, images made ready and the stages that ran, on one clock, by when they started."""
    styles = {PHASE: "phase", LAYER: "made", IMAGE: "made", STAGE: "bar"}
    rows = [
        (f"ready: {span.name}" if span.kind == IMAGE else span.name, span.started_s, span.seconds, styles[span.kind],
         f"{span.seconds:.2f} s")
        for span in spans_of(record)
    ]  # fmt: skip
    return _bars("Where the time went", rows, 170)
