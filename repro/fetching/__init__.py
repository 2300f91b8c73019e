"""Fetching: locked files from this machine's own sources into the cache, each verified by its hash.

HTTP and the parsers of index pages take 0.4 s to import, so they are imported only when something is fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from repro.base.errors import UsageError
from repro.display.console import Console, Transfer
from repro.fetching.cache import Cache
from repro.fetching.receiver import Receiver
from repro.locks.model import LockedFile, load_deb_lock, load_wheel_lock, lock_names

__all__ = ["Cache", "Receiver", "fetch_all", "fetch_files", "locked_files"]


def fetch_files(
    root: Path,
    files: Iterable[LockedFile],
    progress: Transfer | None = None,
    receiver: Receiver | None = None,
) -> None:
    """Bring files into the repository's cache from this machine's sources.

    Args:
        root: the repository.
        files: what is wanted.
        progress: shown on stderr where left out.
        receiver: told of each file that is there and right.

    Raises:
        UsageError: conf/site.toml is wrong.
        VerificationFailed, FetchError, CouldNotRun: as `repro.fetching.download.fetch`.
    """
    from repro.fetching.download import fetch  # noqa: PLC0415 - requests: 0.2 s
    from repro.fetching.origins import sources_of  # noqa: PLC0415 - requests: 0.2 s
    from repro.fetching.session import http_session  # noqa: PLC0415 - requests: 0.2 s
    from repro.fetching.site import whereabouts  # noqa: PLC0415 - requests: 0.2 s

    where = whereabouts(root)
    with http_session(where) as session:
        shown = progress or Console().transfer("fetch")
        fetch(files, Cache(root), sources_of(root, where, session), session, shown, receiver)


def locked_files(root: Path, architectures: Sequence[str], sets: Sequence[str] = ()) -> list[LockedFile]:
    """Every file of the locks of some architectures and sets ('debs/base', 'wheels/base', …; none for all).

    Raises:
        UsageError: an unknown set.
    """
    found: list[LockedFile] = []
    known = set()
    for kind in ("debs", "wheels"):
        for name, architecture in lock_names(root, kind):
            known.add(f"{kind}/{name}")
            if architecture in architectures and (not sets or f"{kind}/{name}" in sets):
                if kind == "debs":
                    found.extend(load_deb_lock(root, name, architecture).files)
                else:
                    found.extend(load_wheel_lock(root, name, architecture).files)
    unknown = sorted(set(sets) - known)
    if unknown:
        raise UsageError(f"no lock is called {', '.join(unknown)}", hint="known: " + ", ".join(sorted(known)))
    return found


def fetch_all(root: Path, architectures: Sequence[str], sets: Sequence[str], progress: Transfer | None = None) -> None:
    """Bring every file of the locks named. Arguments as `locked_files`, errors as `fetch_files`."""
    fetch_files(root, locked_files(root, architectures, sets), progress)
