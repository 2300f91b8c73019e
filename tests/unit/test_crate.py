"""A run's RO-Crate: made from the record alone, whole in itself, the same bytes every time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from _audit_cases import document_of, make_run

from repro.base.errors import CouldNotVerify
from repro.base.files import sha256_bytes
from repro.report.crate import METADATA, WORKFLOW, crate_files, described_files, write_crate


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("crate"))


@pytest.fixture
def crate(run, tmp_path: Path) -> Path:
    folder = shutil.copytree(run.run, tmp_path / "crate")
    write_crate(run.record, folder)
    return folder


def entities(crate: Path):
    return {entity["@id"]: entity for entity in json.loads((crate / METADATA).read_bytes())["@graph"]}


def test_every_file_is_described_with_its_digest_and_every_description_has_its_file(crate: Path):
    described = {name: e for name, e in entities(crate).items() if "File" in e["@type"]}
    assert set(described) == {path.name for path in crate.iterdir()} - {METADATA}
    for name, entity in described.items():
        data = (crate / name).read_bytes()
        assert (entity["sha256"], entity["contentSize"]) == (sha256_bytes(data), str(len(data)))
    assert {part["@id"] for part in entities(crate)["./"]["hasPart"]} == set(described)


def test_every_reference_leads_to_an_entity_of_the_crate(crate: Path):
    known = entities(crate)

    def references(value):
        if isinstance(value, dict):
            if set(value) == {"@id"}:
                yield value["@id"]
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    outside = {"https://w3id.org/ro/crate/1.1", "https://w3id.org/ro/terms/workflow-run#DockerImage"}
    for entity in known.values():
        for name in references({k: v for k, v in entity.items() if k != "@id"}):
            assert name in known or name in outside, name


def test_the_run_is_tied_to_data_weights_and_images_by_digest(run, crate: Path):
    action = entities(crate)["#run"]
    record = document_of(run)
    assert [item["@id"] for item in action["object"]] == [
        f"urn:sha256:{record['data']['fingerprint']}",
        f"urn:sha256:{record['checkpoint']['sha256']}",
    ]
    assert {item["@id"] for item in action["containerImage"]} == {f"urn:{image}" for image in record["images"].values()}
    assert (action["startTime"], action["endTime"]) == ("2026-11-22T18:00:00+00:00", "2026-11-22T18:00:20+00:00")


def test_the_workflow_lists_every_stage_in_order(run, crate: Path):
    steps = json.loads((crate / WORKFLOW).read_bytes())["steps"]
    assert [step["key"] for step in steps] == [stage["key"] for stage in document_of(run)["stages"]]
    assert steps[-1].keys() == {"key", "stage", "image", "code", "argv", "inputs"}


def test_each_stage_is_an_action_fed_by_the_results_of_others(run, crate: Path):
    known, record = entities(crate), document_of(run)
    assert any(given["from"] == "corpus" for stage in record["stages"] for given in stage["inputs"].values())
    for stage in record["stages"]:
        action = known[f"#action/{stage['key']}"]
        program = known[action["instrument"]["@id"]]
        assert (program["@type"], program["version"]) == ("SoftwareSourceCode", stage["code"])
        objects = action["object"]
        taken = {item["@id"] for item in (objects if isinstance(objects, list) else [objects])}
        assert taken == {f"urn:sha256:{given['digest']}" for given in stage["inputs"].values()}
        assert action["result"]["@id"] == f"urn:sha256:{stage['outputs']['digest']}"
        assert action["containerImage"]["@id"] == f"urn:{stage['image']}"
        for given in stage["inputs"].values():
            fed = known.get(f"#action/{given['from']}")
            assert fed is None or fed["result"]["@id"] in taken, given


def test_the_workflow_orders_its_steps_and_the_runner_answers_for_each(run, crate: Path):
    known, keys = entities(crate), [stage["key"] for stage in document_of(run)["stages"]]
    steps = [known[item["@id"]] for item in known[WORKFLOW]["step"]]
    assert [(step["name"], step["position"]) for step in steps] == [(key, str(n)) for n, key in enumerate(keys, 1)]
    controls = [known[item["@id"]] for item in known["#organisation"]["object"]]
    assert [control["object"]["@id"] for control in controls] == [f"#action/{key}" for key in keys]
    assert known["#organisation"]["result"]["@id"] == "#run"


def test_an_action_of_an_earlier_run_has_no_time_in_this_one(run, tmp_path: Path):
    folder = shutil.copytree(run.run, tmp_path / "cached")
    first, *rest = run.record.stages
    record = msgspec.structs.replace(run.record, stages=(msgspec.structs.replace(first, cached=True), *rest))
    write_crate(record, folder)
    cached, ran = (entities(folder)[f"#action/{stage.key}"] for stage in record.stages[:2])
    assert "startTime" not in cached and "earlier run" in cached["description"]
    assert ran["startTime"] <= ran["endTime"]


@pytest.mark.parametrize("name", ["report.md", "report.html", "record.json"])
def test_a_run_that_lacks_a_file_is_no_crate_that_says_something_else(run, tmp_path: Path, name: str):
    folder = shutil.copytree(run.run, tmp_path / "lacking")
    (folder / name).unlink()
    with pytest.raises(CouldNotVerify, match=f"{name} is not in the run's folder"):
        described_files(folder)


def test_equal_runs_give_equal_bytes(run, crate: Path, tmp_path: Path):
    shutil.copytree(run.run, tmp_path / "again")
    write_crate(run.record, tmp_path / "again")
    for path in crate.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_record_in_memory_and_one_that_was_read_give_the_same_crate(run, crate: Path):
    """JSON sorts its names; a graph names inputs in the order in which they were declared."""
    turned = tuple(
        msgspec.structs.replace(stage, inputs=dict(sorted(stage.inputs.items(), reverse=True)))
        for stage in run.record.stages
    )
    described = described_files(run.run)
    assert crate_files(msgspec.structs.replace(run.record, stages=turned), described) == crate_files(
        run.record, described
    )
