"""The stages of a record: the graph that its request asks for, each fingerprint from its key, every output byte."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.audit.claims import Examination, Outcome
from repro.audit.evidence import Evidence, Stored
from repro.audit.leaves import differences
from repro.base.errors import BundleError, CouldNotVerify
from repro.graph.cache import StatCache
from repro.graph.code import read_code
from repro.graph.digests import FileDigest, digest_of_files
from repro.graph.keys import FORMAT
from repro.graph.pipeline import ISA_EXACT, PRECISIONS, Node, Output, Request, Source
from repro.graph.sources import digest_source
from repro.graph.stage_job import STAGE_ENV
from repro.graph.store import fingerprint_of
from repro.run.inputs import DEMO
from repro.run.request import graph_of

_UNKNOWN_PLACE = Path("given by the user")
_OBSERVED = ("cached", "observations")


def request_of(record: Mapping[str, Any], data: Path | None = None, checkpoint: Path | None = None) -> Request:
    """What a record says was asked for. `data` and `checkpoint` are where these lie here, if they are the user's."""
    asked = record["request"]
    return Request(
        batch_sizes=tuple(asked["batch_sizes"]),
        data=None if record["data"]["kind"] == DEMO else data or _UNKNOWN_PLACE,
        checkpoint=checkpoint or _UNKNOWN_PLACE,
        device=asked["device"],
        decode=asked["decode"]["type"],
        beam_width=asked["decode"].get("beam_width", 10),
        lm_alpha=asked["decode"].get("lm_alpha", 0.1),
        split=asked["split"],
        loop=asked.get("loop", 100),
        skip_bad=asked.get("skip_bad", False),
        pinned=tuple(asked.get("pinned", ())),
        soc_version=asked.get("soc_version", ""),
        precision=asked.get("precision", PRECISIONS[0]),
        precision_mode=asked.get("precision_mode", ""),
        num_devices=asked.get("num_devices", 1),
    )


def expected_graph(evidence: Evidence) -> dict[str, Node]:
    """The graph that this checkout makes of the record's request, probes included."""
    return graph_of(request_of(evidence.record), evidence.paths)


def examine_graph(outcome: Outcome, evidence: Evidence) -> dict[str, Node]:
    """Claim: the record's stages are those that its request asks for. Returns the expected graph."""
    nodes: dict[str, Node] = {}
    text = "the record's stages are those that its request asks for, no more and no fewer"
    with outcome.examine("graph", text) as it:
        nodes = expected_graph(evidence)
        listed = [stage["key"] for stage in evidence.record["stages"]]
        it.wrong += [f"stage {key} is missing" for key in nodes if key not in listed]
        it.wrong += [f"stage {key} belongs to no such request" for key in listed if key not in nodes]
        it.wrong += [f"stage {key} stands there twice" for key in sorted(set(listed)) if listed.count(key) > 1]
        it.evidence.append(f"{len(nodes)} stages, computed from request")
        request = evidence.record["request"]
        for name in ("data", "checkpoint"):
            kind = evidence.record[name]["kind"]
            if request[name] != kind:
                it.wrong.append(f"request.{name} is {request[name]!r}; {name}.kind is {kind!r}")
    return nodes


def examine_stages(outcome: Outcome, evidence: Evidence, nodes: Mapping[str, Node]) -> None:
    """A claim for each stage: its stored bytes, its digests, its fingerprint, and what fed it."""
    for position, stage in enumerate(evidence.record["stages"]):
        node = nodes.get(stage["key"])
        if node is None:
            continue  # the graph's claim has named it
        text = f"{stage['key']}: the stored output bytes are the record's, made from the inputs it names"
        with outcome.examine(f"stage:{stage['key']}", text) as it:
            _examine_stage(it, evidence, node, stage, f"stages[{position}]")


def _examine_stage(it: Examination, evidence: Evidence, node: Node, stage: Mapping[str, Any], path: str) -> None:
    listed = {name: FileDigest(f["sha256"], f["size_bytes"]) for name, f in stage["outputs"]["files"].items()}
    if digest_of_files(listed) != stage["outputs"]["digest"]:
        it.wrong.append(
            f"{path}.outputs.digest is {stage['outputs']['digest']}; its list of files gives {digest_of_files(listed)}"
        )
    stored: Stored | None = None
    try:
        stored = evidence.stored(stage["fingerprint"])
    except CouldNotVerify as error:
        it.missing.append(error.message)
    key = _key(evidence, node, stage, stored)
    if key is not None and fingerprint_of(key) != stage["fingerprint"]:
        it.wrong.append(f"{path}.fingerprint is {stage['fingerprint']}; recomputed: {fingerprint_of(key)}")
    if stored is not None and key is not None and stored.document["key"] != key:
        it.wrong += differences(stored.document["key"], key, f"the stored key of {node.key}")
    expected = _expected(evidence, node, stage)
    it.wrong += differences({k: v for k, v in stage.items() if k not in _OBSERVED}, expected, path)
    if stored is not None:
        it.missing += [f"{name} is not here" for name in sorted(set(listed) - set(stored.outputs))]
        it.wrong += [
            f"the store holds {name}, which {path}.outputs.files does not list"
            for name in sorted(set(stored.outputs) - set(listed))
        ]
        for name in sorted(set(listed) & set(stored.outputs)):
            it.wrong += _file_findings(path, name, listed[name], stored.outputs[name])
        size_mb = sum(digest.size_bytes for digest in stored.outputs.values()) / 1e6
        it.evidence.append(f"{len(stored.outputs)} files, {size_mb:.1f} MB, hashed; fingerprint {stage['fingerprint']}")


