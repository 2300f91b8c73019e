"""The report's plots, as SVG inside the page: no script, no file beside it, colours from the page's style.

A plot that stands beside others is `PANEL` units wide, so that its letters keep their size on a telephone; a wide one
scrolls in its own frame there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from repro.guide.verdict import NOT_COMPARABLE, NOT_REPRODUCED
from repro.record import Record
from repro.record.judgement import MetricName
from repro.report.canvas import WIDTH, Canvas, round_values
from repro.report.confusions import heat_map
from repro.report.lanes import timeline
from repro.report.measuring import drawing
from repro.report.parts import NAMES, mark, rates

PANEL, _HEIGHT = 400, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 44, 36
_ROW, _REACH = 24, 2.5  # a difference is shown up to two and a half tolerances


def draw(record: Record) -> dict[str, Markup]:
    """Every plot by name; one that the record has nothing for is empty."""
    return {
        "errors": _errors(record),
        "speed": _speed(record),
        "differences": _differences(record),
        "confusions": heat_map(record),
        "times": timeline(record),
        "measuring": drawing(record),
    }


@dataclass(frozen=True)
class _Series:
    """A metric over batch sizes: published values, this run's, its intervals, and tolerances around the published.

    `missed`: where this run was compared like for like and lies outside.
    """

    name: str
    style: str
    theirs: Mapping[int, float]
    ours: Mapping[int, float]
    bounds: Mapping[int, Sequence[float]] = field(default_factory=dict)
    tolerances: Mapping[int, float] = field(default_factory=dict)
    missed: frozenset[int] = frozenset()


def _tolerances(record: Record, metric: MetricName) -> dict[int, float]:
    """By batch size, where the run has that row of the table."""
    return {
        check.batch_size: check.tolerance
        for check in record.verdict.checks
        if check.metric == metric and check.tolerance is not None
    }


def _missed(record: Record, metric: MetricName) -> frozenset[int]:
    return frozenset(
        check.batch_size for check in record.verdict.checks if check.metric == metric and check.status == NOT_REPRODUCED
    )


def _errors(record: Record) -> Markup:
    series = []
    metrics: tuple[MetricName, MetricName] = ("wer_percent", "cer_percent")
    for metric in metrics:
        found = {
            result.batch_size: (rate, interval)
            for result in record.results
            for name, rate, interval in rates(result.published)
            if name == metric
        }
        series.append(
            _Series(
                name=f"{NAMES[metric]} %",
                style=metric,
                theirs={row.batch_size: getattr(row, metric) for row in record.verdict.table},
                ours={size: rate for size, (rate, _) in found.items() if rate is not None},
                bounds={size: interval for size, (_, interval) in found.items() if interval is not None},
                tolerances=_tolerances(record, metric),
                missed=_missed(record, metric),
            )
        )
    return _by_size("Error rates by batch size, published protocol, beside the published table", series, record)


def _speed(record: Record) -> Markup:
    series = _Series(
        name="utterances/s",
        style="speed",
        theirs={row.batch_size: row.throughput_utterances_per_s for row in record.verdict.table},
        ours={result.batch_size: result.throughput_utterances_per_s for result in record.results},
        tolerances=_tolerances(record, "throughput_utterances_per_s"),
        missed=_missed(record, "throughput_utterances_per_s"),
    )
    return _by_size("Throughput by batch size beside the published table", [series], record)


def _by_size(title: str, series: Sequence[_Series], record: Record) -> Markup:
    """Each series over the batch sizes: hollow squares with their tolerances are published, dots are this run's."""
    sizes = sorted({size for one in series for size in (*one.theirs, *one.ours)})
    reach = [
        value
        for one in series
        for value in (
            *one.theirs.values(),
            *one.ours.values(),
            *(bound for pair in one.bounds.values() for bound in pair),
        )
    ]
    if not reach:
        return Markup("")
    ticks = round_values(min(0.0, *reach) if min(reach) < 0.4 * max(reach) else min(reach), max(reach))
    canvas = Canvas(title, _HEIGHT, PANEL)
    bottom, right = _HEIGHT - _BOTTOM, PANEL - _RIGHT

    def at_y(value: float) -> float:
        return bottom - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - _TOP)

    for tick in ticks:
        canvas.line(_LEFT, at_y(tick), right, at_y(tick), "grid")
        canvas.text(_LEFT - 6, at_y(tick) + 4, f"{tick:g}", "tick", "end")
    slot = (right - _LEFT) / len(sizes)
    for index, size in enumerate(sizes):
        canvas.text(_LEFT + slot * (index + 0.5), bottom + 16, str(size), "tick", "middle")
    canvas.text((_LEFT + right) / 2, _HEIGHT - 4, "batch size", "axis", "middle")
    for number, one in enumerate(series):
        theirs, ours = f"{one.name} published", f"this run{mark(record)}" + (", 95 %" if one.bounds else "")
        legend = 12 + 17 * number
        canvas.square(_LEFT + 4, legend, f"{one.style} theirs", theirs)
        canvas.text(_LEFT + 14, legend + 4, theirs, "legend")
        canvas.dot(_LEFT + 170, legend, f"{one.style} ours", f"{one.name} {ours}")
        canvas.text(_LEFT + 180, legend + 4, ours, "legend")
        for index, size in enumerate(sizes):
            middle = _LEFT + slot * (index + 0.5) + (number - (len(series) - 1) / 2) * min(12.0, slot / 4)
            if size in one.theirs and size in one.tolerances:
                low, high = at_y(one.theirs[size] + one.tolerances[size]), at_y(one.theirs[size] - one.tolerances[size])
                label = f"{theirs} ± {one.tolerances[size]:.4f}, B = {size}"
                canvas.bar(middle - slot / 4, low, slot / 2, max(high - low, 2.5), f"{one.style} band", label)
            if size in one.theirs:
                canvas.square(middle, at_y(one.theirs[size]), f"{one.style} theirs",
                              f"{theirs}, B = {size}: {one.theirs[size]:.4f}")  # fmt: skip
            if size in one.bounds:
                low, high = (at_y(bound) for bound in one.bounds[size])
                canvas.line(middle, low, middle, high, f"{one.style} whisker")
            if size in one.ours:
                style = f"{one.style} ours" + " missed" * (size in one.missed)
                canvas.dot(middle, at_y(one.ours[size]), style,
                           f"{one.name} this run{mark(record)}, B = {size}: {one.ours[size]:.4f}")  # fmt: skip
    return canvas.done()


