"""Fetching the source archives of conf/sources.toml, on request: nothing of the portable toolchain needs one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import requests

from repro.base import user_lock
from repro.base.errors import FetchError
from repro.base.paths import Paths
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

    Args:
        paths: of the checkout.
        source: what is wanted.
        open_url: gives the chunks of a URL's content; raises OSError.

    Raises:
        FetchError: no URL gave the right bytes; says for each why.
    """
    target = paths.data / "sources" / (source.zip_file or source.file)
    wanted = replace(source, first_use=False, sha256=source.zip_sha256) if source.zip_sha256 else source
    complaints = []
    for url in source.urls:
        with _partial(target) as part:
            try:
                with open(part, "wb") as stream:
                    for chunk in open_url(url):
                        stream.write(chunk)
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError as error:
                complaints.append(f"{url}: {error}")
                continue
            # Where no digest is published, the first file seen is recorded and held to, as one put there by hand.
            if part.stat().st_size == 0 or not (wanted.first_use or wanted.accepts(part)):
                complaints.append(f"{url}: it gave a file with another sha256")
                continue
            os.replace(part, target)
            settled(paths, source)
            return target
    raise FetchError(f"cannot fetch {source.title}", detail="\n".join(complaints), hint=how_to_get(source))


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".partial.{target.name}")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _opener(session: requests.Session, headers: Mapping[str, str]) -> Callable[[str], Iterator[bytes]]:
    def open_url(url: str) -> Iterator[bytes]:
        with session.get(url, headers=dict(headers), stream=True, timeout=_TIMEOUT_S) as response:
            response.raise_for_status()  # requests' errors are OSErrors
            yield from response.iter_content(_CHUNK_BYTES)

    return open_url
