"""`invoke audit.verify`: a run proven or refuted from its bytes, claim by claim; nothing that it says is believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from repro.audit.claims import ATTESTED, REFUTED, Examination, Outcome
from repro.audit.evidence import Evidence
from repro.audit.images import examine_images
from repro.audit.leaves import differences, is_observation, leaves
from repro.audit.results import examine_results
from repro.audit.stages import examine_code, examine_graph, examine_stages
from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.base.files import sha256_bytes, sha256_file
from repro.base.temporary import temporary_folder
from repro.base.toml import read_toml
from repro.graph.cache import StatCache
from repro.graph.sources import digest_source
from repro.guide import toolchain
from repro.guide.published import Published, load_published
from repro.guide.verdict import is_excepted, verdict
from repro.images.archives import source_names
from repro.locks.archives import load_sources
from repro.record import Record, identity_of, schema
from repro.record.document import ToolchainRow
from repro.record.stage_files import ProbeFile
from repro.report import write_report
from repro.report.crate import METADATA, crate_files, described_files
from repro.run import record as records
from repro.run.inputs import DEMO, demo_checkpoint_path
from repro.run.reproduce import PINNED_DEVIATING
from repro.run.target import PINNED, PORTABLE

_SCHEMA = schema.PATH
KNOWN = ("checkpoint", "data", "engine", "host", "identity", "image_layers", "image_manifests", "images", "metrics",
         "observations", "request", "results", "schema", "sources", "stages", "toolchain", "verdict",
         "version")  # fmt: skip


def verify_run(evidence: Evidence, data: Path | None = None, checkpoint: Path | None = None) -> Outcome:
    """Examine every claim of a run.

    Args:
        evidence: the run, and the checkout that it is held against.
        data: the user's data set, if it is here; the demo's needs none.
        checkpoint: likewise.

    Returns:
        The outcome; its `error()` says how a command ends.
    """
    record = evidence.record
    outcome = Outcome("verify", f"record.json sha256 {evidence.sha256}")
    with outcome.examine("schema", "the record is a record: strict JSON that fits the published schema") as it:
        _examine_schema(it, record)
    if outcome.claims[-1].status == REFUTED:
        return outcome  # what is not a record has no further claims
    outcome.facts += _facts(record)
    with outcome.examine("identity", "the record's identity is the digest of what it names") as it:
        identity = identity_of(_typed(record))
        it.wrong += differences(record["identity"], _plain(identity), "identity")
        it.evidence.append(f"identity {identity.sha256}")
    nodes = examine_graph(outcome, evidence)
    examine_stages(outcome, evidence, nodes)
    examine_code(outcome, evidence)
    _examine_inputs(outcome, evidence, data, checkpoint)
    examine_images(outcome, evidence)
    _examine_sources(outcome, evidence)
    examine_results(outcome, evidence)
    _examine_judgement(outcome, evidence)
    return outcome


def _examine_sources(outcome: Outcome, evidence: Evidence) -> None:
    """Archives known by first use alone have no digest to be held to here; which ones there are is known."""
    record, paths = evidence.record, evidence.paths
    known = load_sources(paths.conf)
    with outcome.examine("sources", "compiled layers are made from the archives that conf/sources.toml names") as it:
        listed = {item["name"]: item for item in record.get("sources", [])}
        expected = source_names(paths, record["images"], str(record["host"].get("architecture", "")))
        it.wrong += differences(sorted(listed), sorted(expected), "sources")
        for name in sorted(set(listed) & set(known)):
            if not known[name].first_use and listed[name]["digest"] != known[name].digest:
                it.wrong.append(
                    f"sources: {name} is {listed[name]['digest']}; conf/sources.toml has {known[name].digest}"
                )
        it.evidence.append(f"{len(expected)} archives")


def _examine_schema(it: Examination, record: Mapping[str, Any]) -> None:
    import jsonschema

    validator = jsonschema.Draft202012Validator(json.loads(_SCHEMA.read_bytes()))
    for error in sorted(validator.iter_errors(record), key=lambda error: error.json_path):
        it.wrong.append(f"{error.json_path[2:] or 'the record'}: {error.message[:200]}")
    it.missing += [f"{name} is not known to this version of the audit" for name in sorted(set(record) - set(KNOWN))]
    it.evidence.append(f"{_SCHEMA.name} sha256 {sha256_file(_SCHEMA)}")


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("record's identity", record["identity"]["sha256"]),
        ("verdict claimed", record["verdict"]["outcome"]),
        ("data", f"{record['data']['kind']}, {record['data']['fingerprint']}"),
        ("checkpoint", f"{record['checkpoint']['kind']}, {record['checkpoint']['sha256']}"),
        ("batch sizes", ", ".join(str(size) for size in record["request"]["batch_sizes"])),
        ("made on", f"{record['host'].get('cpu', 'unknown')}, {record['engine']['name']}"),
    ]


def _examine_inputs(outcome: Outcome, evidence: Evidence, data: Path | None, checkpoint: Path | None) -> None:
    record = evidence.record
    stages = {stage["key"]: stage for stage in record["stages"]}
    with outcome.examine("data", "what the record says of the data set is what the stage corpus found") as it:
        summary = evidence.json(_named(stages, "corpus"), "summary.json")
        it.wrong += differences(record["data"], _expected_data(stages, summary), "data")
        it.evidence.append("corpus: summary.json, by digest")
    if record["data"]["kind"] != DEMO:
        with outcome.examine("data-bytes", "the data set here is the one that was used") as it:
            _examine_source(it, data, "data set", record["data"]["fingerprint"], "--data")
    demo = read_toml(evidence.paths.conf / "demo.toml").get("checkpoint", {}).get("sha256")
    with outcome.examine("checkpoint", "what the record says of the checkpoint is what the repository pins") as it:
        found = record["checkpoint"]
        kind = DEMO if found["sha256"] == demo else "user"
        note = "The demo checkpoint: trained on the demo corpus; it is not the published model."
        expected = {**found, "kind": kind, "note": note if kind == DEMO else ""}
        it.wrong += differences(found, expected, "checkpoint")
        it.evidence.append(f"conf/demo.toml pins {demo}")
    with outcome.examine("checkpoint-bytes", "the checkpoint here is the one that was used") as it:
        place = demo_checkpoint_path(evidence.paths) if kind == DEMO else checkpoint
        _examine_source(it, place, "checkpoint", found["sha256"], "--checkpoint")


def _named(stages: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if key not in stages:
        raise VerificationFailed(f"the record has no stage {key}")
    return dict(stages[key])


def _examine_source(it: Examination, place: Path | None, what: str, expected: str, option: str) -> None:
    if place is None or not place.exists():
        it.missing.append(f"the {what} is not here; give it with {option} (the record wants {expected})")
        return
    found = digest_source(place, StatCache(None), what)
    if found != expected:
        it.wrong.append(f"the {what} given has the digest {found}; the record says {expected}")
    it.evidence.append(f"{what}: {found}")


def _expected_data(stages: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    demo = "demo_corpus" in stages
    kind = DEMO if demo else "timit" if summary["timit"]["matches"] else "user"
    note = "The demo corpus: synthetic speech in TIMIT's layout; its error rates say nothing about TIMIT."
    return {
        "kind": kind,
        "fingerprint": _named(stages, "corpus")["inputs"]["data"]["digest"],
        "utterances": {split: found["utterances"] for split, found in summary["splits"].items()},
        "phones": {split: found["phones"] for split, found in summary["splits"].items()},
        "timit_counts_match": summary["timit"]["matches"],
        "timit_deviations": summary["timit"]["deviations"],
        "excluded": summary["excluded"],
        "note": note if demo else "",
    }


def _examine_judgement(outcome: Outcome, evidence: Evidence) -> None:
    """Claims about what was concluded: toolchain, verdict, formulas, reports; and what only the runner saw."""
    record, paths = evidence.record, evidence.paths
    stages = {stage["key"]: stage for stage in record["stages"]}
    table = load_published(paths.conf / "published.toml")
    with outcome.examine("toolchain", "the toolchain is what the probes found in the images") as it:
        probes = {
            name: msgspec.convert(evidence.json(_named(stages, f"probe:{name}"), "probe.json"), ProbeFile)
            for name in record["images"]
        }
        rows = toolchain.compare(toolchain.load_components(paths.conf), probes, record["host"])
        it.wrong += differences(record["toolchain"], _plain(rows), "toolchain")
        name = _toolchain_name(record, rows, table)
        if record["request"]["toolchain"] != name:
            it.wrong.append(f"request.toolchain is {record['request']['toolchain']!r}; recomputed: {name!r}")
        if any(row.found and row.probe.endswith(" in this host") for row in rows):
            it.if_it_holds = ATTESTED
            it.evidence.append("driver, firmware and chip are attested by the run")
        it.evidence.append(f"{len(rows)} components of conf/compatibility.toml, {len(probes)} probes by digest")
    with outcome.examine("verdict", "the verdict follows from the published table") as it:
        expected = verdict(_typed(record), table)
        it.wrong += differences(record["verdict"], _plain(expected), "verdict")
        it.evidence.append(f"recomputed: {expected.outcome}; conf/published.toml sha256 "
                           f"{sha256_file(paths.conf / 'published.toml')}")  # fmt: skip
    with outcome.examine("formulas", "the record states the formulas and units of its metrics") as it:
        it.wrong += differences(record["metrics"], _plain(records.METRICS), "metrics")
        it.evidence.append(f"{len(records.METRICS)} metrics")
    with outcome.examine("reports", "report.md and report.html say what the record says") as it:
        _examine_reports(it, evidence)
    if (evidence.run / METADATA).is_file():
        with outcome.examine("crate", "the run's RO-Crate says what the record says") as it:
            _examine_crate(it, evidence)
    with outcome.examine("observations", "times, host and engine were observed as the record says") as it:
        observed = [path for path, _ in leaves(record) if is_observation(path)]
        steps = [step["key"] for step in record["observations"].get("steps", []) if step["key"] not in stages]
        it.wrong += [f"observations.steps names {key}, which is no stage of the record" for key in steps]
        it.if_it_holds = ATTESTED
        it.evidence.append(f"{len(observed)} values that only the machine of the run could see")


def _typed(record: Mapping[str, Any]) -> Record:
    return msgspec.convert(record, Record)


def _plain(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def _toolchain_name(record: Mapping[str, Any], rows: tuple[ToolchainRow, ...], table: Published) -> str:
    """'pinned' only where the pinned images ran and every row of the compatibility table is as required."""
    if not record["request"].get("pinned"):
        return PORTABLE
    wrong = toolchain.deviations(rows, lambda row: is_excepted(row, _typed(record).host, table))
    return PINNED_DEVIATING if wrong else PINNED


def _examine_reports(it: Examination, evidence: Evidence) -> None:
    with temporary_folder(evidence.paths.temporary, "report") as folder:
        write_report(_typed(evidence.record), folder)
        for path in sorted(folder.iterdir()):
            there = evidence.run / path.name
            if not there.is_file():
                raise CouldNotVerify(f"{path.name} is not here")
            if there.read_bytes() != path.read_bytes():
                it.wrong.append(f"{path.name} is not what the record gives when it is drawn again")
            it.evidence.append(f"{path.name} drawn again: sha256 {sha256_file(path)}")


def _examine_crate(it: Examination, evidence: Evidence) -> None:
    for name, data in crate_files(_typed(evidence.record), described_files(evidence.run)).items():
        there = evidence.run / name
        if not there.is_file():
            raise CouldNotVerify(f"{name} is not here")
        if there.read_bytes() != data:
            it.wrong.append(f"{name} is not what record and reports give when it is made again")
        it.evidence.append(f"{name} made again: sha256 {sha256_bytes(data)}")
