"""`--toolchain pinned`, whole: Kaldi's own programs, an exporter in the pinned one's place, the simulated NPU.

CPython 3.7.5 may not be at hand, so the image exporter-pinned is here the portable exporter (PyTorch 1.8.0 on Debian's
Python 3.9). That is not the pinned toolchain, and the record must say so by itself: 'pinned-deviating'.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from auditing import verify_run

from repro.audit.claims import ATTESTED, PROVEN, REFUTED, UNVERIFIED
from repro.audit.evidence import open_run
from repro.base.paths import Paths
from repro.images.compile import why_left_out
from repro.images.definition import load_definition
from repro.images.layer_index import known_images
from repro.machine import facts as host_facts
from tests.integration._ascend import checkout, run
from tests.integration._runs import GOLDEN, ROOT
from tests.simulators.ascend.host import AscendHost

pytestmark = pytest.mark.timeout(3600)
_STAND_IN = """description = "the portable exporter, in place of one on Python 3.7.5"
extends = "exporter"
stages = ["export", "reference"]
optional = "made for tests"
"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> Paths:
    here, architecture = Paths(ROOT), host_facts.architecture()
    why = why_left_out(here, load_definition(here.docker, "kaldi"), architecture)
    if why and not known_images(here, ["kaldi"], architecture):
        pytest.skip(f"image kaldi: {why}")
    made = checkout(tmp_path_factory.mktemp("pinned"))
    (made.docker / "exporter-pinned" / "image.toml").write_text(_STAND_IN)
    for archive in (ROOT / "data" / "sources").glob("kaldi-*"):
        os.symlink(archive, made.data / "sources" / archive.name)
    return made


@pytest.fixture(scope="module")
def npu_run(paths: Paths) -> Path:
    """The folder of a run on the simulated NPU."""
    run(paths, AscendHost(), "sandbox", 8, toolchain="pinned")
    return (paths.runs / "latest").resolve()


@pytest.fixture(scope="module")
def on_npu(npu_run: Path) -> dict[str, Any]:
    return json.loads((npu_run / "record.json").read_bytes())


def row(document: dict[str, Any], component: str) -> dict[str, str]:
    return next(item for item in document["toolchain"] if item["component"] == component)


def test_kaldi_is_looked_for_in_kaldi_s_image_and_found_as_required(on_npu):
    found = row(on_npu, "Kaldi with OpenBLAS")
    assert (found["status"], found["probe"]) == ("same", "found:kaldi in image kaldi")
    assert found["found"] == "Kaldi with OpenBLAS"


def test_what_is_not_as_required_is_named_with_its_image_and_takes_the_name_away(on_npu):
    assert on_npu["request"]["toolchain"] == "pinned-deviating"
    python, torch = row(on_npu, "Python"), row(on_npu, "PyTorch")
    assert (python["status"], python["probe"]) == ("deviates", "python in image exporter-pinned")
    assert python["found"].startswith("3.9.")
    assert (torch["status"], torch["probe"]) == ("same", "wheel:torch in image exporter-pinned")
    assert row(on_npu, "CANN")["probe"] == "found:cann in image cann"
    assert [item["component"] for item in on_npu["toolchain"] if item["kind"] == "table" and item["status"] != "same"] \
        == ["Python"]  # fmt: skip
    assert {check["status"] for check in on_npu["verdict"]["checks"]} == {"not-comparable"}


def test_each_step_ran_in_the_image_that_the_guide_s_toolchain_has_for_it(on_npu):
    images = {stage["name"]: stage["image"] for stage in on_npu["stages"] if stage["name"] != "probe"}
    for stage, image in (("features", "kaldi"), ("export", "exporter-pinned"), ("reference", "exporter-pinned"),
                         ("convert_npu", "cann"), ("infer_npu", "cann"), ("measure_npu", "cann")):  # fmt: skip
        assert images[stage] == on_npu["images"][image], stage
    features = next(stage for stage in on_npu["stages"] if stage["name"] == "features")
    assert features["argv"][features["argv"].index("--implementation") + 1] == "kaldi"


def test_auto_takes_kaldi_s_image_without_an_npu_and_the_report_says_so(paths):
    """As on a laptop with Kaldi's archive and no other: the exporter's definition is the repository's own again."""
    definition = paths.docker / "exporter-pinned" / "image.toml"
    definition.write_bytes((ROOT / "docker" / "exporter-pinned" / "image.toml").read_bytes())
    try:
        document = run(paths, None, "sandbox", 8, toolchain="auto")
    finally:
        definition.write_text(_STAND_IN)
    if document["request"]["pinned"] == ["features", "export", "reference"]:
        pytest.skip("CPython's archive is here as well: nothing is left for the portable images")
    assert (document["request"]["pinned"], document["request"]["toolchain"]) == (["features"], "pinned-deviating")
    assert row(document, "Kaldi with OpenBLAS")["probe"] == "found:kaldi in image kaldi"
    assert row(document, "PyTorch")["probe"] == "wheel:torch in image exporter"
    for name in ("report.md", "report.html"):
        text = (paths.runs / "latest" / name).read_text()
        assert "In pinned images ran: features." in text and "found:kaldi in image kaldi" in text


def test_an_audit_refutes_nothing_of_it(paths, npu_run):
    outcome = verify_run(open_run(npu_run, paths), GOLDEN / "TIMIT", paths.data / "demo" / "checkpoint.pth")
    assert outcome.of_status(REFUTED) == []
    # Two executions are no figure, and the audit says so; all else is proven or, like the chip, attested.
    assert [claim.key for claim in outcome.of_status(UNVERIFIED)] == ["speed-valid@8"]
    proven = {claim.key for claim in outcome.of_status(PROVEN)}
    assert {"layer:built:kaldi", "image:kaldi", "image:cann", "score@8", "symbols@8"} <= proven
    assert "toolchain" in {claim.key for claim in outcome.of_status(ATTESTED)}


def test_the_same_on_the_cpu_gives_the_same_error_rates(paths, on_npu):
    on_cpu = run(paths, None, "sandbox", 8, toolchain="pinned")
    assert on_cpu["request"]["toolchain"] == "pinned-deviating"
    assert on_cpu["results"][0]["published"] == on_npu["results"][0]["published"]
    portable = run(paths, None, "sandbox", 8, toolchain="portable")
    assert row(portable, "Kaldi with OpenBLAS")["probe"] == "wheel:llvmlite in image features"
    assert portable["results"][0]["published"] == on_npu["results"][0]["published"]
