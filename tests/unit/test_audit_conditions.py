"""Conditions of the audit that forged records seldom reach, each tried on both sides."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from _audit_cases import PATHS, ROOT, SIZE, WALL_S, audit, document_of, make_run, reopen, write_record
from auditing import verify_run

from repro.audit import images, inputs, packages
from repro.audit.claims import ATTESTED, IF_RERUN, PROVEN, REFUTED, UNVERIFIED, Examination, Outcome
from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.locks.archives import load_sources
from repro.record.stage_files import ProbeFile


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("conditions")
    make_run(folder)
    return folder


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Path:
    target = shutil.copytree(sound, tmp_path / "copy")
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def changed(folder: Path, change) -> dict[str, object]:
    evidence = reopen(folder)
    document = document_of(evidence)
    change(document)
    write_record(evidence.run, document)
    return {claim.key: claim for claim in audit(folder, folder / "TIMIT", folder / "weights.pth").claims}


def source(**changes):
    known = load_sources(PATHS.conf)
    name, pinned = next((name, one) for name, one in sorted(known.items()) if not one.first_use)
    licence = pinned.licence + (f", accepted by the user ({pinned.accept})" if pinned.accept else "")
    entry = {"name": name, "title": pinned.title, "digest": pinned.digest, "trust": "", "licence": licence}
    return {**entry, **changes}


@pytest.mark.parametrize(
    ("listed", "status"),
    [
        ([source()], PROVEN),
        ([source(digest="file:" + "0" * 64)], REFUTED),
        ([source(title="another")], REFUTED),
        ([source(licence="none")], REFUTED),
        ([], REFUTED),
        ([source(), source(name="invented")], REFUTED),
        ([source(), source()], REFUTED),
    ],
)
def test_archives_are_those_that_the_layers_need_with_their_pins(run: Path, monkeypatch, listed, status):
    monkeypatch.setattr(inputs, "source_names", lambda *_: [source()["name"]])
    assert changed(run, lambda d: d.update(sources=listed))["sources"].status == status


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["observations"]["steps"][0].update(key="export@8"),
        lambda d: d["observations"]["steps"].pop(),
        lambda d: d["observations"]["steps"][0].update(started_s=19.0),
        lambda d: d["observations"]["steps"][0].update(wall_s=WALL_S - 1),
        lambda d: d["observations"]["steps"][0].update(cached=True),
        lambda d: d["observations"]["phases"][0].update(seconds=25.0),
        lambda d: d["observations"].update(wall_s=1.0),
    ],
)
def test_steps_and_phases_that_cannot_be_are_refuted(run: Path, change):
    assert changed(run, change)["observations"].status == REFUTED


@pytest.mark.parametrize("factor", [1.001, 0.999])
def test_a_speed_a_thousandth_off_is_refuted(run: Path, factor: float):
    def off(document):
        result = document["results"][0]
        for place in (result, result["measured"]):
            place["throughput_utterances_per_s"] *= factor

    assert changed(run, off)[f"speed@{SIZE}"].status == REFUTED


def test_a_layer_is_attested_by_its_lock_and_pin_and_open_where_either_is_another(run: Path, monkeypatch):
    layer = reopen(run).record.image_layers["base"][0]
    pins = {"layers": {"amd64": {layer.name: layer.diff_id}}}
    monkeypatch.setattr(images, "load_pins", lambda _: pins)
    claims = changed(run, lambda _: None)
    assert claims[f"lock:{layer.name}"].status == ATTESTED
    pins["layers"]["amd64"][layer.name] = "sha256:" + "0" * 64
    assert changed(run, lambda _: None)[f"lock:{layer.name}"].status == UNVERIFIED
    pins["layers"]["amd64"][layer.name] = layer.diff_id
    recipes = images.recipes_of
    monkeypatch.setattr(images, "recipes_of", lambda *words: [r for r in recipes(*words) if r.name != layer.name])
    claims = changed(run, lambda _: None)
    assert claims[f"lock:{layer.name}"].status == claims["definitions"].status == UNVERIFIED


@pytest.mark.parametrize(
    ("with_indexes", "without", "status"),
    [
        (None, None, PROVEN),
        (CouldNotVerify("no index"), None, ATTESTED),
        (CouldNotVerify("no index"), CouldNotVerify("no InRelease"), UNVERIFIED),
        (VerificationFailed("another hash"), None, REFUTED),
        (CouldNotVerify("no index"), VerificationFailed("another key"), REFUTED),
    ],
)
def test_debian_s_word_is_proven_with_its_indexes_alone(monkeypatch, with_indexes, without, status):
    def chain(root, lock, read_index):
        error = without if read_index is None else with_indexes
        if error is not None:
            raise error
        return [SimpleNamespace(suite="bookworm", debs=3, signers=("key",))]

    monkeypatch.setattr(images, "verify_debian_chain", chain)
    outcome = Outcome("verify", "a run")
    with outcome.examine("debian", "vouched for") as it:
        images._examine_chain(it, ROOT, None)
    assert outcome.claims[0].status == status


def test_configuration_and_code_of_another_checkout_leave_the_run_open(run: Path, tmp_path: Path):
    for folder in ("conf", "docker", "stages"):
        shutil.copytree(ROOT / folder, tmp_path / "root" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    evidence = reopen(run)
    evidence.paths = Paths(tmp_path / "root")
    statuses = {claim.key: claim.status for claim in verify_run(evidence).claims}
    assert statuses["configuration"] == statuses["code"] == PROVEN
    planted = tmp_path / "root" / "conf" / "timit" / "dev_spk.list"
    planted.write_text(planted.read_text() + "MXXX0\n")
    stage = tmp_path / "root" / "stages" / "corpus.py"
    stage.write_text(stage.read_text() + "\n")
    evidence = replace(reopen(run), paths=Paths(tmp_path / "root"))
    statuses = {claim.key: claim.status for claim in verify_run(evidence).claims}
    assert statuses["configuration"] == statuses["code"] == UNVERIFIED


def test_the_demo_corpus_is_held_to_its_pin():
    files = {"b": SimpleNamespace(sha256="2" * 64), "a": SimpleNamespace(sha256="1" * 64)}
    evidence = SimpleNamespace(
        stage=lambda _: SimpleNamespace(outputs=SimpleNamespace(files=files)),
        record=SimpleNamespace(host=SimpleNamespace(architecture="amd64")),
    )
    pin = sha256_bytes(f"{'1' * 64}  a\n{'2' * 64}  b\n".encode())
    for pins, wrong in ((pin, 0), ({"amd64": pin}, 0), ("0" * 64, 1), ({"amd64": "0" * 64}, 1)):
        it = Examination()
        inputs._examine_demo_corpus(it, evidence, pins)
        assert len(it.wrong) == wrong
    with pytest.raises(CouldNotVerify):
        inputs._examine_demo_corpus(Examination(), evidence, {"arm64": pin})


def test_labels_are_read_from_a_zip_as_from_a_folder(run: Path, tmp_path: Path):
    def status(place: Path) -> str:
        return {claim.key: claim.status for claim in audit(run, place, run / "weights.pth").claims}["labels"]

    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for path in sorted((run / "TIMIT").rglob("*")):
            if path.is_file():
                target.write(path, f"data/{path.relative_to(run / 'TIMIT')}".lower() + ";1")
    assert status(archive) == PROVEN
    with zipfile.ZipFile(archive, "a") as target:
        target.writestr("data/test/dr1/faks0/sx99.phn", "0 100 aa\n")
    assert status(archive) == REFUTED
    archive.write_bytes(archive.read_bytes()[:-30])
    assert status(archive) == REFUTED


def test_a_version_that_no_database_holds_is_true_if_rerun_alone(run: Path, monkeypatch):
    def compiled(probe: ProbeFile, found: packages.Databases):
        return [], ["python 3.7.5: no package of the image holds it"]

    monkeypatch.setattr(packages, "contradictions", compiled)
    claim = changed(run, lambda _: None)["probe:exporter"]
    assert claim.status == IF_RERUN
    assert "python 3.7.5" in claim.open_to[0]
