"""Verification of bundles for the rest of the project: what install.py does, in the project's own types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base.errors import BundleError, CouldNotVerify, UsageError, VerificationFailed
from repro.base.foreign import shown
from repro.packing.installer import install
from repro.packing.installer.archive import Archive
from repro.packing.installer.folder import KEPT, compare_folder, read_kept
from repro.packing.installer.listing import LIST_NAME, Entry, Listing, Refused
from repro.packing.installer.trust import is_fingerprint, remember_key, trust_file, trust_in, trusted_keys
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
        not_covered: of an installed folder: places of which the list says nothing, such as its Python environment.
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
    not_covered: tuple[str, ...] = ()


def _report(listing: Listing, trust: str, failures: Sequence[str], not_covered: Sequence[str] = ()) -> BundleReport:
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
        not_covered=tuple(not_covered),
    )


def fingerprints(keys: Sequence[str]) -> list[str]:
    """Fingerprints as they are compared: lower case, without colons.

    Raises:
        UsageError: one is none.
    """
    found = [key.lower().replace(":", "") for key in keys]
    for key, text in zip(keys, found):
        if not is_fingerprint(text):
            raise UsageError(
                f"{shown(key, 80)!r} is not a key's fingerprint",
                hint="64 hex digits, told by the maker of the bundle",
            )
    return found


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
        UsageError: a key is no fingerprint.
    """
    named = fingerprints(keys)
    try:
        report = verify_file(path, named, first_use=first_use)
    except Refused as error:
        raise translated(error) from error
    return _report(report.listing, report.trust, report.failures)


def verify_installed(root: Path, keys: Sequence[str] = ()) -> BundleReport:
    """Hold a folder that was installed from a bundle to that bundle's list.

    Every listed file is hashed again, and its executable bits compared. What no list names is a failure, except in the
    places for what this machine makes or its user puts there: those are named in `not_covered`.

    Args:
        root: the folder.
        keys: as `verify_bundle`.

    Raises:
        CouldNotVerify: the folder was not installed from a bundle.
        VerificationFailed, UsageError: as `verify_bundle`.
    """
    named = fingerprints(keys)
    try:
        listing = read_kept(root)
        if listing is None:
            raise CouldNotVerify(f"{root} was not installed from a bundle", hint="name a bundle's file")
        trust = trust_in(listing.fingerprint, named, trusted_keys())
    except Refused as error:
        raise translated(error) from error
    compared = compare_folder(root, listing)
    return _report(listing, trust, [*compared.wrong, *compared.extra], compared.not_covered)


def is_installed(path: Path) -> bool:
    """Whether a folder says that it was installed from a bundle."""
    return (path / KEPT / LIST_NAME).is_file()


def write_files(path: Path, target: Path, earlier: Sequence[Path] = ()) -> None:
    """Write a bundle's files as install.py does, into a new folder, and start none of them.

    Every byte is verified once more, whoever signed the list.

    Args:
        path: the bundle.
        target: does not exist yet.
        earlier: bundles or installed folders that hold what a difference leaves out.

    Raises:
        VerificationFailed: something is not as listed, or was changed in an earlier bundle; nothing is written.
        CouldNotVerify, CouldNotRun: a part or an earlier bundle is missing, or it cannot be written.
    """
    try:
        archive = Archive(path)
        try:
            install.write_files(archive, target, earlier)
        finally:
            archive.close()
    except Refused as error:
        raise translated(error) from error


def trust_key(fingerprint: str) -> Path:
    """Trust a key from now on, because its owner said so by a way of its own; returns where that is kept.

    Raises:
        UsageError: it is no fingerprint.
    """
    (text,) = fingerprints([fingerprint])
    try:
        remember_key(text, "pinned")
    except Refused as error:
        raise translated(error) from error
    return trust_file()
