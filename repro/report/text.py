"""The summary for a terminal: plain text, no colour, nothing that a screen reader would lose."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from repro.base.foreign import shown
from repro.record import Record
from repro.report.accuracy import outcome_in_words
from repro.report.parts import NAMES, engine_name, interval, mark, number, rates
from repro.report.view import compared, demo_notice, make_view, not_comparable

_WIDTH = 100
_LONGEST = 2000  # characters of one reason


def terminal_summary(record: Record) -> str:
    """What a person reads when a run has ended: verdict, reasons, figures, where the time went."""
    view = make_view(record)
    demo = mark(record)
    lines = [f"VERDICT: {view.headline}.", *_alone(record)]
    if view.demo_notice:
        lines += _wrapped(demo_notice(record))
    holds = compared(record)
    lines += ["", "Compared like for like:"] if holds else ["", "Compared like for like: nothing"]
    lines += _listed(holds)
    if record.verdict.outcome == "not-reproduced":
        lines += ["", "Outside the tolerance:", *_listed(record.verdict.reasons)]
    bullets = not_comparable(record)
    if bullets:
        lines += ["", "Not comparable, and why:", *_listed([f"{b.text} ({b.about})" for b in bullets])]
    if record.verdict.caveats:
        lines += ["", "Not to be ruled out:", *_listed(record.verdict.caveats)]
    lines += ["", *_figures(record, demo), "", *_closing(record)]
    return "\n".join(lines)


def _alone(record: Record) -> list[str]:
    """The second verdict, where there was something to compare."""
    accuracy = record.verdict.accuracy
    if not accuracy or accuracy.outcome == "not-compared":
        return []
    return [
        f"ERROR RATES ALONE: {outcome_in_words(accuracy)}.",
        *_listed(accuracy.reasons),
        *_listed([f"not like for like: {text}" for text in accuracy.differs]),
    ]


def _figures(record: Record, demo: str) -> list[str]:
    published = {(check.batch_size, check.metric): check.published for check in record.verdict.checks}
    rows = [["B", "figure", "this run", "95 % interval", "published"]]
    for result in record.results:
        size = result.batch_size
        for protocol, found in (("published", result.published), ("complete", result.complete)):
            for metric, rate, bounds in rates(found):
                value = published.get((size, metric)) if protocol == "published" else None
                rows.append(
                    [
                        str(size),
                        f"{NAMES[metric]}, {protocol} protocol, {found.utterances} utterances",
                        number(rate, 4, f" %{demo}"),
                        interval(bounds, f" %{demo}"),
                        "" if value is None else f"{value:.4f} %",
                    ]
                )
        speed = published.get((size, "throughput_utterances_per_s"))
        rows.append(
            [
                str(size),
                f"throughput on the {record.request.device.upper()}, utterances/s",
                number(result.throughput_utterances_per_s, 4, demo),
                "",
                "" if speed is None else f"{speed:.4f}",
            ]
        )
        median = number(result.latency_ms.median, 2, f" ms{demo}")
        rows.append([str(size), "latency of a batch, median", median, "", ""])
    return _aligned(rows)


def _closing(record: Record) -> list[str]:
    rows = record.toolchain
    same = sum(row.status == "same" for row in rows)
    run = sum(not stage.cached for stage in record.stages)
    return [
        f"Toolchain {record.request.toolchain}: {same} of {len(rows)} components as the guide requires. "
        f"Engine: {engine_name(record)}.",
        f"Stages: {run} run, {len(record.stages) - run} from the store; "
        f"{record.observations.wall_s:.1f} s in all. Identity {record.identity.sha256[:16]}.",
    ]


def _wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(shown(text, _LONGEST), _WIDTH, initial_indent=first, subsequent_indent=rest)


def _listed(items: Sequence[str]) -> list[str]:
    return [line for item in items for line in _wrapped(item, "  - ", "    ")]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
