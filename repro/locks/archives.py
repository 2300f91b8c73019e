"""Upstream archives that built layers are compiled from: conf/sources.toml, and where their bytes lie."""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import lzma
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Optional

from repro.base import user_lock
from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.base.files import sha256_file
from repro.base.paths import Paths
from repro.base.toml import read_toml
from repro.locks.model import LockedFile

_KEYS = {"title", "file", "sha256", "content_sha256", "first_use", "zip_sha256", "accept", "headers", "licence", "page",
         "urls", "debian", "size_bytes", "snapshot", "versioned", "also"}  # fmt: skip
_TRUSTED = "trusted on first use: recorded in data/user.lock.json"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class SourceArchive:
    """One archive of conf/sources.toml. Exactly one of `sha256`, `content_sha256` (both hex) and `first_use` is given.

    Attributes:
        name: its table's name, by which an image.toml asks for it.
        file: its usual file name.
        sha256: of the file.
        content_sha256: of the file once decompressed, where the same tar is found in several packings.
        first_use: no digest is published: the first file seen is held to. `settled` then fills `sha256`.
        zip_sha256: of the .zip that the file also comes in, whose digest is known.
        accept: the vendor's licence that the user must accept, as repro.base.user_lock names it.
        headers: what a download must send beside the usual.
        versioned: the table stands for every version; the archive of one has a name with '@', and is found whatever
            the case of its file's name.
        also: other names that the file may have.
        debian: its path in Debian's archive; '' where it is not Debian's. Such an archive is fetched as .debs are.
        size_bytes, snapshot: of such a one, its size and the date of the snapshot archive that holds it.
    """

    name: str
    title: str
    file: str
    licence: str
    page: str
    urls: tuple[str, ...]
    sha256: str = ""
    content_sha256: str = ""
    first_use: bool = False
    zip_sha256: str = ""
    accept: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    versioned: bool = False
    also: tuple[str, ...] = ()
    debian: str = ""
    size_bytes: int = 0
    snapshot: str = ""

    @property
    def locked(self) -> Optional[LockedFile]:
        """An archive of Debian's as a file to fetch; None for any other."""
        if not self.debian:
            return None
        return LockedFile(
            name=self.file,
            kind="source",
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            entry=f"sources: {self.title}",
            project=self.name,
            version="",
            archive="debian",
            path=self.debian,
            snapshot=self.snapshot,
        )

    @property
    def zip_file(self) -> str:
        """The name of the .zip that it also comes in; '' where it does not."""
        return f"{Path(self.file).stem}.zip" if self.zip_sha256 else ""

    @property
    def trust(self) -> str:
        """What its digest is held against, for the record."""
        if self.first_use and self.sha256 != self.zip_sha256:
            return _TRUSTED
        return "pinned in conf/sources.toml"

    @property
    def digest(self) -> str:
        """What a built layer's key takes for the archive's content."""
        return f"content:{self.content_sha256}" if self.content_sha256 else f"file:{self.sha256}"

    def digest_of(self, path: Path) -> str:
        """The hex digest of `path` that this archive is known by; '' when `path` is not of its packing."""
        return content_digest(path) if self.content_sha256 else sha256_file(path)

    def accepts(self, path: Path) -> bool:
        """Whether the file is this archive, by its digest; a file that cannot be read is not."""
        return _known(path, "content" if self.content_sha256 else "file") == (self.content_sha256 or self.sha256)


