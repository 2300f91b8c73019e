"""Content digests of files and folders, with a cache by stat so that nothing is hashed twice for nothing.

The digest of a folder is the sha256 of the canonical JSON of its sorted list of [path, sha256, size]; that of a file
is its own sha256. The cache is keyed by inode and holds size and times; an audit does not use it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.files import canonical_json, sha256_bytes, sha256_file


@dataclass(frozen=True)
class FileDigest:
    """A file's content digest (hex sha256) and size."""

    sha256: str
    size_bytes: int


def digest_of_files(files: Mapping[str, FileDigest]) -> str:
    """The content digest of a folder that holds exactly these files."""
    return sha256_bytes(canonical_json([[p, files[p].sha256, files[p].size_bytes] for p in sorted(files)]))


class StatCache:
    """sha256 by inode, valid while the file's stat is unchanged. Safe between threads and processes.

    By inode and not by path, so that a result that is renamed into the store is not read again.
    """

    def __init__(self, database: Path | None) -> None:
        self._lock = threading.Lock()
        self._connection = None
        if database is not None:
            database.parent.mkdir(parents=True, exist_ok=True)
            self._connection = _open_database(database)

    def sha256(self, path: Path) -> FileDigest:
        """The digest of a regular file, from the cache when its stat is the one remembered."""
        found = os.stat(path)
        key = f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
        inode = f"{found.st_dev}:{found.st_ino}"
        if self._connection is not None:
            with self._lock:
                row = self._connection.execute("SELECT stat, sha256 FROM files WHERE inode = ?", (inode,)).fetchone()
            if row is not None and row[0] == key:
                return FileDigest(row[1], found.st_size)
        result = sha256_file(path)
        if self._connection is not None:
            with self._lock:
                self._connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (inode, key, result))
        return FileDigest(result, found.st_size)

    def recall(self, kind: str, key: str) -> str | None:
        """What `remember` was last told of this; None where nothing is known."""
        if self._connection is None:
            return None
        with self._lock:
            row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (f"{kind} {key}",)).fetchone()
        return None if row is None else str(row[0])

    def remember(self, kind: str, key: str, value: str) -> None:
        """Keep a fact that may be lost: `key` must hold all that `value` follows from."""
        if self._connection is not None:
            with self._lock:
                self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (f"{kind} {key}", value))


def _open_database(database: Path) -> sqlite3.Connection:
    for attempt in (1, 2):
        try:
            connection = sqlite3.connect(database, timeout=30, check_same_thread=False, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")  # losing it costs time only
            connection.execute("CREATE TABLE IF NOT EXISTS files (inode TEXT PRIMARY KEY, stat TEXT, sha256 TEXT)")
            connection.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)")
            return connection
        except sqlite3.DatabaseError:
            if attempt == 2:
                raise
            database.unlink(missing_ok=True)  # a broken cache is only a slow one
    raise AssertionError("unreachable")


def _regular_files(folder: Path, what: str) -> list[str]:
    names = []
    for parent, folders, files in os.walk(folder, onerror=_raise):
        for name in [*folders, *files]:
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode
            relative = os.path.relpath(path, folder)
            if mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(mode):
                raise VerificationFailed(f"{what}: {relative} is setuid or setgid")
            if stat.S_ISREG(mode):
                names.append(relative)
            elif not stat.S_ISDIR(mode):
                raise VerificationFailed(f"{what}: {relative} is neither a regular file nor a folder")
    return sorted(names)


def _raise(error: OSError) -> None:
    raise error


def digest_folder(folder: Path, cache: StatCache, what: str) -> dict[str, FileDigest]:
    """Every file below `folder` with its digest.

    Args:
        folder: to be read whole.
        cache: where digests are remembered.
        what: names the folder in messages.

    Raises:
        VerificationFailed: it holds a link, a device, a socket or a setuid file.
        CouldNotRun: something in it cannot be read.
    """
    try:
        names = _regular_files(folder, what)
        workers = min(4, os.cpu_count() or 1)
        if len(names) < 16:
            return {name: cache.sha256(folder / name) for name in names}
        with ThreadPoolExecutor(workers) as pool:
            return dict(zip(names, pool.map(lambda name: cache.sha256(folder / name), names)))
    except OSError as error:
        raise CouldNotRun(f"cannot read {what}: {error}", hint="check the path and its permissions") from error


def digest_source(path: Path, cache: StatCache, what: str) -> str:
    """The content digest of a file or folder that a user or the repository supplies."""
    if path.is_file():
        try:
            return cache.sha256(path).sha256
        except OSError as error:
            raise CouldNotRun(f"cannot read {what}: {error}", hint="check its permissions") from error
    if path.is_dir():
        return digest_of_files(digest_folder(path, cache, what))
    raise CouldNotRun(f"{what} is not there: {path}", hint="check the path")


def missing_or_changed(folder: Path, files: Mapping[str, FileDigest], cache: StatCache) -> list[str]:
    """Which of `files` are not in `folder` with that content, in words.

    One look at the stat of each file is enough where all are as they were when each was last found to be right.
    """
    known_as = f"{digest_of_files(files)} {folder}"
    stats = _stats_of(folder, files)
    if stats is not None and cache.recall(_FOLDER, known_as) == stats:
        return []
    wrong = list(_examined(folder, files, cache))
    if stats is not None and not wrong:
        cache.remember(_FOLDER, known_as, stats)
    return wrong


_FOLDER = "folder"


def _stats_of(folder: Path, files: Iterable[str]) -> str | None:
    """One digest of place, size and times of all files, taken before any is read; None where one is missing."""
    digest = hashlib.sha256()
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for name in files:
            found = os.stat(name, dir_fd=descriptor)
            mark = (name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            digest.update(repr(mark).encode())
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def _examined(folder: Path, files: Mapping[str, FileDigest], cache: StatCache) -> Iterator[str]:
    for name, expected in files.items():
        try:
            found = cache.sha256(folder / name)
        except OSError:
            yield f"{name} is missing"
            continue
        if found != expected:
            yield f"{name} has changed"
