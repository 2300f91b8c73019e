"""The stages of a record: the graph that its request asks for, each fingerprint from its key, every output byte."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from repro.audit.claims import IF_RERUN, REFUTED, Examination, Outcome
from repro.audit.evidence import Evidence, Stored
from repro.audit.leaves import differences
from repro.audit.stage_files import StoredKey
from repro.base.errors import BundleError, CouldNotVerify
from repro.base.imports import Modules
from repro.graph.cache import StatCache
from repro.graph.code import read_code
from repro.graph.digests import FileDigest, digest_of_files
from repro.graph.keys import FORMAT
from repro.graph.pipeline import ISA_EXACT, PRECISIONS, Node, Output, Request, Source
from repro.graph.sources import digest_source
from repro.graph.stage_job import STAGE_ENV
from repro.graph.store import fingerprint_of
from repro.record.document import Record
from repro.record.stages import Stage, StageInput
from repro.run.inputs import DEMO
from repro.run.request import graph_of

_UNKNOWN_PLACE = Path("given by the user")
_RECOMPUTED = ("score", "probe")  # stages of which other claims of this audit compute the whole output again
_RERUN_FINDS = {
    "demo_corpus": "speech that the synthesisers do not make, where a changed checkout pins its digest",
    "corpus": "word lists and an audio index that the data set does not give",
    "features": "features that the data set does not give",
    "batches": "model inputs that the features do not give",
    "export": "a network with other weights than the checkpoint's",
    "convert": "a network that is not the exported one",
    "infer": "outputs that the network does not give, where those of `reference` were changed in the same way",
    "reference": "outputs that the checkpoint does not give, where those of `infer` were changed in the same way",
    "compare": "figures of the exported network, which only this stage runs",
    "lm": "a language model that the labels do not give",
    "measure": "times that no execution took: they are attested",
}


def request_of(record: Record, data: Path | None = None, checkpoint: Path | None = None) -> Request:
    """What a record says was asked for. `data` and `checkpoint` are where these lie here, if they are the user's."""
    asked = record.request
    return Request(
        batch_sizes=asked.batch_sizes,
        data=None if record.data.kind == DEMO else data or _UNKNOWN_PLACE,
        checkpoint=checkpoint or _UNKNOWN_PLACE,
        device=asked.device,
        decode=asked.decode.type,
        beam_width=asked.decode.beam_width,
        lm_alpha=asked.decode.lm_alpha,
        split=asked.split,
        loop=asked.loop,
        skip_bad=asked.skip_bad,
        pinned=asked.pinned or (),
        soc_version=asked.soc_version or "",
        precision=asked.precision or PRECISIONS[0],
        precision_mode=asked.precision_mode or "",
        num_devices=asked.num_devices or 1,
        cann=asked.cann or "",
        sample=asked.sample or "",
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
        record = evidence.record
        listed = [stage.key for stage in record.stages]
        it.wrong += [f"stage {key} is missing" for key in nodes if key not in listed]
        it.wrong += [f"stage {key} belongs to no such request" for key in listed if key not in nodes]
        for name, asked, kind in (
            ("data", record.request.data, record.data.kind),
            ("checkpoint", record.request.checkpoint, record.checkpoint.kind),
        ):
            if asked != kind:
                it.wrong.append(f"request.{name} is {asked!r}; {name}.kind is {kind!r}")
        it.evidence.append(f"{len(nodes)} stages, computed from request")
    return nodes


def examine_stages(outcome: Outcome, evidence: Evidence, nodes: Mapping[str, Node]) -> None:
    """Claims for each stage: its stored bytes and what fed it; and that its code makes them of its inputs."""
    for position, stage in enumerate(evidence.record.stages):
        node = nodes.get(stage.key)
        if node is None:
            continue  # the graph's claim has named it
        text = f"{stage.key}: the stored output bytes and the inputs are those that the record names"
        with outcome.examine(f"stage:{stage.key}", text) as it:
            _examine_stage(it, evidence, node, stage, f"stages[{position}]")
        if outcome.claims[-1].status == REFUTED or stage.name in _RECOMPUTED:
            continue
        text = f"{stage.key}: run again, its code gives these bytes from these inputs"
        with outcome.examine(f"made:{stage.key}", text, IF_RERUN) as it:
            it.evidence.append("not run by this audit: `invoke audit.rerun` runs it")
            name = stage.name.partition("_npu")[0]
            if name in _RERUN_FINDS:
                it.open_to.append(f"{_RERUN_FINDS[name]}; a rerun finds it")


def _examine_stage(it: Examination, evidence: Evidence, node: Node, stage: Stage, path: str) -> None:
    listed = {name: FileDigest(file.sha256, file.size_bytes) for name, file in stage.outputs.files.items()}
    if digest_of_files(listed) != stage.outputs.digest:
        it.wrong.append(
            f"{path}.outputs.digest is {stage.outputs.digest}; its list of files gives {digest_of_files(listed)}"
        )
    stored: Stored | None = None
    try:
        stored = evidence.stored(stage)
    except CouldNotVerify as error:
        it.missing.append(error.message)
    key = _key(evidence, node, stage, stored)
    if key is not None and fingerprint_of(msgspec.to_builtins(key)) != stage.fingerprint:
        it.wrong.append(
            f"{path}.fingerprint is {stage.fingerprint}; recomputed: {fingerprint_of(msgspec.to_builtins(key))}"
        )
    it.wrong += differences(_without_observations(stage), _without_observations(_expected(evidence, node, stage)), path)
    if stored is not None:
        if key is not None:
            it.wrong += differences(stored.told.key, key, f"result.json of {node.key}: key")
        it.wrong += differences(stored.told.outputs, stage.outputs.files, f"result.json of {node.key}: outputs")
        _examine_files(it, stored, listed, path)
        it.read(f"output of {stage.key}", digest_of_files(stored.outputs))
        it.evidence.append(f"fingerprint {stage.fingerprint}")


def _examine_files(it: Examination, stored: Stored, listed: Mapping[str, FileDigest], path: str) -> None:
    it.missing += [f"{name} is not here" for name in sorted(set(listed) - set(stored.outputs))]
    it.wrong += [
        f"the store holds {name}, which {path}.outputs.files does not list"
        for name in sorted(set(stored.outputs) - set(listed))
    ]
    for name in sorted(set(listed) & set(stored.outputs)):
        found, told = stored.outputs[name], listed[name]
        if found != told:
            it.wrong.append(
                f"{name} has sha256 {found.sha256} and {found.size_bytes} bytes; {path}.outputs.files says "
                f"{told.sha256} and {told.size_bytes}"
            )
    observed = stored.told.observations.files
    it.missing += [f"the observation {name} is not here" for name in sorted(set(observed) - set(stored.observed))]
    for name in sorted(stored.observed):
        if name not in observed:
            it.wrong.append(f"the store holds the observation {name}, which its result.json does not list")
        elif observed[name] != stored.observed[name].sha256:
            it.wrong.append(f"the observation {name} has sha256 {stored.observed[name].sha256}, not {observed[name]}")
    it.wrong += [f"the stored result holds {name}, which no stage writes" for name in stored.extra]
    size_mb = sum(digest.size_bytes for digest in stored.outputs.values()) / 1e6
    it.evidence.append(f"{len(stored.outputs)} files, {size_mb:.1f} MB, hashed")


def _without_observations(stage: Stage) -> dict[str, object]:
    plain = dict(msgspec.to_builtins(stage))
    return {name: value for name, value in plain.items() if name not in ("cached", "observations")}


def _key(evidence: Evidence, node: Node, stage: Stage, stored: Stored | None) -> StoredKey | None:
    """The stage's key out of the record; None where it needs the machine's identity, which only the store holds."""
    own: dict[str, str] = {}
    if node.stage.exactness == ISA_EXACT or node.stage.host_bound:
        own["instruction_set"] = evidence.record.host.instruction_set
    for name, needed in (("host", node.stage.host_bound), ("accelerator", node.stage.accelerator)):
        if needed and stored is None:
            return None
        if needed and stored is not None:
            own[name] = getattr(stored.told.key, name) or ""
    if node.sample:
        own["sample"] = node.sample
    return StoredKey(
        format=FORMAT,
        stage=node.stage.name,
        image=stage.image,
        code=stage.code,
        argv=tuple(node.argv()),
        env=dict(STAGE_ENV),
        inputs={name: entry.digest for name, entry in stage.inputs.items()},
        **own,
    )


def _expected(evidence: Evidence, node: Node, stage: Stage) -> Stage:
    """The record's entry of a stage, observations aside, as the graph and the other entries demand it."""
    inputs = {}
    for name, source in node.inputs.items():
        if isinstance(source, Output):
            other = evidence.record.stage(source.node)
            digest = other.outputs.digest if other is not None else "of a stage that is missing"
            inputs[name] = StageInput(origin=source.node, digest=digest)
        else:
            found = stage.inputs.get(name)
            told = found.digest if found is not None else ""
            inputs[name] = StageInput(origin=source.name, digest=_outside(evidence, source.name, told))
    return msgspec.structs.replace(
        stage,
        key=node.key,
        name=node.stage.name,
        batch_size=node.batch_size,
        image=evidence.record.images.get(node.stage.image, "of an image that is missing"),
        argv=tuple(node.argv()),
        inputs=inputs,
        exactness=node.stage.exactness,
        host_bound=node.stage.host_bound,
    )


def _outside(evidence: Evidence, source: str, found: str) -> str:
    """What the record elsewhere says an input from outside is; conf/ has a claim of its own."""
    if source == "data":
        return evidence.record.data.fingerprint
    if source == "checkpoint":
        return evidence.record.checkpoint.sha256
    return found


def examine_code(outcome: Outcome, evidence: Evidence) -> None:
    """Claims: the stages' code and configuration are this checkout's."""
    with outcome.examine("code", "the stages ran the code of this checkout") as it:
        code: dict[str, str] = {}
        modules = Modules(evidence.paths.root)
        for stage in evidence.record.stages:
            if stage.name not in code:
                code[stage.name] = _code_digest(evidence.paths.root, stage.name, modules)
            if code[stage.name] != stage.code:
                it.missing.append(
                    f"{stage.key} ran code {stage.code[:16]}; here stages/{stage.name}.py and what it imports are "
                    f"{code[stage.name][:16] or 'absent'}: check out the commit that made the record"
                )
        it.evidence.append(f"{len(code)} stages, each with every module that it imports")
    with outcome.examine("configuration", "the stages were given the configuration of this checkout") as it:
        for node in expected_graph(evidence).values():
            for name, source in node.inputs.items():
                if isinstance(source, Source) and source.name.startswith("conf/"):
                    _examine_source(it, evidence, node, name, source)


def _code_digest(root: Path, stage: str, modules: Modules) -> str:
    try:
        return read_code(root, stage, modules).digest
    except BundleError:
        return ""


def _examine_source(it: Examination, evidence: Evidence, node: Node, name: str, source: Source) -> None:
    stage = evidence.record.stage(node.key)
    if stage is None:
        return
    here = digest_source(source.path, StatCache(None), source.name)
    told = stage.inputs.get(name)
    if told is None or told.digest != here:
        it.missing.append(
            f"{node.key} was given {source.name} with another digest than this checkout's {here[:16]}: check out the "
            "commit that made the record"
        )
    it.evidence.append(f"{source.name}: {here}")
