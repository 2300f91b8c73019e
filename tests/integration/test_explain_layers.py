"""Differences of a real layer: every planted cause is named, as diffoscope lists them, in bounded memory."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from _runs import ROOT, command

from repro.audit.challenge import Challenge, challenge
from repro.audit.claims import PROVEN, REFUTED, Outcome
from repro.audit.explain.kept import Kept
from repro.base import architecture
from repro.base.files import sha256_file
from repro.base.paths import Paths
from repro.fetching import fetch_all
from repro.images.build import build_images
from repro.images.layer_tars import write_tar
from repro.images.pins import load_pins
from repro.run.engine_choice import compiling_engine
from tests.planted_causes import plant

ARCH = architecture.here().name
PROGRAM = "usr/bin/bwrap"
# Not ru_maxrss: a process begins with the peak of whoever started it, and that is pytest.
_MEASURED = """
import re, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module("invoke", run_name="__main__")
finally:
    print("KIB", re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.fixture(scope="module")
def layer(tmp_path_factory) -> Path:
    """The tar of the smallest real layer: the sandbox's Debian packages."""
    paths = Paths(ROOT)
    fetch_all(ROOT, (ARCH,), ("debs/sandbox",))
    image = build_images(paths, ["sandbox"], ARCH, lambda _: None, engine_for=compiling_engine(paths))["sandbox"]
    target: Path = tmp_path_factory.mktemp("layer") / "layer.tar"
    write_tar(image.layers[0], target)
    return target


@pytest.fixture(scope="module")
def planted(layer: Path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    return folder, plant(layer, PROGRAM, folder / "A.tar", folder / "B.tar")


def test_every_planted_cause_in_a_real_layer_is_named_and_the_peak_of_memory_is_bounded(planted):
    folder, wanted = planted
    words = ["audit.explain", str(folder / "A.tar"), str(folder / "B.tar"), "--to", str(folder / "page")]
    done = subprocess.run([sys.executable, "-c", _MEASURED, "invoke", *words], cwd=ROOT, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 1, done.stderr
    (part,) = json.loads((folder / "page" / "explanation.json").read_bytes())["parts"]
    assert {item["path"]: item["causes"] for item in part["files"]} == {path: [why] for path, why in wanted.items()}
    assert int(re.search(r"KIB (\d+)", done.stdout)[1]) < 300 * 1024
    again = subprocess.run(command(words[0], words[1], words[1]), cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "no difference" in again.stdout


def _named(node, found: set[str]) -> set[str]:
    """The paths in diffoscope's JSON: those of its list of members that changed, and those that it looked into."""
    for child in node.get("details") or ():
        if child["source1"] == "file list":
            for line in child["unified_diff"].splitlines():
                if line[:1] in "+-" and not line.startswith(("+++", "---")):
                    found.add(re.split(r"\d\d:\d\d:\d\d\.\d+ ", line)[1].partition(" -> ")[0].rstrip("/"))
        else:
            found.add(child["source1"])
    return found


@pytest.mark.skipif(shutil.which("diffoscope") is None, reason="diffoscope is not installed")
def test_the_list_of_files_is_diffoscopes(planted):
    folder, wanted = planted
    subprocess.run(["diffoscope", "--no-default-limits", "--json", str(folder / "d.json"), "A.tar", "B.tar"],
                   cwd=folder, capture_output=True, check=False)  # fmt: skip
    theirs = _named(json.loads((folder / "d.json").read_bytes()), set())
    (moved,) = (path for path, why in wanted.items() if why == "order")
    with tarfile.open(folder / "A.tar") as archive:
        neighbours = [member.name.rstrip("/") for member in archive]
    other = neighbours[neighbours.index(moved) + 1]  # of two that changed places either can be called the moved one
    assert theirs - {other} | {moved} == set(wanted)


@dataclasses.dataclass(frozen=True)
class _Claiming(Paths):
    """The checkout, with another artifacts/oci: what somebody else claims."""

    claimed: Path = Path()

    @property
    def oci(self) -> Path:
        return self.claimed / "oci"


def test_a_challenge_keeps_both_sides_and_says_what_was_substituted(layer: Path, tmp_path: Path, monkeypatch):
    paths = _Claiming(ROOT, tmp_path / "results", claimed=tmp_path)
    paths.blobs.mkdir(parents=True)
    data = bytearray(layer.read_bytes())
    with tarfile.open(layer) as archive:
        program = archive.getmember(PROGRAM)
    data[program.offset_data + program.size // 2] ^= 1
    claimed = tmp_path / "claimed.tar"
    claimed.write_bytes(data)
    digest = sha256_file(claimed)
    claimed.rename(paths.blobs / digest)
    pins = load_pins(paths)
    pins["layers"][ARCH]["debs:sandbox"] = f"sha256:{digest}"
    monkeypatch.setattr("repro.audit.challenge.load_pins", lambda _: pins)
    outcome = Outcome("challenge", "a claim")
    kept = Kept(paths, tmp_path / "page" / "differences")
    challenge(outcome, Challenge(paths, [ARCH], ["sandbox"], None, False, lambda _: None, kept))
    (claim,) = [claim for claim in outcome.claims if claim.key == f"layer:debs:sandbox:{ARCH}"]
    assert claim.status == REFUTED and "1 path differs (1 by foreign bytes)" in claim.findings[1]
    assert re.search(rf"{PROGRAM}: .*byte \d+.*substituted: A does not have", claim.findings[2])
    sides = sorted((tmp_path / "page" / "differences" / "debs-sandbox").glob("*.tar"))
    assert [sha256_file(path) for path in sides] == [sha256_file(layer), digest]
    assert any(claim.status == PROVEN and claim.key == f"image:sandbox:{ARCH}" for claim in outcome.claims)
