"""`invoke lock.verify`: every lock's chain from Debian's key to the hash of each .deb."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from repro.base.errors import CouldNotRun, CouldNotVerify
from repro.fetching import Cache, fetch_files
from repro.locks.debian import verify_debian_chain
from repro.locks.model import load_deb_lock, lock_names

Log = Callable[[str], None]


def verify_chain(root: Path, log: Log) -> None:
    """Prove the hash of every .deb of every lock by Debian's own key; fetches the Packages indexes it needs.

    Args:
        root: the repository.
        log: called with a line per lock and suite.

    Raises:
        VerificationFailed: a link does not hold.
        CouldNotVerify: a keyring, an InRelease or an index cannot be had.
    """
    cache = Cache(root)
    locks = [load_deb_lock(root, name, architecture) for name, architecture in lock_names(root, "debs")]
    try:
        fetch_files(root, [file for lock in locks for file in lock.index_files])
    except CouldNotRun as error:
        raise CouldNotVerify(
            f"the chain to Debian's key was not checked: {error.message}", detail=error.detail, hint=error.hint
        ) from error

    for lock in sorted(locks, key=lambda lock: (lock.architecture, lock.suite, lock.name)):
        for link in verify_debian_chain(root, lock, cache.read):
            log(f"{lock.label}: {link.debs} packages proven by {link.suite}, signed by {', '.join(link.signers)}")
