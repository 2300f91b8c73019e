"""A run as a Provenance Run RO-Crate: a record that other tools can read, made from record.json alone.

Profile: Provenance Run Crate 0.5 on RO-Crate 1.1. The workflow is the record's own graph of stages, written beside it
as workflow.json; the run is one CreateAction from data set and checkpoint to record and reports, and each stage is one
from its inputs to its output. What a stage took and gave is not in the crate: it is named by its digest, so that the
output of one action is the input of the next by being the same entity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from repro.base.confined import read_below
from repro.base.errors import CouldNotVerify
from repro.base.files import pretty_json, sha256_bytes, write_atomic
from repro.base.strict_json import MAX_BYTES
from repro.record import Record
from repro.record.document import Observations
from repro.record.stages import Stage

METADATA = "ro-crate-metadata.json"
WORKFLOW = "workflow.json"
_RUN_TERMS = "https://w3id.org/ro/terms/workflow-run#"
# The run's terms stand here by themselves, so that a reader of the crate has to fetch one context less.
_CONTEXT = [
    "https://w3id.org/ro/crate/1.1/context",
    {name: _RUN_TERMS + name for name in ("ContainerImage", "DockerImage", "containerImage", "sha256")},
]
PROVENANCE = "https://w3id.org/ro/wfrun/provenance/0.5"
_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    PROVENANCE: "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
_FILES = {
    "record.json": ("The record of the run", "application/json"),
    "report.html": ("The report of the run", "text/html"),
    "report.md": ("The report of the run, as Markdown", "text/markdown"),
}
_LICENCE = "https://spdx.org/licenses/Apache-2.0"
_RUNNER = "urn:lstm-ctc-bundle:stage-graph:1"

Entity = dict[str, Any]


def workflow_of(record: Record) -> bytes:
    """The graph of a record's stages as JSON: what ran in which image, with which arguments, fed by what."""
    steps = [
        {
            "key": stage.key,
            "stage": stage.name,
            "image": stage.image,
            "code": stage.code,
            "argv": stage.argv,
            "inputs": {name: entry.origin for name, entry in sorted(stage.inputs.items())},
        }
        for stage in record.stages
    ]
    return pretty_json({"request": msgspec.to_builtins(record.request), "steps": steps})


def crate_metadata(record: Record, files: Mapping[str, bytes]) -> bytes:
    """The crate's ro-crate-metadata.json.

    Args:
        record: the run's record.
        files: the crate's files by name: workflow.json, record.json, and the reports.

    Returns:
        JSON-LD; equal arguments give equal bytes.
    """
    entities = [
        _descriptor(),
        _root(record, sorted(files)),
        *_profiles(),
        *(_file(name, data, record) for name, data in sorted(files.items())),
        _language(),
        *_materials(record),
        *_images(record),
        _action(record, sorted(set(files) - {WORKFLOW})),
        _organisation(record),
        *(entity for stage in record.stages for entity in _stage(record, stage)),
        _agent(),
        _licence(),
    ]
    first = {entity["@id"]: entity for entity in reversed(entities)}  # stages share programs and materials
    return pretty_json({"@context": _CONTEXT, "@graph": list(reversed(first.values()))})


def described_files(run: Path) -> dict[str, bytes]:
    """What a crate describes of a run's folder: its record and reports, by name.

    Raises:
        CouldNotVerify: one of them is not there.
        NotPlain: one of them is no plain file.
    """
    described = {}
    for name in _FILES:
        try:
            described[name] = read_below(run, name, MAX_BYTES)
        except FileNotFoundError:
            raise CouldNotVerify(f"{name} is not in the run's folder", hint="take the folder whole") from None
    return described


def crate_files(record: Record, described: Mapping[str, bytes]) -> dict[str, bytes]:
    """What makes a crate of a folder that holds the described files: the workflow, and the metadata, by name."""
    workflow = workflow_of(record)
    return {WORKFLOW: workflow, METADATA: crate_metadata(record, {**described, WORKFLOW: workflow})}


def write_crate(record: Record, run: Path) -> None:
    """Make a run's folder a crate.

    Args:
        record: the run's record.
        run: its folder, which holds the record and the reports already.
    """
    for name, data in crate_files(record, described_files(run)).items():
        write_atomic(run / name, data)


