"""Digests remembered by stat, so that nothing is hashed twice for nothing; an audit does not use it.

It is a cache and no more: where it cannot be opened, locked, read or written, everything is hashed anew, and a person
is told so once.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from repro.base.confined import PlainFile
from repro.base.errors import CouldNotRun
from repro.base.files import make_shared_folder
from repro.base.locking import Taken, locked

_TRIES = 50
_WAIT_S = 0.1
_BUSY_S = 5.0


def _silent(text: str) -> None:
    """Where nobody is to be told."""


class StatCache:
    """sha256 by inode, valid while the file's stat is unchanged. Safe between threads and processes.

    By inode and not by path, so that a result that is renamed into the store is not read again.

    Args:
        database: an SQLite file, made where it is missing; None to remember nothing.
        say: is told, once, that the cache cannot be used.
    """

    def __init__(self, database: Path | None, say: Callable[[str], None] = _silent) -> None:
        self._lock = threading.Lock()
        self._database = database
        self._say = say
        self._connection: sqlite3.Connection | None = None
        if database is not None:
            try:
                self._connection = _opened(database)
            except (OSError, sqlite3.Error, CouldNotRun) as error:
                self._give_up(error)

    def known(self, file: PlainFile) -> str | None:
        """The digest of a file, if its stat is the one that was remembered with it."""
        row = self._ask("SELECT stat, sha256 FROM files WHERE inode = ?", (_inode(file),))
        return str(row[1]) if row is not None and row[0] == _stat(file) else None

    def note(self, file: PlainFile, sha256: str) -> None:
        """Remember the digest of a file that has this stat."""
        self._ask("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (_inode(file), _stat(file), sha256))

    def recall(self, kind: str, key: str) -> str | None:
        """What `remember` was last told of this; None where nothing is known."""
        row = self._ask("SELECT value FROM facts WHERE name = ?", (f"{kind} {key}",))
        return None if row is None else str(row[0])

    def remember(self, kind: str, key: str, value: str) -> None:
        """Keep a fact that may be lost: `key` must hold all that `value` follows from."""
        self._ask("INSERT OR REPLACE INTO facts VALUES (?, ?)", (f"{kind} {key}", value))

    def _ask(self, statement: str, arguments: tuple[str, ...]) -> tuple[str, ...] | None:
        with self._lock:
            if self._connection is None:
                return None
            try:
                row: tuple[str, ...] | None = self._connection.execute(statement, arguments).fetchone()
            except sqlite3.Error as error:
                self._give_up(error)
                return None
            return row

    def _give_up(self, error: Exception) -> None:
        """Go on without it. A damaged database is removed: the next command makes a new one."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
        if self._database is not None and _is_damaged(error):
            with contextlib.suppress(OSError):
                _remove(self._database)
        self._say(f"the cache of digests {self._database} cannot be used ({error}): files are hashed anew")


def _inode(file: PlainFile) -> str:
    return f"{file.device}:{file.inode}"


def _stat(file: PlainFile) -> str:
    return f"{file.device}:{file.inode}:{file.size_bytes}:{file.mtime_ns}:{file.ctime_ns}"


def _is_damaged(error: Exception) -> bool:
    """Whether it is about the file's content: other troubles (locks, space, permissions) have types of their own."""
    return type(error) is sqlite3.DatabaseError


def _remove(database: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def _opened(database: Path) -> sqlite3.Connection:
    """Open or make the database; one process at a time, so that no two make it, or clear it away, at once."""
    make_shared_folder(database.parent)
    with _soon_locked(database.parent):
        try:
            return _connected(database)
        except sqlite3.DatabaseError as error:
            if not _is_damaged(error):
                raise
            _remove(database)
            return _connected(database)


@contextlib.contextmanager
def _soon_locked(folder: Path) -> Iterator[None]:
    """The folder's lock, if it is to be had within a few seconds."""
    with contextlib.ExitStack() as stack:
        for attempt in range(_TRIES):
            try:
                stack.enter_context(locked(folder, wait=False))
                break
            except Taken:
                if attempt == _TRIES - 1:
                    raise
                time.sleep(_WAIT_S)
        yield


def _connected(database: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(database, timeout=_BUSY_S, check_same_thread=False, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")  # losing it costs time only
        connection.execute("CREATE TABLE IF NOT EXISTS files (inode TEXT PRIMARY KEY, stat TEXT, sha256 TEXT)")
        connection.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
