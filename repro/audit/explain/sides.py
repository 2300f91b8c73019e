"""The two things that are compared, as lists of members whose content can be read in pieces.

They are a stranger's. A tar is read where it lies and never unpacked; a folder is read without following links. Sizes
of headers and the number of members are bounded before they cost memory.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, cast

from repro.base.confined import list_tree, open_below
from repro.base.errors import VerificationFailed
from repro.base.foreign import shown

MOST_MEMBERS = 200_000  # the largest layer here has a tenth of it
_LONGEST_PATH = 4096  # bytes
_MOST_HEADER_BYTES = 1 << 20  # of one pax header or long name
_MOST_READS = 16 * MOST_MEMBERS  # of headers; a chain of headers without members ends here
_MOST_FILE_BYTES = 64 * 1024**3
_KINDS = {
    tarfile.DIRTYPE: "folder", tarfile.SYMTYPE: "symbolic link", tarfile.LNKTYPE: "hard link",
    tarfile.FIFOTYPE: "FIFO", tarfile.CHRTYPE: "character device", tarfile.BLKTYPE: "block device",
}  # fmt: skip
FILE = "file"


class Member(NamedTuple):
    """One path of a side.

    Attributes:
        kind: 'file', 'folder', 'symbolic link', 'hard link', 'FIFO', or a device.
        owner: uid, gid, user's and group's name.
        target: of a link; the numbers of a device.
        offset: of a file's content in a tar.
    """

    path: str
    kind: str
    mode: int
    owner: tuple[int, int, str, str]
    mtime: float
    size_bytes: int
    target: str
    offset: int


class Side(Protocol):
    """One of the two things that are compared."""

    @property
    def members(self) -> Mapping[str, Member]:
        """By path, in the order in which they stand there."""
        ...

    def open(self, member: Member) -> contextlib.AbstractContextManager[BinaryIO]:
        """The content of a file, readable and seekable."""
        ...


class Section:
    """A part of a file as a file: a member of a tar, or a tar that is a member of an archive."""

    def __init__(self, stream: BinaryIO, start: int, size_bytes: int) -> None:
        self._stream, self._start, self._size, self._at = stream, start, size_bytes, 0

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte of the part."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; all that are left if it is negative."""
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        self._stream.seek(self._start + self._at)
        data = self._stream.read(wanted)
        self._at += len(data)
        return data


class _Headers(Section):
    """What tarfile reads of a tar: headers alone, each of a bounded size, and so many at most."""

    reads = 0

    def read(self, size: int = -1) -> bytes:
        self.reads += 1
        if size < 0 or size > _MOST_HEADER_BYTES:
            raise VerificationFailed(f"a header of a tar takes more than {_MOST_HEADER_BYTES} bytes")
        if self.reads > _MOST_READS:
            raise VerificationFailed(f"a tar holds more than {_MOST_READS} headers")
        return super().read(size)


class TarSide:
    """A plain tar: a layer."""

    def __init__(self, stream: BinaryIO, start: int, size_bytes: int, what: str) -> None:
        """Read the list of members.

        Args:
            stream: holds the tar from byte `start` on; stays the caller's.
            what: names it in messages.

        Raises:
            VerificationFailed: it is no plain tar, or it exceeds a bound.
        """
        self._stream = stream
        self._start = start
        self.members = _listed(_Headers(stream, start, size_bytes), size_bytes, what)

    @contextlib.contextmanager
    def open(self, member: Member) -> Iterator[BinaryIO]:
        """See `Side`."""
        yield cast(BinaryIO, Section(self._stream, self._start + member.offset, member.size_bytes))


def _listed(headers: _Headers, size_bytes: int, what: str) -> dict[str, Member]:
    found: dict[str, Member] = {}
    try:
        with tarfile.open(fileobj=cast(BinaryIO, headers), mode="r:") as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps them all
                if len(found) >= MOST_MEMBERS:
                    raise VerificationFailed(f"{what} holds more than {MOST_MEMBERS} members")
                if info.size < 0 or (info.isreg() and info.offset_data + info.size > size_bytes):
                    raise VerificationFailed(f"{what}: {shown(info.name)} does not fit into the file")
                if len(info.name) > _LONGEST_PATH:
                    raise VerificationFailed(f"{what} holds a path of {len(info.name)} characters")
                member = _member(info)
                found.pop(member.path, None)  # the last of a name is what is unpacked
                found[member.path] = member
    except (tarfile.TarError, ValueError, EOFError, RecursionError) as error:
        raise VerificationFailed(
            f"{what} is not a plain tar: {shown(error, 100)}",
            hint="a compressed layer is compared after it was decompressed",
        ) from error
    return found


def _member(info: tarfile.TarInfo) -> Member:
    kind = FILE if info.isreg() and not info.issparse() else _KINDS.get(info.type, f"of type {info.type!r}")
    target = info.linkname if info.issym() or info.islnk() else ""
    if info.ischr() or info.isblk():
        target = f"{info.devmajor}:{info.devminor}"
    path = "/".join(part for part in info.name.split("/") if part not in ("", "."))
    owner = (info.uid, info.gid, info.uname, info.gname)
    return Member(path, kind, info.mode, owner, info.mtime, info.size, target, info.offset_data)


class FolderSide:
    """A folder: a stage's output. Times and owners are those of this machine, and are not compared."""

    def __init__(self, root: Path) -> None:
        """List the folder.

        Raises:
            NotPlain: it holds something else than plain files and folders, or more than is read.
        """
        self._root = root
        tree = list_tree(root)
        self.members: dict[str, Member] = {}
        nobody = (0, 0, "", "")
        for path in tree.folders:
            self.members[path] = Member(path, "folder", 0, nobody, 0, 0, "", 0)
        for path, file in tree.files.items():
            self.members[path] = Member(path, FILE, file.mode & 0o100, nobody, 0, file.size_bytes, "", 0)
        self.members = dict(sorted(self.members.items(), key=lambda item: os.fsencode(item[0])))

    def open(self, member: Member) -> contextlib.AbstractContextManager[BinaryIO]:
        """See `Side`."""
        return open_below(self._root, member.path, _MOST_FILE_BYTES)
