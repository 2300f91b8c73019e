"""Verification of bundles for the rest of the project: what install.py does, in the project's own types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base.errors import BundleError, CouldNotVerify, UsageError, VerificationFailed
from repro.base.foreign import shown
from repro.base.paths import given_path
from repro.packing.installer import install
from repro.packing.installer.archive import Archive
from repro.packing.installer.folder import KEPT, Compared, compare_folder, installed_path, read_kept, read_plain
from repro.packing.installer.listing import LIST_NAME, Entry, Refused
from repro.packing.installer.rebuilders import Rebuilt, insist_on_rebuilders, read_rebuilders, trusted_rebuilders
from repro.packing.installer.statements import Statement
from repro.packing.installer.trust import Asked, Report, check_with, is_fingerprint, remember_key, trust_file
from repro.packing.installer.trust import verify as verify_file


@dataclass(frozen=True)
class BundleReport:
    """What a verification of a bundle found.

    Attributes:
        signer: fingerprint of the key that signed first, '' for nobody.
        trust: 'pinned', 'first use', 'unknown' or 'unsigned'.
        relied_on: the key that is meant by `trust`: the first signer's, or that of another who signed the list.
        also: fingerprints of the other keys that signed the list.
        failures: everything in which the bytes differ from the list, a line each, the first thing first.
        verified: no failures, and a key that is trusted here signed.
        list_sha256: of the signed list.
        files, size_bytes: what it lists.
        about: what the list says of the bundle as a whole.
        entries: the files by path.
        not_covered: of an installed folder: places of which the list says nothing, such as its Python environment.
        statements: in and beside the bundle, each signed and in agreement with it.
        rebuilt: what the trusted rebuilders say of each image; empty where none were named.
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
    relied_on: str = ""
    also: tuple[str, ...] = ()
    statements: tuple[Statement, ...] = ()
    rebuilt: tuple[Rebuilt, ...] = ()


@dataclass(frozen=True)
class Rebuilders:
    """Whose word on rebuilt images counts, and how many of them must confirm each image.

    Attributes:
        keys: a file of their public keys in PEM; '' for nobody.
        threshold: of those, how many.
        attestations: a folder of statements about the bundle; None for NAME.tar.attestations beside it.
    """

    keys: str = ""
    threshold: int = 1
    attestations: Path | None = None

    def asked(self, named: Sequence[str], *, first_use: bool = False) -> Asked:
        """The same with the signers' keys, as install.py takes it.

        Raises:
            Refused: there is no such file of keys, or a threshold without one.
        """
        keys = trusted_rebuilders(given_path("--rebuilders", self.keys) if self.keys else None, self.threshold)
        return Asked(named, first_use, self.attestations, keys)

    def check(self) -> None:
        """Find wrong use before anything else is done.

        Raises:
            UsageError: there is no such file of keys, or so many keys cannot meet the threshold.
        """
        try:
            keys = self.asked(()).rebuilders
        except Refused as error:
            raise translated(error) from error
        if keys and not 1 <= self.threshold <= len(keys):
            raise UsageError(
                f"--threshold {self.threshold} cannot be met by {len(keys)} rebuilders",
                hint="name more keys, or a lower threshold",
            )

    def insist(self, report: BundleReport) -> None:
        """Hold every image to the threshold.

        Raises:
            VerificationFailed: too few confirm an image, and one contradicts it.
            CouldNotVerify: too few confirm it, and the others say nothing.
        """
        if self.keys:
            try:
                insist_on_rebuilders(report.rebuilt, self.threshold)
            except Refused as error:
                raise translated(error) from error


NOBODY = Rebuilders()


def keys_of(file: str) -> dict[str, bytes]:
    """The public keys in a file of PEM blocks, by fingerprint; none for ''.

    Raises:
        UsageError: there is no such file, or no key in it.
    """
    try:
        return read_rebuilders(given_path("the file of keys", file)) if file else {}
    except Refused as error:
        raise translated(error) from error


def _report(report: Report, not_covered: Sequence[str] = ()) -> BundleReport:
    listing = report.listing
    return BundleReport(
        signer=listing.fingerprint,
        trust=report.trust,
        failures=report.failures,
        verified=report.verified,
        list_sha256=listing.sha256,
        files=len(listing.entries),
        size_bytes=sum(entry.size_bytes for entry in listing.entries),
        about=listing.about,
        entries={entry.path: entry for entry in listing.entries},
        not_covered=tuple(not_covered),
        relied_on=report.relied_on,
        also=report.also,
        statements=report.checked.statements,
        rebuilt=report.rebuilt,
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


def verify_bundle(
    path: Path, keys: Sequence[str] = (), rebuilders: Rebuilders = NOBODY, *, first_use: bool = False
) -> BundleReport:
    """Verify a bundle's file, or its parts, byte by byte, and every statement that it carries or that lies beside it.

    Args:
        path: the file, the first of its parts, or a folder with just one bundle in it.
        keys: fingerprints to accept; none for the keys trusted on this machine.
        rebuilders: whose word on rebuilt images is asked for.
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
        return _report(verify_file(path, rebuilders.asked(named, first_use=first_use)))
    except Refused as error:
        raise translated(error) from error


def verify_installed(root: Path, keys: Sequence[str] = (), rebuilders: Rebuilders = NOBODY) -> BundleReport:
    """Hold a folder that was installed from a bundle to that bundle's list.

    Every listed file is hashed again, and its executable bits compared. What no list names is a failure, except in the
    places for what this machine makes or its user puts there: those are named in `not_covered`.

    Args:
        root: the folder.
        keys, rebuilders: as `verify_bundle`; statements beside the bundle are read where a folder of them is named.

    Raises:
        CouldNotVerify: the folder was not installed from a bundle.
        VerificationFailed, UsageError: as `verify_bundle`.
    """
    named = fingerprints(keys)
    found: list[Compared] = []
    try:
        listing = read_kept(root)
        if listing is None:
            raise CouldNotVerify(f"{root} was not installed from a bundle", hint="name a bundle's file")
        entries = {entry.path: entry for entry in listing.entries}

        def read(path: str) -> bytes | None:
            entry = entries.get(path)
            return None if entry is None else read_plain(root, installed_path(entry), entry.size_bytes)

        def compare() -> Sequence[str]:
            found.append(compare_folder(root, listing))
            return [*found[0].wrong, *found[0].extra]

        report = check_with(listing, read, compare, rebuilders.asked(named))
    except Refused as error:
        raise translated(error) from error
    return _report(report, found[0].not_covered)


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
