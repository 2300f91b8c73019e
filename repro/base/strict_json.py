"""Reading JSON that a stranger wrote: one meaning, bounded cost, and an error that names the place."""

from __future__ import annotations

import array
import itertools
import json
import re
from typing import Any, NoReturn

from repro.base.errors import VerificationFailed
from repro.base.foreign import shown

MAX_BYTES = 64 * 1024 * 1024
_DEPTH = 64
_DIGITS = 400  # more than any float64 has; a longer number costs time that grows with its square
_IS_DIGIT = bytes(ord("0") if chr(value) in "0123456789" else ord(" ") for value in range(256))
_STEPS = bytes.maketrans(b"[{]}", b"\1\1\xff\xff")  # down 1, or up: -1 as a signed byte
_NEITHER = bytes(set(range(256)) - set(b'[]{}"'))  # what is no bracket and no end of a text
_TEXT = re.compile(rb'"[^"]*"?')
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse(data: bytes, *, what: str, max_bytes: int = MAX_BYTES) -> Any:
    """The document that `data` holds.

    Args:
        data: UTF-8.
        what: names the document in messages, such as 'record.json'.
        max_bytes: the largest size that is parsed.

    Raises:
        VerificationFailed: it is too large or too deep, not UTF-8 or not JSON; a key stands twice in one object; a
            number is not finite or has too many digits; a text holds half of a surrogate pair.
    """

    def refuse(why: str) -> NoReturn:
        raise VerificationFailed(f"{what}: {why}")

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    refuse(f"the key {shown(name, 60)!r} stands twice in one object")
                seen.add(name)
        return found

    def number(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            refuse(f"the number {shown(text, 30)} is too large")
        return value

    if len(data) > max_bytes:
        refuse(f"it has {len(data)} bytes; at most {max_bytes} are read")
    if b"0" * _DIGITS in data.translate(_IS_DIGIT):
        refuse(f"it holds a number or a text of more than {_DIGITS} digits")
    if _depth(data) > _DEPTH:
        refuse(f"it is nested more than {_DEPTH} deep")
    try:
        text = data.decode("utf-8")
        document = json.loads(
            text,
            object_pairs_hook=members,
            parse_float=number,
            parse_constant=lambda name: refuse(f"{name} is not a number in JSON"),
        )
    except UnicodeDecodeError as error:
        refuse(f"it is not UTF-8 (byte {error.start})")
    except (ValueError, RecursionError) as error:
        refuse(f"it is not JSON: {shown(error, 200)}")
    if "\\u" in text and _has_surrogate(document):
        refuse("a text in it holds half of a surrogate pair")
    return document


def _depth(data: bytes) -> int:
    """The nesting of the brackets, without parsing; what stands in texts does not count. In linear time."""
    marks = data.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NEITHER)
    steps = array.array("b", _TEXT.sub(b"", marks).translate(_STEPS))
    return max(itertools.accumulate(steps), default=0)


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return _SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(_has_surrogate(name) or _has_surrogate(item) for name, item in value.items())
    return isinstance(value, list) and any(_has_surrogate(item) for item in value)