def _ref(identity: str) -> dict[str, str]:
    return {"@id": identity}


def _refs(identities: Sequence[str]) -> Any:
    """References; a single one stands for itself, as JSON-LD recommends."""
    found = [_ref(identity) for identity in identities]
    return found[0] if len(found) == 1 else found


def _program(stage: Stage) -> str:
    return f"urn:lstm-ctc-bundle:stage:{stage.name}:sha256:{stage.code}"


def _descriptor() -> Entity:
    return {
        "@id": METADATA,
        "@type": "CreativeWork",
        "about": _ref("./"),
        "conformsTo": [
            _ref("https://w3id.org/ro/crate/1.1"),
            _ref("https://w3id.org/workflowhub/workflow-ro-crate/1.0"),
        ],
    }


def _root(record: Record, files: list[str]) -> Entity:
    sizes = ", ".join(str(size) for size in record.request.batch_sizes)
    return {
        "@id": "./",
        "@type": "Dataset",
        "conformsTo": [_ref(identity) for identity in _PROFILES],
        "name": f"LSTM-CTC phoneme recogniser: run {record.identity.sha256[:16]}",
        "description": f"One run of the reproducibility bundle at batch sizes {sizes}, with data set "
        f"{record.data.kind} and checkpoint {record.checkpoint.kind}; verdict: {record.verdict.outcome}. "
        "Every digest is in record.json.",
        "datePublished": record.observations.started_at,
        "license": _ref(_LICENCE),
        "hasPart": [_ref(name) for name in files],
        "mainEntity": _ref(WORKFLOW),
        "mentions": [_ref("#run"), _ref("#organisation"), *(_ref(f"#action/{stage.key}") for stage in record.stages)],
    }


def _profiles() -> list[Entity]:
    return [
        {"@id": identity, "@type": "CreativeWork", "name": name, "version": identity.rpartition("/")[2]}
        for identity, name in _PROFILES.items()
    ]


def _file(name: str, data: bytes, record: Record) -> Entity:
    about = {"@id": name, "contentSize": str(len(data)), "sha256": sha256_bytes(data)}
    if name == WORKFLOW:
        return {
            **about,
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
            "name": "The graph of stages that ran",
            "description": "Each stage with its image, the digest of its code, its arguments and what fed it.",
            "encodingFormat": "application/json",
            "programmingLanguage": _ref(_RUNNER),
            "hasPart": _refs(sorted({_program(stage) for stage in record.stages})),
            "step": _refs([f"#step/{stage.key}" for stage in record.stages]),
            "license": _ref(_LICENCE),
            "version": record.identity.sha256,
        }
    title, media_type = _FILES[name]
    return {**about, "@type": "File", "name": title, "encodingFormat": media_type}


def _language() -> Entity:
    return {
        "@id": _RUNNER,
        "@type": ["ComputerLanguage", "SoftwareApplication"],
        "name": "lstm-ctc-bundle stage graph",
        "description": "Stages as containers over content-addressed inputs; repro/graph of the repository runs it.",
        "version": "1",
    }


def _materials(record: Record) -> list[Entity]:
    """What actions took and gave, by digest: the run's data set and checkpoint first, then the stages'."""
    data, checkpoint = record.data, record.checkpoint
    entities = [
        _material(
            data.fingerprint,
            f"data set: {data.kind}",
            data.note or "A corpus in TIMIT's layout; not in this crate, named by its digest.",
        ),
        _material(
            checkpoint.sha256,
            f"checkpoint: {checkpoint.kind}",
            checkpoint.note or "Weights; not in this crate, named by their digest.",
        ),
    ]
    for stage in record.stages:
        count = len(stage.outputs.files)
        files = f"{count} file" + "s" * (count != 1)
        entities.append(
            _material(stage.outputs.digest, f"output of {stage.key}", f"{files}; record.json lists them with digests.")
        )
    for stage in record.stages:
        for _, given in sorted(stage.inputs.items()):  # as record.json has them, whatever the order in memory
            entities.append(_material(given.digest, given.origin, "An input of stages; named by its digest."))
    return entities


