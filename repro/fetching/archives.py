"""Fetching the source archives of conf/sources.toml, on request: nothing of the portable toolchain needs one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import requests

from repro.base import user_lock
from repro.base.errors import FetchError
from repro.base.files import publish_file
from repro.base.locking import locked
from repro.base.paths import Paths
from repro.base.temporary_file import temporary_file
from repro.fetching.session import http_session
from repro.fetching.site import whereabouts
from repro.locks.archives import SourceArchive, find_source, how_to_get, known_source, load_sources, settled

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 60


def fetch_archives(paths: Paths, names: Sequence[str], say: Callable[[str], None]) -> None:
    """Bring archives into data/sources, each verified by its digest; all are tried before the first failure is raised.

    Args:
        paths: of the checkout.
        names: tables of conf/sources.toml.
        say: is told of each archive.

    Raises:
        UsageError: an unknown name, or conf/site.toml is wrong.
        CouldNotRun: a vendor's licence is not accepted.
        FetchError: some could not be had; says for each why, and where a person gets it.
    """
    known = load_sources(paths.conf)
    wanted = [known_source(known, name) for name in names]
    for source in wanted:
        if source.accept:
            user_lock.require_accepted(paths, source.accept)
    failures = []
    with http_session(whereabouts(paths.root)) as session:
        for source in wanted:
            if find_source(paths, source) is not None:
                say(f"{source.title}: it is in data/sources")
                continue
            say(f"fetching {source.title}")
            try:
                fetch_source(paths, source, _opener(session, source.headers))
            except FetchError as error:
                failures.append(error)
    if failures:
        raise FetchError(
            "; ".join(error.message for error in failures),
            detail="\n".join(error.detail for error in failures),
            hint="\n".join(error.hint for error in failures),
        )


def fetch_source(paths: Paths, source: SourceArchive, open_url: Callable[[str], Iterator[bytes]]) -> Path:
    """Download an archive into data/sources, where a wrong or broken one never appears.

    Of two processes that fetch the same archive one waits, and then finds it there.

    Args:
        paths: of the checkout.
        source: what is wanted.
        open_url: gives the chunks of a URL's content; raises OSError.

    Raises:
        FetchError: no URL gave the right bytes; says for each why.
    """
    target = paths.data / "sources" / (source.zip_file or source.file)
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".lock.{target.name}")
    with locked(lock, create=True):
        try:
            there = find_source(paths, source)
            return there if there is not None else _fetched(paths, source, target, open_url)
        finally:
            lock.unlink(missing_ok=True)  # while it is held: whoever waits sees that the name is gone


def _fetched(paths: Paths, source: SourceArchive, target: Path, open_url: Callable[[str], Iterator[bytes]]) -> Path:
    # Where no digest is published, the first file seen is recorded and held to, as one put there by hand.
    held_to = settled(paths, source)
    wanted = replace(held_to, first_use=False, sha256=source.zip_sha256) if source.zip_sha256 else held_to
    complaints = []
    for url in source.urls:
        with temporary_file(target.parent, target.suffix) as (part, stream):
            try:
                for chunk in open_url(url):
                    stream.write(chunk)
                stream.flush()
            except OSError as error:
                complaints.append(f"{url}: {error}")
                continue
            first = wanted.first_use and not wanted.sha256
            if stream.tell() == 0 or not (first or wanted.accepts(part)):
                complaints.append(f"{url}: it gave a file with another sha256")
                continue
            publish_file(part, stream, target)
            settled(paths, source)
            return target
    raise FetchError(f"cannot fetch {source.title}", detail="\n".join(complaints), hint=how_to_get(source))


def _opener(session: requests.Session, headers: Mapping[str, str]) -> Callable[[str], Iterator[bytes]]:
    def open_url(url: str) -> Iterator[bytes]:
        with session.get(url, headers=dict(headers), stream=True, timeout=_TIMEOUT_S) as response:
            response.raise_for_status()  # requests' errors are OSErrors
            yield from response.iter_content(_CHUNK_BYTES)

    return open_url
