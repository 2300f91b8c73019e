"""The code of a stage: its import closure in stages/, digested and copied, so that a run never reads a live tree."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import UsageError
from repro.base.files import fsync_folder, make_shared_folder, remove_tree, sha256_bytes
from repro.base.imports import Modules, digest_of_closure
from repro.base.locking import locked_where_possible
from repro.base.temporary import temporary_folder
from repro.graph.cache import StatCache
from repro.graph.digests import FileDigest, folders_of, missing_or_changed

_FILE_MODE, _FOLDER_MODE = 0o444, 0o755  # whatever the umask: another user, or root in the sandbox, reads them too
_MOST_SNAPSHOTS = 200


@dataclass(frozen=True)
class StageCode:
    """The files of one stage's import closure: {path: content}, and their digest."""

    files: dict[str, bytes]
    digest: str


def read_code(root: Path, stage: str, modules: Modules | None = None) -> StageCode:
    """Read the stage's module and every module of stages/ that it imports, directly or not.

    Args:
        root: the checkout.
        stage: a module of stages/, without that prefix.
        modules: where the files are read; None to read each of them now.

    Raises:
        UsageError: there is no such stage, or a module of its closure is not Python.
    """
    files = (modules or Modules(root)).closure(f"stages.{stage}")
    if not files:
        raise UsageError(f"there is no stage {stage!r}", hint="stages: see `invoke --list`")
    return StageCode({path: module.data for path, module in files.items()}, digest_of_closure(files))


class Codes:
    """The code of the stages as it was when first asked for; thread-safe. A run asks for all of it at its start.

    Args:
        root: the checkout.
        cache: remembers by content what a file imports.
    """

    def __init__(self, root: Path, cache: StatCache) -> None:
        self._root = root
        self._modules = Modules(root, cache)
        self._known: dict[str, StageCode] = {}
        self._lock = threading.Lock()

    def of(self, stage: str) -> StageCode:
        """See `read_code`."""
        with self._lock:
            if stage not in self._known:
                self._known[stage] = read_code(self._root, stage, self._modules)
            return self._known[stage]

    def read(self, stages: Collection[str]) -> None:
        """Read the code of all these stages now: a later edit changes nothing for this run."""
        for stage in stages:
            self.of(stage)


def snapshot(code: StageCode, folder: Path, cache: StatCache) -> Path:
    """The closure as files below `folder`/DIGEST, which is mounted read-only.

    One that is there already is held to its digest, by stat as the store's results are; a wrong one is replaced.

    Args:
        code: the files.
        folder: holds the snapshots.
        cache: remembers stats; one without a database hashes every file.
    """
    target = folder / code.digest
    files = {path: FileDigest(sha256_bytes(data), len(data)) for path, data in code.files.items()}
    if _is_right(target, files, cache):
        return target
    make_shared_folder(folder)
    with temporary_folder(folder, "code") as work:
        _write(code, work / "root")
        with locked_where_possible(folder):
            if _is_right(target, files, cache):
                return target  # another run was first
            try:
                if os.path.lexists(target):
                    os.rename(target, work / "wrong")
                os.rename(work / "root", target)
            except OSError:  # another machine was first, whom this lock does not keep away
                if not _is_right(target, files, cache):
                    raise
        fsync_folder(folder)
    return target


def _is_right(target: Path, files: Mapping[str, FileDigest], cache: StatCache) -> bool:
    if not target.is_dir() or missing_or_changed(target, files, cache):
        return False
    folders = (target / name for name in folders_of(files))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (*folders, *(target / name for name in files))}
    return modes == {_FILE_MODE, _FOLDER_MODE}  # else somebody's umask made them, and others cannot read them


def _write(code: StageCode, root: Path) -> None:
    root.mkdir()
    folders = {root}
    for path, data in code.files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        folders |= {parent for parent in file.parents if root in parent.parents}
        with open(file, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), _FILE_MODE)
            os.fsync(stream.fileno())
    for each in folders:
        each.chmod(_FOLDER_MODE)
        fsync_folder(each)


def drop_snapshots(folder: Path, kept: Collection[str], most: int = _MOST_SNAPSHOTS) -> int:
    """Remove the oldest snapshots; nobody may be running a stage. Returns how many went.

    Args:
        folder: holds the snapshots.
        kept: digests that stay, however old.
        most: how many others stay.
    """
    if not folder.is_dir():
        return 0
    others = [path for path in folder.iterdir() if len(path.name) == 64 and path.name not in kept]
    others.sort(key=lambda path: path.lstat().st_mtime_ns, reverse=True)
    for path in others[most:]:
        remove_tree(path)
    return len(others[most:])
