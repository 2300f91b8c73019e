"""The bench's history: one line of JSON a run, so that a change of speed can be seen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MOST = 500


def read(path: Path) -> list[dict[str, Any]]:
    """Every earlier run of the file, oldest first; a line that is cut short or damaged is passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    runs = []
    for line in lines[-_MOST:]:
        try:
            run = json.loads(line)
        except ValueError:
            continue
        if isinstance(run, dict) and isinstance(run.get("values"), dict):
            runs.append(run)
    return runs


def append(path: Path, document: Mapping[str, Any]) -> None:
    """Add a run's values. One write of one line: two runs that end together do not mix theirs."""
    entry = {
        "finished": document["finished"],
        "kind": document["kind"],
        "cpu": document["host"]["cpu"],
        "cores": document["host"]["cores"],
        "values": {key(figure): figure["value"] for figure in document["figures"]},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(entry, sort_keys=True) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def key(figure: Mapping[str, Any]) -> str:
    """What a figure is called in the history."""
    return f"{figure['goal']}: {figure['name']}"


def values_of(figure: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], host: Mapping[str, Any]) -> list[float]:
    """A figure's earlier values on a processor and a number of cores like this machine's, oldest first."""
    name = key(figure)
    return [
        float(run["values"][name])
        for run in runs
        if name in run["values"] and (run.get("cpu"), run.get("cores")) == (host["cpu"], host["cores"])
    ]
