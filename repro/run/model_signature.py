"""Signatures of models after the OpenSSF model signing specification (v1.0), by public key: made and verified.

A signature is a Sigstore bundle around an in-toto statement whose predicate names each file of the model with its
sha256, a single file by '.'. Keys are of P-256, and a signature follows from key and content alone (RFC 6979).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from repro.base.confined import list_tree
from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.base.files import canonical_json, sha256_file
from repro.base.foreign import shown
from repro.base.strict_json import parse

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
SIGSTORE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
SUFFIX = ".sig"
ITSELF = "."  # the name of the file, where the model is one file
_IGNORED = (".git", ".gitattributes", ".github", ".gitignore")
_MOST_BYTES = 64 * 1024**2
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----\n[^-]*-----END PUBLIC KEY-----\n?")
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, binascii.Error)
Keys = Mapping[str, ec.EllipticCurvePublicKey]  # by the hex sha256 of their PEM


@dataclass(frozen=True)
class ModelSignature:
    """What a signature vouches for. `signer`: hex sha256 of the signer's public key in PEM. `files`: name -> sha256."""

    signer: str
    files: Mapping[str, str]
    ignored: tuple[str, ...]


def public_keys(path: Path) -> dict[str, ec.EllipticCurvePublicKey]:
    """The public keys of P-256 in a file of PEM blocks.

    Raises:
        UsageError: it cannot be read, or holds another kind of key, or none.
    """
    try:
        blocks = _PEM.findall(path.read_text("ascii"))
        keys = [serialization.load_pem_public_key(block.encode()) for block in blocks]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="name a file of public keys in PEM") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is not a file of public keys in PEM: {shown(error, 200)}") from None
    found = {}
    for key in keys:
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise UsageError(f"{path}: a key in it is not of P-256", hint="models are signed with keys of P-256")
        found[hint_of(key)] = key
    if not found:
        raise UsageError(f"{path} holds no public key in PEM", hint="`openssl pkey -pubout -in KEY` prints one")
    return found


