"""Reading TOML on Python 3.9 and up, with errors that name the file."""

from __future__ import annotations

import copy
import functools
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
        return parse_toml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def parse_toml(text: str, what: str) -> dict[str, Any]:
    """The content of a text in TOML; `what` names it in messages.

    Raises:
        UsageError: it is not TOML.
    """
    try:
        return copy.deepcopy(_parsed(text))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not TOML: {error}") from error


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> dict[str, Any]:
    """The same for the same text: a command reads the definitions of images some forty times, a millisecond each."""
    document: dict[str, Any] = tomllib.loads(text)
    return document
