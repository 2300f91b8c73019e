"""Keys and signatures: Ed25519 by the cryptography library.

A private key is one PEM file, made, kept and used without any service. The verifier, repro/packing/installer, uses the
standard library alone; the tests hold the two to each other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from repro.base.errors import CouldNotRun, UsageError
from repro.packing.installer.listing import fingerprint_of
from repro.packing.installer.trust import trust_file

PASSPHRASE_VARIABLE = "BUNDLE_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable


def default_key_path() -> Path:
    """Where this user's signing key is, if another file is not named."""
    return trust_file().with_name("signing-key.pem")


@dataclass(frozen=True)
class Signer:
    """A private key in memory. `fingerprint` is the hex sha256 of the DER public key, `public_pem` its PEM."""

    key: Ed25519PrivateKey
    fingerprint: str
    public_pem: str

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes; the same for the same message every time."""
        return self.key.sign(message)


def signer_of(key: Ed25519PrivateKey) -> Signer:
    """A private key with what is said of it."""
    public = key.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Signer(key, fingerprint_of(public.public_bytes_raw()), pem.decode("ascii"))


def _passphrase(environ: Mapping[str, str]) -> bytes | None:
    return environ.get(PASSPHRASE_VARIABLE, "").encode() or None


def make_key(path: Path, environ: Mapping[str, str] = os.environ) -> Signer:
    """Make a private key and write it for its owner's eyes alone, encrypted where a passphrase is set.

    Args:
        path: the file to write, which must not exist.
        environ: holds the passphrase, BUNDLE_KEY_PASSPHRASE, if any.

    Raises:
        UsageError: the file exists.
    """
    signer, passphrase = signer_of(Ed25519PrivateKey.generate()), _passphrase(environ)
    encryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )  # fmt: skip
    pem = signer.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists already; a key is never overwritten", hint="name another file") from None
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(pem)
        stream.flush()
        os.fsync(stream.fileno())
    return signer


def load_key(path: Path, environ: Mapping[str, str] = os.environ) -> Signer:
    """Read a private key of Ed25519.

    Raises:
        CouldNotRun: there is no such file, or the passphrase is missing or wrong.
        UsageError: it is no Ed25519 key, or others on this machine can read it.
    """
    key = _load(path, environ, "`invoke bundle.keys.make` makes one; --unsigned packs without")
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is not an Ed25519 key", hint="`invoke bundle.keys.make` makes one")
    return signer_of(key)


def load_model_key(path: Path, environ: Mapping[str, str] = os.environ) -> EllipticCurvePrivateKey:
    """Read a private key of P-256, which models are signed with. Errors as `load_key`."""
    make = f"openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {path}"
    key = _load(path, environ, make)
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise UsageError(f"{path} is not a key of P-256, which models are signed with", hint=make)
    return key


def _load(path: Path, environ: Mapping[str, str], how_to_make: str) -> object:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CouldNotRun(f"there is no signing key {path}", hint=how_to_make) from None
    if path.stat().st_mode & 0o077:
        raise UsageError(f"{path} can be read by others than its owner", hint=f"chmod 600 {path}")
    try:
        return serialization.load_pem_private_key(data, _passphrase(environ))
    except TypeError:
        raise CouldNotRun(
            f"{path}: it is encrypted and no passphrase was given, or the other way round",
            hint=f"the passphrase is taken from the variable {PASSPHRASE_VARIABLE}",
        ) from None
    except ValueError:
        raise CouldNotRun(
            f"{path} cannot be opened as a private key in PEM",
            hint=f"a wrong passphrase in {PASSPHRASE_VARIABLE}, or a damaged file",
        ) from None
