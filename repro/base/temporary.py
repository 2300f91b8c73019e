"""Temporary folders: made here alone, locked while their owner lives, removed by the next command after a kill.

A folder is PARENT/.tmp.KIND.RANDOM. Its owner holds the lock on it; whoever finds it unlocked removes it. Between the
making and the locking nobody may look, so both makers and cleaners hold the lock on PARENT for that moment.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from repro.base.errors import CouldNotRun
from repro.base.files import remove_tree
from repro.base.locking import Taken, acquire, locked

PREFIX = ".tmp."


class TemporaryFolder:
    """A folder of this process's own; `close` removes it. Used as a context manager, or closed by hand."""

    def __init__(self, parent: Path, kind: str) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        with locked(parent):
            self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}.", dir=parent))
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                acquire(self._descriptor, self.path, wait=False)
            except CouldNotRun:
                os.close(self._descriptor)
                self.path.rmdir()
                raise

    def close(self) -> None:
        """Remove what is left of it; a second call does nothing."""
        if self._descriptor < 0:
            return
        try:
            remove_tree(self.path)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except OSError:
            if kind is None:  # else the error that is on its way says more; the next command removes the folder
                raise


def temporary_folder(parent: Path, kind: str) -> TemporaryFolder:
    """A new folder in `parent` (on the file system of what it will be renamed to); `kind` says what for."""
    return TemporaryFolder(parent, kind)


def clear_dead(parent: Path) -> list[Path]:
    """Remove the temporary folders in `parent` whose owner was killed; returns them."""
    removed: list[Path] = []
    if not parent.is_dir():
        return removed
    with contextlib.suppress(PermissionError), locked(parent):
        for folder in sorted(parent.glob(f"{PREFIX}*")):
            with contextlib.suppress(Taken, FileNotFoundError, NotADirectoryError), _owned(folder):
                remove_tree(folder)
                removed.append(folder)
    return removed


@contextlib.contextmanager
def _owned(folder: Path) -> Iterator[None]:
    with locked(folder, wait=False):
        yield
