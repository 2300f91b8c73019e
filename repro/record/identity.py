"""What two runs of the same thing share to the byte."""

from __future__ import annotations

from typing import Any

import msgspec

from repro.base.files import canonical_json, sha256_bytes
from repro.record.document import (
    CheckpointUsed,
    Data,
    Identity,
    IdentityCheckpoint,
    IdentityData,
    IdentityStage,
    Record,
    Request,
)
from repro.record.stages import Stage


def identity_of(record: Record) -> Identity:
    """The identity of what a record names, computed anew."""
    return make_identity(record.request, record.data, record.checkpoint, record.images, record.stages)


def make_identity(
    request: Request, data: Data, checkpoint: CheckpointUsed, images: dict[str, str], stages: tuple[Stage, ...]
) -> Identity:
    """The identity of a run, from the parts of its record that enter."""
    content: dict[str, Any] = {
        "request": request,
        "data": IdentityData(kind=data.kind, fingerprint=data.fingerprint),
        "checkpoint": IdentityCheckpoint(kind=checkpoint.kind, sha256=checkpoint.sha256),
        "images": images,
        "stages": {s.key: IdentityStage(fingerprint=s.fingerprint, outputs=s.outputs.digest) for s in stages},
    }
    return Identity(sha256=sha256_bytes(canonical_json(msgspec.to_builtins(content))), **content)
