"""Each import contract fails on a planted violation: a contract that cannot fail would guard nothing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from repro.cli.checks import import_contracts, run_check

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.version_info < (3, 10), reason="import-linter needs Python 3.10")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The packages and the contracts, in a place of their own."""
    for name in ("repro", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(tree: Path) -> tuple[bool, str]:
    (check,) = import_contracts()
    found = run_check(check, tree)
    return found.passed, " ".join(found.output.split())


def test_the_tree_as_it_is_keeps_every_contract(tree: Path):
    passed, output = lint(tree)
    assert passed and "0 broken" in output, output


@pytest.mark.parametrize(
    ("path", "line", "contract"),
    [
        ("repro/base/files.py", "import repro.cli.main", "repro: imports run downwards BROKEN"),
        ("repro/images/oci.py", "def late():\n    import repro.run.reproduce", "repro: imports run downwards BROKEN"),
        ("repro/engines/closed.py", "import repro.images.oci", "repro: imports run downwards BROKEN"),
        ("repro/graph/code.py", "import repro.graph.runner", "no circle of imports, in no package BROKEN"),
        ("stages/formats/bins.py", "import stages.score", "a helper imports no entry point BROKEN"),
        ("stages/score.py", "import stages.infer", "a helper imports no entry point BROKEN"),
        ("stages/new_stage.py", "", "a helper imports no entry point BROKEN"),
        ("repro/graph/pipeline.py", "import stages.score", "neither imports the other BROKEN"),
        ("stages/score.py", "import repro.base.files", "neither imports the other BROKEN"),
        ("repro/loose/__init__.py", "", "repro: imports run downwards BROKEN"),
    ],
)
def test_a_planted_violation_breaks_its_contract(tree: Path, path: str, line: str, contract: str):
    file = tree / path
    file.parent.mkdir(exist_ok=True)
    with open(file, "a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n")
    passed, output = lint(tree)
    assert not passed
    assert contract in output, output


def test_nothing_lies_loose_beside_packages_and_entry_points():
    assert [path.name for path in (ROOT / "repro").glob("*.py")] == ["__init__.py"]
    packages = {path.parent.name for path in (ROOT / "stages").glob("*/__init__.py")}
    assert packages == {"bench", "compiled", "demo", "formats", "model", "npu", "scoring", "shared", "speech"}
    assert all("def main(" in path.read_text() for path in (ROOT / "stages").glob("[a-z]*.py"))
