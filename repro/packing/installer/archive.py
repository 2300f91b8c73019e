"""A bundle's bytes, whole or in parts, and everything in which they differ from its list."""

import hashlib
import os
import re
import stat
import sys
import tarfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional

from repro.packing.installer.listing import (
    BLOCK_BYTES,
    LIST_NAME,
    Entry,
    Refused,
    padding_bytes,
    read_listing,
    tar_header,
)

CHUNK_BYTES = 1 << 18  # a processor's own cache holds it, so that hashing does not wait for memory
MOST_LIST_BYTES = 32 << 20
# A part as it was packed (NAME.tar.001), or as another file system or tool spells it: B.TAR.001, b.tar.1, B.TAR.001;1
_PART = re.compile(r"(.+\.tar)\.([0-9]{1,3})(?:;[0-9]+)?", re.IGNORECASE)
_OPENED = ("O_RDONLY", "O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_BINARY")  # no system has all of them
_WHOLE = re.compile(r".+\.tar(?:;[0-9]+)?", re.IGNORECASE)


class Meter:
    """Tells a person every few seconds how far long work is."""

    def __init__(self, what: str, total_bytes: int, every_s: float = 5.0) -> None:
        self._what = what
        self._total_bytes = total_bytes
        self._every_s = every_s
        self._done_bytes = 0
        self._began_s = self._told_s = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, count_bytes: int) -> None:
        """So many bytes more are done; any thread may say so."""
        with self._lock:
            self._done_bytes += count_bytes
            now_s = time.monotonic()
            if now_s - self._told_s >= self._every_s:
                self._told_s = now_s
                speed = self._done_bytes / 1e6 / (now_s - self._began_s)
                share = f"{self._done_bytes / 1e6:.0f} of {self._total_bytes / 1e6:.0f} MB"
                print(f"{self._what}: {share}, {speed:.0f} MB/s", file=sys.stderr, flush=True)


