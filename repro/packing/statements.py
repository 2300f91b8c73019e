"""The files of signed statements: envelope, Sigstore bundle and, where it is asked for, the signer's public key."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from repro.packing.installer.listing import PAYLOAD_TYPE, canonical, pae
from repro.packing.installer.statements import sigstore_bundle
from repro.packing.signing import Signer


def envelope(statement: Mapping[str, Any], signer: Signer | None) -> bytes:
    """A DSSE envelope around a statement, in its one spelling; without signatures where there is no signer."""
    return envelope_of(canonical(statement), signer)


def envelope_of(payload: bytes, signer: Signer | None) -> bytes:
    """The same around a payload that is a statement in its one spelling already."""
    signatures = []
    if signer is not None:
        signature = base64.b64encode(signer.sign(pae(PAYLOAD_TYPE, payload))).decode()
        signatures.append({"keyid": signer.fingerprint, "sig": signature})
    return canonical(
        {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": signatures}
    )


def statement_files(name: str, signed: bytes) -> dict[str, bytes]:
    """The two files of one statement.

    Args:
        name: of the files, without their endings.
        signed: its envelope; an unsigned one has no Sigstore bundle.
    """
    files = {f"{name}.dsse.json": signed}
    if b'"signatures":[]' not in signed:
        files[f"{name}.sigstore.json"] = sigstore_bundle(signed)
    return files


def signed_files(statements: Iterable[tuple[str, Mapping[str, Any]]], signer: Signer) -> dict[str, bytes]:
    """The files of (name, statement) pairs, each signed, and the signer's public key as keys/FINGERPRINT.pem."""
    files = {f"keys/{signer.fingerprint}.pem": signer.public_pem.encode()}
    for name, statement in statements:
        files.update(statement_files(name, envelope(statement, signer)))
    return files
