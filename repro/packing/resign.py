"""`bundle.resign`: another key signs a bundle's list, into the folder beside the bundle. No byte of it changes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from repro.base.files import write_atomic
from repro.packing.installer.archive import Archive
from repro.packing.installer.listing import Refused
from repro.packing.signing import Signer
from repro.packing.statements import envelope_of, statement_files
from repro.packing.verify import translated


def resign(bundle: Path, signer: Signer) -> Path:
    """Sign the list of a bundle once more.

    Args:
        bundle: its file, or the first of its parts; whether its bytes are as listed is not looked at here.
        signer: the key that vouches for it, beside the first signer.

    Returns:
        The folder beside the bundle that holds the signature, NAME.tar.attestations.

    Raises:
        VerificationFailed: the list is malformed, or its own signature does not hold.
        CouldNotVerify: a part is missing.
    """
    try:
        archive = Archive(bundle)
    except Refused as error:
        raise translated(error) from error
    archive.close()
    payload = base64.b64decode(json.loads(archive.envelope)["payload"])
    folder = archive.beside()
    files = statement_files(f"list.{signer.fingerprint[:16]}", envelope_of(payload, signer))
    files[f"keys/{signer.fingerprint}.pem"] = signer.public_pem.encode()
    for name, data in files.items():
        write_atomic(folder / name, data)
    return folder
