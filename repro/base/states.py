"""What tells a file from the same file after a change, without reading it."""

from __future__ import annotations

import os
from pathlib import Path


def state_of(path: Path) -> list[int]:
    """Device, inode, size, and both times in ns of a file or link, which is not followed.

    The second time (ctime) is the kernel's own: a program that writes can set the first one back, but not that one.
    """
    return state_from(os.lstat(path))


def state_from(found: os.stat_result) -> list[int]:
    """As `state_of`, of what is already known of a file."""
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
