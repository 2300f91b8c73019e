"""A layer before it is a tar: paths with their kind, mode and content, and the deterministic tar made of them.

The tar is sorted by path (byte order), every entry is owned by 0:0 without names, has one fixed time, a mode with no
setuid, setgid or device in it, and is stored uncompressed, so that no compressor's version enters its digest.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast

from repro.base.errors import VerificationFailed
from repro.base.files import publish_file
from repro.base.temporary_file import temporary_file

SOURCE_DATE_EPOCH = 1667260800  # 2022-11-01T00:00:00Z: one time for everything, of no meaning but its constancy
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Slice:
    """Where a file's content lies in the spool."""

    offset: int
    size_bytes: int


class Digest(Protocol):
    """A hash that is being computed, as hashlib gives it."""

    def update(self, data: bytes, /) -> None: ...


class Spool:
    """Contents of a layer's files, appended to one unnamed temporary file, so that memory stays flat."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._stream: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self._end = 0

    def add(self, source: BinaryIO | IO[bytes], digest: Digest | None = None) -> Slice:
        """Append everything that `source` gives, and tell it to `digest` too."""
        self._stream.seek(self._end)
        start = self._end
        while chunk := source.read(_CHUNK_BYTES):
            self._stream.write(chunk)
            if digest is not None:
                digest.update(chunk)
            self._end += len(chunk)
        return Slice(start, self._end - start)

    def add_bytes(self, data: bytes) -> Slice:
        """Append `data`."""
        self._stream.seek(self._end)
        self._stream.write(data)
        self._end += len(data)
        return Slice(self._end - len(data), len(data))

    def open(self, piece: Slice) -> BinaryIO:
        """A reader of one piece; valid until the next call of any method."""
        self._stream.seek(piece.offset)
        return self._stream  # type: ignore[return-value]

    def read(self, piece: Slice) -> bytes:
        """One piece whole."""
        self._stream.seek(piece.offset)
        return self._stream.read(piece.size_bytes)

    def close(self) -> None:
        """Give the space back."""
        self._stream.close()


@dataclass(frozen=True)
class Entry:
    """One path of a layer. `kind` is 'file', 'folder', 'symlink' or 'hardlink'; `target` is for the links."""

    kind: str
    mode: int = 0o644
    content: Slice | None = None
    target: str = ""


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
    """The files of one layer to be."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.entries: dict[str, Entry] = {}

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Add a folder; an existing one keeps its mode."""
        self.entries.setdefault(path, Entry("folder", mode))

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add or replace a file with the given content."""
        self.entries[path] = Entry("file", mode, self.spool.add_bytes(data))

    def symlink(self, path: str, target: str) -> None:
        """Add or replace a symbolic link."""
        self.entries[path] = Entry("symlink", 0o777, target=target)

    def read(self, path: str) -> bytes | None:
        """The content of a file of the tree, or None."""
        entry = self.entries.get(path)
        return self.spool.read(entry.content) if entry and entry.content else None

    def _with_parents(self) -> dict[str, Entry]:
        whole = dict(self.entries)
        for path in self.entries:
            parent = posixpath.dirname(path)
            while parent and parent not in whole:
                whole[parent] = Entry("folder", 0o755)
                parent = posixpath.dirname(parent)
        return whole

    def _members(self) -> Iterator[tuple[tarfile.TarInfo, Entry]]:
        kinds = {"folder": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE}
        whole = self._with_parents()
        for path in sorted(whole, key=os.fsencode):
            entry = whole[path]
            info = tarfile.TarInfo(path)
            info.type = kinds.get(entry.kind, tarfile.REGTYPE)
            info.mode = entry.mode & 0o1777 if entry.kind == "folder" else entry.mode & 0o777
            info.mtime = SOURCE_DATE_EPOCH
            info.linkname = entry.target
            if entry.content is not None:
                info.size = entry.content.size_bytes
            yield info, entry

    def write(self, blobs: Path) -> tuple[str, int]:
        """Write the tar into the folder `blobs` under its own digest, hashing while writing.

        Returns:
            The diff ID ('sha256:…') and the size in bytes.
        """
        blobs.mkdir(parents=True, exist_ok=True)
        with temporary_file(blobs) as (temporary, stream):
            tee = _HashingWriter(stream)
            with tarfile.open(fileobj=cast(BinaryIO, tee), mode="w|", format=tarfile.PAX_FORMAT) as archive:
                for info, entry in self._members():
                    source = self.spool.open(entry.content) if entry.content is not None else None
                    archive.addfile(info, source)
            publish_file(temporary, stream, blobs / tee.hexdigest())
        return f"sha256:{tee.hexdigest()}", tee.size_bytes


class _HashingWriter:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.size_bytes += len(data)
        return self._stream.write(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
