"""Speech data as it lies: a folder or a zip archive, read in place, never unpacked, and distrusted.

Both kinds answer the same questions: which folders lie in a folder, which files lie in one or below it, and what bytes
a file holds. A tree is listed folder by folder: it may be larger than memory. Names are relative, with '/', from the
folder's or the archive's root. A source that could lead a reader elsewhere (links, '..', absolute names) or exhaust the
machine (bombs) is refused as a whole.

What is looked at in a folder, here and by the host, which digests it before: the folders TRAIN and
TEST, in upper or lower case, at the root or in one folder below it, and everything below them. Left out everywhere is
what `is_clutter` names. What lies beside them is no part of the corpus: a link, a lost+found or a pipe there is neither
refused nor followed. A link called TRAIN or TEST, or one that alone leads to them, is refused: it leads elsewhere.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
import struct
import zipfile
import zlib
from typing import Callable, Iterable, Iterator, NamedTuple, Sequence, Union

from stages.shared.stage import StageError

MAX_FILE_BYTES = 64 << 20  # a TIMIT wave has 0.25 MB at most
MAX_MEMBERS = 250000  # of an archive, or of one folder; TIMIT has about 32,000 files in 1,200 folders
MAX_TOTAL_BYTES = 16 << 30  # TIMIT has 0.5 GB
MAX_RATIO = 100  # speech deflates to about a half; plain text to about a fifth
MAX_DEPTH = 16  # folders in folders; TIMIT has three

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_SPLITS = ("train", "test")
_VERSION = re.compile(";[0-9]{1,5}$")
_DRIVE = re.compile("^[A-Za-z]:")
# What zipfile may raise for a broken archive (NotImplementedError, for an unknown method, is a RuntimeError).
_BROKEN_ZIP = (OSError, EOFError, ValueError, RuntimeError, OverflowError, struct.error, zipfile.BadZipFile, zlib.error)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Place(NamedTuple):
    """Where TRAIN and TEST lie: prefix is '' or 'FOLDER/'; train and test are the two folders' own names."""

    prefix: str
    train: str
    test: str


def open_source(path: str) -> Source:
    """A `FolderSource` or `ZipSource` for `path`; StageError where it is neither."""
    if os.path.isdir(path):
        return FolderSource(path)
    if os.path.isfile(path):
        return ZipSource(path)
    raise StageError("no speech data at {}".format(path), "Give TIMIT's folder, or data.zip.")


def check_name(name: str, where: str) -> None:
    """Refuse a relative name that could lead out of its source, or break a line of a list."""
    parts = name.split("/")
    if not name or name.startswith("/") or _DRIVE.match(name) or "\\" in name:
        raise StageError("{}: the name {!r} is absolute or not portable".format(where, name), "Repack the data.")
    if ".." in parts or "." in parts or "" in parts:
        raise StageError("{}: the name {!r} has an empty, '.' or '..' part".format(where, name), "Repack the data.")
    if _UNPRINTABLE.search(name):
        raise StageError(
            "{}: the name {!r} has a control character, or is not valid text".format(where, name), "Rename it."
        )


def is_clutter(part: str) -> bool:
    """Whether a file's or folder's own name is an operating system's litter, such as __MACOSX or ._SX1.WAV."""
    return part.startswith(".") or part == "__MACOSX"


def without_version(name: str) -> str:
    """A file's own name without the version that a CD's file system writes behind it: SX1.WAV for SX1.WAV;1."""
    return _VERSION.sub("", name)


def refuse_collisions(names: Iterable[str], where: str) -> None:
    """Refuse two names that differ in case or version alone: which of them is meant cannot be known."""
    seen: dict[str, str] = {}
    for name in names:
        plain = without_version(name).lower()
        if plain in seen:
            raise StageError(
                "{}: {!r} and {!r} are one name, except for case or version".format(where, seen[plain], name),
                "Remove one of them.",
            )
        seen[plain] = name


