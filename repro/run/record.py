"""The record: the account of one run, as one JSON document; its schema is repro/record/record.schema.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base.errors import CouldNotVerify
from repro.base.files import canonical_json, sha256_bytes
from repro.container.image import Image
from repro.graph.making import Done
from repro.graph.pipeline import PRECISIONS, Node, Request, Source
from repro.locks.archives import SourceArchive
from repro.run.inputs import Checkpoint

SCHEMA = "lstm-ctc-bundle/record"
VERSION = 1

METRICS = {
    "cer_percent": {
        "formula": "100 * (character edits pooled over utterances) / (reference characters); published protocol: "
        "hypotheses carry the reference implementation's leading space",
        "unit": "%",
    },
    "wer_percent": {
        "formula": "100 * (phone edits pooled over utterances) / (reference phones): a phone error rate",
        "unit": "%",
    },
    "throughput_utterances_per_s": {
        "formula": "1000 * batch_size / mean(execution times in ms), pure inference, copies not counted",
        "unit": "utterances/s",
    },
    "latency_ms": {"formula": "execution time of one batch, pure inference", "unit": "ms"},
}


@dataclass(frozen=True)
class Parts:
    """Everything that a record is made of, gathered by the run."""

    request: Request
    toolchain_name: str
    data_kind: str
    data_fingerprint: str
    checkpoint: Checkpoint
    images: Mapping[str, Image]
    toolchain: list[dict[str, str]]
    engine: Mapping[str, Any]
    host: Mapping[str, Any]
    observations: Mapping[str, Any]
    sources: tuple[SourceArchive, ...] = ()


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CouldNotVerify(f"a stage's result cannot be read: {path}: {error}") from error


def _request(parts: Parts) -> dict[str, Any]:
    request = parts.request
    return {
        "batch_sizes": list(request.batch_sizes),
        "device": request.device,
        "toolchain": parts.toolchain_name,
        "data": parts.data_kind,
        "checkpoint": parts.checkpoint.kind,
        "decode": {"type": request.decode, "beam_width": request.beam_width, "lm_alpha": request.lm_alpha},
        "split": request.split,
        "loop": request.loop,
        "skip_bad": request.skip_bad,
        **_special(request),
    }


def _special(request: Request) -> dict[str, Any]:
    """What only a run on the NPU, in another number format or with pinned images has."""
    npu = {
        "soc_version": request.soc_version,
        "precision_mode": request.precision_mode,
        "num_devices": request.num_devices,
    }
    precision: dict[str, Any] = {} if request.precision == PRECISIONS[0] else {"precision": request.precision}
    return {**(npu if request.on_npu else precision), **({"pinned": list(request.pinned)} if request.pinned else {})}


def _data(parts: Parts, corpus: Mapping[str, Any]) -> dict[str, Any]:
    demo = "The demo corpus: synthetic speech in TIMIT's layout; its error rates say nothing about TIMIT."
    return {
        "kind": parts.data_kind,
        "fingerprint": parts.data_fingerprint,
        "utterances": {split: found["utterances"] for split, found in corpus["splits"].items()},
        "phones": {split: found["phones"] for split, found in corpus["splits"].items()},
        "timit_counts_match": corpus["timit"]["matches"],
        "timit_deviations": corpus["timit"]["deviations"],
        "excluded": corpus["excluded"],
        "note": demo if parts.data_kind == "demo" else "",
    }


def _checkpoint(parts: Parts) -> dict[str, str]:
    demo = "The demo checkpoint: trained on the demo corpus; it is not the published model."
    found = parts.checkpoint
    return {
        "kind": found.kind,
        "sha256": found.sha256,
        "trust": found.trust,
        "note": demo if found.kind == "demo" else "",
    }


def _result(size: int, done: Mapping[str, Done]) -> dict[str, Any]:
    score = _read(done[f"score@{size}"].result.out / "score.json")
    speed = _read(done[f"measure@{size}"].result.obs / "measure.json")
    batches = _read(done[f"batches@{size}"].result.out / "manifest.json")
    return {
        "batch_size": size,
        "published": score["protocols"]["published"],
        "complete": score["protocols"]["complete"],
        "decode": score["decode"],
        "excluded": batches["excluded"],
        "throughput_utterances_per_s": speed["throughput_utterances_per_s"],
        "latency_ms": speed["latency_ms"],
        "measured": {name: value for name, value in speed.items() if name not in ("latency_ms", "times_ms")},
        "comparison": _read(done[f"compare@{size}"].result.out / "compare.json"),
    }


def _source(source: SourceArchive) -> dict[str, str]:
    """An archive that a compiled layer is made from: what it is, what it was held to, what the user accepted."""
    return {
        "name": source.name,
        "title": source.title,
        "digest": source.digest,
        "trust": source.trust,
        "licence": source.licence + (f", accepted by the user ({source.accept})" if source.accept else ""),
    }


def _inputs(node: Node, key: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    named = {}
    for name, source in node.inputs.items():
        origin = source.name if isinstance(source, Source) else source.node
        named[name] = {"from": origin, "digest": key["inputs"][name]}
    return named


def _stage(item: Done) -> dict[str, Any]:
    result = item.result
    return {
        "key": item.node.key,
        "name": item.node.stage.name,
        "batch_size": item.node.batch_size,
        "fingerprint": result.fingerprint,
        "image": result.key["image"],
        "code": result.key["code"],
        "argv": result.key["argv"],
        "inputs": _inputs(item.node, result.key),
        "outputs": {
            "digest": result.output_digest,
            "files": {p: {"sha256": f.sha256, "size_bytes": f.size_bytes} for p, f in sorted(result.outputs.items())},
        },
        "exactness": item.node.stage.exactness,
        "host_bound": item.node.stage.host_bound,
        "cached": item.cached,
        "observations": dict(result.observations),
    }


def _images(images: Mapping[str, Image]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            {
                "name": layer.name,
                "kind": layer.kind,
                "diff_id": layer.diff_id,
                "size_bytes": layer.size_bytes,
                "made_from": layer.made_from,
            }
            for layer in image.layers
        ]
        for name, image in sorted(images.items())
    }


def identity_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of the same thing share, to the byte: no engine, time, host name or cache state in it."""
    content = {
        "request": document["request"],
        "data": {"kind": document["data"]["kind"], "fingerprint": document["data"]["fingerprint"]},
        "checkpoint": {"kind": document["checkpoint"]["kind"], "sha256": document["checkpoint"]["sha256"]},
        "images": document["images"],
        "stages": {
            stage["key"]: {"fingerprint": stage["fingerprint"], "outputs": stage["outputs"]["digest"]}
            for stage in document["stages"]
        },
    }
    return {"sha256": sha256_bytes(canonical_json(content)), **content}


def make_record(parts: Parts, done: Mapping[str, Done]) -> dict[str, Any]:
    """The record of a run, still without its verdict.

    Args:
        parts: what was asked and found.
        done: every node with its result.

    Raises:
        CouldNotVerify: a stage's result cannot be read.
    """
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "version": VERSION,
        "request": _request(parts),
        "engine": dict(parts.engine),
        "toolchain": parts.toolchain,
        "images": {name: image.config_digest for name, image in sorted(parts.images.items())},
        "image_manifests": {name: image.manifest_digest for name, image in sorted(parts.images.items())},
        "image_layers": _images(parts.images),
        "data": _data(parts, _read(done["corpus"].result.out / "summary.json")),
        "checkpoint": _checkpoint(parts),
        "results": [_result(size, done) for size in parts.request.batch_sizes],
        "stages": [_stage(item) for item in done.values()],
        "metrics": METRICS,
        "sources": [_source(source) for source in parts.sources],
        "host": dict(parts.host),
        "observations": dict(parts.observations),
    }
    document["identity"] = identity_of(document)
    return document
