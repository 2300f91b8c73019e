"""How an option of a command is declared: by a dataclass's field with its help."""

from __future__ import annotations

from dataclasses import MISSING, field, fields
from typing import Any

from repro.graph.pipeline import Request

HELP, REQUIRED, REQUEST = "help", "required", "request"


def option(default: int | float | str, text: str) -> Any:
    """An option `--name VALUE`; its default tells its type."""
    return field(default=default, metadata={HELP: text})


def flag(text: str) -> Any:
    """An option without a value, off where it is left out."""
    return field(default=False, metadata={HELP: text})


def argument(text: str) -> Any:
    """What has to be given, by its place or as `--name`; always text."""
    return field(default="", metadata={HELP: text, REQUIRED: True})


def of_request(text: str) -> Any:
    """An option that is the field of the same name of a run's request, whose default it has."""
    return field(metadata={HELP: text, REQUEST: True})


def with_request_defaults(options: type) -> type:
    """Fill in the defaults of `of_request` from `Request`, before `options` becomes a dataclass."""
    defaults = {item.name: item.default for item in fields(Request) if item.default is not MISSING}
    for name, item in list(vars(options).items()):
        metadata = getattr(item, "metadata", None) or {}
        if metadata.get(REQUEST):
            setattr(options, name, field(default=defaults[name], metadata=metadata))
    return options
