"""A record as a run writes it, made by hand for tests of verdict, schema and report: demo on CPU, or as published."""

import json

import msgspec

from repro.base.files import canonical_json, sha256_bytes
from repro.record import Record


def identify(document) -> None:
    """Give a document the identity of what it names, as a forger would; it need not be a record."""
    data, checkpoint = document["data"], document["checkpoint"]
    content = {
        "request": document["request"],
        "data": {"kind": data["kind"], "fingerprint": data["fingerprint"]},
        "checkpoint": {"kind": checkpoint["kind"], "sha256": checkpoint["sha256"]},
        "images": document["images"],
        "stages": {
            stage["key"]: {"fingerprint": stage["fingerprint"], "outputs": stage["outputs"]["digest"]}
            for stage in document["stages"]
        },
    }
    exact = {}
    for stage in document["stages"]:
        before = {given["from"] for given in stage["inputs"].values()} & {each["key"] for each in document["stages"]}
        everywhere = stage["exactness"] == "exact" and not stage["host_bound"] and stage["name"] != "probe"
        if everywhere and not stage["name"].endswith("_npu") and before <= set(exact):
            exact[stage["key"]] = stage["outputs"]["digest"]
    results = {**content, "stages": exact}
    environment = {"images": results.pop("images")}
    document["identity"] = {
        **{name: sha256_bytes(canonical_json(value))
           for name, value in (("sha256", content), ("results", results), ("environment", environment))},
        **content,
    }  # fmt: skip


def record_of(document) -> Record:
    """The record that a document is, with the identity of what it names."""
    identified = dict(document)
    identify(identified)
    return msgspec.convert(identified, Record)


def document_of(record):
    """A record or a part of one as JSON has it."""
    return json.loads(msgspec.json.encode(record))


def _protocol(utterances, phones, characters, cer_edits, wer_edits):
    if not utterances:
        rates = dict.fromkeys(("cer_percent", "wer_percent", "cer_printed", "wer_printed"))
        interval = {"cer_percent": None, "wer_percent": None, "method": "bootstrap"}
    else:
        cer, wer = 100 * cer_edits / characters, 100 * wer_edits / phones
        rates = {"cer_percent": cer, "wer_percent": wer, "cer_printed": f"{cer:.4f}", "wer_printed": f"{wer:.4f}"}
        interval = {"cer_percent": [cer - 1, cer + 1], "wer_percent": [wer - 1.5, wer + 1.5], "method": "bootstrap"}
    return {
        "utterances": utterances,
        "phones": phones,
        "characters": characters,
        **rates,
        "edits": {"cer": cer_edits, "wer": wer_edits},
        "wer_counts": {"substitutions": wer_edits - 2, "insertions": 1, "deletions": 1}
        if wer_edits
        else dict.fromkeys(("substitutions", "insertions", "deletions"), 0),
        "interval_95": interval,
        "confusions": [
            {"reference": "ih", "hypothesis": "ah", "count": 9},
            {"reference": "<script>alert(1)</script>", "hypothesis": "|a*b_c", "count": 4},
        ],
    }


def _result(size, utterances, phones, cer_edits, characters, wer_edits, speed):
    pair = {
        "max_abs": 1.2e-5,
        "cosine": 1.0,
        "relative_euclidean": 1e-6,
        "kl": 1e-9,
        "rmse": 2e-6,
        "mean_relative": 1e-6,
        "frames": 12480,
        "scored_frames": 4000,
        "symbols_changed": 0,
        "utterances": 64,
        "within_thresholds": True,
    }
    return {
        "batch_size": size,
        "published": _protocol(utterances, phones, characters, cer_edits, wer_edits),
        "complete": _protocol(64, 2171, 5500, 260, 90),
        "decode": {"type": "Greedy"},
        "excluded": [],
        "throughput_utterances_per_s": speed,
        "latency_ms": dict.fromkeys(("mean", "median", "min", "max", "p50", "p90", "p99"), 1000 * size / speed),
        "measured": {
            "batch_size": size,
            "formula": "1000*batchsize/mean(times_ms)",
            "loop": 100,
            "threads": 2,
            "provider": "CPUExecutionProvider",
            "throughput_utterances_per_s": speed,
        },
        "comparison": {
            "batch_size": size,
            "formulas": {"max_abs": "max |a - b|"},
            "torch_onnx": pair,
            "torch_converted": pair,
            "onnx_converted": pair,
            "thresholds": {"at_least": {"cosine": 0.99}, "at_most": {"kl": 0.005}},
            "within_thresholds": True,
        },
    }


def _digest(letter):
    return "sha256:" + letter * 64


def _stage(name, size, cached=False):
    return {
        "key": name if size is None else f"{name}@{size}",
        "name": name,
        "batch_size": size,
        "fingerprint": "f" * 64,
        "image": _digest("a"),
        "code": "c" * 64,
        "argv": ["python3", "-m", f"stages.{name}"],
        "inputs": {"corpus": {"from": "corpus", "digest": "d" * 64}},
        "outputs": {"digest": "e" * 64, "files": {"score.json": {"sha256": "1" * 64, "size_bytes": 12}}},
        "exactness": "exact",
        "host_bound": False,
        "cached": cached,
        "observations": {"wall_s": 1.25, "engine": "sandbox", "limits": {}, "files": {"stage.log": "2" * 64}},
    }