class Archive:
    """A bundle's bytes as one sequence, whether they lie in one file or in parts. Opened, and read by position."""

    def __init__(self, path: Path) -> None:
        self.paths = _files_of(path)
        self.sizes_bytes: list[int] = []
        self._descriptors: list[int] = []
        self._ends: list[int] = []
        self._lock = threading.Lock()
        try:
            for part in self.paths:
                self._open(part)
            self.total_bytes = self._ends[-1]
            size = self._list_size()
            self.envelope = self.read(BLOCK_BYTES, size)
            self.listing = read_listing(self.envelope)
        except BaseException:
            self.close()
            raise

    def _open(self, part: Path) -> None:
        """Without waiting for a writer: a FIFO could stand in a part's place."""
        try:
            descriptor = os.open(part, sum(getattr(os, flag, 0) for flag in _OPENED))
        except OSError as error:
            raise Refused(4, f"{part} cannot be read: {error.strerror}", "check its name and mode") from None
        self._descriptors.append(descriptor)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Refused(4, f"{part} is not a plain file", "name the bundle's file, or the first of its parts")
        self.sizes_bytes.append(found.st_size)
        self._ends.append(sum(self.sizes_bytes))

    def _list_size(self) -> int:
        header = self.read(0, BLOCK_BYTES)
        try:
            size = int(header[124:135], 8)
        except ValueError:
            size = -1
        if not 0 < size <= MOST_LIST_BYTES or header != tar_header(LIST_NAME, size, executable=False):
            raise Refused(
                3, f"{self.paths[0]} does not begin as a bundle does: another file, or its first header was changed"
            )
        return size

    def beside(self) -> Path:
        """Where statements about this bundle lie that it does not carry: NAME.tar.attestations."""
        match = _PART.fullmatch(self.paths[0].name)
        return self.paths[0].with_name(f"{match.group(1) if match else self.paths[0].name}.attestations")

    def content(self, path: str) -> Optional[bytes]:
        """A listed file's content; None where the list does not name it, or an earlier bundle carries it."""
        entry = next((entry for entry in self.listing.entries if entry.path == path and entry.offset >= 0), None)
        return None if entry is None else self.read(entry.content, entry.size_bytes)

    def close(self) -> None:
        """Give the files back."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def part_name(self, number: int) -> str:
        """What a part that is not here would be called, counted from 1."""
        match = _PART.fullmatch(self.paths[0].name)
        return f"{match.group(1) if match else self.paths[0].name}.{number:03d}"

    def place(self, offset: int, size_bytes: int) -> str:
        """The names of the files in which some bytes lie."""
        last = offset + max(size_bytes, 1)
        starts = [0, *self._ends[:-1]]
        names = [p.name for p, start, end in zip(self.paths, starts, self._ends) if start < last and offset < end]
        if not names:
            return "behind the last part"
        return f"in {names[0]}" if len(names) == 1 else f"in {names[0]} to {names[-1]}: one of these {len(names)}"

    def chunks(self, offset: int, size_bytes: int) -> Iterator[memoryview]:
        """Bytes from a position on, fewer than asked for where the archive ends. Each piece is good until the next."""
        buffer = memoryview(bytearray(min(CHUNK_BYTES, size_bytes)))
        for number, end in enumerate(self._ends):
            start = self._ends[number - 1] if number else 0
            while size_bytes and offset < end:
                room = buffer[: min(size_bytes, end - offset)]
                count = self._read_into(room, number, offset - start)
                if not count:
                    return
                yield room[:count]
                offset += count
                size_bytes -= count

    def read_part(self, number: int, inside: int, size_bytes: int) -> bytes:
        """Bytes of one of the files, counted from 0, by their place in that file."""
        room = memoryview(bytearray(size_bytes))
        return bytes(room[: self._read_into(room, number, inside)])

    def _read_into(self, room: memoryview, number: int, inside: int) -> int:
        """Fill `room` from a place in one of the files; returns how many bytes were there."""
        descriptor = self._descriptors[number]
        if hasattr(os, "preadv"):
            return os.preadv(descriptor, [room], inside)
        with self._lock:  # Windows and macOS: a descriptor has one place, which the threads share
            os.lseek(descriptor, inside, os.SEEK_SET)
            data = os.read(descriptor, len(room))
        room[: len(data)] = data
        return len(data)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """The same as one value."""
        return b"".join(map(bytes, self.chunks(offset, size_bytes)))


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        firsts = [name for name in os.listdir(path) if _WHOLE.fullmatch(name) or _number_of(name) == 1]
        if len(firsts) != 1:
            raise Refused(4, f"{path} holds {len(firsts)} bundles", "name the file, or the first of its parts")
        path = path / firsts[0]
    if not path.is_file():
        what = "is not a plain file" if os.path.lexists(path) else "is not there"
        raise Refused(4, f"{path} {what}", "name the bundle's file, or the first of its parts: NAME.tar.001")
    match = _PART.fullmatch(path.name)
    return _parts_beside(path, match.group(1)) if match else [path]


def _number_of(name: str) -> int:
    match = _PART.fullmatch(name)
    return int(match.group(2)) if match else 0


def _parts_beside(path: Path, stem: str) -> list[Path]:
    """All parts of one bundle, in order, however a file system or a tool spelled their names."""
    found: dict[int, str] = {}
    for name in sorted(os.listdir(path.parent)):
        match = _PART.fullmatch(name)
        if not match or match.group(1).lower() != stem.lower():
            continue
        other = found.setdefault(int(match.group(2)), name)
        if other != name:
            raise Refused(4, f"{other} and {name} are both part {int(match.group(2))}", "leave one of them there")
    for number in range(1, max(found) + 1):
        if number not in found:
            raise Refused(4, f"part {number} is missing: {stem}.{number:03d}",
                          f"bring all parts into {path.parent}; their names end in .001, .002 and so on")  # fmt: skip
    if 0 in found:
        raise Refused(
            4, f"{found[0]}: parts are numbered from 1", "give the parts the names that they were packed with"
        )
    return [path.parent / found[number] for number in sorted(found)]


def _check_parts(archive: Archive) -> list[str]:
    """What the sizes of the parts say: missing, surplus, cut short."""
    size, total = archive.listing.about["part_size_bytes"], archive.listing.total_bytes
    count = -(-total // size) if size else 1
    found = len(archive.paths)
    if found < count:
        raise Refused(
            4, f"{found} of {count} parts are here; missing: {archive.part_name(found + 1)} onwards",
            "bring all parts into one folder",
        )  # fmt: skip
    failures = [f"{p.name} is one part too many: the bundle has {count}" for p in archive.paths[count:]]
    for number, (path, actual) in enumerate(zip(archive.paths[:count], archive.sizes_bytes)):
        wanted = total if not size else min(size, total - size * number)
        if actual != wanted:
            what = "was cut short" if actual < wanted else "is too long"
            failures.append(f"{path.name} {what}: {actual} bytes instead of {wanted}")
    return failures


def _check_order(archive: Archive) -> list[str]:
    """Parts that begin like another one: known by the first header that lies in each."""
    size = archive.listing.about["part_size_bytes"]
    if not size:
        return []
    heads: dict[int, tuple[int, bytes]] = {0: (0, tar_header(LIST_NAME, len(archive.envelope), executable=False))}
    for entry in archive.listing.entries:
        number, inside = divmod(entry.offset, size)
        if entry.offset >= 0 and inside + entry.content - entry.offset <= size:
            heads.setdefault(number, (inside, tar_header(entry.path, entry.size_bytes, executable=entry.executable)))
    failures = []
    for number, path in enumerate(archive.paths):
        fits = [part for part, (inside, head) in heads.items() if archive.read_part(number, inside, len(head)) == head]
        if fits and number not in fits:
            failures.append(f"{path.name} holds part {fits[0] + 1}, not part {number + 1}: swapped or repeated")
    return failures


def _check_entry(archive: Archive, entry: Entry, meter: Meter) -> list[str]:
    def place(offset: int, size_bytes: int) -> str:
        return f"{entry.path} ({archive.place(offset, size_bytes)})" if len(archive.paths) > 1 else entry.path

    failures, header_bytes = [], entry.content - entry.offset
    behind, padding = entry.content + entry.size_bytes, padding_bytes(entry.size_bytes)
    if behind + padding - entry.offset <= CHUNK_BYTES:  # one read: most files are small, and there are thousands
        data = memoryview(archive.read(entry.offset, behind + padding - entry.offset))
        header, rest = bytes(data[:header_bytes]), bytes(data[header_bytes + entry.size_bytes :])
        chunks: Iterable[memoryview] = [data[header_bytes : header_bytes + entry.size_bytes]]
    else:
        header, rest = archive.read(entry.offset, header_bytes), archive.read(behind, padding)
        chunks = archive.chunks(entry.content, entry.size_bytes)
    if header != tar_header(entry.path, entry.size_bytes, executable=entry.executable):
        failures.append(f"{place(entry.offset, header_bytes)}: {_odd_header(header, entry)}")
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        meter.advance(len(chunk))
    if digest.hexdigest() != entry.sha256:
        where = place(entry.content, entry.size_bytes)
        failures.append(f"{where}: its content has sha256 {digest.hexdigest()}, listed is {entry.sha256}")
    if rest != bytes(padding):
        failures.append(f"{place(behind, padding)}: the zeros behind it were changed")
    return failures


def _odd_header(header: bytes, entry: Entry) -> str:
    try:
        found = tarfile.TarInfo.frombuf(header[-BLOCK_BYTES:], "utf-8", "replace")
    except tarfile.HeaderError:
        return "its header in the archive was changed"
    if not found.isreg():
        return f"a link, device or other special entry {found.name!a} stands in its place"
    if found.name != entry.path:
        return f"the entry {found.name!a} stands in its place: extra, missing or out of order"
    return "its header in the archive was changed"


def check_bytes(archive: Archive) -> list[str]:
    """Everything that differs between a bundle's bytes and its list, file by file, on all processors."""
    failures = _check_parts(archive)
    failures += _check_order(archive)
    carried = [entry for entry in archive.listing.entries if entry.offset >= 0]
    meter = Meter("verifying", archive.total_bytes)
    by_size = sorted(carried, key=lambda entry: -entry.size_bytes)  # the largest first: none is left alone at the end
    with ThreadPoolExecutor(processors()) as pool:
        found = dict(zip(by_size, pool.map(lambda entry: _check_entry(archive, entry, meter), by_size)))
    failures += [failure for entry in carried for failure in found[entry]]
    behind_list, zeros = BLOCK_BYTES + len(archive.envelope), padding_bytes(len(archive.envelope))
    if archive.read(behind_list, zeros) != bytes(zeros):
        failures.append(f"{LIST_NAME}: the zeros behind it were changed")
    end = archive.listing.total_bytes - 2 * BLOCK_BYTES
    if archive.read(end, 2 * BLOCK_BYTES + 1) != bytes(2 * BLOCK_BYTES):
        failures.append(f"{archive.paths[-1].name}: the archive's end was changed, or something follows it")
    return failures


def processors() -> int:
    """How many threads hash at once."""
    return min(32, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
