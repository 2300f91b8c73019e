"""Bringing locked files into the cache: parallel, resumable, and verified before anything can trust them."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import requests

from bundle.errors import BundleError, CouldNotRun, FetchError, VerificationFailed
from bundle.fetching.cache import Cache, cache_error
from bundle.fetching.sources import Location, NotOfferedError, Source, redacted
from bundle.locks.model import LockedFile
from bundle.progress import Progress

_THREADS = 8
_CHUNK_BYTES = 256 * 1024
_TIMEOUT_S = (15.0, 60.0)
_CUTS_TOLERATED = 5
_SPACE_MARGIN_BYTES = 64 * 1024 * 1024


class _UnavailableError(Exception):
    """A place did not deliver; the text says why. The part that arrived is kept."""


class _WrongBytesError(Exception):
    """A place delivered something else; the text says expected and found. Nothing of it is kept."""


@dataclass
class _Attempts:
    """What was tried for one file, for the error at the end."""

    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def fetch(
    files: Iterable[LockedFile],
    cache: Cache,
    sources: Sequence[Source],
    session: requests.Session,
    progress: Progress,
) -> None:
    """Bring files into the cache, each from the first source that delivers the locked bytes.

    A source that delivers other bytes is passed over with a note; only a file that no source delivers is an error.

    Args:
        files: what is wanted; the same digest twice is brought once.
        cache: where they go; what it already holds is hashed again, and brought anew where it is wrong.
        sources: in the order to be asked.
        session: for http and https.
        progress: told what arrives.

    Raises:
        VerificationFailed: a source delivered wrong bytes for a file, and no other source delivered right ones.
        FetchError: no source delivered a file; names its lock entry, and each source with its reason.
        CouldNotRun: no space, or the cache cannot be written.
    """
    wanted = list({file.sha256: file for file in files}.values())
    with progress:
        missing = [file for file in wanted if not cache.holds(file.sha256)]
        if missing:
            _check_space(missing, cache)
            progress.begin(len(missing), sum(file.size_bytes for file in missing))
            job = _Fetch(cache, sources, session, progress)
            # the largest first: it is what the whole waits for
            _all(job, sorted(missing, key=lambda file: (-file.size_bytes, file.sha256)))


def _all(job: _Fetch, files: Sequence[LockedFile]) -> None:
    with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="fetch") as pool:
        futures = [pool.submit(job.bring, file) for file in files]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = [future for future in futures if future.done() and future.exception()]
        except BaseException:
            job.stop.set()
            raise
        if failed:
            job.stop.set()
    if failed:
        raise failed[0].exception() or AssertionError


def _check_space(missing: Sequence[LockedFile], cache: Cache) -> None:
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(cache.folder).free
    except OSError as error:
        raise cache_error(error, cache.folder) from error
    begun = sum(cache.part(file.sha256).stat().st_size for file in missing if cache.part(file.sha256).is_file())
    needed_bytes = sum(file.size_bytes for file in missing) - begun + _SPACE_MARGIN_BYTES
    if free_bytes < needed_bytes:
        raise CouldNotRun(
            f"{needed_bytes / 1e6:.0f} MB are needed in {cache.folder}, {free_bytes / 1e6:.0f} MB are free",
            hint="free some space, or put the checkout on a larger disk",
        )


class _Fetch:
    """One call of `fetch`: what its threads share."""

    def __init__(self, cache: Cache, sources: Sequence[Source], session: requests.Session, progress: Progress) -> None:
        self.stop = threading.Event()
        self._cache = cache
        self._sources = sources
        self._session = session
        self._progress = progress
        self._dead: dict[str, str] = {}

    def bring(self, file: LockedFile) -> None:
        """Bring one file, or raise why not."""
        if self.stop.is_set():
            return
        with self._cache.exclusive(file.sha256):
            if self._cache.holds(file.sha256):  # another process was faster
                self._progress.advance(file.size_bytes)
            else:
                self._from_any(file)
            self._progress.file_done()

    def _from_any(self, file: LockedFile) -> None:
        attempts = _Attempts()
        for source in self._sources:
            try:
                for location in source.locate(file):
                    if self._from(file, location, source.label, attempts):
                        return
            except NotOfferedError as reason:
                attempts.failed.append(f"{source.label}: {reason}")
        raise _exhausted(file, attempts)

    def _from(self, file: LockedFile, location: Location, label: str, attempts: _Attempts) -> bool:
        part = self._cache.part(file.sha256)
        try:
            if location.path is not None:
                self._copy(file, location.path, part)
            else:
                self._download(file, location.url, part)
            self._cache.accept(file.sha256)
            return True
        except _UnavailableError as reason:
            attempts.failed.append(f"{label}: {location}: {reason}")
        except _WrongBytesError as reason:
            text = f"{location}: {reason}"
            attempts.wrong.append(f"{label}: {text}")
            self._progress.note(f"{file.entry}: passed over {text}")
        except OSError as error:
            self._forget(part)
            raise cache_error(error, self._cache.folder) from error
        return False

    def _copy(self, file: LockedFile, source: Path, part: Path) -> None:
        self._forget(part)
        self._write(file, part, 0, _chunks_of(source))
        self._check(file, part)

    def _download(self, file: LockedFile, url: str, part: Path) -> None:
        """Download, going on where a connection was cut; once more from the start if an old part proves wrong."""
        resumed = part.is_file() and part.stat().st_size > 0
        self._receive(file, url, part)
        try:
            self._check(file, part)
        except _WrongBytesError:
            if not resumed:
                raise
            self._receive(file, url, part)
            self._check(file, part)

    def _receive(self, file: LockedFile, url: str, part: Path) -> None:
        host = url.split("/")[2]
        if host in self._dead:
            raise _UnavailableError(self._dead[host])
        counted = 0  # bytes of this part that progress was told
        cuts = 0
        while True:
            have = part.stat().st_size if part.is_file() else 0
            if have > file.size_bytes:
                self._forget(part)
                have = 0
            self._progress.advance(have - counted)
            counted = have
            if have == file.size_bytes:
                return
            try:
                counted += self._request(file, url, part, have)
                return
            except requests.RequestException as error:
                arrived = (part.stat().st_size if part.is_file() else 0) - have
                if arrived > 0:
                    counted += arrived
                if isinstance(error, requests.ConnectionError) and arrived <= 0 and have == 0:
                    self._dead[host] = f"{type(error).__name__}: {redacted(str(error))}"
                cuts = 0 if arrived > 0 else cuts + 1
                if arrived <= 0 or cuts > _CUTS_TOLERATED:
                    self._progress.advance(-counted)
                    raise _UnavailableError(f"{type(error).__name__}: {redacted(str(error))}") from error

    def _request(self, file: LockedFile, url: str, part: Path, have: int) -> int:
        """One request for what is missing; returns how many bytes the part has grown (less than 0: begun anew)."""
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with self._session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            if response.status_code >= 400:
                if response.status_code == 416:
                    self._forget(part)
                self._progress.advance(-have)
                raise _UnavailableError(f"HTTP {response.status_code} {response.reason or ''}".rstrip())
            goes_on = have > 0 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            offset = have if response.status_code == 206 and goes_on else 0
            self._progress.advance(offset - have)
            return offset - have + self._write(file, part, offset, response.iter_content(_CHUNK_BYTES))

    def _write(self, file: LockedFile, part: Path, offset: int, chunks: Iterator[bytes]) -> int:
        """Write chunks at `offset`, no more than the lock's size and one byte; returns how many bytes."""
        part.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "r+b" if offset else "wb") as stream:
            stream.seek(offset)
            stream.truncate()
            written = self._pour(stream, chunks, file.size_bytes + 1 - offset)
            stream.flush()
            os.fsync(stream.fileno())
        return written

    def _pour(self, stream: BinaryIO, chunks: Iterator[bytes], limit_bytes: int) -> int:
        written = 0
        for chunk in chunks:
            if self.stop.is_set():
                raise _UnavailableError("stopped, as another file failed")
            stream.write(chunk[: limit_bytes - written])
            arrived = min(len(chunk), limit_bytes - written)
            written += arrived
            self._progress.advance(arrived)
            if written >= limit_bytes:
                break
        return written

    def _check(self, file: LockedFile, part: Path) -> None:
        size_bytes = part.stat().st_size
        digest = hashlib.sha256()
        with open(part, "rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
        if (size_bytes, digest.hexdigest()) == (file.size_bytes, file.sha256):
            return
        self._forget(part)
        self._progress.advance(-size_bytes)
        if size_bytes < file.size_bytes:
            raise _WrongBytesError(f"truncated: {size_bytes} bytes of {file.size_bytes}")
        if size_bytes > file.size_bytes:
            raise _WrongBytesError(f"too long: more than the {file.size_bytes} bytes of the lock")
        raise _WrongBytesError(f"expected sha256 {file.sha256}, found {digest.hexdigest()}")

    @staticmethod
    def _forget(part: Path) -> None:
        part.unlink(missing_ok=True)


def _chunks_of(path: Path) -> Iterator[bytes]:
    """A file's content; an error of reading it is the source's, unlike one of writing the part."""
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise _UnavailableError(error.strerror or str(error)) from error


def _exhausted(file: LockedFile, attempts: _Attempts) -> BundleError:
    tried = "\n".join([*attempts.wrong, *attempts.failed])
    if attempts.wrong:
        return VerificationFailed(
            f"{file.entry}: {file.name} was delivered with wrong bytes: {attempts.wrong[0]}",
            detail=tried,
            hint="nothing of it was kept; check that source, or put the right file into data/sources",
        )
    return FetchError(
        f"{file.entry}: no source delivered {file.name}",
        detail=tried,
        hint=f"name a mirror or an index in conf/site.toml, or put {file.name} (sha256 {file.sha256}) into "
        "data/sources",
    )
