"""Forged records: each kind of lie is refuted by name, and so is a change of any leaf that is no observation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from _audit_cases import SIZE, audit, document_of, make_run, reopen, stage_of, stored, times_of, write_record
from _record_cases import identify

from repro.audit import stages
from repro.audit.claims import ATTESTED, PROVEN, REFUTED, UNVERIFIED
from repro.audit.leaves import is_observation, leaves
from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.base.files import pretty_json
from repro.container.image import Layer
from repro.images.layer_trees import publish_layer, unpack_layer
from repro.report.crate import METADATA, WORKFLOW, write_crate


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    make_run(folder)
    return folder


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Path:
    """A copy to forge; what a store protects is made writable."""
    target = tmp_path / "copy"
    shutil.copytree(sound, target)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def audited(folder: Path):
    return audit(folder, folder / "TIMIT", folder / "weights.pth")


def forge(folder: Path, change) -> None:
    """Change the record, and make its identity and reports fit, as a forger would."""
    evidence = reopen(folder)
    document = document_of(evidence)
    change(document)
    identify(document)
    write_record(evidence.run, document)


def refuted(outcome) -> dict[str, str]:
    return {claim.key: " ".join(claim.findings) for claim in outcome.of_status(REFUTED)}


def test_a_sound_run_is_refuted_in_nothing_and_its_claims_are_proven_or_attested(run: Path):
    outcome = audited(run)
    assert refuted(outcome) == {}
    missing = {claim.key for claim in outcome.of_status(UNVERIFIED)}
    assert {key for key in missing if not key.startswith("lock:")} == set()  # the fixture's layers are not the pinned
    proven = {claim.key for claim in outcome.of_status(PROVEN)}
    assert {"identity", "graph", "code", f"symbols@{SIZE}", f"score@{SIZE}", "verdict", "toolchain"} <= proven
    assert {claim.key for claim in outcome.of_status(ATTESTED)} >= {f"speed@{SIZE}", "observations"}


def test_a_better_cer_is_refuted_and_the_true_one_named(run: Path):
    truth = reopen(run).record.results[0].complete.cer_percent

    def better(document):
        document["results"][0]["complete"]["cer_percent"] = 1.25

    forge(run, better)
    found = refuted(audited(run))
    assert "results[0].complete.cer_percent is 1.25" in found[f"score@{SIZE}"]
    assert repr(truth) in found[f"score@{SIZE}"]


def test_a_whole_set_of_better_scores_that_agree_with_each_other_is_refuted(run: Path):
    def better(document):
        for protocol in ("published", "complete"):
            found = document["results"][0][protocol]
            found["edits"] = {"cer": 0, "wer": 0}
            found.update(cer_percent=0.0, wer_percent=0.0, cer_printed="0.0000", wer_printed="0.0000", confusions=[])

    forge(run, better)
    assert f"score@{SIZE}" in refuted(audited(run))


def test_a_digest_of_an_output_that_is_not_its_bytes_is_refuted(run: Path):
    def other(document):
        stage_of(document, "export")["outputs"]["files"]["lstm_ctc.onnx"]["sha256"] = "0" * 64

    forge(run, other)
    assert "lstm_ctc.onnx has sha256" in refuted(audited(run))["stage:export"]


def test_a_crate_that_says_something_else_is_refuted_and_a_sound_one_proven(run: Path):
    evidence = reopen(run)
    write_crate(evidence.record, evidence.run)
    assert "crate" in {claim.key for claim in audited(run).of_status(PROVEN)}
    metadata = evidence.run / METADATA
    (evidence.run / WORKFLOW).unlink()
    assert "crate" in {claim.key for claim in audited(run).of_status(UNVERIFIED)}
    write_crate(evidence.record, evidence.run)
    metadata.write_text(metadata.read_text().replace("not-comparable", "reproduced"))
    assert METADATA in refuted(audited(run))["crate"]


@pytest.mark.parametrize("name", ["contents.json/payload.sh", f"{METADATA}/payload.sh", "results", "results/corpus"])
def test_a_folder_in_place_of_a_file_and_a_file_in_place_of_a_folder_are_refuted(run: Path, name: str):
    path = reopen(run).run / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"payload")
    assert name.partition("/payload")[0] in refuted(audited(run))["folder"]


def test_a_workflow_without_its_crate_is_not_left_unread(run: Path):
    evidence = reopen(run)
    write_crate(evidence.record, evidence.run)
    (evidence.run / METADATA).unlink()
    assert "crate" in {claim.key for claim in audited(run).of_status(UNVERIFIED)}
    (evidence.run / WORKFLOW).write_text("lies")
    assert WORKFLOW in refuted(audited(run))["crate"]


def test_what_was_left_out_of_a_bundle_is_said_to_be_read_by_no_claim(run: Path):
    (reopen(run).run / "contents.json").write_text("lies")
    assert "contents.json" in " ".join(next(claim for claim in audited(run).claims if claim.key == "folder").open_to)


def test_a_verdict_that_does_not_follow_is_refuted(run: Path):
    def reproduced(document):
        document["verdict"].update(outcome="reproduced", reasons=[])

    forge(run, reproduced)
    assert "verdict.outcome is 'reproduced'; recomputed: 'not-comparable'" in refuted(audited(run))["verdict"]


def test_a_component_that_no_probe_found_is_refuted(run: Path):
    def pinned(document):
        for row in document["toolchain"]:
            row.update(found=row["required"], status="same")
        document["request"]["toolchain"] = "pinned"

    forge(run, pinned)
    found = refuted(audited(run))
    assert "recomputed: 'deviates'" in found["toolchain"]


def test_the_name_of_the_pinned_toolchain_alone_is_refuted(run: Path):
    forge(run, lambda document: document["request"].update(toolchain="pinned"))
    assert "request.toolchain is 'pinned'; recomputed: 'portable'" in refuted(audited(run))["toolchain"]


def test_data_that_call_themselves_timit_are_refuted(run: Path):
    def timit(document):
        document["data"].update(kind="timit", timit_counts_match=True, timit_deviations=[])
        document["request"]["data"] = "timit"

    forge(run, timit)
    assert "data.kind is 'timit'; recomputed: 'user'" in refuted(audited(run))["data"]


def test_an_identity_that_was_not_recomputed_is_refuted(run: Path):
    evidence = reopen(run)
    document = document_of(evidence)
    document["identity"]["sha256"] = "1" * 64
    write_record(evidence.run, document)
    assert "identity.sha256" in refuted(audited(run))["identity"]


def test_an_image_id_that_its_layers_do_not_make_is_refuted(run: Path):
    def other(document):
        wrong = "sha256:" + "a" * 64
        for stage in document["stages"]:
            if stage["image"] == document["images"]["base"]:
                stage["image"] = wrong
        document["images"]["base"] = wrong

    forge(run, other)
    found = refuted(audited(run))
    assert "images.base" in found["image:base"]
    assert "fingerprint" in found["stage:corpus"]


def test_a_layer_whose_bytes_changed_is_refuted(run: Path):
    evidence = reopen(run)
    layer = evidence.record.image_layers["base"][0]
    blob = evidence.blobs / layer.diff_id[7:]
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    assert "has sha256" in refuted(audited(run))[f"layer:{layer.name}"]


def test_a_layer_that_is_not_here_could_not_be_verified(run: Path):
    evidence = reopen(run)
    layer = evidence.record.image_layers["base"][0]
    (evidence.blobs / layer.diff_id[7:]).unlink()
    outcome = audited(run)
    assert refuted(outcome) == {}
    assert f"layer:{layer.name}" in {claim.key for claim in outcome.of_status(UNVERIFIED)}
    assert isinstance(outcome.error(), CouldNotVerify)


@pytest.fixture
def unpacked(run: Path) -> Path:
    """A run whose layers lie unpacked alone; gives their folder."""
    evidence = reopen(run)
    evidence.trees.mkdir()
    for layer in {layer for layers in evidence.record.image_layers.values() for layer in layers}:
        blob = evidence.blobs / layer.diff_id[7:]
        if blob.exists():
            (run / "made").mkdir()
            manifest = unpack_layer(
                Layer(layer.name, layer.kind, layer.diff_id, layer.size_bytes, blob, ""), run / "made" / "root"
            )
            publish_layer(run / "made", manifest, evidence.trees / layer.diff_id[7:])
            blob.unlink()
    return evidence.trees


def test_layers_that_lie_unpacked_alone_are_held_to_their_digests(run: Path, unpacked: Path):
    outcome = audited(run)
    assert refuted(outcome) == {}
    assert not [c.key for c in outcome.of_status(UNVERIFIED) if c.key.partition(":")[0] in ("layer", "image", "probe")]
    layers = [claim for claim in outcome.claims if claim.key.startswith("layer:")]
    assert all("bytes hashed: sha256:" in claim.evidence[0] for claim in layers) and layers


def test_an_unpacked_layer_with_a_changed_file_is_refuted_and_named(run: Path, unpacked: Path):
    layer = reopen(run).record.image_layers["base"][0]
    status = unpacked / layer.diff_id[7:] / "root" / "var" / "lib" / "dpkg" / "status"
    status.write_bytes(status.read_bytes().replace(b"Version: ", b"Version: 9"))
    outcome = audited(run)
    assert "var/lib/dpkg/status has another content" in refuted(outcome)[f"layer:{layer.name}"]
    assert "probe:base" in {claim.key for claim in outcome.of_status(UNVERIFIED)}


def test_a_flipped_byte_of_a_stored_output_is_refuted_and_named(run: Path):
    path = stored(run, f"infer@{SIZE}") / "out" / "result" / "inputs_1_0.npy"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    found = refuted(audited(run))
    assert "result/inputs_1_0.npy has sha256" in found[f"stage:infer@{SIZE}"]
    assert f"symbols@{SIZE}" in found


def test_a_surplus_file_among_the_outputs_is_refuted(run: Path):
    (stored(run, "corpus") / "out" / "extra").write_bytes(b"x")
    assert "the store holds extra" in refuted(audited(run))["stage:corpus"]


def test_a_file_that_was_withheld_could_not_be_verified_and_the_rest_of_the_stage_still_is(run: Path):
    evidence = reopen(run)
    for stage in evidence.record.stages:
        shutil.copytree(stored(run, stage.key), evidence.run / "results.new" / stage.key.replace(":", "-"))
    (evidence.run / "results.new").rename(evidence.run / "results")
    shutil.rmtree(evidence.store)
    for path in evidence.run.glob("results/infer@*/out/*/*.npy"):
        path.unlink()
    outcome = audited(run)
    assert refuted(outcome) == {}
    open_claims = {claim.key for claim in outcome.of_status(UNVERIFIED) if not claim.key.startswith("lock:")}
    assert open_claims == {f"{name}@{SIZE}" for name in ("stage:infer", "symbols", "score", "outputs-agree")}
    (evidence.run / "results" / "corpus" / "out" / "units").write_text("p00\n")
    assert "units has sha256" in refuted(audited(run))["stage:corpus"]


def test_a_link_among_the_outputs_is_refuted(run: Path):
    out = stored(run, "corpus") / "out"
    (out / "units").unlink()
    (out / "units").symlink_to("/etc/passwd")
    assert "units is a symbolic link, not a plain file" in refuted(audited(run))["stage:corpus"]


def test_a_stored_result_that_is_gone_could_not_be_verified(run: Path):
    shutil.rmtree(stored(run, f"compare@{SIZE}"))
    outcome = audited(run)
    assert refuted(outcome) == {}
    assert f"stage:compare@{SIZE}" in {claim.key for claim in outcome.of_status(UNVERIFIED)}


def test_raw_times_that_were_edited_are_refuted(run: Path):
    path = times_of(run)
    document = json.loads(path.read_bytes())
    document["times_ms"] = [time / 2 for time in document["times_ms"]]
    path.write_bytes(pretty_json(document))
    assert "measure.json has sha256" in refuted(audited(run))[f"speed@{SIZE}"]


def test_a_throughput_that_the_raw_times_do_not_give_is_refuted(run: Path):
    def faster(document):
        result = document["results"][0]
        result["throughput_utterances_per_s"] *= 2
        result["measured"]["throughput_utterances_per_s"] *= 2

    forge(run, faster)
    assert "throughput_utterances_per_s" in refuted(audited(run))[f"speed@{SIZE}"]


def test_raw_times_that_change_between_hashing_and_reading_are_refuted(run: Path):
    evidence, key = reopen(run), f"measure@{SIZE}"
    evidence.stored(evidence.stage(key))
    path = times_of(run)
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(VerificationFailed, match=r"measure\.json has sha256"):
        evidence.observed(evidence.stage(key), "measure.json")


def test_a_listed_observation_that_is_gone_could_not_be_verified(run: Path):
    (stored(run, f"infer@{SIZE}") / "obs" / "result_summary.json").unlink()
    outcome = audited(run)
    found = {claim.key: " ".join(claim.findings) for claim in outcome.of_status(UNVERIFIED)}
    assert "the observation result_summary.json is not here" in found[f"stage:infer@{SIZE}"]
    assert refuted(outcome) == {}


def test_raw_times_of_a_later_run_could_not_be_verified_and_refute_nothing(run: Path):
    path = stored(run, f"measure@{SIZE}") / "result.json"
    document = json.loads(path.read_bytes())
    document["observations"]["wall_s"] = 9.0
    path.write_bytes(pretty_json(document))
    outcome = audited(run)
    assert refuted(outcome) == {}
    assert f"speed@{SIZE}" in {claim.key for claim in outcome.of_status(UNVERIFIED)}


def test_a_report_that_says_something_else_is_refuted(run: Path):
    path = reopen(run).run / "report.html"
    path.write_text(path.read_text().replace("Not comparable", "Reproduced"))
    assert "report.html" in refuted(audited(run))["reports"]


def test_another_data_set_is_refuted_and_none_could_not_be_verified(run: Path):
    labels = run / "TIMIT" / "TEST" / "DR1" / "FAKS0" / "SX1.PHN"
    labels.write_text(labels.read_text().replace("q", "aa"))
    assert {"data-bytes", "labels"} <= set(refuted(audited(run)))
    outcome = audit(run)
    assert refuted(outcome) == {}
    assert {"data-bytes", "checkpoint-bytes"} <= {claim.key for claim in outcome.of_status(UNVERIFIED)}


def test_a_stage_left_out_and_a_stage_put_in_are_refuted(run: Path):
    forge(run, lambda document: document["stages"].remove(stage_of(document, f"compare@{SIZE}")))
    assert f"stage compare@{SIZE} is missing" in refuted(audited(run))["graph"]


def test_what_is_no_record_is_refuted_and_what_is_not_there_is_wrong_use(run: Path, tmp_path: Path):
    path = reopen(run).run / "record.json"
    twice = path.read_text().replace('"schema"', '"version": 1, "schema"')
    path.write_text(twice)
    assert "stands twice" in refuted(audited(run))["schema"]
    path.write_text('{"schema": "lstm-ctc-bundle/record"}')
    assert "missing required field" in refuted(audited(run))["schema"]
    with pytest.raises(UsageError):
        reopen(tmp_path / "nowhere")


def test_observations_are_few_and_listed(sound: Path):
    observed = {
        path.split(".")[0].split("[")[0] for path, _ in leaves(document_of(reopen(sound))) if is_observation(path)
    }
    assert observed == {"checkpoint", "engine", "host", "observations", "stages"}


@pytest.mark.parametrize("asked", [{}, {"precision": "bf16"}])
def test_a_run_s_precision_is_part_of_what_is_asked_for_again(run: Path, asked):
    def precise(document):
        document["request"].update(asked)

    forge(run, precise)
    assert stages.request_of(reopen(run).record).precision == asked.get("precision", "fp32")