def content_digest(path: Path) -> str:
    """The hex sha256 of what `path` is packed of; '' where it is damaged or of another packing."""
    digest = hashlib.sha256()
    try:
        with _decompressed(path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except (EOFError, lzma.LZMAError, zlib.error, OSError):
        return ""
    return digest.hexdigest()


def _decompressed(path: Path) -> BinaryIO:
    opened: Any
    if path.suffix in (".gz", ".tgz"):
        opened = gzip.open(path)  # noqa: SIM115 - the caller closes it
    elif path.suffix == ".xz":
        opened = lzma.open(path)  # noqa: SIM115
    elif path.suffix == ".bz2":
        opened = bz2.open(path)  # noqa: SIM115
    else:
        opened = open(path, "rb")  # noqa: SIM115
    stream: BinaryIO = opened
    return stream


def load_sources(conf: Path) -> dict[str, SourceArchive]:
    """The archives of conf/sources.toml by name.

    Raises:
        UsageError: the file says something else.
    """
    return {name: _parsed(name, table) for name, table in read_toml(conf / "sources.toml").items()}


def _parsed(name: str, table: Any) -> SourceArchive:
    if not isinstance(table, dict) or set(table) - _KEYS:
        raise UsageError(f"conf/sources.toml: [{name}] may hold {', '.join(sorted(_KEYS))} and nothing else")
    of_debian = {"debian", "size_bytes", "snapshot"} & set(table)
    if len(of_debian) not in (0, 3) or (of_debian and "sha256" not in table):
        raise UsageError(f"conf/sources.toml: [{name}] of Debian's needs debian, size_bytes, snapshot and sha256")
    if sum(key in table for key in ("sha256", "content_sha256", "first_use")) != 1:
        raise UsageError(f"conf/sources.toml: [{name}] needs one of sha256, content_sha256 and first_use")
    try:
        lists = {key: tuple(table.get(key, ())) for key in ("urls", "also")} if "urls" in table else {}
        return SourceArchive(name=name, **{**table, **lists})
    except (KeyError, TypeError) as error:
        raise UsageError(f"conf/sources.toml: [{name}] is not complete: {error}") from None


def find_source(paths: Paths, source: SourceArchive) -> Optional[Path]:
    """The archive in data/sources: by its name, else by its hash. A file found by name is not hashed here."""
    folder = paths.data / "sources"
    for name in (source.file, source.zip_file):
        if name and (folder / name).is_file():
            return folder / name
    candidates = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
    if "@" in source.name:
        names = [name.lower() for name in (source.file, *source.also)]
        named = {path.name.lower(): path for path in candidates}
        found = next((named[name] for name in names if name in named), None)
        if found is not None:
            return found
    if not source.first_use:
        return next((path for path in candidates if source.accepts(path)), None)
    # By the published digest of its .zip, or by that of the file seen first under its usual name.
    zips = [path for path in candidates if source.zip_sha256 and path.suffix == ".zip"]
    for path in zips:
        if _hashed(path) == source.zip_sha256:
            return path
    wanted = source.sha256 or _recorded(paths, source)
    return next((path for path in candidates if wanted and _hashed(path) == wanted), None)


def _recorded(paths: Paths, source: SourceArchive) -> str:
    return str(user_lock.read(paths).get("sources", {}).get(source.file, ""))


def _hashed(path: Path) -> str:
    return _known(path, "file")


def _known(path: Path, what: str) -> str:
    """The hex sha256 of a file or of what it is packed of; '' where it cannot be read."""
    try:
        status = path.stat()
        return _sha256_of(str(path), what, status.st_size, status.st_mtime_ns)
    except OSError:
        return ""


def settled(paths: Paths, source: SourceArchive) -> SourceArchive:
    """The archive with the digest that it is held to: of one known only by first use, what was seen first.

    A file that was never seen is recorded now; where none is there and none was recorded, the digest stays empty.
    """
    if not source.first_use:
        return source
    path = find_source(paths, source)
    if path is not None and source.zip_sha256 and path.suffix == ".zip":
        return replace(source, sha256=source.zip_sha256)
    if path is None:
        return replace(source, sha256=_recorded(paths, source))
    return replace(source, sha256=user_lock.first_seen(paths, "sources", source.file, _hashed(path)))


@functools.lru_cache(maxsize=256)
def _sha256_of(path: str, what: str, _size_bytes: int, _mtime_ns: int) -> str:
    """A file of a gigabyte is asked for several times in one command, for each archive, and hashed once."""
    return content_digest(Path(path)) if what == "content" else sha256_file(Path(path))


def missing_sources(paths: Paths, names: tuple[str, ...]) -> list[SourceArchive]:
    """Those of the named archives that a person must put into data/sources; Debian's are fetched as .debs are.

    Raises:
        UsageError: conf/sources.toml does not have one of the names.
    """
    known = load_sources(paths.conf)
    sources = (known_source(known, name) for name in names)
    return [source for source in sources if source.locked is None and find_source(paths, source) is None]


def known_source(known: dict[str, SourceArchive], name: str) -> SourceArchive:
    """The archive of that name.

    Raises:
        UsageError: there is none.
    """
    stem, _, version = name.partition("@")
    if version and stem in known and known[stem].versioned:
        return _of_version(known[stem], version)
    if name not in known:
        raise UsageError(f"conf/sources.toml has no [{name}]", hint="known: " + ", ".join(sorted(known)))
    return known[name]


def _of_version(template: SourceArchive, version: str) -> SourceArchive:
    title, file, *also = (
        text.replace("{version}", version) for text in (template.title, template.file, *template.also)
    )
    name = f"{template.name}@{version}"
    return replace(template, name=name, title=title, file=file, also=tuple(also), versioned=False)


def how_to_get(source: SourceArchive) -> str:
    """For a person who lacks the archive."""
    others = [*filter(None, [source.zip_file]), *source.also]
    zipped = f" (or {', or '.join(others)})" if others else ""
    return f"get {source.file}{zipped} from {source.page} and put it into data/sources"


def copy_verified(paths: Paths, source: SourceArchive, target: Path) -> None:
    """Copy the archive to `target`, and verify the copy: what a build reads is what was hashed.

    Raises:
        CouldNotRun: it is not in data/sources, or its vendor's licence is not accepted.
        VerificationFailed: the file of that name is another one.
    """
    if source.accept:
        user_lock.require_accepted(paths, source.accept)
    source = settled(paths, source)
    path = find_source(paths, source)
    if path is None:
        raise CouldNotRun(f"{source.title} is not in data/sources", hint=how_to_get(source))
    copy = target.with_name(target.name + path.suffix)  # the suffix says how it is packed
    shutil.copyfile(path, copy)
    found = source.digest_of(copy)
    if found != (source.content_sha256 or source.sha256):
        copy.unlink()
        wanted = source.content_sha256 or source.sha256
        inside = "its content" if source.content_sha256 else "it"
        raise VerificationFailed(
            f"data/sources/{path.name} is not {source.title}: {inside} has sha256 {found or '(not readable)'}, "
            f"and {'data/user.lock.json' if source.trust == _TRUSTED else 'conf/sources.toml'} says {wanted}",
            hint=f"remove the file; {how_to_get(source)}"
            + (f"; if it was replaced on purpose, remove {source.file} from the lock" if source.first_use else ""),
        )
    copy.rename(target)
