"""Whether a cleartext-signed file was signed by a key that we hold: the one place that calls an OpenPGP library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.base.foreign import shown


@dataclass(frozen=True)
class Signed:
    """The text that a signature covers, and the fingerprints (hex, lower case, sorted) of its valid signers."""

    text: str
    signers: tuple[str, ...]


def verify_cleartext(data: bytes, keyring: Path, name: str) -> Signed:
    """Verify an inline-signed text, such as an InRelease, against the certificates of a keyring.

    Only the text that the signatures cover is returned: what stands outside of them is not trusted.

    Args:
        data: the whole file.
        keyring: binary OpenPGP certificates one after the other.
        name: of the file, for messages.

    Raises:
        VerificationFailed: no signature by a key of the keyring holds.
        CouldNotVerify: the OpenPGP library or the keyring is missing or unusable.
    """
    try:
        import pysequoia  # noqa: PLC0415 - its absence is told, not a defect
    except ImportError as error:
        raise CouldNotVerify(
            f"the signature of {name} was not checked: pysequoia cannot be loaded ({error})",
            hint="install requirements/host.txt, as ./bootstrap does",
        ) from error
    try:
        certificates = pysequoia.Cert.split_bytes(keyring.read_bytes())
    except OSError as error:
        raise CouldNotVerify(
            f"the signature of {name} was not checked: no keyring {keyring}: {error.strerror}"
        ) from error
    except Exception as error:  # the library raises plain Exception for what it cannot parse
        raise CouldNotVerify(
            f"the signature of {name} was not checked: {keyring} holds no keys: {_reason(error)}"
        ) from error
    try:
        result = pysequoia.verify(bytes=data, store=lambda _key_ids: certificates)
        signers = {signature.certificate.lower() for signature in result.valid_sigs}
        text = (result.bytes or b"").decode("utf-8")
    except Exception as error:  # the same: a bad signature and bad armor are both plain Exceptions
        raise VerificationFailed(
            f"{name} is not signed by a key of {keyring.name}: {_reason(error)}",
            hint="the file was altered, or signed by a key that conf/keys does not hold; do not use what it lists",
        ) from error
    if not signers:
        raise VerificationFailed(f"{name} carries no signature by a key of {keyring.name}")
    return Signed(text, tuple(sorted(signers)))


def _reason(error: Exception) -> str:
    """What the library says, in one line: its own stack, which it may append, is of no use to a reader."""
    words = str(error).partition("Stack backtrace:")[0].split()
    return shown(" ".join(words) or type(error).__name__, 300)
