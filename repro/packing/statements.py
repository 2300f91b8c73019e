"""SLSA provenance, as in-toto statements: what each image was made from, and what a run took and gave.

They are signed with the key that signs the bundle's list, and listed there as well.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec

from repro.base.errors import VerificationFailed
from repro.base.files import sha256_bytes
from repro.container.image import Image
from repro.packing.installer.ed25519 import ed25519_holds
from repro.packing.installer.listing import PAYLOAD_TYPE, STATEMENT_TYPE, canonical, fingerprint_of, pae, public_key_of
from repro.record import Record

PROVENANCE = "https://slsa.dev/provenance/v1"
_BUILDER = "urn:lstm-ctc-bundle:builder:1"


def _provenance(
    subjects: list[dict[str, Any]], kind: str, build: dict[str, Any], run: dict[str, Any]
) -> dict[str, Any]:
    return {
        "_type": STATEMENT_TYPE,
        "predicateType": PROVENANCE,
        "subject": subjects,
        "predicate": {
            "buildDefinition": {"buildType": f"urn:lstm-ctc-bundle:{kind}:1", "internalParameters": {}, **build},
            "runDetails": {"builder": {"id": _BUILDER}, **run},
        },
    }


def _named(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest.rpartition(":")[2]}}


def image_statement(image: Image, commit: str) -> dict[str, Any]:
    """What an image was made from: its definition at a commit, and its layers' locks."""
    return _provenance(
        [_named("config", image.config_digest), _named("manifest", image.manifest_digest)],
        "image",
        {
            "externalParameters": {"architecture": image.architecture, "image": image.name},
            "resolvedDependencies": [
                {"name": "repository", "digest": {"gitCommit": commit}},
                *(_named(f"lock of {layer.name}", layer.made_from) for layer in image.layers),
            ],
        },
        {"byproducts": [_named(f"layer {layer.name}", layer.diff_id) for layer in image.layers]},
    )


def run_statement(record: Record, data: bytes) -> dict[str, Any]:
    """What a run took (images, data, weights, code by stage) and gave (its record, and every stage's outputs).

    Args:
        record: of the run.
        data: its bytes.
    """
    return _provenance(
        [
            _named("record.json", sha256_bytes(data)),
            *(_named(f"output of {stage.key}", stage.outputs.digest) for stage in record.stages),
        ],
        "run",
        {
            "externalParameters": msgspec.to_builtins(record.request),
            "resolvedDependencies": [
                *(_named(f"image {name}", digest) for name, digest in record.images.items()),
                _named(f"data ({record.data.kind})", record.data.fingerprint),
                _named(f"checkpoint ({record.checkpoint.kind})", record.checkpoint.sha256),
                *(_named(f"code of {stage.key}", stage.code) for stage in record.stages),
            ],
        },
        {"metadata": {"invocationId": record.identity.sha256}},
    )


def read_envelope(data: bytes, public_pem: str) -> dict[str, Any]:
    """The statement in an envelope, whose one signature must be of the key given.

    Args:
        data: the DSSE envelope.
        public_pem: the key that the caller already trusts.

    Raises:
        VerificationFailed: the envelope is malformed, unsigned, or signed by another key.
    """
    try:
        document = json.loads(data)
        payload = base64.b64decode(document["payload"], validate=True)
        ((keyid, signature),) = [
            (item["keyid"], base64.b64decode(item["sig"], validate=True)) for item in document["signatures"]
        ]
        key = public_key_of(public_pem)
        sound = keyid == fingerprint_of(key) and ed25519_holds(key, pae(PAYLOAD_TYPE, payload), signature)
        statement = json.loads(payload)
        sound = sound and document["payloadType"] == PAYLOAD_TYPE and statement["_type"] == STATEMENT_TYPE
        sound = sound and canonical(statement) == payload
    except (ValueError, KeyError, TypeError) as error:
        raise VerificationFailed(f"an attestation is malformed or not signed by one key: {error}") from error
    if not sound:
        raise VerificationFailed("an attestation's signature does not hold for the key given")
    return dict(statement)
