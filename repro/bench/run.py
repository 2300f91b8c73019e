"""Runs the areas of the bench and writes what they measured: a table, JSON, a page with plots, and the history."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from repro.base.errors import BundleError, UsageError
from repro.base.files import pretty_json, write_atomic
from repro.base.paths import Paths, given_path
from repro.base.temporary import temporary_folder
from repro.bench import history, page
from repro.bench.figure import Figure
from repro.bench.goals import GOALS
from repro.bench.workbench import Workbench
from repro.machine import facts

AREAS = tuple(each.area for each in GOALS)
FULL_ONLY = tuple(each.area for each in GOALS if each.full_only)
SCHEMA = "lstm-ctc-bundle/bench/1"
Say = Callable[[str], None]


def chosen_areas(only: str, *, quick: bool) -> tuple[str, ...]:
    """The areas that `--only` names, in their own order; left out: all that quick or full has.

    Raises:
        UsageError: there is no such area.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = sorted(set(names) - set(AREAS))
    if unknown:
        areas = "\n".join(f"{each.area}: {each.decision}" for each in GOALS)
        raise UsageError(f"the bench has no area {unknown[0]!r}", hint=areas)
    if names:
        return tuple(area for area in AREAS if area in names)
    return tuple(area for area in AREAS if not (quick and area in FULL_ONLY))


def run_bench(paths: Paths, say: Say, *, full: bool, only: str = "", to: str = "") -> tuple[dict[str, Any], Path]:
    """Measure, show and keep; returns the document and the folder that holds it.

    An area that could not be measured is in the document with its reason and does not stop the others.

    Args:
        full: all batch sizes, more rounds and the long areas; else quick, two to ten minutes by the processor.
        to: folder for bench.json, bench.md and bench.html; '' for artifacts/bench/latest.
    """
    areas = chosen_areas(only, quick=not full)
    folder = given_path("--to", to) if to else paths.results / "bench" / "latest"
    temporary = temporary_folder(paths.temporary, "bench")
    scratch = temporary.path
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    notes: list[str] = []
    seconds: dict[str, float] = {}

    def note(text: str) -> None:
        notes.append(text)
        say(text)

    load_before = os.getloadavg()[0]
    try:
        bench = Workbench(paths, quick=not full, scratch=scratch, say=note)
        for area in areas:
            say(f"bench: {area}")
            began_s = time.monotonic()
            try:
                measure = importlib.import_module(f"repro.bench.{area}").measure
                for figure in measure(bench):
                    figures.append(figure)
                    say(f"  {page.line(figure)}")
            except BundleError as error:
                failures[area] = error.message
                say(f"  could not be measured: {error.message}")
            seconds[area] = round(time.monotonic() - began_s, 1)
    finally:
        temporary.close()
    document = _document(figures, failures, notes, seconds, load_before, full=full)
    write_atomic(folder / "bench.json", pretty_json(document))
    write_atomic(folder / "bench.md", page.markdown(document).encode())
    earlier = history.read(paths.results / "bench" / "history.jsonl")
    write_atomic(folder / "bench.html", page.html(document, earlier).encode())
    history.append(paths.results / "bench" / "history.jsonl", document)
    return document, folder


def _document(
    figures: Iterable[Figure],
    failures: dict[str, str],
    notes: Sequence[str],
    seconds: dict[str, float],
    load_before: float,
    *,
    full: bool,
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "kind": "full" if full else "quick",
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": facts.facts(),
        "load_before": round(load_before, 2),
        "figures": [figure.as_json() for figure in figures],
        "could_not": failures,
        "notes": list(notes),
        "seconds": seconds,
    }
