"""Locks: what is fetched, by sha256; intents, from which they are made; and the proof of Debian's signatures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from repro.locks.model import DebLock, LockedFile, WheelLock, load_deb_lock, load_wheel_lock, lock_names

__all__ = [
    "DebLock",
    "LockedFile",
    "WheelLock",
    "load_deb_lock",
    "load_wheel_lock",
    "lock_names",
    "verify_chain",
    "write_locks",
]


def write_locks(root: Path, names: Sequence[str], log: Callable[[str], None]) -> None:
    """Write locks anew from conf/intents and requirements/*.in: see `repro.resolving.write.write_locks`."""
    from repro.resolving.write import write_locks as write  # needs HTTP, which readers of locks should not wait for

    write(root, names, log)


def verify_chain(root: Path, log: Callable[[str], None]) -> None:
    """Prove the hash of every locked .deb by Debian's own key: see `repro.resolving.prove.verify_chain`."""
    from repro.resolving.prove import verify_chain as verify

    verify(root, log)
