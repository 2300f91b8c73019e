"""Audits of a real run in real containers, by command: exit codes, pages, and what a forger is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from _runs import GOLDEN, ROOT, command, environment, record, reproduce, run

from bundle import host
from bundle.audit.claims import PROVEN, REFUTED, UNVERIFIED
from bundle.files import pretty_json
from bundle.paths import Paths
from bundle.record import identity_of

pytestmark = pytest.mark.integration
DATA = ("--data", str(GOLDEN / "TIMIT"))
ARCH = host.architecture()
TOO_SHORT = {"speed-valid@8"}  # two executions are no figure, and an audit says so


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    reproduce(folder, "--engine", "sandbox")
    return folder


def page(folder: Path) -> dict[str, dict[str, str]]:
    """The claims of a written page by status: {status: {key: findings}}."""
    document = json.loads((folder / "audit.json").read_bytes())
    found: dict[str, dict[str, str]] = {PROVEN: {}, REFUTED: {}, UNVERIFIED: {}, "attested": {}}
    for claim in document["claims"]:
        found[claim["status"]][claim["key"]] = " ".join(claim["findings"])
    return found


def test_a_real_run_is_proven_and_only_its_short_timing_is_left_open(results: Path, tmp_path: Path):
    done = run(results, "audit.verify", "latest", *DATA, "--to", str(tmp_path))
    found = page(tmp_path)
    assert found[REFUTED] == {}, found[REFUTED]
    assert set(found[UNVERIFIED]) == TOO_SHORT, found[UNVERIFIED]
    assert done.returncode == 4
    assert {"identity", "graph", "code", "image:runtime", "symbols@8", "score@8", "verdict"} <= set(found[PROVEN])
    for name in ("audit.md", "audit.html"):
        assert "Signature" in (tmp_path / name).read_text()


def test_a_forged_figure_ends_with_3_and_is_named(results: Path, tmp_path: Path):
    runs = Paths(ROOT, results).runs
    forged = runs / "forged"
    shutil.copytree((runs / "latest").resolve(), forged)
    document = record(results)
    document["results"][0]["complete"]["wer_percent"] = 0.5
    document["identity"] = identity_of(document)
    (forged / "record.json").write_bytes(pretty_json(document))
    done = run(results, "audit.verify", str(forged), *DATA, "--to", str(tmp_path))
    shutil.rmtree(forged)
    assert done.returncode == 3
    assert "results[0].complete.wer_percent is 0.5" in done.stderr
    assert {"score@8", "rates@8", "reports"} == set(page(tmp_path)[REFUTED])


def test_without_the_data_set_the_claims_that_remain_are_named(results: Path, tmp_path: Path):
    done = run(results, "audit.verify", "latest", "--to", str(tmp_path))
    assert done.returncode == 4
    assert set(page(tmp_path)[UNVERIFIED]) == {"data-bytes", *TOO_SHORT}


@pytest.mark.slow
def test_everything_runs_again_to_the_same_bytes_and_what_is_timed_is_what_is_scored(results: Path, tmp_path: Path):
    words = (*DATA, "--engine", "sandbox", "--rounds", "10", "--offline", "--to", str(tmp_path))
    done = run(results, "audit.rerun", "latest", *words)
    found = page(tmp_path)
    assert found[REFUTED] == {}, done.stderr
    stages = {stage["key"] for stage in record(results)["stages"]}
    assert {f"stage:{key}" for key in stages} <= set(found[PROVEN])
    assert {"same-environment", "figures", "timed-is-scored@8"} <= set(found[PROVEN])
    # On a busy machine the speed checks may be undecided; they accuse nobody.
    assert set(found[UNVERIFIED]) <= {"no-caching@8", "no-shortcut@8", *TOO_SHORT}
    assert list((results / "tmp").glob("rerun.*")) == []


def test_a_run_compared_with_itself_agrees(results: Path, tmp_path: Path):
    latest = str(Paths(ROOT, results).runs / "latest")
    done = run(results, "audit.compare", latest, latest, "--to", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert page(tmp_path)[REFUTED] == page(tmp_path)[UNVERIFIED] == {}


def test_a_challenge_elsewhere_gives_the_same_digests(tmp_path: Path):
    """Another path, clock's zone, locale and umask; what is fetched is shared, what is built is not."""
    clone = tmp_path / "another place"
    subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(clone)], check=True)
    (clone / "artifacts").mkdir()
    (clone / "artifacts" / "cache").symlink_to(ROOT / "artifacts" / "cache")
    words = command("audit.challenge", "--images", "sandbox,features", "--to", str(tmp_path / "page"))
    done = subprocess.run(
        words,
        cwd=clone,
        env={**environment(tmp_path / "results"), "TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR",
             "PYTHONPATH": str(clone), "HOME": str(tmp_path)},
        preexec_fn=lambda: os.umask(0o077),
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = page(tmp_path / "page")
    assert {f"image:sandbox:{ARCH}", f"image:features:{ARCH}", f"debian:base:{ARCH}"} <= set(found[PROVEN])
    assert list((tmp_path / "results" / "tmp").glob("challenge.*")) == []


def test_wrong_use_is_said_in_one_line(results: Path, tmp_path: Path):
    for words, said in (
        (("audit.verify", str(tmp_path / "nowhere")), "holds no record"),
        (("audit.rerun", "latest", "--rounds", "3"), "--rounds 3"),
        (("audit.verify", "latest", "--data", "/not/there"), "no such file"),
    ):
        done = run(results, *words)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