def _material(sha256: str, name: str, description: str) -> Entity:
    return {
        "@id": f"urn:sha256:{sha256}",
        "@type": "CreativeWork",
        "name": name,
        "description": description,
        "identifier": f"sha256:{sha256}",
    }


def _images(record: Record) -> list[Entity]:
    return [
        {
            "@id": f"urn:{digest}",
            "@type": "ContainerImage",
            "additionalType": _ref(f"{_RUN_TERMS}DockerImage"),
            "name": f"lstm-ctc-bundle/{name}",
            "sha256": digest[7:],
        }
        for name, digest in sorted(record.images.items())
    ]


def _action(record: Record, results: list[str]) -> Entity:
    return {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"invoke reproduce, engine {record.engine.name}",
        "description": f"{len(record.stages)} stages on {record.host.cpu}.",
        "instrument": _ref(WORKFLOW),
        "agent": _ref("#runner"),
        "object": _refs([f"urn:sha256:{record.data.fingerprint}", f"urn:sha256:{record.checkpoint.sha256}"]),
        "result": _refs(results),
        "startTime": _after(record.observations, 0),
        "endTime": _end(record.observations),
        "actionStatus": "http://schema.org/CompletedActionStatus",
        "containerImage": _refs([f"urn:{digest}" for _, digest in sorted(record.images.items())]),
    }


def _organisation(record: Record) -> Entity:
    """That the bundle's own runner ran the steps, and that the workflow's action came of it."""
    return {
        "@id": "#organisation",
        "@type": "OrganizeAction",
        "name": "the runner of stages",
        "instrument": _ref(_RUNNER),
        "agent": _ref("#runner"),
        "object": _refs([f"#control/{stage.key}" for stage in record.stages]),
        "result": _ref("#run"),
        "startTime": _after(record.observations, 0),
        "endTime": _end(record.observations),
    }


def _stage(record: Record, stage: Stage) -> list[Entity]:
    """A stage's program, its step of the workflow, and what was done: the action, and its tie to the step."""
    step = next((step for step in record.observations.steps if step.key == stage.key), None)
    position = record.stages.index(stage) + 1
    taken = sorted({given.digest for given in stage.inputs.values()})
    action: Entity = {
        "@id": f"#action/{stage.key}",
        "@type": "CreateAction",
        "name": f"stage {stage.key}",
        "description": f"Fingerprint {stage.fingerprint}, engine {stage.observations.engine}, "
        f"{stage.observations.wall_s} s." + (" Made by an earlier run, and taken from the store." * stage.cached),
        "instrument": _ref(_program(stage)),
        "agent": _ref("#runner"),
        "object": _refs([f"urn:sha256:{digest}" for digest in taken]),
        "result": _ref(f"urn:sha256:{stage.outputs.digest}"),
        "actionStatus": "http://schema.org/CompletedActionStatus",
        "containerImage": _ref(f"urn:{stage.image}"),
    }
    if step is not None and not stage.cached:  # when an earlier run made it, this record does not say
        action["startTime"] = _after(record.observations, step.started_s)
        action["endTime"] = _after(record.observations, step.started_s + step.wall_s)
    return [
        {
            "@id": _program(stage),
            "@type": "SoftwareSourceCode",
            "name": f"stages/{stage.name}.py and what it imports",
            "version": stage.code,
            "programmingLanguage": "Python",
        },
        {
            "@id": f"#step/{stage.key}",
            "@type": "HowToStep",
            "name": stage.key,
            "position": str(position),
            "workExample": _ref(_program(stage)),
        },
        action,
        {
            "@id": f"#control/{stage.key}",
            "@type": "ControlAction",
            "name": f"step {stage.key}",
            "instrument": _ref(f"#step/{stage.key}"),
            "object": _ref(f"#action/{stage.key}"),
        },
    ]


def _after(observations: Observations, seconds: float) -> str:
    return (observations.started() + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S+00:00")


def _end(observations: Observations) -> str:
    return _after(observations, observations.wall_s)


def _agent() -> Entity:
    return {"@id": "#runner", "@type": "Person", "name": "whoever ran it; the record does not name people"}


def _licence() -> Entity:
    return {
        "@id": _LICENCE,
        "@type": "CreativeWork",
        "name": "Apache License 2.0",
        "url": "https://www.apache.org/licenses/LICENSE-2.0",
    }
