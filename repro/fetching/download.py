"""Bringing locked files into the cache: parallel, resumable, and verified before anything can trust them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests

from repro.base.errors import BundleError, CouldNotRun, FetchError, VerificationFailed
from repro.base.files import sha256_file
from repro.display.console import Transfer
from repro.fetching.cache import Cache, cache_error
from repro.fetching.origins import Location, NotOfferedError, Source, redacted
from repro.fetching.receiver import Receiver
from repro.locks.model import LockedFile

_THREADS = 8
_CHUNK_BYTES = 64 * 1024  # also what a cut connection may cost
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
    progress: Transfer,
    receiver: Receiver | None = None,
) -> None:
    """Bring files into the cache, each from the first source that delivers the locked bytes.

    A source that delivers other bytes is passed over with a note; only a file that no source delivers is an error.

    Args:
        files: what is wanted; the same digest twice is brought once.
        cache: where they go; what it already holds is hashed again, and brought anew where it is wrong.
        sources: in the order to be asked.
        session: for http and https.
        progress: told what arrives.
        receiver: told of each file that is there and right.

    Raises:
        VerificationFailed: a source delivered wrong bytes for a file, and no other source delivered right ones.
        FetchError: no source delivered a file; names its lock entry, and each source with its reason.
        CouldNotRun: no space, or the cache cannot be written.
    """
    wanted = list({file.sha256: file for file in files}.values())
    receiver = receiver or Receiver()
    with progress:
        missing = _missing(wanted, cache, receiver)
        if missing:
            _check_space(missing, cache)
            progress.begin(len(missing), sum(file.size_bytes for file in missing))
            job = _Fetch(cache, sources, session, progress, receiver)
            _all(job, _largest_first(missing))


def _largest_first(files: Sequence[LockedFile]) -> list[LockedFile]:
    """The largest is what the whole waits for; the others in the order in which they were asked for, and are needed."""
    largest = max(files, key=lambda file: file.size_bytes, default=None)
    return sorted(files, key=lambda file: file is not largest)


def _missing(wanted: Sequence[LockedFile], cache: Cache, receiver: Receiver) -> list[LockedFile]:
    """The files that the cache does not hold; the others are hashed side by side, and told of as they are."""

    def is_missing(file: LockedFile) -> bool:
        if not cache.holds(file.sha256):
            return True
        receiver.add(file.sha256)
        return False

    files = _largest_first(wanted)
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="hash") as pool:
        return [file for file, missing in zip(files, pool.map(is_missing, files)) if missing]


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
    begun = sum(_size_of(cache.part(file.sha256)) for file in missing)
    needed_bytes = sum(file.size_bytes for file in missing) - begun + _SPACE_MARGIN_BYTES
    if free_bytes < needed_bytes:
        raise CouldNotRun(
            f"{needed_bytes / 1e6:.0f} MB are needed in {cache.folder}, {free_bytes / 1e6:.0f} MB are free",
            hint="free some space, or put the checkout on a larger disk",
        )


class _Meter:
    """Tells progress how much of one file is there; what was told is taken back when bytes are given up."""

    def __init__(self, progress: Transfer) -> None:
        self._progress = progress
        self._told_bytes = 0

    def at(self, size_bytes: int) -> None:
        """The file has `size_bytes` now."""
        self._progress.advance(size_bytes - self._told_bytes)
        self._told_bytes = size_bytes


class _Fetch:
    """One call of `fetch`: what its threads share."""

    def __init__(
        self,
        cache: Cache,
        sources: Sequence[Source],
        session: requests.Session,
        progress: Transfer,
        receiver: Receiver,
    ) -> None:
        self.stop = receiver.stopped
        self._cache = cache
        self._sources = sources
        self._session = session
        self._progress = progress
        self._receiver = receiver
        self._dead: dict[str, str] = {}

    def bring(self, file: LockedFile) -> None:
        """Bring one file, or raise why not."""
        if self.stop.is_set():
            return
        meter = _Meter(self._progress)
        with self._cache.exclusive(file.sha256):
            if not self._cache.holds(file.sha256):  # else another process was faster
                self._from_any(file, meter)
            meter.at(file.size_bytes)
            self._progress.file_done()
        self._receiver.add(file.sha256)

    def _from_any(self, file: LockedFile, meter: _Meter) -> None:
        attempts = _Attempts()
        for source in self._sources:
            try:
                for location in source.locate(file):
                    if self._from(file, location, source.label, attempts, meter):
                        return
            except NotOfferedError as reason:
                attempts.failed.append(f"{source.label}: {reason}")
        raise _exhausted(file, attempts)

    def _from(self, file: LockedFile, location: Location, label: str, attempts: _Attempts, meter: _Meter) -> bool:
        part = self._cache.part(file.sha256)
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            if location.path is not None:
                self._forget(part)
                self._write(file, part, 0, _chunks_of(location.path), meter)
                self._check(file, part)
            else:
                self._download(file, location.url, part, meter)
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
        meter.at(0)
        if _size_of(part) == 0:
            self._forget(part)
        return False

    def _download(self, file: LockedFile, url: str, part: Path, meter: _Meter) -> None:
        """Download, going on where a connection was cut; once more from the start if an old part proves wrong."""
        resumed = _size_of(part) > 0
        self._receive(file, url, part, meter)
        try:
            self._check(file, part)
        except _WrongBytesError:
            if not resumed:
                raise
            self._receive(file, url, part, meter)
            self._check(file, part)

    def _receive(self, file: LockedFile, url: str, part: Path, meter: _Meter) -> None:
        """Request what is missing until it is there; a connection that is cut after some bytes is taken up again."""
        host = urlsplit(url).netloc
        cuts = 0
        while _size_of(part) < file.size_bytes:
            if host in self._dead:
                raise _UnavailableError(self._dead[host])
            have = _size_of(part)
            try:
                self._request(file, url, part, have, meter)
                return
            except requests.RequestException as error:
                reason = f"{type(error).__name__}: {redacted(str(error))}"
                cuts += 1
                if _size_of(part) == have == 0 and isinstance(error, requests.ConnectionError):
                    self._dead[host] = reason
                if _size_of(part) <= have or cuts > _CUTS_TOLERATED:
                    raise _UnavailableError(reason) from error

    def _request(self, file: LockedFile, url: str, part: Path, have: int, meter: _Meter) -> None:
        headers = {"Accept-Encoding": "identity"}  # what is hashed is the file, not a spelling of it
        if have:
            headers["Range"] = f"bytes={have}-"
        with self._session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            if response.status_code >= 400:
                if response.status_code == 416:
                    self._forget(part)
                raise _UnavailableError(f"HTTP {response.status_code} {response.reason or ''}".rstrip())
            goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            offset = have if response.status_code == 206 and goes_on else 0
            self._write(file, part, offset, response.iter_content(_CHUNK_BYTES), meter)

    def _write(self, file: LockedFile, part: Path, offset: int, chunks: Iterator[bytes], meter: _Meter) -> None:
        """Write chunks from `offset` on; one byte more than the lock says is enough to know that it is too long."""
        with open(part, "r+b" if offset else "wb") as stream:
            stream.seek(offset)
            stream.truncate()
            for chunk in chunks:
                if self.stop.is_set():
                    raise _UnavailableError("stopped, as another file failed")
                stream.write(chunk[: file.size_bytes + 1 - stream.tell()])
                meter.at(min(stream.tell(), file.size_bytes))
                if stream.tell() > file.size_bytes:
                    break
            stream.flush()
            os.fsync(stream.fileno())

    def _check(self, file: LockedFile, part: Path) -> None:
        size_bytes, digest = _size_of(part), sha256_file(part)
        if (size_bytes, digest) == (file.size_bytes, file.sha256):
            return
        self._forget(part)
        if size_bytes < file.size_bytes:
            raise _WrongBytesError(f"truncated: {size_bytes} bytes of {file.size_bytes}")
        if size_bytes > file.size_bytes:
            raise _WrongBytesError(f"too long: more than the {file.size_bytes} bytes of the lock")
        raise _WrongBytesError(f"expected sha256 {file.sha256}, found {digest}")

    @staticmethod
    def _forget(part: Path) -> None:
        part.unlink(missing_ok=True)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


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
