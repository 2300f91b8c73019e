"""A layer to be: paths with their kind, mode and content, and the deterministic tar that its digest is of.

The tar is sorted by path (byte order), every entry is owned by 0:0 without names, has one fixed time, a mode with no
setuid, setgid or device in it, and is stored uncompressed, so that no compressor's version enters its digest.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from repro.base.errors import VerificationFailed

SOURCE_DATE_EPOCH = 1667260800  # 2022-11-01T00:00:00Z: one time for everything, of no meaning but its constancy
CHUNK_BYTES = 1 << 20
STREAM_BYTES = 64 * 1024  # read at once of a tar that streams: tarfile copies the rest of it for every member
_KINDS = {"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}


@dataclass
class Content:
    """A file's content, hashed when it was written.

    Attributes:
        path: where it lies now: among a tree's contents, or in its place below a root.
        sha256: hex.
    """

    path: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """One path of a layer. `kind` is 'file', 'folder' or 'link'; `content` is a file's, `target` a link's."""

    kind: str
    mode: int = 0o644
    content: Content | None = None
    target: str = ""


class Member(NamedTuple):
    """One path of a layer with where a file's content lies; see `Entry`."""

    path: str
    kind: str
    mode: int
    target: str
    content: Path | None
    size_bytes: int


def clean_path(name: str) -> str:
    """An archive's member name as a relative path of ours, or '' for its root.

    Raises:
        VerificationFailed: the name climbs out with '..' or holds a NUL.
    """
    path = posixpath.normpath("/" + name.lstrip("/")).lstrip("/")
    if "\0" in name or ".." in name.split("/"):
        raise VerificationFailed(f"an archive member is named {name!r}, which leaves its folder")
    return path


class Tree:
    """The files of one layer to be.

    Args:
        contents: a folder that the contents of files are written into, one by one; on the file system on which the
            layer shall lie, so that each can be renamed to its place.
    """

    def __init__(self, contents: Path) -> None:
        contents.mkdir(parents=True, exist_ok=True)
        self._contents = contents
        self._count = 0
        self.entries: dict[str, Entry] = {}

    def add(self, source: BinaryIO | IO[bytes]) -> Content:
        """Write everything that `source` gives, hashed on the way, so that memory stays flat."""
        path, digest, size_bytes = self._contents / str(self._count), hashlib.sha256(), 0
        self._count += 1
        with open(path, "xb") as stream:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
                stream.write(chunk)
        return Content(path, size_bytes, digest.hexdigest())

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Add a folder; an existing one keeps its mode."""
        self.entries.setdefault(path, Entry("folder", mode))

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add or replace a file with the given content."""
        self.entries[path] = Entry("file", mode, self.add(io.BytesIO(data)))

    def symlink(self, path: str, target: str) -> None:
        """Add or replace a symbolic link."""
        self.entries[path] = Entry("link", 0o777, target=target)

    def read(self, path: str) -> bytes | None:
        """The content of a file of the tree, or None."""
        entry = self.entries.get(path)
        return entry.content.path.read_bytes() if entry and entry.content else None

    def whole(self) -> dict[str, Entry]:
        """Every path in the order of the tar, folders that nobody named included; modes as they are written."""
        whole = dict(self.entries)
        for path in self.entries:
            parent = posixpath.dirname(path)
            while parent and parent not in whole:
                whole[parent] = Entry("folder", 0o755)
                parent = posixpath.dirname(parent)
        return {path: whole[path] for path in sorted(whole, key=os.fsencode)}

    def members(self) -> Iterator[Member]:
        """As `tar_chunks` takes them."""
        for path, entry in self.whole().items():
            content = entry.content
            place, size_bytes = (content.path, content.size_bytes) if content is not None else (None, 0)
            yield Member(path, entry.kind, entry.mode, entry.target, place, size_bytes)


def tar_mode(kind: str, mode: int) -> int:
    """The permission bits that an entry has in a layer."""
    return {"folder": mode & 0o1777, "link": 0o777}.get(kind, mode & 0o777)


def tar_chunks(members: Iterable[Member]) -> Iterator[bytes]:
    """The deterministic tar of a layer, in pieces.

    Args:
        members: in the order of `Tree.whole`.

    Raises:
        VerificationFailed: a file has another size than its member says.
        OSError: it cannot be read.
    """
    written_bytes = 0
    for member in members:
        info = tarfile.TarInfo(member.path)
        info.type, info.mode = _KINDS[member.kind], tar_mode(member.kind, member.mode)
        info.mtime, info.linkname, info.size = SOURCE_DATE_EPOCH, member.target, member.size_bytes
        header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        yield header
        padding = -member.size_bytes % tarfile.BLOCKSIZE
        if member.content is not None:
            yield from file_chunks(member.content, member.size_bytes)
            yield bytes(padding)
        written_bytes += len(header) + member.size_bytes + padding
    end = 2 * tarfile.BLOCKSIZE
    yield bytes(end + -(written_bytes + end) % tarfile.RECORDSIZE)


def file_chunks(path: Path, size_bytes: int) -> Iterator[bytes]:
    """A file's bytes, in pieces; a link in its place is not followed, and a pipe not waited for.

    Raises:
        VerificationFailed: it has another size.
        OSError: it cannot be read.
    """
    left = size_bytes
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as stream:
        while left and (chunk := stream.read(min(left, CHUNK_BYTES))):
            left -= len(chunk)
            yield chunk
        if left or stream.read(1):
            raise VerificationFailed(f"{path} does not have the {size_bytes} bytes that it had")
