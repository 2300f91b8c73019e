"""Optional programs: found as a shell finds them, and never an error by not being there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path


def search_path(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The folders of PATH; an empty one means the current folder to a shell, and is left out here."""
    return tuple(folder for folder in environ.get("PATH", os.defpath).split(os.pathsep) if folder)


def find(name: str, folders: Iterable[str] | None = None) -> Path | None:
    """The first plain, executable file of that name; None where there is none.

    Folders that are absent, cannot be entered, or cannot be asked are passed over, as a shell does.

    Args:
        name: without folder.
        folders: in order; PATH's by default.
    """
    for folder in search_path() if folders is None else folders:
        path = Path(folder) / name
        try:
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode) and os.access(path, os.X_OK):
                return path
        except (OSError, ValueError):
            continue
    return None
