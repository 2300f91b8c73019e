"""Where a run's time went: phases, layers, images made ready, stages, each from when to when on the run's own clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from repro.record import Record

PHASE, LAYER, IMAGE, STAGE = "phase", "layer built", "image made ready", "stage"


@dataclass(frozen=True)
class Span:
    """Something that lasted `seconds`, from `started_s` after the run began; `kind` is PHASE, LAYER, IMAGE or STAGE."""

    kind: str
    name: str
    started_s: float
    seconds: float

    @property
    def ended_s(self) -> float:
        return self.started_s + self.seconds


def spans_of(record: Record) -> list[Span]:
    """All that a record tells of times, by when it started; a stage that was taken from the store is not in it."""
    observed = record.observations
    spans = [
        Span(kind, part.name, part.started_s, part.seconds)
        for kind, parts in ((PHASE, observed.phases), (LAYER, observed.layers), (IMAGE, observed.preparations))
        for part in parts
    ]
    spans += [Span(STAGE, step.key, step.started_s, step.wall_s) for step in observed.steps if not step.cached]
    return sorted(spans, key=lambda span: (span.started_s, -span.seconds, span.kind, span.name))


def covered_s(spans: Iterable[Span], kind: str) -> float:
    """Seconds that lie in at least one span of a kind."""
    covered_s, until_s = 0.0, 0.0
    for span in sorted((span for span in spans if span.kind == kind), key=lambda span: span.started_s):
        if span.ended_s > until_s:
            covered_s += span.ended_s - max(span.started_s, until_s)
            until_s = span.ended_s
    return covered_s


def accounted(record: Record) -> str:
    """How much of the whole run lies in some phase, in a sentence: what lies in none is this program's own."""
    return (
        f"{covered_s(spans_of(record), PHASE):.2f} s of {record.observations.wall_s:.2f} s lie in the phases below; "
        "the rest is this program's own start and record."
    )
