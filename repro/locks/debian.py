"""Debian's own formats: InRelease, Packages; and the chain from Debian's key to the sha256 of a .deb."""

from __future__ import annotations

import functools
import lzma
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from debian import deb822

from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.base.files import sha256_bytes
from repro.locks.model import Deb, DebLock, Index, LockedFile
from repro.locks.openpgp import verify_cleartext

KEPT_FIELDS = ("Package", "Source", "Version", "Architecture", "Filename", "Size", "SHA256")
"""The fields whose lines a lock keeps verbatim: what names a package and its bytes."""

_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Release:
    """What a Release file says: its first-level fields, and (size in bytes, sha256) of each file it lists."""

    fields: Mapping[str, str]
    sha256: Mapping[str, tuple[int, str]]


def parse_release(text: str) -> Release:
    """Read the signed text of an InRelease (deb-release format).

    Raises:
        ValueError: a line of its SHA256 list is not 'HASH SIZE PATH', or a path is listed twice.
    """
    release = deb822.Release(text)
    listed: dict[str, tuple[int, str]] = {}
    for entry in release.get("SHA256", ()):
        digest, size, path = (str(entry.get(key, "")) for key in ("sha256", "size", "name"))
        if not _HEX_SHA256.fullmatch(digest) or not size.isascii() or not size.isdigit() or not path or path in listed:
            raise ValueError(f"bad entry in the SHA256 list: {digest} {size} {path}".rstrip())
        listed[path] = (int(size), digest)
    return Release({key: value for key, value in release.items() if isinstance(value, str)}, listed)


def stanzas(text: str) -> Iterator[tuple[str, ...]]:
    """The stanzas of a Packages file, each as its verbatim lines, which are a lock's evidence.

    python-debian's reader takes 3.4 s of processor time for 63,000 stanzas, of which a lock needs a few hundred; this
    takes 0.4 s.
    """
    for block in text.split("\n\n"):
        lines = tuple(filter(None, block.split("\n")))
        if lines:
            yield lines


def fields_of(stanza: tuple[str, ...]) -> dict[str, str]:
    """The fields of a stanza."""
    return dict(deb822.Deb822("\n".join(stanza)))


def kept_lines(stanza: tuple[str, ...]) -> tuple[str, ...]:
    """The lines of a stanza that a lock keeps, in the stanza's order."""
    return tuple(line for line in stanza if line.partition(":")[0] in KEPT_FIELDS)


@dataclass(frozen=True)
class ChainLink:
    """What one index proved: who signed it, and how many .debs of the lock it lists."""

    suite: str
    signers: tuple[str, ...]
    debs: int


IndexReader = Callable[[LockedFile], bytes]
"""Returns the bytes of a Packages.xz; raises CouldNotRun or CouldNotVerify where it cannot be had."""


def verify_debian_chain(root: Path, lock: DebLock, read_index: IndexReader | None) -> tuple[ChainLink, ...]:
    """Prove each .deb's hash by Debian's own key, and not by us.

    The chain: a certificate in conf/keys -> the signature of the committed InRelease -> the sha256 of the Packages
    index that it lists -> the locked lines, found together in one stanza of that index -> the .deb's sha256.

    Args:
        root: the repository.
        lock: what is to be proved.
        read_index: brings a Packages.xz; None proves all but the two links that need the index.

    Raises:
        VerificationFailed: a link does not hold; names the suite or the .deb.
        CouldNotVerify: the keyring, an InRelease or an index is missing.
    """
    links = []
    for index, wanted in zip(lock.indexes, lock.index_files):
        debs = [deb for deb in lock.debs if deb.suite == index.suite]
        for deb in debs:
            _check_lock_lines(lock, deb)
        signers = _verify_index_listed(root, lock, index)
        if read_index is not None:
            _verify_stanzas(lock, index, debs, read_index(wanted))
        links.append(ChainLink(index.suite, signers, len(debs)))
    return tuple(links)


def keyring_path(root: Path) -> Path:
    """The committed keys of Debian's archive."""
    return root / "conf" / "keys" / "debian-archive-keyring.gpg"


def _verify_index_listed(root: Path, lock: DebLock, index: Index) -> tuple[str, ...]:
    path = root / "conf" / "locks" / index.inrelease
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CouldNotVerify(
            f"{lock.label}: {path} cannot be read: {error.strerror}", hint="restore it, or write the lock again"
        ) from error
    if sha256_bytes(data) != index.inrelease_sha256:
        raise VerificationFailed(
            f"{lock.label}: {path.name} has sha256 {sha256_bytes(data)}, the lock says {index.inrelease_sha256}"
        )
    signed = verify_cleartext(data, keyring_path(root), path.name)
    try:
        release = parse_release(signed.text)
    except ValueError as error:
        raise VerificationFailed(f"{lock.label}: {path.name}: {error}") from error
    if release.fields.get("Codename") != index.suite:
        raise VerificationFailed(
            f"{lock.label}: {path.name} speaks of {release.fields.get('Codename')}, not of {index.suite}"
        )
    found = release.sha256.get(index.path)
    if found != (index.size_bytes, index.sha256):
        raise VerificationFailed(
            f"{lock.label}: {path.name} lists {index.path} as {found}, the lock as {(index.size_bytes, index.sha256)}"
        )
    if not index.signed_by or not set(index.signed_by) <= set(signed.signers):
        raise VerificationFailed(
            f"{lock.label}: {path.name} is signed by {', '.join(signed.signers)}; the lock says "
            f"{', '.join(index.signed_by) or 'nobody'}"
        )
    return signed.signers


def _check_lock_lines(lock: DebLock, deb: Deb) -> None:
    """The lock's own fields say what its verbatim lines say: so that the lines prove the fields."""
    fields = fields_of(deb.stanza)
    said = {
        "Package": deb.package,
        "Version": deb.version,
        "Architecture": deb.architecture,
        "Filename": deb.path,
        "Size": str(deb.size_bytes),
        "SHA256": deb.sha256,
    }
    for key, value in said.items():
        if fields.get(key) != value:
            raise VerificationFailed(
                f"{lock.label}: {deb.package}: the lock says {key} {value}, its Packages lines {fields.get(key)}"
            )


@functools.lru_cache(maxsize=3)
def _unpacked(data: bytes) -> str:
    """The text of a Packages.xz (45 MB, 0.6 s); several locks are proven by the same one."""
    return lzma.decompress(data).decode("utf-8")


def _verify_stanzas(lock: DebLock, index: Index, debs: list[Deb], data: bytes) -> None:
    if (len(data), sha256_bytes(data)) != (index.size_bytes, index.sha256):
        raise VerificationFailed(
            f"{lock.label}: the index of {index.suite} has sha256 {sha256_bytes(data)}, expected {index.sha256}"
        )
    try:
        text = _unpacked(data)
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise VerificationFailed(f"{lock.label}: the index of {index.suite} cannot be read: {error}") from error
    missing = {deb.stanza: deb for deb in debs}
    names = {f"Package: {deb.package}" for deb in debs}
    for stanza in stanzas(text):
        if not names.isdisjoint(stanza):
            missing.pop(kept_lines(stanza), None)
    for deb in missing.values():
        raise VerificationFailed(
            f"{lock.label}: the signed index of {index.suite} does not hold the lines of {deb.package} {deb.version}",
            hint="the lock was not made from this index; write it again with `invoke lock`",
        )
