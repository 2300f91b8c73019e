"""The one way to digest, write and publish files: canonical JSON, sha256, temporary name + fsync + rename."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from repro.base.temporary_file import temporary_file

_CHUNK_BYTES = 1 << 20
_DEEP = 100  # folders below each other: each holds a descriptor while it is emptied
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of `data`, without prefix."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content, read in chunks, without prefix."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, UTF-8, no NaN. What fingerprints are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def pretty_json(value: Any) -> bytes:
    """JSON for people, as deterministic as `canonical_json`: sorted keys, two spaces, a final newline."""
    import msgspec  # noqa: PLC0415 - listing the commands does not wait for it

    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    return msgspec.json.format(text, indent=2) + b"\n"  # as json's own, which is five times slower with an indent


def make_shared_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, for all to read, whatever the umask.

    Containers of other users, and root in the sandbox, look into the results of whoever made them.
    """
    for each in reversed([folder, *folder.parents]):
        if not each.is_dir():
            with contextlib.suppress(FileExistsError):
                each.mkdir()
                each.chmod(0o755)
                fsync_folder(each.parent)


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_writer(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on success fsync it and rename it over `path`, on error remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_file(path.parent) as (temporary, stream):
        yield stream
        publish_file(temporary, stream, path, mode)


def publish_file(temporary: Path, stream: BinaryIO, path: Path, mode: int = 0o644) -> None:
    """Give a temporary file its mode, make it durable, and rename it over `path`.

    Args:
        temporary: in the folder of `path`.
        stream: open on it.
        path: its name from now on.
        mode: its permissions, whatever the umask.
    """
    stream.flush()
    os.fchmod(stream.fileno(), mode)
    os.fsync(stream.fileno())
    os.replace(temporary, path)
    fsync_folder(path.parent)


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a whole file so that a reader sees the old one or the new one, never a part."""
    with atomic_writer(path, mode) as stream:
        stream.write(data)


def disk_bytes(folder: Path) -> int:
    """What a folder takes on the disk: each file once, however many names it has, and no link followed."""
    seen: dict[tuple[int, int], int] = {}
    for here, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # another process may remove its own
                found = os.lstat(os.path.join(here, name))
                seen[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


def remove_tree(path: Path) -> None:
    """Remove a folder, however deep it is and whatever modes a layer or a stage gave its folders.

    Links are removed, never followed. What is not there, or goes meanwhile, is no error; what stays is one.
    """
    try:
        handle = os.open(path, _HANDLE)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        path.unlink(missing_ok=True)
        return
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)  # it cannot be opened otherwise, and a link cannot be meant
    finally:
        os.close(handle)
    with contextlib.suppress(FileNotFoundError):  # another process removed the folder
        top = os.open(path, _FOLDER)
        try:
            while names := os.listdir(top):  # what lay too deep was moved up here
                for name in names:
                    with contextlib.suppress(FileNotFoundError):  # another process removed it
                        _remove(top, name, top, 0)
        finally:
            os.close(top)
        os.rmdir(path)


def _remove(folder: int, name: str, top: int, depth: int) -> None:
    """Remove one entry of the open folder; a folder more than `_DEEP` down is moved to `top` instead."""
    try:
        handle = os.open(name, _HANDLE, dir_fd=folder)
    except NotADirectoryError:
        os.unlink(name, dir_fd=folder)
        return
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)  # it cannot be opened otherwise, and a link cannot be meant
        if depth >= _DEEP:
            os.rename(name, f".deep.{os.fstat(handle).st_ino}", src_dir_fd=folder, dst_dir_fd=top)
            return
        inner = os.open(name, _FOLDER, dir_fd=folder)
    finally:
        os.close(handle)
    try:
        for each in os.listdir(inner):
            with contextlib.suppress(FileNotFoundError):
                _remove(inner, each, top, depth + 1)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=folder)
