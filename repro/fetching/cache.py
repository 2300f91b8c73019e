"""Locked files on this machine, by sha256: what is in the cache was right when it was put there."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from repro.base.errors import CouldNotRun, CouldNotVerify
from repro.base.files import fsync_folder, sha256_file
from repro.base.locking import locked
from repro.base.states import state_of
from repro.locks.model import LockedFile


class Cache:
    """artifacts/cache of a repository: sha256/AA/HASH for whole files, parts/HASH.part for begun ones.

    Args:
        root: the repository.
    """

    # By path, the state in which this process has hashed a file: fetching does, and the build asks again.
    _hashed: ClassVar[dict[Path, list[int]]] = {}

    def __init__(self, root: Path) -> None:
        self._folder = root / "artifacts" / "cache"

    @property
    def folder(self) -> Path:
        """Root of the cache; made when something is put into it."""
        return self._folder

    def path(self, sha256: str) -> Path | None:
        """The file with this digest (hex), or None. Not hashed again: `holds` does that."""
        path = self._place(sha256)
        return path if path.is_file() else None

    def read(self, file: LockedFile) -> bytes:
        """The content of a small locked file; its digest is the caller's to check.

        Raises:
            CouldNotVerify: it is not here.
        """
        path = self.path(file.sha256)
        if path is None:
            raise CouldNotVerify(
                f"{file.entry} is not here",
                hint="ask for a bundle packed with --with-sources, or run this where there is a network",
            )
        return path.read_bytes()

    def holds(self, sha256: str) -> bool:
        """Whether the cache has the file and its content is right; a wrong one is removed.

        It is hashed, unless this process has hashed it and its inode, size and times are as they were then.
        """
        path = self.path(sha256)
        if path is None:
            return False
        state = state_of(path)
        if self._hashed.get(path) == state:
            return True
        if sha256_file(path) == sha256:
            self._hashed[path] = state
            return True
        path.unlink(missing_ok=True)
        return False

    def part(self, sha256: str) -> Path:
        """Where a download of this digest grows. Never trusted: whoever goes on with it hashes it from the start."""
        return self._folder / "parts" / f"{sha256}.part"

    def accept(self, sha256: str) -> Path:
        """Take the part of this digest, whose content the caller has just hashed, as the whole file."""
        part, place = self.part(sha256), self._place(sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.chmod(part, 0o644)
        os.replace(part, place)
        fsync_folder(place.parent)
        self._hashed[place] = state_of(place)
        return place

    @contextlib.contextmanager
    def exclusive(self, sha256: str) -> Iterator[None]:
        """One process or thread at a time for this digest; others wait, and then find the file in the cache."""
        path = self._folder / "parts" / f"{sha256}.lock"
        with contextlib.ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(path, create=True))
            except OSError as error:
                raise cache_error(error, self._folder) from error
            try:
                yield
            finally:
                path.unlink(missing_ok=True)  # while it is held: whoever waits sees that the name is gone

    def _place(self, sha256: str) -> Path:
        return self._folder / "sha256" / sha256[:2] / sha256


def cache_error(error: OSError, folder: Path) -> CouldNotRun:
    """What went wrong with the disk, for a person."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CouldNotRun(
            f"no space left for downloads in {folder}",
            hint="free some space and run again: whole files are kept, and are not fetched twice",
        )
    return CouldNotRun(f"{folder} cannot be written: {error.strerror or error}", hint="check its owner and mode")