def hint_of(key: ec.EllipticCurvePublicKey) -> str:
    """How a signature names its key: the hex sha256 of its PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.PEM, form)).hexdigest()


def digests_of(model: Path, ignored: Sequence[str] = ()) -> dict[str, str]:
    """name -> sha256 of each file of a model, in the order in which they are signed.

    Args:
        model: a file, or a folder without links.
        ignored: paths below the folder that are left out, beside those of git.

    Raises:
        NotPlain: the folder holds a link or another thing that is no plain file.
    """
    if model.is_file():
        return {ITSELF: sha256_file(model)}
    left_out = [PurePosixPath(path).parts for path in (*_IGNORED, *ignored)]
    names = [PurePosixPath(name) for name in list_tree(model).files]
    kept = [name for name in names if not any(name.parts[: len(path)] == path for path in left_out)]
    return {str(name): sha256_file(model / name) for name in sorted(kept)}


def sign_model(model: Path, key: ec.EllipticCurvePrivateKey, ignored: Sequence[str] = ()) -> bytes:
    """The signature of a model: the same bytes for the same model and key.

    Args:
        model: a file or a folder.
        key: of P-256.
        ignored: as `digests_of`; the signature's own name, where it will lie in the folder.
    """
    files = digests_of(model, ignored)
    root = hashlib.sha256(b"".join(map(bytes.fromhex, files.values()))).hexdigest()
    how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    payload = canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": model.resolve().name, "digest": {"sha256": root}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {**how, "ignore_paths": sorted({*_IGNORED, *ignored})},
                "resources": [{"name": n, "algorithm": "sha256", "digest": digest} for n, digest in files.items()],
            },
        }
    )
    signature = key.sign(_pae(payload), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": hint_of(key.public_key())}, "tlogEntries": []}
    return canonical_json({"mediaType": SIGSTORE_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope})


def _pae(payload: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def read_signature(path: Path, keys: Keys) -> ModelSignature:
    """A signature, held to the key that it names.

    Raises:
        CouldNotVerify: no key that is named here made it, or it is of a kind that needs a service.
        VerificationFailed: it is malformed, or does not hold.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise VerificationFailed(f"{path} is larger than a signature")
    document = parse(path.read_bytes(), what=path.name, max_bytes=_MOST_BYTES)
    try:
        hint = document["verificationMaterial"]["publicKey"]["hint"]
    except _MALFORMED:
        raise CouldNotVerify(
            f"{path}: it is signed by a certificate, not by a key", hint="certificates need a service to verify"
        ) from None
    if hint not in keys:
        raise CouldNotVerify(f"{path}: it is signed by the key {shown(str(hint), 80)}, which is not known here")
    try:
        envelope = document["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        (signature,) = envelope["signatures"]
        raw = base64.b64decode(signature["sig"], validate=True)
        keys[hint].verify(raw, _pae(payload), ec.ECDSA(hashes.SHA256()))
        said = parse(payload, what=path.name, max_bytes=_MOST_BYTES)
        known = (document["mediaType"], envelope["payloadType"], said["_type"], said["predicateType"])
        if known != (SIGSTORE_TYPE, PAYLOAD_TYPE, STATEMENT_TYPE, PREDICATE_TYPE):
            raise ValueError("it is no signature of a model")
        return _signed_files(hint, said, path)
    except InvalidSignature:
        raise VerificationFailed(f"{path}: the signature does not hold: it or its content was changed") from None
    except _MALFORMED as error:
        raise VerificationFailed(f"{path} is malformed: {shown(str(error), 200)}") from None


def _signed_files(hint: str, said: Any, path: Path) -> ModelSignature:
    how = said["predicate"]["serialization"]
    if (how["method"], how["hash_type"]) != ("files", "sha256"):
        raise CouldNotVerify(
            f"{path}: it was made by {shown(str(how['method']))} with {shown(str(how['hash_type']))}",
            hint="only signatures over whole files with sha256 are read here",
        )
    files = {}
    for item in said["predicate"]["resources"]:
        if item["algorithm"] != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", item["digest"]):
            raise ValueError("a file has no sha256")
        files[str(item["name"])] = str(item["digest"])
    root = hashlib.sha256(b"".join(map(bytes.fromhex, files.values()))).hexdigest()
    if said["subject"][0]["digest"]["sha256"] != root or len(said["subject"]) != 1:
        raise ValueError("the digest of the whole is not that of its files")
    return ModelSignature(hint, files, tuple(map(str, how.get("ignore_paths", ()))))


def verify_model(model: Path, signature: Path, keys: Keys) -> ModelSignature:
    """Hold a whole model to its signature.

    Raises:
        CouldNotVerify, VerificationFailed: as `read_signature`; VerificationFailed also names each file that differs.
    """
    said = read_signature(signature, keys)
    inside = [signature.resolve().relative_to(model.resolve()).as_posix()] if _is_below(signature, model) else []
    found = digests_of(model, [*said.ignored, *inside])
    names = sorted(name for name in {*found, *said.files} if found.get(name) != said.files.get(name))
    if names:
        what = {name: "missing" if name not in found else "not signed" if name not in said.files else "changed"
                for name in names}  # fmt: skip
        raise VerificationFailed(
            f"{model} is not as it was signed: {len(names)} files differ",
            detail="\n".join(f"{shown(name)}: {what[name]}" for name in names),
        )
    return said


def _is_below(path: Path, folder: Path) -> bool:
    return folder.is_dir() and path.resolve().is_relative_to(folder.resolve())


def signature_beside(checkpoint: Path) -> Path | None:
    """The signature that lies beside a checkpoint: of it alone, or of the folder that it is in; None for none."""
    for path in (checkpoint.with_name(checkpoint.name + SUFFIX), checkpoint.with_name("model.sig")):
        if path.is_file() and not path.is_symlink():
            return path
    return None


def signer_of_checkpoint(checkpoint: Path, sha256: str, signers: Path) -> str:
    """What the signature beside a checkpoint says of it, for the record; '' where there is none.

    Args:
        checkpoint: a file.
        sha256: hex, of its content.
        signers: a file of the public keys that this user trusts; it need not be there.

    Raises:
        VerificationFailed: a key of `signers` signed another content, or the signature is malformed.
        UsageError: `signers` is no file of keys.
    """
    signature = signature_beside(checkpoint)
    if signature is None:
        return ""
    keys = public_keys(signers) if signers.exists() else {}
    try:
        said = read_signature(signature, keys)
    except CouldNotVerify as error:
        return f"{signature.name} beside it was not verified ({error.message.partition(': ')[2]})"
    names = [name for name in (ITSELF, checkpoint.name) if name in said.files]
    if not names:
        return f"{signature.name} beside it does not speak of it"
    if said.files[names[0]] != sha256:
        raise VerificationFailed(
            f"{checkpoint} has sha256 {sha256}, but {signature.name}, signed by {said.signer}, names another",
            hint="get both again from their publisher, or remove the signature if it is of another model",
        )
    return f"signed by the P-256 key {said.signer} ({signature.name}, OpenSSF model signing)"