class FolderSource:
    """A folder of the user's. Symbolic links and special files where speech is looked for are refused."""

    def __init__(self, path: str) -> None:
        self.path = path

    def folders(self, folder: str = "") -> list[str]:
        """Names (sorted) of the folders right inside `folder`, "" for the root; of links those called TRAIN or TEST."""
        names = self.folders_and_links(folder)
        return [name for name in names if name.lower() in _SPLITS or not self._is_link(folder + "/" + name)]

    def folders_and_links(self, folder: str = "") -> list[str]:
        """As `folders`, with links that lead to folders."""
        return [entry.name for entry in self._entries(folder) if entry.is_dir() and not is_clutter(entry.name)]

    def refuse_links(self, name: str) -> None:
        """Refuse a folder whose own name, or one above it, is a link."""
        above = ""
        for part in name.split("/"):
            above += part
            if self._is_link(above):
                raise self._link(above)
            above += "/"

    def walk(self, folder: str) -> Iterator[tuple[str, list[str]]]:
        """Yield (folder, names) of `folder` and every folder below it: its files' own names, as `files_in` has them.

        Of the tree, only the names of one folder and of folders still to come are held.
        """
        waiting = [(folder, 0)]
        while waiting:
            folder, depth = waiting.pop()
            if depth > MAX_DEPTH:
                raise StageError("{}: folders are nested more than {} deep".format(folder, MAX_DEPTH))
            files, folders = self._listed(folder)
            yield folder, files
            waiting.extend((folder + "/" + name, depth + 1) for name in reversed(folders))
            if len(waiting) > MAX_MEMBERS:
                raise StageError("{}: more than {} folders".format(folder, MAX_MEMBERS))

    def files_in(self, folder: str) -> list[str]:
        """The own names, sorted, of the files right inside `folder`, clutter left out."""
        return self._listed(folder)[0]

    def read(self, name: str) -> bytes:
        """All bytes of one file. Errors name it without this machine's path: they may end up in a result."""
        check_name(name, self.path)
        path = os.path.join(self.path, name)
        try:
            # Neither a link nor a pipe put there since the listing may be followed or waited for.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(descriptor, "rb") as stream:
                facts = os.fstat(stream.fileno())
                if not stat.S_ISREG(facts.st_mode):
                    raise StageError("{} is not a plain file".format(name))
                if facts.st_size > MAX_FILE_BYTES:
                    raise StageError("{} has {} bytes, over {}".format(name, facts.st_size, MAX_FILE_BYTES))
                return stream.read(facts.st_size)  # room for MAX_FILE_BYTES would cost more than the reading
        except OSError as error:
            raise StageError("cannot read {}: {}".format(name, error.strerror or error)) from error

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        path = os.path.join(self.path, folder)
        try:
            with os.scandir(path) as entries:
                found = list(itertools.islice(entries, MAX_MEMBERS + 1))
        except OSError as error:
            raise StageError("cannot list {}: {}".format(path, error.strerror or error)) from error
        if len(found) > MAX_MEMBERS:
            raise StageError("{} holds more than {} files".format(path, MAX_MEMBERS), "This is no folder of TIMIT.")
        return sorted(found, key=lambda entry: entry.name)

    def _listed(self, folder: str) -> tuple[list[str], list[str]]:
        """The own names of files and of folders right inside `folder`, sorted; what must not be there is refused."""
        if self._is_link(folder):
            raise self._link(folder)
        files, folders = [], []
        for entry in self._entries(folder):
            name = folder + "/" + entry.name
            if is_clutter(entry.name):
                continue
            check_name(name, self.path)
            if entry.is_symlink():
                raise self._link(name)
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.is_file():
                files.append(entry.name)
            else:
                raise StageError("{} is neither a file nor a folder".format(os.path.join(self.path, name)))
        refuse_collisions((folder + "/" + name for name in files + folders), self.path)
        return files, folders

    def _is_link(self, name: str) -> bool:
        return os.path.islink(os.path.join(self.path, name.lstrip("/")))

    def _link(self, name: str) -> StageError:
        return StageError(
            "{} is a symbolic link".format(os.path.join(self.path, name)),
            "Copy the data in place of linking it, or give the real folder as --data.",
        )


