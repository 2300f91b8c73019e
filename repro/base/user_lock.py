"""data/user.lock.json: what this user's files were when first seen, and which licences he accepted; held to later."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from repro.base.errors import CouldNotRun, UsageError
from repro.base.files import pretty_json, write_atomic
from repro.base.locking import locked
from repro.base.paths import Paths

LICENCES = {
    "CANN": "Huawei's licence of CANN 6.3.RC1 (shown by its installer without --quiet, and on the download page)",
}


def read(paths: Paths) -> dict[str, Any]:
    """The whole lock; empty where there is none.

    Raises:
        UsageError: it is not valid JSON.
    """
    lock = paths.data / "user.lock.json"
    try:
        known: dict[str, Any] = json.loads(lock.read_bytes()) if lock.exists() else {}
        if not isinstance(known, dict) or not all(isinstance(part, dict) for part in known.values()):
            raise ValueError("it is no table of tables")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"data/user.lock.json is not a lock: {error}", hint="mend or remove it") from error
    return known


def update(paths: Paths, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the lock, one process at a time."""
    paths.data.mkdir(parents=True, exist_ok=True)
    with locked(paths.data):
        known = read(paths)
        change(known)
        write_atomic(paths.data / "user.lock.json", pretty_json(known))


def first_seen(paths: Paths, kind: str, name: str, sha256: str) -> str:
    """What `name` was when it was first seen, recorded now if it never was."""

    def record(known: dict[str, Any]) -> None:
        known.setdefault(kind, {}).setdefault(name, sha256)

    if read(paths).get(kind, {}).get(name) is None:
        update(paths, record)
    return str(read(paths)[kind][name])


def accept(paths: Paths, licence: str) -> None:
    """Write down that the user accepts a vendor's licence."""

    def record(known: dict[str, Any]) -> None:
        known.setdefault("licences", {})[licence] = f"accepted: {LICENCES[licence]}"

    update(paths, record)


def accepted(paths: Paths, licence: str) -> bool:
    """Whether the user has said so."""
    return licence in read(paths).get("licences", {})


def require_accepted(paths: Paths, licence: str) -> None:
    """Go on only under a licence that the user accepted.

    Raises:
        CouldNotRun: he did not.
    """
    if not accepted(paths, licence):
        raise CouldNotRun(
            f"{licence} is installed only for a user who accepts {LICENCES[licence]}",
            hint="if you do, record it once: `invoke accept-cann-licence` writes it into data/user.lock.json",
        )
