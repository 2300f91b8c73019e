"""An installed folder held to its bundle's list: every listed file, and everything that no list names."""

import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Optional

from repro.packing.installer.archive import CHUNK_BYTES, MOST_LIST_BYTES, Meter, processors
from repro.packing.installer.listing import CACHES, INSTALLED, LIST_NAME, Entry, Listing, read_listing

KEPT = "artifacts/bundle"  # where an installed folder keeps its bundle's list
MARK = KEPT + "/made-here"  # the token by which the user who installed knows his folder again
_OWN = frozenset((f"{KEPT}/{LIST_NAME}", MARK))
_COVERED = ("bundle", "oci", "received", "wheels")  # of artifacts/
_MADE_HERE = ("artifacts/oci/.lock", "conf/site.toml")
_MOST_FAILURES = 1000


class Compared(NamedTuple):
    """How a folder differs from a list.

    `wrong`: listed files that are missing or changed. `extra`: what no list names, in places that a list speaks for.
    `not_covered`: places for what is made or put here on this machine, of which no list says anything.
    """

    wrong: tuple[str, ...]
    extra: tuple[str, ...]
    not_covered: tuple[str, ...]


def installed_path(entry: Entry) -> str:
    """Where a file goes below the folder: the tree as it is, what is said about the bundle into one folder."""
    return entry.path[len(INSTALLED) :] if entry.path.startswith(INSTALLED) else f"{KEPT}/{entry.path}"


def open_plain(root: Path, path: str) -> Optional[int]:
    """A descriptor of a plain file below a folder, or None. No link is followed, no FIFO waited for."""
    if os.open not in os.supports_dir_fd:  # Windows: bundles are verified there, and no folder is installed
        return None
    a_folder = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    a_file = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        *folders, name = path.split("/")
        for step, flags in [*((folder, a_folder) for folder in folders), (name, a_file)]:
            above = descriptor
            try:
                descriptor = os.open(step, flags, dir_fd=above)
            finally:
                os.close(above)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def read_plain(root: Path, path: str, most_bytes: int) -> Optional[bytes]:
    """The content of a plain file below a folder; None where there is none, or a larger one."""
    descriptor = open_plain(root, path)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        data = stream.read(most_bytes + 1)
    return data if len(data) <= most_bytes else None


def read_kept(root: Path) -> Optional[Listing]:
    """The list that a folder keeps, or None where it keeps none.

    Raises:
        Refused: code 3, it is malformed or its signature does not hold.
    """
    kept = read_plain(root, f"{KEPT}/{LIST_NAME}", MOST_LIST_BYTES)
    return None if kept is None else read_listing(kept)


def compare_folder(root: Path, listing: Listing) -> Compared:
    """Hash every listed file of a folder, and name everything else in it. Nothing is followed, changed or run."""
    listed = {installed_path(entry): entry for entry in listing.entries}
    folders = {path[:place] for path in [*listed, *_OWN] for place, letter in enumerate(path) if letter == "/"}
    extra: list[str] = []
    not_covered: set[str] = set()
    for path, kind in _walk(root, folders):
        if kind == "file" and (path in listed or path in _OWN):
            continue
        place = _made_here(path)
        if place:
            not_covered.add(place)
        elif len(extra) < _MOST_FAILURES:
            extra.append(f"{ascii(path)[1:-1]}: a {kind} that the list does not name")
    meter = Meter("verifying", sum(entry.size_bytes for entry in listing.entries))
    by_size = sorted(listed.items(), key=lambda item: -item[1].size_bytes)
    with ThreadPoolExecutor(processors()) as pool:
        wrong = list(pool.map(lambda item: _difference(root, item[0], item[1], meter), by_size))
    return Compared(tuple(sorted(filter(None, wrong))), tuple(sorted(extra)), tuple(sorted(not_covered)))


def _walk(root: Path, folders: set[str]) -> Iterator[tuple[str, str]]:
    """(path, kind) of everything but the folders that lead to listed files; what is in other folders is left out."""
    pending = [""]
    while pending:
        above = pending.pop()
        with os.scandir(os.path.join(root, above)) as entries:
            for entry in entries:
                path = f"{above}/{entry.name}" if above else entry.name
                if entry.is_symlink():
                    yield path, "link"
                elif entry.is_file(follow_symlinks=False):
                    yield path, "file"
                elif not entry.is_dir(follow_symlinks=False):
                    yield path, "device, FIFO or socket"
                elif path in folders:
                    pending.append(path)
                else:
                    yield path, "folder"


def _made_here(path: str) -> str:
    """The place for what this machine makes or its user puts there, in which a path lies; '' for none."""
    top, second = [*path.split("/"), ""][:2]
    if "__pycache__" in path.split("/"):
        return "__pycache__ (compiled code)"
    if top == ".venv":
        return ".venv (the Python environment)"
    if (top, second) == ("artifacts", "rootfs"):
        return "artifacts/rootfs (unpacked images)"
    if top == "artifacts" and second and second not in _COVERED:
        return f"artifacts/{ascii(second)[1:-1]}"
    if top == "data" and second not in ("", "README.md", "demo"):
        return f"data/{ascii(second)[1:-1]}"
    return path if path in _MADE_HERE or top in CACHES else ""


def _difference(root: Path, path: str, entry: Entry, meter: Meter) -> str:
    descriptor = open_plain(root, path)
    if descriptor is None:
        return f"{path}: not a plain file" if os.path.lexists(root / path) else f"{path}: missing"
    digest, room = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES))
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        mode = os.fstat(stream.fileno()).st_mode
        count = stream.readinto(room)
        while count:
            digest.update(room[:count])
            meter.advance(count)
            count = stream.readinto(room)
    if digest.hexdigest() != entry.sha256:
        return f"{path}: its content was changed since it was installed"
    if bool(mode & 0o111) != entry.executable or mode & (stat.S_ISUID | stat.S_ISGID):
        return f"{path}: its mode was changed to {stat.S_IMODE(mode):04o}"
    return ""
