"""Locks on files and folders, between processes and between threads (flock: one holder for each open file).

The race story, told once. A lock is held by an open file, not by a name. Another process may get the lock on a name
only after the holder removed that name. So `locked` looks again whether the name still leads to the file that it
locked, and starts anew if not. The kernel ends a lock with its process, so a killed holder blocks nobody.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from repro.base.errors import CouldNotRun

_NOT_THERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class Taken(CouldNotRun):
    """Another process or thread holds the lock, and the caller did not want to wait."""


class NoLocks(CouldNotRun):
    """The file system has no locks, so that nobody can know who else is at work."""


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True, create: bool = False) -> Iterator[int]:
    """Hold the lock on a file or a folder; gives its open descriptor.

    Args:
        path: a folder, or a file.
        shared: beside other shared holders.
        wait: for the holder to end.
        create: make an empty file where none is.

    Raises:
        Taken: somebody holds it, and `wait` is False.
        NoLocks: the file system has none.
        OSError: the file cannot be opened; FileNotFoundError where it went away and `create` is False.
    """
    while True:
        descriptor = _open(path, create=create)
        try:
            acquire(descriptor, path, shared=shared, wait=wait)
            if not is_still(path, descriptor):
                continue
            yield descriptor
            return
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked_where_possible(path: Path, *, shared: bool = False, create: bool = False) -> Iterator[None]:
    """As `locked`, but holds nothing where there are no locks: for what a rename or a comparison settles too."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NoLocks):
            stack.enter_context(locked(path, shared=shared, create=create))
        yield


def acquire(descriptor: int, path: Path, *, shared: bool = False, wait: bool = True) -> None:
    """Take the lock of an open file; `path` is for the messages. It ends when the file is closed.

    Raises:
        Taken, NoLocks: as `locked`.
    """
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        raise Taken(f"{path} is in use by another process", hint="wait until it has ended, then try again") from None
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        raise NoLocks(
            f"{path}: its file system has no file locks ({error.strerror})",
            hint="put results on a local disk: BUNDLE_RESULTS=/local/folder; or mount the file system with locks",
        ) from error


def _open(path: Path, *, create: bool) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        if not create:
            raise
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with contextlib.suppress(PermissionError):  # somebody else made it meanwhile
            os.fchmod(descriptor, 0o644)  # whatever the umask: it must be opened to be waited for
        return descriptor


def is_still(path: Path, descriptor: int) -> bool:
    """Whether the name still leads to the open file."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
