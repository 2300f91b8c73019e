"""`invoke store.gc`: removes stored results, and snapshots of code, that no run refers to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.paths import Paths
from repro.base.strict_json import parse
from repro.graph.cache import StatCache
from repro.graph.code import drop_snapshots
from repro.graph.store import Store


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
        for path in sorted(paths.runs.glob("*/record.json")):
            for stage in _stages(path):
                results.add(stage["fingerprint"])
                code.add(stage["code"])
        removed = store.collect_garbage(results)
        snapshots = drop_snapshots(paths.code, code, most=0)
    kept = f"{len(results)} kept for the runs in artifacts/runs"
    say(f"{len(removed)} results removed, {kept}; {snapshots} snapshots of code removed")


def _stages(record: Path) -> list[dict[str, str]]:
    try:
        stages = parse(record.read_bytes(), what=str(record))["stages"]
        return [{name: str(stage[name]) for name in ("fingerprint", "code")} for stage in stages]
    except (OSError, VerificationFailed, KeyError, TypeError) as error:
        raise CouldNotRun(
            f"{record} cannot be read, so what it refers to is unknown: {error}", hint="remove that run's folder"
        ) from error
