"""What goes into a bundle, and above all what does not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from _record_cases import demo_record, record_of

from repro.base.errors import CouldNotRun, UsageError
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.locks.model import load_deb_lock, load_wheel_lock
from repro.packing import contents, repository, runs
from repro.packing.pack import parse_size
from repro.record import record_bytes
from repro.report.crate import METADATA, WORKFLOW
from repro.resolving import host_wheels

ROOT = Path(__file__).resolve().parent.parent.parent


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@invalid"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "notes").write_text("notes\n")
    (tmp_path / ".gitignore").write_text("/data/\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_the_repository_is_taken_from_the_commit_and_ignored_data_never(checkout):
    (checkout / "data").mkdir()
    (checkout / "data" / "TIMIT.zip").write_text("licensed")
    found = repository.files_at(checkout, repository.head(checkout))
    assert [(file.path, file.executable) for file in found] == [
        (".gitignore", False),
        ("notes", False),
        ("run.sh", True),
    ]
    assert found[1].data == b"notes\n"


def test_a_changed_file_is_refused(checkout):
    (checkout / "notes").write_text("changed\n")
    with pytest.raises(UsageError, match="differ from commit") as caught:
        repository.head(checkout)
    assert "notes" in caught.value.detail


def test_a_link_in_the_commit_is_refused(checkout):
    (checkout / "link").symlink_to("notes")
    git(checkout, "add", "link")
    git(checkout, "commit", "-qm", "a link")
    with pytest.raises(CouldNotRun, match="link"):
        repository.files_at(checkout, repository.head(checkout))


def test_no_checkout(tmp_path):
    with pytest.raises(CouldNotRun, match="git"):
        repository.head(tmp_path)


@pytest.mark.parametrize(
    ("text", "size"),
    [("", 0), ("4GB", 4 * 10**9), ("4GiB", 4 << 30), ("650 MB", 650 * 10**6), ("1000", 1000), ("1k", 1000)],
)
def test_sizes_of_parts(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["four", "-1GB", "1.5GB", "GB"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


# --- images, and what is licensed


def test_compilers_and_the_vendors_packages_stay_unless_asked_for():
    names = ["base", "sandbox", "toolchain", "cann", "kaldi"]
    assert contents.images_to_pack(Paths(ROOT), names, "amd64", ()) == ["base", "sandbox", "kaldi"]
    assert contents.images_to_pack(Paths(ROOT), names, "amd64", ("cann",)) == ["base", "sandbox", "cann", "kaldi"]


def test_the_sources_are_those_of_the_compilers_too_and_the_indexes_that_prove_them():
    paths = Paths(ROOT)
    images = {"amd64": {"kaldi": None, "runtime": None}}
    found = {file.sha256 for file in contents.locked_sources(paths, images)}
    for name in ("toolchain", "kaldi", "base"):
        lock = load_deb_lock(ROOT, name, "amd64")
        assert {file.sha256 for file in (*lock.files, *lock.index_files)} <= found
    assert {file.sha256 for file in load_wheel_lock(ROOT, "runtime", "amd64").files} <= found


@pytest.mark.parametrize("name", ["checkpoint", "cann", "timit"])
def test_asking_for_what_is_not_there_or_never_given(tmp_path, name):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "sources.toml").write_bytes((ROOT / "conf" / "sources.toml").read_bytes())
    with pytest.raises(UsageError, match=name):
        contents.included_items(Paths(tmp_path), (name,))


def test_a_checkpoint_asked_for_goes_to_its_place(tmp_path):
    place = tmp_path / "data" / "checkpoint" / "ctc_fbank_cnn"
    place.mkdir(parents=True)
    (place / "ctc_best_model.pth").write_bytes(b"weights")
    (item,) = contents.included_items(Paths(tmp_path), ("checkpoint",))
    assert item.path == "tree/data/checkpoint/ctc_fbank_cnn/ctc_best_model.pth"


# --- runs


def make_run(folder: Path, data: str = "demo", checkpoint: str = "demo") -> Paths:
    """A run of two stages, with results that would give TIMIT away beside numbers that would not."""
    stages = []
    results = {
        "features": {"out/dev/fbank.ark": "speech", "out/summary.json": "{}"},
        "corpus": {"out/dev/phn_text": "labels", "out/units": "aa"},
        "export": {"out/lstm_ctc.onnx": "weights", "out/summary.json": "{}"},
        "lm": {"out/lm_phone_bg.arpa": "bigrams of the labels"},
        "infer": {"out/result/inputs_0_0.npy": "posteriors", "obs/result_summary.json": "{}"},
        "score": {"out/score.json": "{}", "out/utterances.jsonl": "transcripts"},
    }
    paths = Paths(folder)
    for number, (name, files) in enumerate(results.items()):
        fingerprint = f"{number}{number}" * 32
        place = paths.store / fingerprint[:2] / fingerprint
        for path, text in {**files, "result.json": "{}"}.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(text)
        key = f"{name}@8" if name == "score" else name
        stages.append({**demo_record()["stages"][0], "key": key, "name": name, "fingerprint": fingerprint})
    run = paths.runs / "20260101T000000Z"
    run.mkdir(parents=True)
    record = demo_record()
    record["data"]["kind"], record["checkpoint"]["kind"], record["stages"] = data, checkpoint, stages
    (run / "record.json").write_bytes(record_bytes(record_of(record)))
    (run / "report.html").write_text("<html>")
    (run / "report.md").write_text("# A run")
    (paths.runs / "latest").symlink_to(run.name)
    return paths


def packed(paths: Paths, detail: str, with_weights: bool = False) -> set[str]:
    run = runs.pack_run(paths, "latest", detail, with_weights=with_weights)
    prefix = "tree/artifacts/received/20260101T000000Z/"
    return {item.path[len(prefix) :] for item in run.items}


def test_a_run_of_the_demo_goes_whole(tmp_path):
    found = packed(make_run(tmp_path), "")
    assert {"record.json", "report.html", "results/features/out/dev/fbank.ark", "results/score@8/result.json"} <= found
    assert "results/score@8/out/utterances.jsonl" in found


def test_a_run_of_the_users_data_is_packed_only_as_chosen(tmp_path):
    paths = make_run(tmp_path, data="timit")
    with pytest.raises(UsageError, match="say what of it to give away") as caught:
        packed(paths, "")
    assert all(f"--run-detail {detail}" in caught.value.detail for detail in runs.DETAILS)


def test_scores_give_numbers_and_no_speech_labels_transcripts_or_weights(tmp_path):
    found = packed(make_run(tmp_path, data="timit", checkpoint="user"), "scores")
    given = {path for path in found if path.startswith("results/") and not path.endswith("result.json")}
    assert given == {
        "results/features/out/summary.json",
        "results/export/out/summary.json",
        "results/infer/obs/result_summary.json",
        "results/score@8/out/score.json",
    }


def test_none_gives_the_record_the_reports_and_the_crate_alone(tmp_path):
    expected = {"record.json", "report.html", "report.md", "contents.json", METADATA, WORKFLOW}
    assert packed(make_run(tmp_path, data="timit"), "none") == expected


def test_the_crate_describes_the_record_and_the_reports_that_go_with_it(tmp_path):
    paths = make_run(tmp_path)
    carried = {item.path.rpartition("/")[2]: item.content()
               for item in runs.pack_run(paths, "latest", "none", with_weights=False).items}  # fmt: skip
    graph = {entity["@id"]: entity for entity in json.loads(carried[METADATA])["@graph"]}
    for name in ("record.json", "report.html", WORKFLOW):
        assert graph[name]["sha256"] == sha256_bytes(carried[name])


def test_what_was_left_out_is_stated_in_the_bundle(tmp_path):
    run = runs.pack_run(make_run(tmp_path, data="timit"), "latest", "scores", with_weights=False)
    about = json.loads(next(item.source for item in run.items if item.path.endswith("contents.json")))
    left_out = {(item["stage"], item["file"]) for item in about["left_out"]}
    assert {("features", "out/dev/fbank.ark"), ("score@8", "out/utterances.jsonl")} <= left_out
    assert about["detail"] == "scores" and about["meaning"] == runs.MEANING["scores"]


def test_a_run_whose_machine_s_images_stay_behind_is_said_with_what_carries_them(tmp_path):
    run = runs.pack_run(make_run(tmp_path), "latest", "scores", with_weights=False)
    machine = run.record.host.architecture
    other = next(each for each in ("amd64", "arm64") if each != machine)
    assert not [line for line in runs.describe([run], [machine, other]) if "--arch" in line]
    assert runs.describe([run], [other])[-1].endswith("--arch amd64,arm64 carries them")


def test_a_users_weights_go_only_with_the_checkpoint(tmp_path):
    paths = make_run(tmp_path, checkpoint="user")
    assert "results/export/out/lstm_ctc.onnx" not in packed(paths, "full")
    assert "results/export/out/lstm_ctc.onnx" in packed(paths, "full", with_weights=True)


@pytest.mark.parametrize("name", ["", "none", "../runs/latest/..", "/etc"])
def test_no_such_run(tmp_path, name):
    with pytest.raises(UsageError, match="no run"):
        runs.pack_run(make_run(tmp_path), name, "full", with_weights=False)


def test_a_result_that_was_collected_is_said(tmp_path):
    paths = make_run(tmp_path)
    (paths.store / "00" / ("00" * 32) / "result.json").unlink()
    with pytest.raises(CouldNotRun, match="features is no longer in the store"):
        packed(paths, "full")


# --- the host's wheels


def test_every_python_and_machine_has_a_wheel_of_every_requirement():
    names = {host_wheels.load_host_wheels(ROOT, [arch])[0].kind for arch in ("amd64", "arm64")}
    assert names == {"wheel"}
    both = host_wheels.load_host_wheels(ROOT, ["amd64", "arm64"])
    assert [wheel.name for wheel in both] == sorted(wheel.name for wheel in both)
    assert len(host_wheels.load_host_wheels(ROOT, ["arm64"])) < len(both)


def test_wheels_that_do_not_fit_the_requirements_are_refused(tmp_path):
    folder = tmp_path / "requirements"
    folder.mkdir()
    for name in ("host.txt", "host.wheels.json"):
        (folder / name).write_bytes((ROOT / "requirements" / name).read_bytes())
    document = json.loads((folder / "host.wheels.json").read_bytes())
    document["wheels"] = [wheel for wheel in document["wheels"] if wheel["project"] != "invoke"]
    (folder / "host.wheels.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="does not fit"):
        host_wheels.load_host_wheels(tmp_path, ["amd64"])
