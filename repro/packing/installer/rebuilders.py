"""Rebuilders: people who built a bundle's images again, and how many of those whom the reader trusts agree."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from repro.packing.installer.listing import Refused, fingerprint_of, public_key_of
from repro.packing.installer.statements import Statement

_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----\n[^-]*-----END PUBLIC KEY-----\n?")
_MOST_BYTES_OF_KEYS = 1 << 20


class Rebuilt(NamedTuple):
    """What the trusted rebuilders say of one image, by fingerprint. Whoever contradicts does not confirm."""

    image: str
    confirmed: tuple[str, ...]
    contradicted: tuple[str, ...]
    silent: tuple[str, ...]

    def sentence(self) -> str:
        """For people."""
        words = [
            "{} by {}".format(word, ", ".join(keys))
            for word, keys in (("confirmed", self.confirmed), ("contradicted", self.contradicted))
            if keys
        ]
        if self.silent:
            words.append("nothing said by {}".format(", ".join(self.silent)))
        return f"{self.image}: {'; '.join(words)}"


def read_rebuilders(path: Path) -> dict[str, bytes]:
    """The public keys in a file of PEM blocks, by fingerprint; a key that stands there twice counts once.

    Raises:
        Refused: code 2, there is no such file, or no key of Ed25519 in it.
    """
    try:
        with open(path, "rb") as stream:
            text = stream.read(_MOST_BYTES_OF_KEYS).decode("ascii")
        keys = [public_key_of(block) for block in _PEM.findall(text)]
    except OSError as error:
        raise Refused(2, f"{path} cannot be read: {error.strerror}", "name a file of public keys in PEM") from None
    except ValueError as error:
        raise Refused(2, f"{path}: {error}", "a rebuilder's public key is printed by `openssl pkey -pubout`") from None
    if not keys:
        raise Refused(2, f"{path} holds no public key in PEM", "put the rebuilders' keys into it, one after another")
    return {fingerprint_of(key): key for key in keys}


def trusted_rebuilders(path: Optional[Path], threshold: int) -> dict[str, bytes]:
    """As `read_rebuilders`; none where no file is named.

    Raises:
        Refused: code 2, also for a threshold that nobody could count towards.
    """
    if path is None and threshold != 1:
        raise Refused(
            2, f"--threshold {threshold} counts rebuilders, and none are named", "name them: --rebuilders KEYS"
        )
    return {} if path is None else read_rebuilders(path)


def count_rebuilders(
    images: Sequence[tuple[str, str, Mapping[str, Any]]], statements: Iterable[Statement], rebuilders: Iterable[str]
) -> list[Rebuilt]:
    """What the rebuilders say of each image: of its ID, or of one of its layers.

    Args:
        images: (architecture, name, entry in images.json).
        statements: whose signatures hold. Of each, only what a trusted rebuilder says of this very digest counts.
        rebuilders: fingerprints of the trusted keys.
    """
    trusted = sorted(set(rebuilders))
    said: dict[tuple[str, str], set[str]] = {}
    for statement in statements:
        if statement.signer in trusted and statement.is_rebuild():
            (sha256,) = statement.digests()
            said.setdefault((statement.signer, sha256), set()).add(statement.result())
    found = []
    for architecture, name, image in images:
        identity = image["image_id"][7:]
        every = [identity, *(layer["diff_id"][7:] for layer in image["layers"])]
        against = [who for who in trusted if any("FAILED" in said.get((who, digest), ()) for digest in every)]
        agree = [who for who in trusted if who not in against and "PASSED" in said.get((who, identity), ())]
        silent = [who for who in trusted if who not in against and who not in agree]
        found.append(Rebuilt(f"image {name} ({architecture})", tuple(agree), tuple(against), tuple(silent)))
    return found


def insist_on_rebuilders(rebuilt: Sequence[Rebuilt], threshold: int) -> None:
    """Hold every image to a number of rebuilders who confirm it.

    Raises:
        Refused: code 3, fewer confirm an image, and one contradicts it; code 4, fewer confirm it, and the others say
            nothing. Code 2, the threshold cannot be met by so many keys.
    """
    keys = max((len(item.confirmed) + len(item.contradicted) + len(item.silent) for item in rebuilt), default=0)
    if not 1 <= threshold <= max(keys, 1):
        raise Refused(
            2, f"--threshold {threshold} cannot be met by {keys} rebuilders", "name more keys, or fewer to agree"
        )
    few = [item for item in rebuilt if len(item.confirmed) < threshold]
    if not few and rebuilt:
        return
    code = 3 if any(item.contradicted for item in few) else 4
    raise Refused(
        code, f"{len(few)} of {len(rebuilt)} images are confirmed by fewer than {threshold} rebuilders",
        "a rebuilder runs `invoke audit.challenge --sign KEY`; put the statements beside the bundle",
        [item.sentence() for item in few],
    )  # fmt: skip
