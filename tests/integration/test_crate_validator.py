"""An independent validator reads a run's RO-Crate, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from _runs import ROOT

from repro.base.paths import Paths
from repro.packing.runs import pack_run
from repro.report.crate import METADATA
from tests.unit._record_cases import demo_record

pytestmark = [pytest.mark.integration, pytest.mark.slow]


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
        "requirements/crate.txt",
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
