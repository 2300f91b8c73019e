"""Where two contents differ: the first byte, and pieces around the first places, read in flat memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

_CHUNK_BYTES = 1 << 20
_AROUND_BYTES = 256  # of a piece, before and behind the place
MOST_PLACES = 64
_PRINTABLE = re.compile(rb"[\x20-\x7e\x80-\xff\t]*")


@dataclass(frozen=True)
class Place:
    """Where two contents differ, with what stands around it.

    Attributes:
        offset: of the differing byte.
        before: how much of a piece stands before it.
        one, two: the pieces.
    """

    offset: int
    before: int
    one: bytes
    two: bytes

    def bytes_shown(self) -> str:
        """The first differing bytes of both, in hexadecimal."""
        texts = [piece[self.before : self.before + 8].hex(" ") or "the end" for piece in (self.one, self.two)]
        return f"{texts[0]} / {texts[1]}"


def places(one: BinaryIO, two: BinaryIO) -> list[Place]:
    """The first places at which two contents differ; none if they are equal."""
    found: list[Place] = []
    start = 0
    one.seek(0)
    two.seek(0)
    while True:
        left, right = one.read(_CHUNK_BYTES), two.read(_CHUNK_BYTES)
        if not left and not right:
            return found
        if left != right:
            at = 0
            while len(found) < MOST_PLACES and (next_at := _first(left, right, at)) is not None:
                found.append(_place(one, two, start + next_at))
                run = _PRINTABLE.match(left, next_at, next_at + _AROUND_BYTES)  # a text is one place
                at = next_at + max(1, len(run.group()) if run else 0)
            if len(found) >= MOST_PLACES or len(left) != len(right):
                return found
            one.seek(start + len(left))
            two.seek(start + len(right))
        start += len(left)


def _first(left: bytes, right: bytes, start: int) -> int | None:
    """The first byte from `start` on in which they differ: halved by comparing, which is faster than byte by byte."""
    if left[start:] == right[start:]:
        return None
    low, high = start, max(len(left), len(right))
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _place(one: BinaryIO, two: BinaryIO, offset: int) -> Place:
    start = max(0, offset - _AROUND_BYTES)
    pieces = []
    for stream in (one, two):
        stream.seek(start)
        pieces.append(stream.read(offset - start + _AROUND_BYTES))
    return Place(offset, offset - start, *pieces)
