"""What two runs of the same thing share to the byte: on one kind of machine, and on any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

_EXACT = "exact"  # repro.graph.pipeline.EXACT, as a record has it
_OF_AN_IMAGE = "probe"  # its outputs describe the image of one architecture
_ON_THE_NPU = "_npu"


def identity_of(record: Record) -> Identity:
    """The identity of what a record names, computed anew."""
    return make_identity(record.request, record.data, record.checkpoint, record.images, record.stages)


def make_identity(
    request: Request, data: Data, checkpoint: CheckpointUsed, images: dict[str, str], stages: tuple[Stage, ...]
) -> Identity:
    """The identity of a run, from the parts of its record that enter."""
    content: dict[str, Any] = {
        "request": msgspec.structs.replace(request, sample=msgspec.UNSET),
        "data": IdentityData(kind=data.kind, fingerprint=data.fingerprint),
        "checkpoint": IdentityCheckpoint(kind=checkpoint.kind, sha256=checkpoint.sha256),
        "images": images,
        "stages": {s.key: IdentityStage(fingerprint=s.fingerprint, outputs=s.outputs.digest) for s in stages},
    }
    results = {**content, "stages": same_everywhere(stages)}
    del results["images"]
    return Identity(
        sha256=_digest(content), results=_digest(results), environment=_digest({"images": images}), **content
    )


def same_everywhere(stages: Sequence[Stage]) -> dict[str, str]:
    """The digests of outputs that any machine gives, by stage: those of exact stages that follow from exact ones alone.

    Args:
        stages: of a record, in an order in which each comes after its inputs.
    """
    found: dict[str, str] = {}
    keys = {stage.key for stage in stages}
    for stage in stages:
        exact = stage.exactness == _EXACT and not stage.host_bound and stage.name != _OF_AN_IMAGE
        before = {given.origin for given in stage.inputs.values()} & keys
        if exact and not stage.name.endswith(_ON_THE_NPU) and before <= set(found):
            found[stage.key] = stage.outputs.digest
    return found


def _digest(content: Mapping[str, Any]) -> str:
    return sha256_bytes(canonical_json(msgspec.to_builtins(content)))
