"""Whatever the locale, names are read as UTF-8: else a layer with such a name would have another digest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
SCRIPT = """
import os, sys
from repro.cli.tasking import reporting
before = sys.getfilesystemencoding()
@reporting
def task(words):
    print(before, sys.getfilesystemencoding(), os.environ.get("PYTHONUTF8"), words)
task(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("locale", "said"),
    [(ASCII, "utf-8 utf-8 1 ['--a', 'b c']"), ({"LC_ALL": "C.UTF-8", "PYTHONUTF8": "0"}, "utf-8 utf-8 0 [")],
)
def test_a_command_runs_in_utf8_with_its_words_whatever_the_locale(tmp_path: Path, locale, said: str):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script), "--a", "b c"], capture_output=True, text=True, check=True,
                          env={**os.environ, **locale, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.stdout.startswith(said)
    assert done.stdout.count("\n") == 1  # once, not before and after
    assert done.stderr == ""
