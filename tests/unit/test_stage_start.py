"""What every stage shares: what it finds before its first library is loaded, and how it writes JSON."""

import subprocess
import sys

import pytest

from stages.shared import stage as shared

# Ends with the value of the variable at the moment at which NumPy is asked for.
_PROGRAM = """
import importlib.abc, os, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "numpy":
            print(os.environ.get("OPENBLAS_NUM_THREADS"))
            raise SystemExit(0)

sys.meta_path.insert(0, Watch())
import stages.{stage}
"""


@pytest.mark.parametrize("given", [None, "3"])
@pytest.mark.parametrize("stage", ["reference", "infer", "bench.inference"])
def test_openblas_starts_no_threads_of_its_own_unless_the_image_says_so(monkeypatch, stage, given):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", given)
    program = [sys.executable, "-c", _PROGRAM.format(stage=stage)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [given or "1"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_have_are_never_written(tmp_path, value):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="JSON"):
        shared.write_json(str(path), {"value": [value]})
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"
