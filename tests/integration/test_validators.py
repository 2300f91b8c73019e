"""Independent validators read a run's RO-Crate, a bundle's inventories and manifests, in their own environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from _runs import ROOT

from repro.base import architecture
from repro.base.paths import Paths
from repro.fetching import fetch_all
from repro.images.build import build_images
from repro.packing.inventory import Commit, gather, spdx
from repro.packing.runs import pack_run
from repro.report.crate import METADATA
from repro.run.engine_choice import compiling_engine
from tests.unit._record_cases import demo_record, record_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def validator(tmp_path_factory) -> Path:
    if sys.version_info < (3, 10):
        pytest.skip("the validator needs Python 3.10")
    folder = tmp_path_factory.mktemp("validator")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    words = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "--no-compile",
        "--require-hashes",
        "-r",
        "requirements/validators.txt",
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and "hash" not in done.stderr.lower():
        pytest.skip(f"the validator cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return python


def crate(folder: Path) -> Path:
    """A run as a bundle carries it, whatever was chosen to be given away of its results."""
    run = folder / "artifacts" / "runs" / "one"
    run.mkdir(parents=True)
    for name in ("report.html", "report.md"):
        (run / name).write_text("{}")
    (run / "record.json").write_text(json.dumps(demo_record()))
    for name in ("report.md", "report.html"):
        (run / name).write_text(name)
    for item in pack_run(Paths(folder), "one", "none", with_weights=False).items:
        path = folder / "carried" / item.path.rpartition("/")[2]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(item.content())
    return folder / "carried"


def validated(python: Path, folder: Path):
    script = ROOT / "tests" / "integration" / "_validate_crate.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(python), str(script), str(folder)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def test_the_crate_of_a_run_passes(validator: Path, tmp_path: Path):
    done = validated(validator, crate(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_validator_would_have_said_so(validator: Path, tmp_path: Path):
    folder = crate(tmp_path)
    document = json.loads((folder / METADATA).read_bytes())
    document["@graph"] = [entity for entity in document["@graph"] if entity["@id"] != "#run"]
    for entity in document["@graph"]:
        if entity["@id"] == "workflow.json":
            entity["@type"] = "File"
    (folder / METADATA).write_text(json.dumps(document))
    done = validated(validator, folder)
    assert done.returncode == 1
    assert "workflow" in done.stdout.lower()


@pytest.fixture(scope="module")
def inventory(tmp_path_factory) -> Path:
    """Of two real images, with a run."""
    paths, here = Paths(ROOT), architecture.here().name
    fetch_all(ROOT, (here,), ("debs/base", "debs/sandbox", "wheels/base"))
    images = build_images(paths, ["base", "sandbox"], here, lambda _: None, engine_for=compiling_engine(paths))
    commit = Commit("c" * 40, "2026-01-02T03:04:05Z", "A. Maker", "maker@example.org")
    file = tmp_path_factory.mktemp("inventory") / "sbom.spdx.json"
    file.write_bytes(spdx(gather(paths, {here: images}, [], commit, (), record_of(demo_record()))))
    return file


def checked(python: Path, file: Path):
    words = [str(python), str(ROOT / "tests" / "integration" / "_validate_spdx.py"), str(file)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    model = os.environ.get("SPDX_MODEL", "")  # a folder with SPDX's own shapes, which no package carries
    return subprocess.run([*words, *([model] if model else [])], env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip


def test_the_inventory_holds_what_three_public_standards_ask_for(validator: Path, inventory: Path):
    done = checked(validator, inventory)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_checkers_would_have_said_so(validator: Path, inventory: Path, tmp_path: Path):
    document = json.loads(inventory.read_bytes())
    package = next(item for item in document["@graph"] if item.get("name") == "bash")
    del package["suppliedBy"]
    document["@graph"] = [item for item in document["@graph"] if not (
        item.get("relationshipType") == "hasConcludedLicense" and item["from"] == package["spdxId"])]  # fmt: skip
    (tmp_path / "sbom.spdx.json").write_text(json.dumps(document))
    done = checked(validator, tmp_path / "sbom.spdx.json")
    assert done.returncode == 1
    assert {"ntia: no supplier: bash", "bsi: no distribution_licenses: bash"} <= set(done.stdout.splitlines())


def test_manifests_for_volcano_are_what_kubernetes_takes(validator: Path, tmp_path: Path):
    made = subprocess.run(
        [sys.executable, "-m", "invoke", "export.jobs", "--to", str(tmp_path / "jobs"), "--data", "tests/golden/TIMIT",
         "--checkpoint", "demo", "--bs", "4,8"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0 and "NOT RUN" in made.stdout, made.stderr
    script = ROOT / "tests" / "integration" / "_validate_manifests.py"
    listed = tmp_path / "jobs" / "volcano.json"
    held = subprocess.run([str(validator), str(script), str(listed)], capture_output=True, text=True, check=False)
    assert held.returncode == 0 and int(held.stdout) > 10, held.stderr
    (tmp_path / "other.json").write_text(listed.read_text().replace('"readOnly"', '"readonly"'))
    words = [str(validator), str(script), str(tmp_path / "other.json")]
    refused = subprocess.run(words, capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and "readonly" in refused.stderr
