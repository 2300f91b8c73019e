"""Content digests of files and folders.

The digest of a folder is the sha256 of the canonical JSON of its sorted list of [path, sha256, size]; that of a file
is its own sha256. Folders are read without following a link, and a file that changes while it is read is refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from repro.base.confined import PlainFile, Tree, TreeLimits, list_tree, open_below, plain_file
from repro.base.errors import CouldNotRun, NotPlain
from repro.base.files import canonical_json, sha256_bytes
from repro.base.foreign import shown
from repro.base.system_errors import advice
from repro.graph.cache import StatCache

_CHUNK_BYTES = 1 << 20
_FEW_FILES = 16
_STORED = TreeLimits(entries=1_000_000, depth=64, total_bytes=1 << 50)


@dataclass(frozen=True)
class FileDigest:
    """A file's content digest (hex sha256) and size."""

    sha256: str
    size_bytes: int


def digest_of_files(files: Mapping[str, FileDigest]) -> str:
    """The content digest of a folder that holds exactly these files."""
    return sha256_bytes(canonical_json([[p, files[p].sha256, files[p].size_bytes] for p in sorted(files)]))


def digest_file(path: Path, cache: StatCache) -> FileDigest:
    """The digest of one file, which is opened as a person would open it: a link is followed.

    Raises:
        NotPlain: it is no plain file, or changes while it is read.
        OSError: it cannot be read.
    """
    file = plain_file(path.name, os.stat(path))
    known = cache.known(file)
    return FileDigest(known, file.size_bytes) if known else _digest_below(path.parent, path.name, None, cache)


def _digest_below(root: Path, name: str, listed: PlainFile | None, cache: StatCache) -> FileDigest:
    """Hash a file below `root`, which must still be the one that was listed, and must not change meanwhile."""
    if listed is None:  # what a person named may be a link; what it leads to is opened
        path = (root / name).resolve(strict=True)
        root, name = path.parent, path.name
    digest, size_bytes = hashlib.sha256(), 0
    with open_below(root, name, 1 << 62) as stream:
        before = plain_file(name, os.fstat(stream.fileno()))
        if listed is not None and before != listed:
            raise NotPlain(f"{shown(name)} was changed after it was listed")
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
            if size_bytes > before.size_bytes:
                break
        after = plain_file(name, os.fstat(stream.fileno()))
    if after != before or size_bytes != before.size_bytes:
        raise NotPlain(f"{shown(name)} was changed while it was read")
    cache.note(before, digest.hexdigest())
    return FileDigest(digest.hexdigest(), size_bytes)


def digest_tree(folder: Path, tree: Tree, cache: StatCache) -> dict[str, FileDigest]:
    """The digest of every file of a tree that was listed a moment ago.

    Raises:
        NotPlain: something was swapped or changed since.
        OSError: something cannot be read.
    """

    def one(name: str) -> FileDigest:
        file = tree.files[name]
        known = cache.known(file)
        return FileDigest(known, file.size_bytes) if known else _digest_below(folder, name, file, cache)

    names = sorted(tree.files)
    if len(names) < _FEW_FILES:
        return {name: one(name) for name in names}
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(one, names)))


def digest_folder(folder: Path, cache: StatCache, what: str) -> dict[str, FileDigest]:
    """Every file below `folder` with its digest.

    Args:
        folder: to be read whole.
        cache: where digests are remembered.
        what: names the folder in messages.

    Raises:
        NotPlain: it holds a link, a device, a socket, a setuid file or an odd name, or changes while it is read.
        CouldNotRun: something in it cannot be read.
    """
    try:
        return digest_tree(folder, list_tree(folder, _STORED), cache)
    except NotPlain as error:
        raise NotPlain(f"{what}: {error.message}", hint=error.hint) from error
    except OSError as error:
        raise CouldNotRun(f"cannot read {what}: {error}", hint=advice(error, "check the path")) from error


def missing_or_changed(
    folder: Path, files: Mapping[str, FileDigest], cache: StatCache, digest: str | None = None
) -> list[str]:
    """What keeps `folder` from holding exactly `files`, in words; nothing when it does.

    One look at the stat of each file and folder is enough where all are as they were when last found to be right: a
    file that is added or removed changes its folder's times.

    `digest` is `digest_of_files(files)`, from a caller who has it.
    """
    known_as = f"{digest or digest_of_files(files)} {folder}"
    stats = _stats_of(folder, files)
    if stats is not None and cache.recall(_FOLDER, known_as) == stats:
        return []
    wrong = list(_examined(folder, files, cache))
    if stats is not None and not wrong:
        cache.remember(_FOLDER, known_as, stats)
    return wrong


_FOLDER = "folder, version 2,"


def folders_of(names: Collection[str]) -> list[str]:
    """The folders that these files lie in, '' for the top itself, each with all above it."""
    found = {""}
    for name in names:
        parent = name.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return sorted(found)


def _stats_of(folder: Path, files: Collection[str]) -> str | None:
    """One digest of place, size and times of all files and folders, taken before any is read; None where one is
    missing or a link."""
    digest = hashlib.sha256()
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for name in (*folders_of(files), *files):
            found = os.stat(name or ".", dir_fd=descriptor, follow_symlinks=False)
            mark = (
                name,
                found.st_mode,
                found.st_dev,
                found.st_ino,
                found.st_size,
                found.st_mtime_ns,
                found.st_ctime_ns,
            )
            digest.update(repr(mark).encode())
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def _examined(folder: Path, files: Mapping[str, FileDigest], cache: StatCache) -> Iterator[str]:
    try:
        tree = list_tree(folder, _STORED) if not folder.is_symlink() else None
    except (NotPlain, OSError) as error:
        yield getattr(error, "message", str(error))
        return
    if tree is None:
        yield "the folder is a link"
        return
    yield from (f"{shown(name)} is not one of its files" for name in tree.files if name not in files)
    yield from (f"{name} is missing" for name in files if name not in tree.files)
    there = replace(tree, files={name: file for name, file in tree.files.items() if name in files})
    try:
        found = digest_tree(folder, there, cache)
    except (NotPlain, OSError) as error:
        yield getattr(error, "message", str(error))
        return
    yield from (f"{name} has changed" for name in found if found[name] != files[name])
