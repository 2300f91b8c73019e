"""Locks: what is fetched, by sha256; intents, from which they are made; and the proof of Debian's signatures."""

from bundle.locks.model import DebLock, LockedFile, WheelLock, load_deb_lock, load_wheel_lock, lock_names
from bundle.locks.write import write_locks

__all__ = [
    "DebLock",
    "LockedFile",
    "WheelLock",
    "load_deb_lock",
    "load_wheel_lock",
    "lock_names",
    "write_locks",
]
