"""`invoke store.gc`: removes stored results, and snapshots of code, that no run refers to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from repro.base.errors import BundleError, CouldNotRun
from repro.base.paths import Paths
from repro.graph.cache import StatCache
from repro.graph.code import drop_snapshots
from repro.graph.store import Store
from repro.record import Record, load_record
from repro.record.reading import FILE


def collect_garbage(paths: Paths, say: Callable[[str], None]) -> None:
    """Remove stored results that no run refers to: the runs in artifacts/runs are the roots.

    It waits for the runs in progress: what they take is named by their record only when they end.

    Raises:
        CouldNotRun: a record cannot be read, so that what it refers to is unknown.
    """
    store = Store(paths.store, paths.temporary, StatCache(None))
    with store.alone(say):
        results: set[str] = set()
        code: set[str] = set()
        for path in sorted(paths.runs.glob(f"*/{FILE}")):
            for stage in _record(path).stages:
                results.add(stage.fingerprint)
                code.add(stage.code)
        removed = store.collect_garbage(results)
        snapshots = drop_snapshots(paths.code, code, most=0)
    kept = f"{len(results)} kept for the runs in artifacts/runs"
    say(f"{len(removed)} results removed, {kept}; {snapshots} snapshots of code removed")


def _record(path: Path) -> Record:
    try:
        return load_record(path)
    except BundleError as error:
        raise CouldNotRun(
            f"which results a run refers to is unknown: {error.message}", hint=f"remove the folder {path.parent}"
        ) from error