class ZipSource:
    """A zip archive, checked as a whole before anything in it is read.

    Refused: links and special members, encrypted ones, names that lead elsewhere or collide, members that overlap,
    methods other than stored and deflated, and more or larger members than the bounds above.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except _BROKEN_ZIP as error:
            raise StageError(
                "cannot read {} as a zip archive: {}".format(path, error), "Fetch or pack it again."
            ) from error
        members = self._archive.infolist()
        self._check_sizes(members)
        for member in members:
            self._check_member(member)
        refuse_collisions([member.filename.rstrip("/") for member in members], path)
        self._process = os.getpid()
        self._members = {
            member.filename: member
            for member in members
            if not member.is_dir() and not any(is_clutter(part) for part in member.filename.split("/"))
        }
        self._files: dict[str, list[str]] = {}  # folder: its files' own names
        for name in sorted(self._members):
            folder, _, own = name.rpartition("/")
            self._files.setdefault(folder, []).append(own)

    def folders(self, folder: str = "") -> list[str]:
        """Names (sorted) of the folders right inside `folder` ('' is the root) that hold a file, however deep."""
        prefix = folder + "/" if folder else ""
        below = (name[len(prefix) :] for name in self._members if name.startswith(prefix))
        return sorted({rest.split("/")[0] for rest in below if "/" in rest})

    folders_and_links = folders  # an archive that holds a link is refused as a whole

    def refuse_links(self, name: str) -> None:
        """There are none."""

    def walk(self, folder: str) -> Iterator[tuple[str, list[str]]]:
        """Yield (folder, names) of `folder` and every folder below it that hold files: the files' own names, sorted."""
        for name in sorted(self._files):
            if name == folder or name.startswith(folder + "/"):
                yield name, self._files[name]

    def files_in(self, folder: str) -> list[str]:
        """The own names, sorted, of the files right inside `folder`."""
        return self._files.get(folder, [])

    def read(self, name: str) -> bytes:
        """All bytes of one member; its check sum is verified."""
        if name not in self._members:
            raise StageError("cannot read {}: the archive holds no such file".format(name))
        if self._process != os.getpid():
            self._reopen()
        try:
            data = self._archive.read(self._members[name])
        except _BROKEN_ZIP as error:
            raise StageError("cannot read {}: {}".format(name, error)) from error
        if len(data) != self._members[name].file_size:
            raise StageError("cannot read {}: it is cut short".format(name))
        return data

    def _reopen(self) -> None:
        """After a fork: the position in an open file is one for both processes, so each needs the file opened anew."""
        try:
            stream = open(self.path, "rb")
        except OSError as error:
            raise StageError("cannot read {}: {}".format(self.path, error.strerror or error)) from error
        known = self._archive.fp
        if known is None or not os.path.samestat(os.fstat(stream.fileno()), os.fstat(known.fileno())):
            raise StageError("{} was replaced while it was read".format(self.path), "Leave it alone, and run again.")
        self._archive.fp = stream
        self._process = os.getpid()

    def _check_sizes(self, members: Sequence[zipfile.ZipInfo]) -> None:
        if len(members) > MAX_MEMBERS:
            raise self._bomb("{} members, over {}".format(len(members), MAX_MEMBERS))
        total_bytes = sum(member.file_size for member in members)
        packed_bytes = sum(member.compress_size for member in members)
        if total_bytes > MAX_TOTAL_BYTES:
            raise self._bomb("{} bytes unpacked, over {}".format(total_bytes, MAX_TOTAL_BYTES))
        if total_bytes > MAX_FILE_BYTES and total_bytes > MAX_RATIO * packed_bytes:
            raise self._bomb("{} bytes packed stand for {}, over {} times".format(packed_bytes, total_bytes, MAX_RATIO))
        end = 0
        for member in sorted(members, key=lambda member: member.header_offset):
            if member.header_offset < end:
                raise self._bomb("member {!r} overlaps the one before it".format(member.filename))
            end = member.header_offset + member.compress_size

    def _check_member(self, member: zipfile.ZipInfo) -> None:
        name = member.filename
        check_name(member.orig_filename.rstrip("/"), self.path)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if stat.S_ISLNK(kind):
            raise StageError("{}: {!r} is a symbolic link".format(self.path, name), "Pack the files themselves.")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise StageError("{}: {!r} is not a plain file".format(self.path, name))
        if member.flag_bits & 0x1:
            raise StageError("{}: {!r} is encrypted".format(self.path, name), "Unpack it, and give the folder.")
        if member.compress_type not in _METHODS:
            raise StageError(
                "{}: {!r} is packed by method {}".format(self.path, name, member.compress_type),
                "Only stored and deflated members are read: repack with `zip -r`.",
            )
        if member.file_size > MAX_FILE_BYTES:
            raise self._bomb("member {!r} has {} bytes, over {}".format(name, member.file_size, MAX_FILE_BYTES))

    def _bomb(self, why: str) -> StageError:
        return StageError("{} is refused: {}".format(self.path, why), "This is no archive of TIMIT.")


Source = Union[FolderSource, ZipSource]


def find_corpus(source: Source) -> Place:
    """Where TRAIN and TEST lie: the root or one folder below it, in upper or lower case.

    Raises:
        StageError: they lie nowhere, in several folders, under two spellings in one, or behind a link alone.
    """
    candidates, closed = _candidates(source, source.folders)
    if not candidates:
        candidates, _ = _candidates(source, source.folders_and_links)
        for prefix, train, test in candidates:
            for name in (train, test):
                source.refuse_links(prefix + name)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        listed = ", ".join(prefix for prefix, _, _ in candidates)
        raise StageError(
            "{}: TRAIN and TEST lie in several folders: {}".format(source.path, listed), "Give one of them."
        )
    raise StageError(
        "{}: no folders TRAIN and TEST, at the top or one level down".format(source.path),
        "\n".join(["TIMIT's own layout is needed: TRAIN/DR1/FCJF0/SI1027.WAV, in upper or lower case."] + closed),
    )


def _candidates(source: Source, folders: Callable[[str], list[str]]) -> tuple[list[Place], list[str]]:
    """(places, messages about folders that cannot be listed); `folders` lists one."""
    top = folders("")
    found = _train_and_test(source, "", top)
    if found:
        return [found], []
    places, closed = [], []
    for name in top:
        try:
            inside = folders(name)
        except StageError as error:  # a lost+found, say, that only root may look into
            closed.append(error.message)
            continue
        place = _train_and_test(source, name + "/", inside)
        if place:
            places.append(place)
    return places, closed


def _train_and_test(source: Source, prefix: str, names: Sequence[str]) -> Place | None:
    places = []
    for wanted in _SPLITS:
        spelt = [name for name in names if name.lower() == wanted]
        if len(spelt) > 1:
            raise StageError("{}: both {} in {!r}".format(source.path, " and ".join(spelt), prefix), "Remove one.")
        if not spelt:
            return None
        places.append(spelt[0])
    return Place(prefix, places[0], places[1])
