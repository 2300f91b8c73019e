"""Looking into a folder that a stranger made: a stage, a bundle, an audited run, the user's data.

Nothing is followed and nothing blocks: each component of a path is opened by descriptor with O_NOFOLLOW, and what is
not a plain file or a folder is refused by name. A link that is swapped in between two calls is refused as well, because
every call goes through the descriptors of the folders above it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from repro.base.errors import NotPlain
from repro.base.foreign import shown

_NAME_BYTES = 255
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LINK_ERRORS = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK, errno.ENXIO)


@dataclass(frozen=True)
class TreeLimits:
    """Bounds on a folder.

    Attributes:
        entries: files and folders together.
        depth: folders above a file.
        total_bytes: of all files, by their sizes and by the blocks that they take.
    """

    entries: int = 300_000
    depth: int = 32
    total_bytes: int = 64 * 1024**3


@dataclass(frozen=True)
class PlainFile:
    """A plain file as it was when it was listed."""

    size_bytes: int
    mode: int
    inode: int
    device: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True)
class Tree:
    """What a folder holds: plain files and folders by their path below it, in the order of code points, as of UTF-8."""

    files: dict[str, PlainFile]
    folders: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())


def check_name(name: str) -> None:
    """Refuse one component of a path that is not plain text.

    Raises:
        NotPlain: it is empty, '.', '..', too long, not UTF-8, or holds a slash, a control or a format character.
    """
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise NotPlain(f"the name {shown(name)} is not UTF-8") from None
    odd = any(unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") for letter in name)
    if not name or name in (".", "..") or "/" in name or odd or length > _NAME_BYTES:
        raise NotPlain(f"{shown(name) or 'an empty text'} is not a plain name of a file")


def list_tree(root: Path, limits: TreeLimits = TreeLimits()) -> Tree:
    """List a folder without following or opening anything in it.

    Raises:
        NotPlain: it holds a link, a device, a FIFO, a socket, an odd name, or more than the limits allow.
    """
    files: dict[str, PlainFile] = {}
    folders: list[str] = []
    used_bytes = 0
    pending = [""]
    with _opened_folder(root) as top:
        while pending:
            prefix = pending.pop()
            if prefix.count("/") + bool(prefix) > limits.depth:
                raise NotPlain(f"{shown(prefix)}: folders lie more than {limits.depth} deep")
            with _opened_below(top, prefix) as folder, os.scandir(folder) as entries:
                for entry in entries:
                    path = f"{prefix}/{entry.name}" if prefix else entry.name
                    check_name(entry.name)
                    if len(files) + len(folders) >= limits.entries:
                        raise NotPlain(f"more than {limits.entries} files and folders (the last seen: {shown(path)})")
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        folders.append(path)
                        pending.append(path)
                        continue
                    files[path] = plain_file(path, found)
                    used_bytes += max(found.st_size, found.st_blocks * 512)
                    if used_bytes > limits.total_bytes:
                        raise NotPlain(f"more than {limits.total_bytes} bytes (the last seen: {shown(path)})")
    return Tree({path: files[path] for path in sorted(files)}, tuple(sorted(folders)))


@contextlib.contextmanager
def open_below(root: Path, name: str, max_bytes: int) -> Iterator[BinaryIO]:
    """Open a plain file by its path below `root`, for reading.

    Args:
        root: trusted itself, and may be reached through links.
        name: relative, with '/'; each component is checked.
        max_bytes: the largest size that is read.

    Raises:
        NotPlain: it is not a plain file, lies behind a link, leaves the folder, or is larger.
        FileNotFoundError: there is none.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_opened_folder(root))
        parent, slash, last = name.rpartition("/")
        if slash:
            folder = stack.enter_context(_opened_below(folder, parent or "/"))
        check_name(last)
        try:
            descriptor = os.open(last, _FILE_FLAGS, dir_fd=folder)
        except OSError as error:
            if error.errno in _LINK_ERRORS:
                raise NotPlain(f"{shown(name)} is not a plain file") from None
            raise
        stack.callback(os.close, descriptor)
        found = os.fstat(descriptor)
        plain_file(name, found)
        if found.st_size > max_bytes:
            raise NotPlain(f"{shown(name)} has {found.st_size} bytes; at most {max_bytes} were expected")
        yield stack.enter_context(os.fdopen(descriptor, "rb", closefd=False))


def read_below(root: Path, name: str, max_bytes: int) -> bytes:
    """The content of a plain file below `root`; see `open_below`. A file that grows meanwhile is refused."""
    with open_below(root, name, max_bytes) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise NotPlain(f"{shown(name)} grew past {max_bytes} bytes while it was read")
    return data


@contextlib.contextmanager
def folder_below(root: Path, name: str = "") -> Iterator[int]:
    """Open a folder by its path below `root` ('' for `root` itself); gives its descriptor.

    Raises:
        NotPlain: it is not a folder, lies behind a link, or leaves `root`.
        FileNotFoundError: there is none.
    """
    with _opened_folder(root) as top, _opened_below(top, name) as folder:
        yield folder


def plain_file(path: str, found: os.stat_result) -> PlainFile:
    """What `found`, the stat of an open file, says of it; `path` is for the message.

    Raises:
        NotPlain: it is not a plain file, or is setuid or setgid.
    """
    if not stat.S_ISREG(found.st_mode):
        raise NotPlain(f"{shown(path)} is {_kind(found.st_mode)}, not a plain file")
    if found.st_mode & (stat.S_ISUID | stat.S_ISGID):
        raise NotPlain(f"{shown(path)} is a setuid or setgid file")
    return PlainFile(
        found.st_size, stat.S_IMODE(found.st_mode), found.st_ino, found.st_dev, found.st_mtime_ns, found.st_ctime_ns
    )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder",
        stat.S_IFCHR: "a character device", stat.S_IFBLK: "a block device",
    }  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "of an unknown kind")


@contextlib.contextmanager
def _opened_folder(root: Path) -> Iterator[int]:
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened_below(top: int, path: str) -> Iterator[int]:
    """The folder `path` below the open folder `top`, reached component by component."""
    descriptor = os.dup(top)
    try:
        for name in path.split("/") if path else ():
            check_name(name)
            try:
                inner = os.open(name, _FOLDER_FLAGS, dir_fd=descriptor)
            except OSError as error:
                if error.errno in _LINK_ERRORS:
                    raise NotPlain(f"{shown(path)}: {shown(name)} is not a plain folder") from None
                raise
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)