def _file_findings(path: str, name: str, listed: FileDigest, found: FileDigest) -> list[str]:
    if found != listed:
        return [
            f"{name} has sha256 {found.sha256} and {found.size_bytes} bytes; {path}.outputs.files says "
            f"{listed.sha256} and {listed.size_bytes}"
        ]
    return []


def _key(evidence: Evidence, node: Node, stage: Mapping[str, Any], stored: Stored | None) -> dict[str, Any] | None:
    """The stage's key out of the record; None where it needs the machine's identity, which only the store holds."""
    key: dict[str, Any] = {
        "format": FORMAT,
        "stage": node.stage.name,
        "image": stage["image"],
        "code": stage["code"],
        "argv": list(node.argv()),
        "env": STAGE_ENV,
        "inputs": {name: entry["digest"] for name, entry in stage["inputs"].items()},
    }
    if node.stage.exactness == ISA_EXACT or node.stage.host_bound:
        key["instruction_set"] = evidence.record["host"].get("instruction_set", "")
    for name, needed in (("host", node.stage.host_bound), ("accelerator", node.stage.accelerator)):
        if needed and stored is None:
            return None
        if needed and stored is not None:
            key[name] = stored.document["key"].get(name, "")
    return key


def _expected(evidence: Evidence, node: Node, stage: Mapping[str, Any]) -> dict[str, Any]:
    """The record's entry of a stage, observations aside, as the graph and the other entries demand it."""
    digests = {other["key"]: other["outputs"]["digest"] for other in evidence.record["stages"]}
    inputs = {}
    for name, source in node.inputs.items():
        if isinstance(source, Output):
            inputs[name] = {"from": source.node, "digest": digests.get(source.node, "of a stage that is missing")}
        else:
            found = stage["inputs"].get(name, {})
            inputs[name] = {"from": source.name, "digest": _outside(evidence, source.name, found.get("digest", ""))}
    return {
        "key": node.key,
        "name": node.stage.name,
        "batch_size": node.batch_size,
        "fingerprint": stage["fingerprint"],
        "image": evidence.record["images"].get(node.stage.image, "of an image that is missing"),
        "code": stage["code"],
        "argv": list(node.argv()),
        "inputs": inputs,
        "outputs": stage["outputs"],
        "exactness": node.stage.exactness,
        "host_bound": node.stage.host_bound,
    }


def _outside(evidence: Evidence, source: str, found: str) -> str:
    """What the record elsewhere says an input from outside is; conf/ has a claim of its own."""
    if source == "data":
        return str(evidence.record["data"]["fingerprint"])
    if source == "checkpoint":
        return str(evidence.record["checkpoint"]["sha256"])
    return found


def examine_code(outcome: Outcome, evidence: Evidence) -> None:
    """Claims: the stages' code and configuration are this checkout's."""
    with outcome.examine("code", "the stages ran the code of this checkout") as it:
        code: dict[str, str] = {}
        for stage in evidence.record["stages"]:
            name = stage["name"]
            if name not in code:
                code[name] = _code_digest(evidence.paths.root, name)
            if code[name] != stage["code"]:
                it.missing.append(
                    f"{stage['key']} ran code {stage['code'][:16]}; here stages/{name}.py and what it imports are "
                    f"{code[name][:16] or 'absent'}: check out the commit that made the record"
                )
        it.evidence.append(f"{len(code)} stages, each with every module that it imports")
    with outcome.examine("configuration", "the stages were given the configuration of this checkout") as it:
        for node in expected_graph(evidence).values():
            for name, source in node.inputs.items():
                if isinstance(source, Source) and source.name.startswith("conf/"):
                    _examine_source(it, evidence, node, name, source)


def _code_digest(root: Path, stage: str) -> str:
    try:
        return read_code(root, stage).digest
    except BundleError:
        return ""


def _examine_source(it: Examination, evidence: Evidence, node: Node, name: str, source: Source) -> None:
    stage = next((stage for stage in evidence.record["stages"] if stage["key"] == node.key), None)
    if stage is None:
        return
    here = digest_source(source.path, StatCache(None), source.name)
    if stage["inputs"].get(name, {}).get("digest") != here:
        it.missing.append(
            f"{node.key} was given {source.name} with another digest than this checkout's {here[:16]}: check out the "
            "commit that made the record"
        )
    it.evidence.append(f"{source.name}: {here}")
