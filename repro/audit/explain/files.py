"""Why one file's contents differ: by what kind of file it is, and by what stands at the differing bytes."""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

from repro.audit.agreement import differ
from repro.audit.explain import binary, causes
from repro.audit.explain.contents import MOST_PLACES, Place, places
from repro.audit.explain.text import causes_of_line, causes_of_text
from repro.audit.places import Utterances, first_place
from repro.base.errors import VerificationFailed
from repro.base.foreign import shown

_MOST_TEXT_BYTES = 4 << 20
_MOST_VALUES_BYTES = 16 << 20
_VALUES = re.compile(r"\.(npy|ark|bin)$|cmvn\.txt$|compare\.json$")
_ARRAYS = re.compile(r"\.(npy|npz|ark|bin|onnx|om|pt|pth)$")
_CLOSE = 1e-3  # relative


UNCOMPILED = "byte code is code: whether it is its source's, only compiling that again tells"


@dataclass(frozen=True)
class Difference:
    """Why two contents differ.

    Attributes:
        causes: those that together explain it, most telling first; FOREIGN alone where nothing does.
        where: the line, frame, section or byte, and the first differing bytes.
        doubt: why the causes may not be all of it; '' where every differing byte was looked at.
    """

    causes: tuple[str, ...]
    where: str
    doubt: str = ""


class Looking:
    """How much of compressed contents is still looked into, of one comparison: a bomb ends here."""

    def __init__(self, most_bytes: int = 1 << 30) -> None:
        self._left = most_bytes

    def inflated(self, stream: BinaryIO) -> bytes | None:
        """The content of a gzip file, None as `binary.inflated`, and once all is spent."""
        if self._left <= 0:
            return None
        data = binary.inflated(stream)
        self._left -= len(data) if data is not None else 32 << 20
        return data


def difference(
    path: str, one: BinaryIO, two: BinaryIO, looking: Looking, utterances: Utterances | None = None
) -> Difference | None:
    """Why the contents of a file differ; None where they are equal.

    Args:
        path: the file's, whose ending tells its kind.
        one, two: seekable.
        looking: bounds what is decompressed.
        utterances: names by batch and row, for batches of a stage.
    """
    found = places(one, two)
    if not found:
        return None
    first = found[0]
    at = _at(first)
    sizes = [stream.seek(0, io.SEEK_END) for stream in (one, two)]
    sections = binary.Sections(one)
    if sections:
        return _of_program(sections, found) if sizes[0] == sizes[1] else _of_shifted(sections, two, at, sizes)
    special = _of_kind(path, one, two, looking, first, at)
    if special is not None:
        return special
    if max(sizes) <= _MOST_VALUES_BYTES and _VALUES.search(path):
        numbers = _of_values(path, _whole(one), _whole(two), at, utterances or {})
        if numbers is not None:
            return numbers
    if max(sizes) <= _MOST_TEXT_BYTES:
        data = _whole(one), _whole(two)
        if not any(b"\0" in each for each in data):
            explained, place = causes_of_text(*data)
            return Difference(_ordered(explained), f"{place}, {at}" if place else at)
    explained = _at_places(found, same_size=sizes[0] == sizes[1], arrays=bool(_ARRAYS.search(path)))
    return Difference(_ordered(explained), at, _doubt(found, sizes))


def _at(place: Place) -> str:
    return f"byte {place.offset}: {place.bytes_shown()}"


def _of_program(sections: binary.Sections, found: Sequence[Place]) -> Difference:
    """An ELF file: by section; its build ID follows from the rest, and explains something only alone."""
    telling = [place for place in found if not binary.is_identity(sections.at(place.offset))]
    place = (telling or found)[0]
    name = sections.at(place.offset)
    where = f"section {name}" if name else "no section: headers or padding"
    explained = _at_places(telling, same_size=True) if telling else {causes.RANDOM}
    return Difference(_ordered(explained), f"{where}, {_at(place)}", _doubt(found, (0, 0)))


