"""Temporary files: each is locked by its owner, so that whoever finds one unlocked may remove it.

Their names, and those of temporary folders, carry their machine's mark: on a shared file system a lock may count on one
machine alone, so nobody but the machine that made them knows whether their owner is dead.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from repro.base.errors import CouldNotRun
from repro.base.locking import acquire, is_still

PREFIX = ".tmp."
"""Of every temporary file and folder; `repro.base.temporary.clear_dead` removes those without an owner."""

_MARK_DIGITS = 12
_MARKED = re.compile(rf"{re.escape(PREFIX)}[^.]+\.at-([0-9a-f]{{{_MARK_DIGITS}}})\.")


@functools.lru_cache(maxsize=1)
def machine_mark() -> str:
    """What tells this machine from another in names of temporary things, and says nothing else about it."""
    try:
        name = Path("/etc/machine-id").read_bytes().strip()
    except OSError:
        name = b""
    return hashlib.sha256((name or platform.node().encode()) + b" temporary").hexdigest()[:_MARK_DIGITS]


def prefix_of(kind: str) -> str:
    """How the names of this machine's temporary things of that kind begin."""
    return f"{PREFIX}{kind}.at-{machine_mark()}."


def is_of_another_machine(name: str) -> bool:
    """Whether a temporary thing is another machine's."""
    found = _MARKED.match(name)
    return found is not None and found[1] != machine_mark()


@contextlib.contextmanager
def temporary_file(parent: Path, suffix: str = "") -> Iterator[tuple[Path, BinaryIO]]:
    """A new empty file in `parent`, open for writing, to be renamed to its name; removed at the end if it was not.

    It has mode 0600. On a file system without locks it is made all the same: nobody removes it there either.
    """
    path, descriptor = _made(parent, suffix)
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            yield path, stream
            stream.flush()
    finally:
        path.unlink(missing_ok=True)


def _made(parent: Path, suffix: str) -> tuple[Path, int]:
    """Make the file and lock it; again, if somebody who clears up took it before it was locked."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=prefix_of("file"), suffix=suffix, dir=parent)
        path = Path(name)
        with contextlib.suppress(CouldNotRun):
            acquire(descriptor, path)
        if is_still(path, descriptor):
            return path, descriptor
        os.close(descriptor)
