"""Whose signature counts on this machine, and the verification of a bundle as a whole."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional, Union

from repro.packing.installer.archive import Archive, check_bytes
from repro.packing.installer.listing import Listing, Refused
from repro.packing.installer.rebuilders import Rebuilt, count_rebuilders
from repro.packing.installer.settings import settings_folder, settings_locked, write_settings
from repro.packing.installer.statements import Beside, Checked, Read, check_statements, read_beside

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class Asked(NamedTuple):
    """What somebody who verifies asks for.

    `named`: fingerprints of the keys to accept; none for those trusted here. `first_use`: trust the signer from now on,
    where no key is trusted here yet. `attestations`: a folder of statements; none for the one beside the bundle.
    `rebuilders`: the public keys of trusted rebuilders, by fingerprint.
    """

    named: Sequence[str] = ()
    first_use: bool = False
    attestations: Optional[Path] = None
    rebuilders: Mapping[str, bytes] = {}


class Report(NamedTuple):
    """What a verification found. `trust` is 'pinned', 'first use', 'unknown' or 'unsigned'; it is verified when
    `failures` is empty and the key is trusted. `relied_on`: the key that is meant by `trust`, '' where nobody signed;
    `also`: the other keys that signed the list, its first signer's among them. `rebuilt`: what the trusted rebuilders
    say of each image; empty where none were named."""

    listing: Listing
    trust: str
    failures: tuple[str, ...]
    verified: bool
    relied_on: str
    also: tuple[str, ...]
    checked: Checked
    rebuilt: tuple[Rebuilt, ...]


def is_fingerprint(text: str) -> bool:
    """Whether a text has a fingerprint's form: 64 lower-case hex digits."""
    return bool(_FINGERPRINT.fullmatch(text))


def trust_file() -> Path:
    """Where this user's trusted keys are kept."""
    return settings_folder() / "trusted-keys.json"


def trusted_keys() -> dict[str, str]:
    """Fingerprint -> 'pinned' or 'first use'."""
    try:
        known = json.loads(trust_file().read_bytes())
        if not all(_FINGERPRINT.fullmatch(key) and how in ("pinned", "first use") for key, how in known.items()):
            raise ValueError("it is not a table of fingerprints")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Refused(4, f"{trust_file()} cannot be read: {error.strerror}", "mend its mode, or remove it") from None
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise Refused(2, f"{trust_file()} is damaged: {error}", "mend or remove it") from None
    return dict(known)


def remember_key(fingerprint: str, how: str) -> None:
    """Trust a key from now on; one that is pinned stays pinned.

    Raises:
        Refused: code 3, `how` is 'first use' and another key is trusted by now: of two first uses at once, one counts.
    """
    try:
        with settings_locked() as folder:
            known = trusted_keys()
            if how == "first use":
                trust_in(fingerprint, (), known)
            known[fingerprint] = "pinned" if "pinned" in (how, known.get(fingerprint)) else how
            write_settings(folder / trust_file().name, known)
    except OSError as error:
        raise Refused(
            4, f"the key cannot be remembered in {trust_file()}: {error.strerror}", "name it each time: --key"
        ) from None


def trust_in(fingerprint: str, named: Sequence[str], known: dict[str, str]) -> str:
    """How far a signer is trusted here.

    Args:
        fingerprint: of the key that signed, '' for none.
        named: keys named for this verification; where given, only they count.
        known: as `trusted_keys`.

    Raises:
        Refused: code 3, keys are named or known, and the signer is none of them.
    """
    if fingerprint and fingerprint in named:
        return "pinned"
    if named or (known and fingerprint not in known):
        who = f"signed by the key {fingerprint}" if fingerprint else "not signed"
        keys = "the key named" if named else f"a key trusted here ({trust_file()})"
        raise Refused(
            3, "the bundle is {}, not by {}: {}".format(who, keys, ", ".join(sorted(named or known))),
            "if its maker has a new key, learn its fingerprint from the maker, not from the bundle: --key FINGERPRINT",
        )  # fmt: skip
    return known.get(fingerprint, "unknown") if fingerprint else "unsigned"


def verify(path: Union[str, Path], asked: Asked) -> Report:
    """Verify a bundle and write nothing, except the key where `first_use` accepts it.

    Args:
        path: the file, the first of its parts, or a folder that holds nothing else.
        asked: whose signatures count.

    Raises:
        Refused: the list itself is wrong, a part is missing, or another key signed.
    """
    archive = Archive(Path(path))
    try:
        return check(archive, asked)
    finally:
        archive.close()


def check(archive: Archive, asked: Asked) -> Report:
    """The same for an archive that is open, and stays so."""
    beside = asked._replace(attestations=asked.attestations or archive.beside())
    report = check_with(archive.listing, archive.content, lambda: check_bytes(archive), beside)
    if report.trust == "unknown" and asked.first_use and not report.failures:
        remember_key(archive.listing.fingerprint, "first use")
        return report._replace(trust="first use", verified=True)
    return report


def check_with(listing: Listing, read: Read, check_files: Callable[[], Sequence[str]], asked: Asked) -> Report:
    """Whose signature a list has, whether the files are as listed, and what the statements say.

    Args:
        listing: of a bundle, or of a folder that was installed from one.
        read: gives the content of a listed file.
        check_files: names every file that is not as listed.
        asked: whose signatures count; its `attestations` is the folder of statements beside the bundle.
    """
    beside = read_beside(listing, asked.attestations, asked.rebuilders) if asked.attestations else Beside()
    known = trusted_keys()
    accepted = asked.named or known
    signers = (listing.fingerprint, *beside.countersigners)
    relied_on = next((key for key in signers if key in accepted), listing.fingerprint)
    trust = trust_in(relied_on, asked.named, known)
    failures, checked = list(check_files()), Checked()
    if not failures:
        checked = check_statements(listing, read, beside, asked.rebuilders)
        failures += checked.failures
    rebuilt = count_rebuilders(checked.images, checked.statements, asked.rebuilders) if asked.rebuilders else []
    verified = not failures and trust in ("pinned", "first use")
    also = tuple(key for key in signers if key not in ("", relied_on))
    return Report(listing, trust, tuple(failures), verified, relied_on, also, checked, tuple(rebuilt))
