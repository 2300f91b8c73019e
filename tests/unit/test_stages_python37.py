"""The stages are held to Python 3.7: by three checkers, each of which must be able to refuse, and by a real 3.7."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repro.cli.checks import python37_checks, run_check

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
# Stages that need numpy at most, with golden inputs.
RUN_ON_BOTH = {
    "corpus": ["--data", str(GOLDEN / "TIMIT"), "--conf", str(ROOT / "conf" / "timit")],
    "lm": ["--corpus", str(GOLDEN / "data")],
    "batches": ["--features", str(GOLDEN / "data"), "--corpus", str(GOLDEN / "data"), "--bs", "4"],
}
SYNTAX, FEATURES, LIBRARY = python37_checks("stages")

TOO_NEW = [
    pytest.param(SYNTAX, "def f(values):\n    if (n := len(values)) > 3:\n        return n\n", id="walrus"),
    pytest.param(SYNTAX, "def f(a, /):\n    return a\n", id="positional-only"),
    pytest.param(SYNTAX, "def f(a):\n    match a:\n        case 1:\n            return 2\n", id="match"),
    pytest.param(FEATURES, "def f(a):\n    return f'{a=}'\n", id="self-documenting f-string"),
    pytest.param(FEATURES, "import math\n\n\ndef f(a):\n    return math.prod(a)\n", id="math.prod, by vermin"),
    pytest.param(FEATURES, "from functools import cached_property\n\nprint(cached_property)\n", id="cached_property"),
    pytest.param(LIBRARY, "import math\n\n\ndef f(a):\n    return math.prod(a)\n", id="math.prod, by mypy"),
    pytest.param(LIBRARY, "import shutil\n\n\ndef f():\n    shutil.copytree('a', 'b', dirs_exist_ok=True)\n",
                 id="a keyword of 3.8"),
]  # fmt: skip


@pytest.mark.parametrize("check", python37_checks(), ids=lambda check: check.name)
def test_every_stage_passes(check):
    finding = run_check(check, ROOT)
    assert finding.passed, finding.output


@pytest.mark.parametrize(("check", "source"), TOO_NEW)
def test_what_python_37_lacks_is_refused(check, source: str, tmp_path: Path):
    stages = tmp_path / "stages"
    stages.mkdir()
    (stages / "__init__.py").write_text("", encoding="utf-8")
    (stages / "sample.py").write_text(source, encoding="utf-8")
    finding = run_check(check, tmp_path)
    assert not finding.passed
    assert "sample.py" in finding.output


@pytest.mark.parametrize("check", python37_checks(), ids=lambda check: check.name)
def test_plain_python_37_is_accepted(check, tmp_path: Path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "sample.py").write_text(
        "import json\n\n\ndef f(path):\n    with open(path) as stream:\n        return json.load(stream)\n",
        encoding="utf-8",
    )
    finding = run_check(check, tmp_path)
    assert finding.passed, finding.output


def _python37() -> str:
    """A Python 3.7 of this machine: $PYTHON37, one in PATH, or one that pyenv installed."""
    installed = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.7.*/bin/python3.7"))
    for candidate in (os.environ.get("PYTHON37", ""), shutil.which("python3.7") or "", *map(str, installed)):
        if candidate:
            asked = [candidate, "-c", "import sys; print(sys.version_info[:2] == (3, 7))"]
            answer = subprocess.run(asked, capture_output=True, text=True, check=False)
            if answer.stdout.strip() == "True":
                return candidate
    pytest.skip("no Python 3.7 on this machine (PYTHON37=... names one)")


@pytest.fixture(scope="module")
def python37() -> str:
    return _python37()


def _run(python: str, arguments: list[str], tmp_path: Path) -> Path:
    out, obs = tmp_path / "out", tmp_path / "obs"
    out.mkdir()
    obs.mkdir()
    command = [python, "-m", *arguments, "--out", str(out), "--obs", str(obs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_every_stage_compiles_on_a_real_python_37(python37: str, tmp_path: Path):
    program = (
        "import sys\n"
        "for name in sys.argv[1:]:\n"
        "    with open(name, encoding='utf-8') as stream:\n"
        "        compile(stream.read(), name, 'exec')\n"
    )
    names = sorted(str(path) for path in (ROOT / "stages").glob("*.py"))
    assert names
    done = subprocess.run([python37, "-c", program, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("stage", sorted(RUN_ON_BOTH))
def test_results_are_the_same_on_a_real_python_37(stage: str, python37: str, tmp_path: Path):
    loads = [python37, "-c", f"import stages.{stage}"]
    loaded = subprocess.run(loads, cwd=ROOT, capture_output=True, text=True, check=False)
    lacking = [name for name in ("numpy", "soundfile", "kaldiio") if f"No module named {name!r}" in loaded.stderr]
    if lacking:
        pytest.skip(f"{python37} has no {lacking[0]}")
    made = {}
    for name, python in (("old", python37), ("new", sys.executable)):
        (tmp_path / name).mkdir()
        made[name] = _files(_run(python, [f"stages.{stage}", *RUN_ON_BOTH[stage]], tmp_path / name))
    assert made["old"]
    assert made["old"] == made["new"]


def test_the_probe_runs_on_a_real_python_37(python37: str, tmp_path: Path):
    out = _run(python37, ["stages.probe"], tmp_path)
    assert json.loads((out / "probe.json").read_bytes())["python"].startswith("3.7.")
