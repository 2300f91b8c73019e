"""Fetching the source archives of conf/sources.toml, on request: nothing of the portable toolchain needs one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import requests

from repro.base import user_lock
from repro.base.errors import FetchError
from repro.base.paths import Paths
from repro.fetching.session import http_session
from repro.fetching.site import whereabouts
from repro.images.archives import fetch_source, find_source, known_source, load_sources

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


def _opener(session: requests.Session, headers: Mapping[str, str]) -> Callable[[str], Iterator[bytes]]:
    def open_url(url: str) -> Iterator[bytes]:
        with session.get(url, headers=dict(headers), stream=True, timeout=_TIMEOUT_S) as response:
            response.raise_for_status()  # requests' errors are OSErrors
            yield from response.iter_content(_CHUNK_BYTES)

    return open_url