def _differences(record: Record) -> Markup:
    """What was compared like for like, as multiples of its tolerance: inside the band it holds."""
    rows = [
        (check, check.difference / check.tolerance)
        for check in record.verdict.checks
        if check.status != NOT_COMPARABLE and check.difference is not None and check.tolerance
    ]
    if not rows:
        return Markup("")
    canvas = Canvas("Differences from the published figures, in tolerances", _ROW * len(rows) + 26)
    left, right = 170, WIDTH - 130
    middle, unit = (left + right) / 2, (right - left) / 2 / _REACH
    canvas.bar(middle - unit, 4, 2 * unit, _ROW * len(rows), "within", "within the tolerance")
    for step in (-2, -1, 0, 1, 2):
        canvas.line(middle + step * unit, 4, middle + step * unit, 4 + _ROW * len(rows), "grid")
        canvas.text(middle + step * unit, _ROW * len(rows) + 20, f"{step:+d}" if step else "0", "tick", "middle")
    for index, (check, times) in enumerate(rows):
        y = 4 + _ROW * (index + 0.5)
        canvas.text(left - 10, y + 4, f"{NAMES[check.metric]}, B = {check.batch_size}", "tick", "end")
        tone = "good" if abs(times) <= 1 else "bad"
        canvas.dot(middle + max(-_REACH, min(_REACH, times)) * unit, y, f"{tone} ours", f"{check.claim}: {times:+.2f}")
        canvas.text(right + 10, y + 4, f"{times:+.2f} tolerances", "tick")
    return canvas.done()
