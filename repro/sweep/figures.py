"""What a sweep found, per configuration: rates with their intervals, speeds over repeats, the parts of the variance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from repro.record.scores import Result
from repro.report.parts import number
from repro.sweep.matrix import Cell, Sweep
from repro.sweep.running import Failed, Finished, Machine, Swept
from repro.sweep.variance import LEVELS, Component, components, interval_of_mean

SCHEMA, VERSION = "lstm-ctc-bundle/sweep", 1
AXES = ("checkpoint", "data", "device", "number format", "decoder", "batch size")


@dataclass(frozen=True)
class Row:
    """One configuration, with all its repeats.

    Attributes:
        values: of AXES.
        runs: its finished cells, in order; their scores are the same bytes.
        speeds: of each run in utterances/s, all its loops together.
        interval: 95 %, of the mean of what `over` names; None for one of them.
        over: what is taken as independent: 'hosts', 'chips' or 'runs'.
        parts: of the variance of one loop's throughput.
    """

    values: tuple[str, ...]
    runs: tuple[Finished, ...]
    speeds: tuple[float, ...]
    interval: tuple[float, float] | None
    over: str
    parts: tuple[Component, ...]

    @property
    def label(self) -> str:
        """For a plot's row."""
        return ", ".join((*self.values[:-1], f"B = {self.values[-1]}"))

    @property
    def result(self) -> Result:
        """The figures of the first run."""
        return self.runs[0].record.results[0]

    @property
    def mean(self) -> float:
        """Mean throughput of the runs, in utterances/s."""
        return math.fsum(self.speeds) / len(self.speeds)

    @property
    def spread_percent(self) -> float | None:
        """The largest run's throughput less the smallest's, in per cent of the mean; None for one run."""
        if len(self.speeds) < 2 or not self.mean:
            return None
        return 100.0 * (max(self.speeds) - min(self.speeds)) / self.mean


def rows_of(swept: Swept) -> list[Row]:
    """The configurations with at least one finished run, in the order of the matrix."""
    grouped: dict[tuple[str, ...], list[Finished]] = {}
    for ended in swept.cells:
        if isinstance(ended, Finished):
            grouped.setdefault(ended.cell.configuration, []).append(ended)
    return [_row(values, runs) for values, runs in grouped.items()]


def _row(values: tuple[str, ...], runs: Sequence[Finished]) -> Row:
    speeds = tuple(_speed(run) for run in runs)
    places = {"hosts": [run.machine.host for run in runs], "chips": [run.machine.chip for run in runs]}
    over, units = "runs", list(speeds)
    for name, each in places.items():
        if len(set(each)) > 1:
            over = name
            units = [_mean([s for s, place in zip(speeds, each) if place == one]) for one in dict.fromkeys(each)]
            break
    paths = [
        ((run.machine.driver, run.machine.host, run.machine.chip, str(number)), loop)
        for number, run in enumerate(runs)
        for loop in _loops(run)
    ]
    return Row(values, tuple(runs), speeds, interval_of_mean(units), over, tuple(components(paths)))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _speed(run: Finished) -> float:
    """Utterances/s of a run: of all its loops, or of the only one."""
    result = run.record.results[0]
    return result.sustained.throughput_utterances_per_s if result.sustained else result.throughput_utterances_per_s


def _loops(run: Finished) -> list[float]:
    result = run.record.results[0]
    if result.sustained:
        return [loop.throughput_utterances_per_s for loop in result.sustained.loops]
    return [result.throughput_utterances_per_s]


def document_of(sweep: Sweep, swept: Swept) -> dict[str, Any]:
    """sweep.json: the file as it was read, every cell with its record, every configuration with its figures."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "asked": msgspec.to_builtins(sweep),
        "steps": {"asked": swept.asked, "different": swept.different, "made": swept.made},
        "cells": [_cell(ended) for ended in swept.cells],
        "configurations": [_configuration(row) for row in rows_of(swept)],
        "levels": list(LEVELS),
    }


def _cell(ended: Finished | Failed) -> dict[str, Any]:
    cell: Cell = ended.cell
    told: dict[str, Any] = {
        "id": cell.identity,
        "name": cell.name,
        **dict(zip((axis.replace(" ", "_") for axis in AXES), cell.configuration)),
        "batch_size": cell.batch_size,
        "repeat": cell.repeat,
    }
    if isinstance(ended, Failed):
        return {**told, "status": "failed", "reason": ended.reason}
    machine: Machine = ended.machine
    return {
        **told,
        "status": "done",
        "run": ended.run,
        "record_sha256": ended.record_sha256,
        "identity": ended.record.identity.sha256,
        "identity_of_results": ended.record.identity.results,
        "machine": {"host": machine.host, "chip": machine.chip, "driver": machine.driver},
        "throughput_utterances_per_s": _speed(ended),
        "steps": {"asked": ended.steps[0], "made": ended.steps[1]},
        "verdict": ended.record.verdict.outcome,
    }


def _configuration(row: Row) -> dict[str, Any]:
    complete, latency = row.result.complete, row.result.latency_ms
    return {
        **dict(zip((axis.replace(" ", "_") for axis in AXES), row.values)),
        "runs": len(row.runs),
        "wer_percent": complete.wer_percent,
        "wer_interval_95": complete.interval_95.wer_percent,
        "cer_percent": complete.cer_percent,
        "cer_interval_95": complete.interval_95.cer_percent,
        "throughput_utterances_per_s": {
            "mean": row.mean, "interval_95": row.interval, "interval_over": row.over,
            "spread_percent": row.spread_percent, "of_runs": row.speeds,
        },
        "latency_ms_median": latency.median,
        "variance": [
            {
                "level": part.level, "groups": part.groups, "degrees_of_freedom": part.freedom,
                "variance": part.variance, "share": part.share, "note": part.note,
            }
            for part in row.parts
        ],
    }  # fmt: skip


def percent(share: float | None) -> str:
    """A share for a person."""
    return "" if share is None else number(100 * share, 1, " %")
