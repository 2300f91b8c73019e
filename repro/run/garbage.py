"""`invoke store.gc`: stored results that no run refers to."""

from __future__ import annotations

import json
from collections.abc import Callable

from repro.base.errors import CouldNotRun
from repro.base.paths import Paths
from repro.graph.digests import StatCache
from repro.graph.store import Store


def collect_garbage(paths: Paths, say: Callable[[str], None]) -> None:
    """Remove stored results that no run refers to: the runs in artifacts/runs are the roots."""
    roots: set[str] = set()
    for path in sorted(paths.runs.glob("*/record.json")):
        try:
            roots |= {stage["fingerprint"] for stage in json.loads(path.read_bytes())["stages"]}
        except (ValueError, KeyError, TypeError) as error:
            raise CouldNotRun(
                f"{path} cannot be read, so what it refers to is unknown: {error}", hint="remove that run's folder"
            ) from error
    removed = Store(paths.store, paths.temporary, StatCache(None)).collect_garbage(roots)
    say(f"{len(removed)} results removed, {len(roots)} kept for the runs in artifacts/runs")
