"""The timeline: phases, layers, images and stages on one clock; what came from the store is a hollow mark, no bar."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from markupsafe import Markup

from repro.record import Record
from repro.record.stages import Step
from repro.report.canvas import WIDTH, Canvas, round_values
from repro.report.timeline import IMAGE, LAYER, PHASE, STAGE, Span, spans_of

_ROW, _LEFT, _RIGHT, _TOP = 20, 128, 118, 24
_LETTER = 6.2  # units that a letter of 12 units takes
_STYLES = {PHASE: "phase", LAYER: "made", IMAGE: "made", STAGE: "bar"}


@dataclass
class _Lane:
    """One label of the timeline: its spans in rows, so that none covers another, and when what was stored was taken."""

    label: str
    rows: list[list[Span]] = field(default_factory=list)
    stored: list[Step] = field(default_factory=list)

    def put(self, span: Span) -> None:
        """Into the first row that is free then."""
        for row in self.rows:
            if row[-1].ended_s <= span.started_s:
                row.append(span)
                return
        self.rows.append([span])


def _lanes(record: Record) -> list[_Lane]:
    """Phases, layers and images first, then a lane per stage; several batch sizes have one lane each, after those."""
    several = len(record.request.batch_sizes) > 1

    def label(key: str) -> str:
        size = key.partition("@")[2]
        return f"B = {size}" if several and size else key

    names = {PHASE: "phases", LAYER: "layers built", IMAGE: "images ready"}
    spans = spans_of(record)
    lanes: dict[str, _Lane] = {}
    for kind, name in names.items():
        for span in spans:
            if span.kind == kind:
                lanes.setdefault(name, _Lane(name)).put(span)

    def order(step: Step) -> tuple[int, float, str]:
        size = step.key.partition("@")[2]
        return (int(size) if several and size.isdecimal() else 0, step.started_s, step.key)

    for step in sorted(record.observations.steps, key=order):
        lane = lanes.setdefault(label(step.key), _Lane(label(step.key)))
        if step.cached:
            lane.stored.append(step)
        else:
            lane.put(Span(STAGE, step.key, step.started_s, step.wall_s))
    return list(lanes.values())


def timeline(record: Record) -> Markup:
    """The lanes over the run's seconds; a label stands in a bar that has room for it, and under the pointer always."""
    lanes = _lanes(record)
    if not lanes:
        return Markup("")
    ends = [span.ended_s for lane in lanes for row in lane.rows for span in row]
    starts = [step.started_s for lane in lanes for step in lane.stored]
    reach = max([*ends, *starts, record.observations.wall_s]) or 1.0
    ticks = [tick for tick in round_values(0.0, reach) if tick <= reach]
    rows = sum(max(1, len(lane.rows)) for lane in lanes)
    canvas = Canvas("Timeline of the run: what ran when, and what came from the store", _TOP + _ROW * rows + 6)
    room = WIDTH - _LEFT - _RIGHT
    for tick in ticks:
        x = _LEFT + tick / reach * room
        canvas.line(x, _TOP - 4, x, _TOP + _ROW * rows, "grid")
        canvas.text(x, 12, f"{tick:g} s", "tick", "middle")
    y = float(_TOP)
    for lane in lanes:
        canvas.text(_LEFT - 8, y + 14, _short(lane.label, 18), "tick", "end")
        for index, row in enumerate(lane.rows):
            for span in row:
                _bar(canvas, span, _LEFT + span.started_s / reach * room, y + index * _ROW, span.seconds / reach * room)
        for step in lane.stored:
            canvas.square(_LEFT + step.started_s / reach * room, y + _ROW / 2, "stored", f"{step.key}: from the store")
        canvas.text(WIDTH - _RIGHT + 8, y + 14, _said(lane), "tick")
        y += _ROW * max(1, len(lane.rows))
    return canvas.done()


def _bar(canvas: Canvas, span: Span, x: float, y: float, width: float) -> None:
    canvas.bar(x, y + 2, width, _ROW - 4, _STYLES[span.kind], f"{span.name}: {span.seconds:.2f} s")
    name = span.name.partition("@")[0]
    if width > _LETTER * len(name) + 8:
        canvas.text(x + 5, y + 14, name, "inside")


def _said(lane: _Lane) -> str:
    """What stands right of a lane: its seconds, or that all of it came from the store."""
    seconds = math.fsum(span.seconds for row in lane.rows for span in row)
    if not lane.rows:
        return "from the store" if len(lane.stored) == 1 else f"{len(lane.stored)} stored"
    return f"{seconds:.2f} s" + (f", {len(lane.stored)} stored" if lane.stored else "")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def legend(record: Record) -> str:
    """How to read the timeline, in words."""
    said = "Each bar ran in this run."
    if any(step.cached for step in record.observations.steps):
        said += " A hollow square is a result that came from the store: an earlier run made it."
    return said
