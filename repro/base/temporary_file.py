"""Temporary files: each is locked by its owner, so that whoever finds one unlocked may remove it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from repro.base.errors import CouldNotRun
from repro.base.locking import acquire, is_still

PREFIX = ".tmp."
"""Of every temporary file and folder; `repro.base.temporary.clear_dead` removes those without an owner."""


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
        descriptor, name = tempfile.mkstemp(prefix=f"{PREFIX}file.", suffix=suffix, dir=parent)
        path = Path(name)
        with contextlib.suppress(CouldNotRun):
            acquire(descriptor, path)
        if is_still(path, descriptor):
            return path, descriptor
        os.close(descriptor)
