"""Formats of binary files, as far as they tell where in a file a byte stands and what varies there by itself."""

from __future__ import annotations

import re
import struct
import zlib
from typing import BinaryIO

from repro.audit.explain import causes
from repro.audit.explain.contents import Place
from repro.audit.explain.sides import Section

_MOST_SECTIONS = 4096
_MOST_NAMES_BYTES = 1 << 20
_MOST_INFLATED_BYTES = 32 << 20
_PRINTABLE = re.compile(rb"[\x20-\x7e\x80-\xff\t]*")
_AR_MAGIC, _AR_HEADER_BYTES = b"!<arch>\n", 60
_AR_FIELDS = ((16, 28, causes.TIME), (28, 40, causes.OWNER), (40, 48, causes.MODE))
OTHER_CODE = "the code itself"
_IDENTITIES = (".note.gnu.build-id", ".gnu_debuglink")


class Sections:
    """The sections of an ELF file by the range of bytes that each takes; none for any other file."""

    def __init__(self, stream: BinaryIO) -> None:
        """Read the table; what does not fit is no ELF file."""
        self._stream = stream
        self._ranges: list[tuple[int, int, str]] = []
        try:
            self._read(stream)
        except (struct.error, ValueError, IndexError, OverflowError):
            self._ranges = []

    def _read(self, stream: BinaryIO) -> None:
        stream.seek(0)
        head = stream.read(64)
        if head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
            return
        wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
        table = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", head, 40 if wide else 32)[0]
        entry, count, names_at = struct.unpack_from(f"{order}3H", head, 58 if wide else 46)
        if count > _MOST_SECTIONS or entry != (64 if wide else 40):
            return
        stream.seek(table)
        raw = stream.read(entry * count)
        layout = f"{order}IIQQQQ" if wide else f"{order}IIIIII"
        rows = [struct.unpack_from(layout, raw, number * entry) for number in range(count)]
        _, _, _, _, start, size = rows[names_at]
        stream.seek(start)
        names = stream.read(min(size, _MOST_NAMES_BYTES))
        for name, kind, _, _, offset, length in rows:
            if kind != 8:  # SHT_NOBITS takes no bytes of the file
                text = names[name : names.index(b"\0", name)].decode("utf-8", "replace")
                self._ranges.append((offset, offset + length, text))

    def at(self, offset: int) -> str:
        """The section that a byte stands in; '' outside of all, and for a file that is no ELF."""
        return next((name for start, end, name in self._ranges if start <= offset < end and name), "")

    def named(self) -> dict[str, Section]:
        """Each section's bytes, by its name."""
        return {name: Section(self._stream, start, end - start) for start, end, name in self._ranges if name}

    def __bool__(self) -> bool:
        return bool(self._ranges)


def is_identity(section: str) -> bool:
    """Whether a section holds a digest of the rest, so that it differs with anything else."""
    return section in _IDENTITIES


def cause_in_archive(head: bytes, offset: int, stream: BinaryIO) -> str:
    """What a byte of an `ar` archive's header tells: time, owner or mode of a member; '' for anything else."""
    if not head.startswith(_AR_MAGIC):
        return ""
    place = len(_AR_MAGIC)
    for _ in range(100_000):
        stream.seek(place)
        header = stream.read(_AR_HEADER_BYTES)
        if len(header) < _AR_HEADER_BYTES or offset < place or not header[48:58].strip().isdigit():
            return ""
        if offset < place + _AR_HEADER_BYTES:
            within = offset - place
            return next((cause for start, end, cause in _AR_FIELDS if start <= within < end), "")
        size = int(header[48:58])
        place += _AR_HEADER_BYTES + size + size % 2
    return ""


def cause_in_byte_code(one: bytes, two: bytes) -> str:
    """How two .pyc files differ, in words."""
    if one[:4] != two[:4]:
        return "made by another version of Python"
    if one[:4] == two[:4] and one[4:16] != two[4:16] and one[16:] == two[16:]:
        return "the time or hash of the source in its header, and nothing else"
    return OTHER_CODE


def inflated(stream: BinaryIO, most_bytes: int = _MOST_INFLATED_BYTES) -> bytes | None:
    """The content of a gzip file; None if it is none, is damaged, or holds more than is looked at."""
    stream.seek(0)
    if stream.read(2) != b"\x1f\x8b":
        return None
    stream.seek(0)
    inflater, parts, left = zlib.decompressobj(16 + zlib.MAX_WBITS), [], most_bytes
    try:
        while not inflater.eof:
            chunk = inflater.unconsumed_tail or stream.read(1 << 16)
            if not chunk:
                return None
            part = inflater.decompress(chunk, left + 1)
            left -= len(part)
            if left < 0:
                return None
            parts.append(part)
    except zlib.error:
        return None
    return b"".join(parts)


def texts_at(place: Place) -> tuple[str, str]:
    """The printable text that a place stands in, on both sides."""
    found = []
    for piece in (place.one, place.two):
        before = re.search(rb"[\x20-\x7e\x80-\xff\t]*\Z", piece[: place.before])
        behind = _PRINTABLE.match(piece, place.before)
        text = (before.group() if before else b"") + (behind.group() if behind else b"")
        found.append(text.decode("latin-1"))
    return found[0], found[1]