def _of_shifted(sections: binary.Sections, two: BinaryIO, at: str, sizes: Sequence[int]) -> Difference:
    """ELF files of different sizes: section by section, since a longer text moves everything behind it."""
    others, explained, where = binary.Sections(two).named(), set(), []
    for name, section in sections.named().items():
        other = others.get(name)
        found = places(cast(BinaryIO, section), cast(BinaryIO, other)) if other is not None else []
        if found and not binary.is_identity(name):
            here = causes_of_line(*binary.texts_at(found[0]))
            told = " / ".join(repr(shown(text, 60)) for text in binary.texts_at(found[0])) if here else ""
            where.append(f"section {name}, byte {found[0].offset} of it: {told or found[0].bytes_shown()}")
            explained |= here
    return Difference(_ordered(explained), "; ".join(where[:4]) or at, _doubt((), sizes))


def _of_kind(
    path: str, one: BinaryIO, two: BinaryIO, looking: Looking, first: Place, at: str
) -> Difference | None:  # fmt: skip
    """Kinds of files whose own header tells; None for any other."""
    one.seek(0)
    head = one.read(64)
    if path.endswith(".pyc"):
        sizes = [stream.seek(0, io.SEEK_END) for stream in (one, two)]
        small = max(sizes) <= _MOST_TEXT_BYTES
        how = binary.cause_in_byte_code(_whole(one), _whole(two)) if small else binary.OTHER_CODE
        return Difference((causes.BYTE_CODE,), f"{how}; {at}", UNCOMPILED * (how == binary.OTHER_CODE))
    cause = binary.cause_in_archive(head, first.offset, one)
    if cause:
        return Difference((cause,), f"header of a member of the ar archive, {at}")
    if head[:2] == b"\x1f\x8b":
        inner = looking.inflated(one), looking.inflated(two)
        if inner[0] is not None and inner[1] is not None:
            if inner[0] == inner[1]:
                part = "the gzip header" if first.offset < 10 else "the compressed stream"
                return Difference((causes.COMPRESSION,), f"the same content inside; {part}, {at}")
            inside = difference(path[:-3], io.BytesIO(inner[0]), io.BytesIO(inner[1]), Looking(0))
            if inside is not None:
                return replace(inside, where=f"inside the gzip file, {inside.where}")
    return None


def _of_values(path: str, one: bytes, two: bytes, at: str, utterances: Utterances) -> Difference | None:
    try:
        apart, tolerance = differ(path, one, two)
    except VerificationFailed:
        return None
    close = apart.largest <= tolerance.largest and apart.mean <= tolerance.mean and not apart.symbols
    where = f"{first_place(path, one, two, utterances)}; {apart}; {at}"
    return Difference((causes.FLOAT if close else causes.FOREIGN,), where)


def _at_places(found: Sequence[Place], *, same_size: bool, arrays: bool = False) -> set[str]:
    """What explains every place; behind an insertion only the first can be told. Empty where nothing explains it."""
    explained: set[str] = set()
    for place in found if same_size else found[:1]:
        here = causes_of_line(*binary.texts_at(place)) or (_floats_at(place) if arrays else set())
        if not here:
            return set()
        explained |= here
    return explained


def _floats_at(place: Place) -> set[str]:
    """Whether the float32 or float64 value in which the place stands is nearly the same on both sides."""
    for width, code in ((4, "<f"), (8, "<d")):
        start = place.before - place.offset % width
        pieces = [piece[start : start + width] if start >= 0 else b"" for piece in (place.one, place.two)]
        if all(len(piece) == width for piece in pieces):
            a, b = (struct.unpack(code, piece)[0] for piece in pieces)
            ordinary = all(math.isfinite(value) and 1e-6 < abs(value) < 1e6 for value in (a, b))
            if ordinary and math.isclose(a, b, rel_tol=_CLOSE):
                return {causes.FLOAT}
    return set()


def _doubt(found: Sequence[Place], sizes: Sequence[int]) -> str:
    if sizes[0] != sizes[1]:
        return f"{sizes[0]} and {sizes[1]} bytes: behind the first difference nothing stands at the same place"
    return f"the first {MOST_PLACES} differing places alone were looked at" if len(found) >= MOST_PLACES else ""


def _ordered(found: set[str]) -> tuple[str, ...]:
    return tuple(sorted(found)) or (causes.FOREIGN,)


def _whole(stream: BinaryIO) -> bytes:
    stream.seek(0)
    return stream.read()
