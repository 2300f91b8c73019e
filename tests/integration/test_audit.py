"""Audits of a real run in real containers, by command: exit codes, pages, and what a forger is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
from _runs import GOLDEN, ROOT, command, copy_of, record, run

from repro.audit.claims import IF_RERUN, PROVEN, REFUTED, STATUSES, UNVERIFIED
from repro.base.files import pretty_json
from repro.base.paths import Paths
from repro.machine import facts
from tests.forms import only_in_full
from tests.unit._record_cases import identify

DATA = ("--data", str(GOLDEN / "TIMIT"))
ARCH = facts.architecture()
TOO_SHORT = {"speed-valid@8"}  # two executions are no figure, and an audit says so


@pytest.fixture(scope="module")
def results(finished: Path, tmp_path_factory) -> Path:
    return copy_of(finished, tmp_path_factory.mktemp("audited") / "results")


def page(folder: Path) -> dict[str, dict[str, str]]:
    """The claims of a written page by status: {status: {key: findings}}."""
    document = json.loads((folder / "audit.json").read_bytes())
    found: dict[str, dict[str, str]] = {status: {} for status in STATUSES}
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
    # Cross-checks that need no rerun, on real layers, labels and outputs.
    assert {"labels", "outputs-agree@8", "probe:base", "probe:exporter", "probe:runtime"} <= set(found[PROVEN])
    assert {"made:infer@8", "made:export", "made:features"} <= set(found[IF_RERUN])
    for name in ("audit.md", "audit.html"):
        assert "Signature" in (tmp_path / name).read_text()


def test_a_forged_figure_ends_with_3_and_is_named(results: Path, tmp_path: Path):
    runs = Paths(ROOT, results).runs
    forged = runs / "forged"
    shutil.copytree((runs / "latest").resolve(), forged)
    document = record(results)
    document["results"][0]["complete"]["wer_percent"] = 0.5
    identify(document)
    (forged / "record.json").write_bytes(pretty_json(document))
    done = run(results, "audit.verify", str(forged), *DATA, "--to", str(tmp_path))
    shutil.rmtree(forged)
    assert done.returncode == 3
    assert "results[0].complete.wer_percent is 0.5" in done.stderr
    assert {"score@8", "rates@8", "reports", "crate"} == set(page(tmp_path)[REFUTED])


def test_without_the_data_set_the_claims_that_remain_are_named(results: Path, tmp_path: Path):
    done = run(results, "audit.verify", "latest", "--to", str(tmp_path))
    assert done.returncode == 4
    assert set(page(tmp_path)[UNVERIFIED]) == {"data-bytes", "labels", *TOO_SHORT}


@only_in_full
def test_everything_runs_again_to_the_same_bytes_and_what_is_timed_is_what_is_scored(results: Path, tmp_path: Path):
    """In the short form, the rerun of a carried run in test_bundle shows the same claims."""
    words = (*DATA, "--engine", "sandbox", "--rounds", "10", "--offline", "--to", str(tmp_path))
    done = run(results, "audit.rerun", "latest", *words)
    found = page(tmp_path)
    assert found[REFUTED] == {}, done.stderr
    stages = {stage["key"] for stage in record(results)["stages"]}
    assert {f"{claim}:{key}" for key in stages for claim in ("stage", "made")} <= set(found[PROVEN])
    assert {"same-environment", "figures", "timed-is-scored@8", "verdict", "toolchain"} <= set(found[PROVEN])
    assert found[IF_RERUN] == {}
    # On a very busy machine the speed checks may stay undecided; they accuse nobody.
    assert set(found[UNVERIFIED]) <= {"no-caching@8", "no-shortcut@8", "own-speed-valid@8", *TOO_SHORT}
    assert list((results / "tmp").glob("*rerun*")) == []


def test_a_run_compared_with_itself_agrees(results: Path, tmp_path: Path):
    latest = str(Paths(ROOT, results).runs / "latest")
    done = run(results, "audit.compare", latest, latest, "--to", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert page(tmp_path)[REFUTED] == page(tmp_path)[UNVERIFIED] == {}


FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
NOBODY = 54321  # a user that has no name, no home and no group anywhere


@pytest.mark.slow
def test_a_challenge_by_another_user_elsewhere_and_at_another_time_gives_the_same_digests():
    """Another user, path, clock, time zone, locale and umask; nothing fetched; compiled layers where their sources are.

    What is fetched is shared, what is built is not.
    """
    for task in ("fetch", "lock.verify"):  # with the network, as far as it was not done: the challenge has none
        done = subprocess.run(command(task), cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    environment = {"PATH": os.environ["PATH"], "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0",
                   "PYTHONUTF8": "0"}  # fmt: skip
    clock = ["env", f"LD_PRELOAD={FAKETIME[0]}", "FAKETIME=@2028-02-29 23:59:50"] if FAKETIME else []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        clone = place / "another place"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        (clone / "artifacts").mkdir()
        as_whom = []
        if os.geteuid() == 0:
            as_whom = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
            place.chmod(0o755)
            subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(clone)], check=True)
        _share_what_is_fetched(clone)
        challenge = ["-m", "invoke", "audit.challenge", "--offline", "--to", str(clone / "page")]
        done = subprocess.run(
            [*as_whom, *clock, *_python_of(as_whom), *challenge],
            cwd=clone,
            env={**environment, "HOME": str(clone)},
            preexec_fn=lambda: os.umask(0o077) and None,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        proven = set(page(clone / "page")[PROVEN])
        pinned = json.loads((ROOT / "conf" / "locks" / "images.json").read_bytes())
        compiled = any((clone / "data" / "sources").glob("kaldi-*"))
        expected = {layer for layer in pinned["layers"][ARCH] if layer not in ("debs:toolchain", "debs:kaldi")}
        expected -= set() if compiled else {"built:kaldi"}
        assert {f"layer:{layer}:{ARCH}" for layer in expected} <= proven
        assert {f"image:sandbox:{ARCH}", f"image:exporter:{ARCH}", f"debian:base:{ARCH}"} <= proven
        assert list((clone / "artifacts" / "tmp").glob("challenge.*")) == []


def _python_of(as_whom: list[str]) -> list[str]:
    """These tests' Python; or, where that is root's alone, the system's with the same packages."""
    for words in (["env", sys.executable], ["env", f"PYTHONPATH={sysconfig.get_path('purelib')}", "/usr/bin/python3"]):
        imports = [*as_whom, *words, "-c", "import cryptography.x509, invoke, pysequoia"]
        if not subprocess.run(imports, check=False, capture_output=True).returncode:
            return words
    pytest.skip("no Python here that another user can run, with the host's requirements")


def _share_what_is_fetched(clone: Path) -> None:
    """By hard links where they can be made; the user of the clone may read them and no more."""
    for folder in ("artifacts/cache", "data/sources"):
        for path in (ROOT / folder).rglob("*") if (ROOT / folder).is_dir() else ():
            inside = path.relative_to(ROOT / folder)
            # A part and a hidden name are what a test beside this one is just fetching.
            if path.is_file() and "parts" not in inside.parts and not path.name.startswith("."):
                target = clone / folder / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(path, target)
                except OSError:
                    shutil.copyfile(path, target)


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
