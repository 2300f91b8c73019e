"""Zip files that a stranger made: whatever Python's zipfile raises of a broken one is one error with its name."""

from __future__ import annotations

import contextlib
import errno
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from repro.base.errors import VerificationFailed
from repro.base.foreign import shown

# RuntimeError: an encrypted member, and (as NotImplementedError) a method of packing that Python does not know.
_BROKEN = (EOFError, OverflowError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around each use of an open zip file, or of its members.

    Raises:
        VerificationFailed: it is broken, encrypted, or packed in a way that is not read here.
    """
    try:
        yield
    except _BROKEN as error:
        wrong: object = error
    except OSError as error:
        if error.errno != errno.EINVAL:  # so the system calls a place before the file's first byte
            raise
        wrong = error.strerror
    else:
        return
    raise VerificationFailed(f"{shown(path.name)} is not a zip file that can be read: {shown(wrong, 100)}")
