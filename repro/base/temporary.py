"""Temporary folders: made here alone, locked while their owner lives, removed by the next command after a kill.

A folder is PARENT/.tmp.KIND.at-MACHINE.RANDOM. Its owner holds the lock on it; whoever finds it unlocked on that
machine removes it. Between the making and the locking nobody may look, so both makers and cleaners hold the lock on
PARENT for that moment. Other machines remove it when it is so old that its owner cannot live. On a file system without
locks the folder is made all the same: nobody removes it there either.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

from repro.base.errors import CouldNotRun
from repro.base.files import make_shared_folder, remove_tree
from repro.base.locking import NoLocks, acquire, locked, locked_where_possible
from repro.base.paths import Paths
from repro.base.temporary_file import PREFIX, is_of_another_machine, prefix_of

_CANNOT_LIVE_S = 8 * 24 * 3600.0  # no stage may run for more than a day


class TemporaryFolder:
    """A folder of this process's own; `close` removes it. Used as a context manager, or closed by hand."""

    def __init__(self, parent: Path, kind: str) -> None:
        make_shared_folder(parent)
        with locked_where_possible(parent):
            self.path = Path(tempfile.mkdtemp(prefix=prefix_of(kind), dir=parent))
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with contextlib.suppress(NoLocks):
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

    def keep(self, name: str) -> Path:
        """Give it a name beside its own that no clearing up removes; it is nobody's from now on."""
        kept = self.path.with_name(f"{name}{self.path.name[self.path.name.rindex('.') :]}")
        os.rename(self.path, kept)
        os.close(self._descriptor)
        self._descriptor = -1
        return kept

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
    """Remove the temporary files and folders in `parent` whose owner was killed; returns them.

    What cannot be looked at or removed now is passed over: clearing up neither ends a command nor keeps it waiting.
    """
    removed: list[Path] = []
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, CouldNotRun), locked(parent, wait=False):
            dead = [path for path in sorted(parent.glob(f"{PREFIX}*")) if _taken(stack, path)]
            removed += dead
        for path in removed:  # their locks are ours: nobody else waits for this
            with contextlib.suppress(OSError):
                remove_tree(path)
    return removed


def _taken(stack: contextlib.ExitStack, path: Path) -> bool:
    """Take the lock on something whose owner is dead; False where it lives, or where it cannot be told."""
    try:
        if is_of_another_machine(path.name) and time.time() - path.lstat().st_mtime < _CANNOT_LIVE_S:
            return False
        stack.enter_context(locked(path, wait=False))
    except (OSError, CouldNotRun):
        return False
    return True


def clear_locks(parent: Path, pattern: str) -> None:
    """Remove the lock files in `parent` that nobody holds; whoever opened one looks again and makes another."""
    for path in parent.glob(pattern):
        with contextlib.suppress(OSError, CouldNotRun), locked(path, wait=False):
            path.unlink()


def clear_checkout(paths: Paths) -> None:
    """Remove what killed commands left in a checkout; each command does this first."""
    results, artifacts = paths.results, paths.artifacts
    places = {
        *(results / name for name in ("", "tmp", "tmp/engines", "code", "runs", "logs", "store/last")),
        *(results / name for name in ("audits", "bench", "bundles", "sweeps")),
        *(artifacts / name for name in ("", "tmp", "cache", "cache/parts", "bundles")),
        *(paths.rootfs, paths.rootfs / "layers", paths.layer_index, paths.oci, paths.blobs),
        *(paths.data, paths.data / "sources", paths.data / "demo"),
        *(paths.conf, paths.conf / "locks"),
    }
    for parent in ("audits", "bench", "sweeps"):
        places |= {path for path in (results / parent).glob("*") if path.is_dir() and not path.is_symlink()}
    for place in sorted(places):
        clear_dead(place)
    clear_locks(paths.store / "locks", "*.lock")
    clear_locks(paths.artifacts / "cache" / "parts", "*.lock")
    clear_locks(paths.data / "sources", ".lock.*")
