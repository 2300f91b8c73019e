"""Verification of bundles for the rest of the project: what install.py does, in the project's own types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base.errors import BundleError, CouldNotVerify, UsageError, VerificationFailed
from repro.packing.installer.base import KEPT
from repro.packing.installer.listing import INSTALLED, LIST_NAME, Entry, Listing, Refused, read_listing
from repro.packing.installer.trust import remember_key, trust_file, trust_in, trusted_keys
from repro.packing.installer.trust import verify as verify_file


@dataclass(frozen=True)
class BundleReport:
    """What a verification of a bundle found.

    Attributes:
        signer: fingerprint of the key that signed, '' for nobody.
        trust: 'pinned', 'first use', 'unknown' or 'unsigned'.
        failures: everything in which the bytes differ from the list, a line each, the first thing first.
        verified: no failures, and a key that is trusted here signed.
        list_sha256: of the signed list.
        files, size_bytes: what it lists.
        about: what the list says of the bundle as a whole.
        entries: the files by path.
    """

    signer: str
    trust: str
    failures: tuple[str, ...]
    verified: bool
    list_sha256: str
    files: int
    size_bytes: int
    about: dict[str, Any]
    entries: dict[str, Entry]


def _report(listing: Listing, trust: str, failures: Sequence[str]) -> BundleReport:
    return BundleReport(
        signer=listing.fingerprint,
        trust=trust,
        failures=tuple(failures),
        verified=not failures and trust in ("pinned", "first use"),
        list_sha256=listing.sha256,
        files=len(listing.entries),
        size_bytes=sum(entry.size_bytes for entry in listing.entries),
        about=listing.about,
        entries={entry.path: entry for entry in listing.entries},
    )


def translated(error: Refused) -> BundleError:
    """install.py's refusal as an error of this project."""
    kinds: dict[int, type[BundleError]] = {2: UsageError, 3: VerificationFailed}
    return kinds.get(error.code, CouldNotVerify)(error.message, hint=error.hint, detail="\n".join(error.failures))


def verify_bundle(path: Path, keys: Sequence[str] = (), *, first_use: bool = False) -> BundleReport:
    """Verify a bundle's file, or its parts, byte by byte.

    Args:
        path: the file, the first of its parts, or a folder with just one bundle in it.
        keys: fingerprints to accept; none for the keys trusted on this machine.
        first_use: trust the signer from now on, where no key is trusted here yet.

    Returns:
        A report. Wrong bytes behind a sound list are failures in it, not an exception.

    Raises:
        VerificationFailed: the list is malformed, its signature does not hold, or another key signed it.
        CouldNotVerify: a file or part is missing.
    """
    try:
        report = verify_file(path, [key.lower() for key in keys], first_use)
    except Refused as error:
        raise translated(error) from error
    return _report(report.listing, report.trust, report.failures)


def verify_installed(root: Path, keys: Sequence[str] = ()) -> BundleReport:
    """Hold a folder that was installed from a bundle to that bundle's list: every file listed, hashed again.

    Args:
        root: the folder.
        keys: as `verify_bundle`.

    Raises:
        CouldNotVerify: the folder was not installed from a bundle.
        VerificationFailed: as `verify_bundle`.
    """
    from repro.base.files import sha256_file

    kept = root / KEPT
    if not (kept / LIST_NAME).is_file():
        raise CouldNotVerify(f"{root} was not installed from a bundle", hint="name a bundle's file")
    try:
        listing = read_listing((kept / LIST_NAME).read_bytes())
        trust = trust_in(listing.fingerprint, [key.lower() for key in keys], trusted_keys())
    except Refused as error:
        raise translated(error) from error
    failures = []
    for entry in listing.entries:
        inside = entry.path[len(INSTALLED) :] if entry.path.startswith(INSTALLED) else f"{KEPT}/{entry.path}"
        path = root / inside
        if path.is_symlink() or not path.is_file():
            failures.append(f"{inside}: missing")
        elif sha256_file(path) != entry.sha256:
            failures.append(f"{inside}: changed since it was installed")
    return _report(listing, trust, failures)


def trust_key(fingerprint: str) -> Path:
    """Trust a key from now on, because its owner said so by a way of its own; returns where that is kept.

    Raises:
        UsageError: it is no fingerprint.
    """
    text = fingerprint.lower().replace(":", "")
    if len(text) != 64 or any(letter not in "0123456789abcdef" for letter in text):
        raise UsageError(f"{fingerprint!r} is not a key's fingerprint", hint="64 hex digits; the maker tells them")
    try:
        remember_key(text, "pinned")
    except Refused as error:
        raise translated(error) from error
    return trust_file()
