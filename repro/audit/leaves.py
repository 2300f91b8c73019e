"""A document as its leaves: every value by path, so that each is either recomputed or named as an observation."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

OBSERVATIONS = (
    "checkpoint.trust",
    "engine.*",
    "host.*",
    "observations.*",
    "stages[[]*].cached",
    "stages[[]*].observations.*",
)
"""What only the machine of the run could see: attested by whoever signs the record, recomputed by nobody."""


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every leaf of a document of plain values; an empty object or list is a leaf too."""
    if isinstance(value, Mapping) and value:
        for name in sorted(value):
            yield from leaves(value[name], f"{path}.{name}" if path else str(name))
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        for position, item in enumerate(value):
            yield from leaves(item, f"{path}[{position}]")
    else:
        yield path, [] if isinstance(value, tuple) else value


def is_observation(path: str) -> bool:
    """Whether a leaf of a record is on the list of observations."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in OBSERVATIONS)


def same(found: Any, expected: Any) -> bool:
    """Equal in value and in JSON's type: 1, 1.0 and true are three things."""
    return type(found) is type(expected) and bool(found == expected)


def differences(found: Any, expected: Any, path: str) -> list[str]:
    """In words, each leaf that differs: what the record says and what was recomputed.

    Args:
        found, expected: parts of a record or of a stage's file, as types or as plain values.
        path: what the leaves' paths start with.
    """
    ours, theirs = (dict(leaves(msgspec.to_builtins(value), path)) for value in (expected, found))
    lines = []
    for name in sorted({*ours, *theirs}):
        if name not in theirs:
            lines.append(f"{name} is missing; recomputed: {_short(ours[name])}")
        elif name not in ours:
            lines.append(f"{name} is {_short(theirs[name])}; recomputed, there is no such value")
        elif not same(theirs[name], ours[name]):
            lines.append(f"{name} is {_short(theirs[name])}; recomputed: {_short(ours[name])}")
    return lines


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