def demo_record():
    """The demo on a CPU: nothing of it is comparable. B = 64 leaves nothing to the published protocol."""
    return _identified(
        {
            "schema": "lstm-ctc-bundle/record",
            "version": 1,
            "request": {
                "batch_sizes": [8, 64],
                "device": "cpu",
                "toolchain": "portable",
                "data": "demo",
                "checkpoint": "demo",
                "decode": {"type": "Greedy", "beam_width": 10, "lm_alpha": 0.1},
                "split": "dev",
                "loop": 100,
                "skip_bad": False,
            },
            "verdict": {
                "outcome": "not-comparable",
                "reasons": [],
                "caveats": [],
                "source": "",
                "table": [],
                "checks": [],
            },
            "engine": {
                "name": "sandbox",
                "facts": {"bubblewrap": "0.8.0"},
                "limits": {"memory": "not enforced: no delegated cgroup", "network": "enforced"},
                "passed_over": [],
            },
            "toolchain": [
                {
                    "component": "PyTorch",
                    "required": "1.8.0",
                    "found": "1.8.0",
                    "status": "same",
                    "probe": "wheel:torch in image exporter",
                    "purpose": "exports ONNX",
                    "kind": "table",
                },
                {
                    "component": "chip",
                    "required": "Ascend310P3",
                    "found": "",
                    "status": "absent",
                    "probe": "host:chip in this host",
                    "purpose": "runs the OM model",
                    "kind": "table",
                },
            ],
            "images": {"base": _digest("a"), "runtime": _digest("b")},
            "image_manifests": {"base": _digest("a"), "runtime": _digest("b")},
            "image_layers": {
                name: [
                    {
                        "name": f"debs:{name}",
                        "kind": "debs",
                        "diff_id": _digest("3"),
                        "size_bytes": 123456789,
                        "made_from": _digest("4"),
                    }
                ]
                for name in ("base", "runtime")
            },
            "data": {
                "kind": "demo",
                "fingerprint": "5" * 64,
                "utterances": {"train": 1080, "dev": 64, "test": 48},
                "phones": {"train": 36000, "dev": 2171, "test": 1600},
                "timit_counts_match": False,
                "timit_deviations": ["27 train speakers, TIMIT has 462"],
                "excluded": [],
                "note": "The demo corpus: synthetic speech in TIMIT's layout.",
            },
            "checkpoint": {"kind": "demo", "sha256": "6" * 64, "trust": "pinned in conf/demo.toml", "note": "Demo."},
            "results": [
                _result(8, 56, 1900, 300, 4800, 80, 18.4),
                _result(64, 0, 0, 0, 0, 0, 20.4),
            ],
            "stages": [_stage("corpus", None, True), _stage("score", 8), _stage("score", 64)],
            "metrics": {
                "wer_percent": {"formula": "100 * edits / phones", "unit": "%"},
                "latency_ms": {"formula": "execution time of one batch", "unit": "ms"},
            },
            "sources": [],
            "host": {
                "os": "Debian GNU/Linux 12",
                "kernel": "6.1.0",
                "architecture": "amd64",
                "cpu": "A processor",
                "cores": 2,
                "instruction_set": "amd64 Maker avx2",
                "memory_bytes": 8000000000,
                "page_size_bytes": 4096,
                "python": "3.11.2",
                "selinux": "absent",
            },
            "observations": {
                "started_at": "2026-11-22T18:00:00Z",
                "wall_s": 93.5,
                "phases": [
                    {"name": "fetch", "started_s": 0.0, "seconds": 20.25},
                    {"name": "run stages", "started_s": 20.25, "seconds": 70.0},
                ],
                "layers": [],
                "preparations": [],
                "steps": [
                    {"key": "corpus", "started_s": 20.5, "wall_s": 2.0, "cached": True},
                    {"key": "score@8", "started_s": 23.0, "wall_s": 1.25, "cached": False},
                ],
            },
        }
    )


def _identified(document):
    return document_of(record_of(document))


# Lengths of which some whole number of edits prints as published: 2824 of 15021 phones are 18.8003 %.
PUBLISHED_RUN = {1: (399, 15021, 5421, 40010, 2824, 5.3), 8: (392, 14766, 5300, 39214, 2772, 42.0)}


def published_record(sizes=(1, 8)):
    """A run that is like for like with the table in everything, and holds."""
    record = demo_record()
    record["request"].update(batch_sizes=list(sizes), device="npu", toolchain="pinned", data="timit", checkpoint="user")
    record["data"].update(
        kind="timit",
        utterances={"train": 3696, "dev": 400, "test": 192},
        phones={"train": 140225, "dev": 15057, "test": 7215},
        timit_counts_match=True,
        note="",
    )
    record["checkpoint"].update(kind="user", trust="trusted on first use", note="")
    record["toolchain"][1].update(found="Ascend310P3", status="same")
    record["results"] = [_result(size, *PUBLISHED_RUN[size]) for size in sizes]
    _as_on_an_npu(record)
    return _identified(record)


def _as_on_an_npu(record):
    """What only a run on an NPU has: ais_bench tells no 90th percentile."""
    record["request"].update(soc_version="Ascend310P3", precision_mode="", num_devices=1, pinned=["export", "features"])
    record["host"].update(
        driver="22.0.4",
        chip="Ascend310P3",
        card="Atlas 300I Pro",
        npu_smi="22.0.4",
        npu_chips="device 0: card 0 chip 0 310P3, OK, 21534 MB",
        npu_devices_used="0",
    )
    for result in record["results"]:
        result["latency_ms"]["p90"] = None
        del result["measured"]["threads"]
        result["measured"].update(devices=1, provider="CANN 6.3.RC1", simulator=False)
    record["stages"][-1]["observations"]["commands"] = [
        {"argv": ["atc", "--framework=5", "--model=lstm_ctc.onnx"], "exit_code": 0, "wall_s": 30.5}
    ]
