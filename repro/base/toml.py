"""Reading TOML on Python 3.9 and up, with errors that name the file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from repro.base.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's content.

    Raises:
        UsageError: it cannot be read, or is not TOML.
    """
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    return document
