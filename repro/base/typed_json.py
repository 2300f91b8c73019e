"""JSON that a stranger wrote, read into types: either a value of the type, or an error that names the place."""

from __future__ import annotations

import contextlib
import re
from typing import Any, TypeVar, Union

import msgspec

from repro.base import strict_json
from repro.base.errors import VerificationFailed
from repro.base.foreign import shown

T = TypeVar("T")
_Step = Union[str, int]
_PLACE = re.compile(r"(?P<wrong>.*) - at (?P<key>`key` in )?`\$(?P<steps>(\.\w+|\[[0-9]+\]|\[\.\.\.\])*)`", re.DOTALL)
_SOME_KEY = "[...]"  # how msgspec names a place in a mapping


def read(data: bytes, kind: type[T], *, what: str, max_bytes: int = strict_json.MAX_BYTES) -> T:
    """The value of type `kind` that `data` holds.

    Args:
        data: UTF-8 JSON.
        kind: what msgspec can decode: a Struct, or a container of such.
        what: names the document in messages, such as 'record.json'.
        max_bytes: the largest size that is parsed.

    Raises:
        VerificationFailed: it is not JSON (see `strict_json.parse`), or not of this type; the message names the place.
    """
    return convert(strict_json.parse(data, what=what, max_bytes=max_bytes), kind, what=what)


def convert(document: Any, kind: type[T], *, what: str) -> T:
    """As `read`, from a document that was parsed already.

    Raises:
        VerificationFailed: it is not of this type.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise VerificationFailed(f"{what}: {_with_place(str(error), document, kind)}") from error


def _with_place(message: str, document: Any, kind: Any) -> str:
    """'$.PLACE: what is wrong there', where each key on the way stands by its name."""
    found = _PLACE.fullmatch(message)
    if found is None:
        return f"$: {shown(message)}"
    words = re.findall(r"\w+|\[\.\.\.\]", found["steps"]) + ([_SOME_KEY] if found["key"] else [])
    steps: list[_Step] = []
    made_up = (KeyError, IndexError, TypeError, ValueError)  # the text of a stranger may have made the place up
    with contextlib.suppress(*made_up):
        for word in words:
            if word == _SOME_KEY:
                mapping = _at(document, steps)
                key = _first_wrong(document, steps, kind, message)
                document = _put(document, steps, {key: mapping[key]})
                steps.append(key)
            else:
                steps.append(int(word) if word.isascii() and word.isdigit() else word)
    place = "".join(f".{step}" if re.fullmatch(r"[A-Za-z_]\w*", str(step)) else f"[{step!r}]" for step in steps)
    return f"${shown(place)}: {shown(found['wrong'])}" + (" (as a name)" if found["key"] else "")


def _first_wrong(document: Any, steps: list[_Step], kind: Any, message: str) -> str:
    """Which key of the mapping at `steps` the message is about: halves of it are tried."""
    mapping = _at(document, steps)
    keys: list[str] = list(mapping)
    while len(keys) > 1:
        half, rest = keys[: len(keys) // 2], keys[len(keys) // 2 :]
        try:
            msgspec.convert(_put(document, steps, {key: mapping[key] for key in half}), kind)
            keys = rest
        except msgspec.ValidationError as error:
            keys = half if str(error) == message else rest
    return keys[0]


def _at(document: Any, steps: list[_Step]) -> Any:
    for step in steps:
        document = document[step]
    return document


def _put(document: Any, steps: list[_Step], value: Any) -> Any:
    """A copy of the document with `value` at that place; what lies beside the way is shared."""
    if not steps:
        return value
    copy = document.copy()
    copy[steps[0]] = _put(document[steps[0]], steps[1:], value)
    return copy
