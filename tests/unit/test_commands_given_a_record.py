"""Every command that is given a record reads it strictly: what is no record ends with 3, and the place is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from _record_cases import demo_record

from repro.base.files import pretty_json

ROOT = Path(__file__).parents[2]


def wrong_type():
    document = demo_record()
    document["stages"][1]["outputs"]["digest"] = 7
    return document


BROKEN = {
    "empty": ({}, "record.json: $: Object missing required field"),
    "wrong-type": (wrong_type(), "record.json: $.stages[1].outputs.digest: Expected `str`, got `int`"),
    "unknown-version": ({**demo_record(), "version": 9}, "record.json: $.version: a record of version 9"),
    "unknown-member": ({**demo_record(), "invented": 1}, "record.json: $: Object contains unknown field `invented`"),
}
COMMANDS = {
    "verify": ("audit.verify", "{broken}"),
    "rerun": ("audit.rerun", "{broken}"),
    "challenge": ("audit.challenge", "--run", "{broken}"),
    "compare-first": ("audit.compare", "{broken}", "{sound}"),
    "compare-second": ("audit.compare", "{sound}", "{broken}"),
    "explain": ("audit.explain", "{sound}", "{broken}"),
    "explore": ("explore", "{broken}"),
    "pack": ("bundle.pack", "--run", "broken", "--unsigned", "--to", "{results}/packed.tar"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_no_record_ends_with_3_and_its_place(broken: str, command: str, tmp_path: Path):
    document, said = BROKEN[broken]
    runs = tmp_path / "runs"
    for name, content in (("broken", document), ("sound", demo_record())):
        (runs / name).mkdir(parents=True)
        (runs / name / "record.json").write_bytes(pretty_json(content))
        for report in ("report.md", "report.html"):
            (runs / name / report).write_text(report)
    places = {"broken": str(runs / "broken"), "sound": str(runs / "sound"), "results": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tasks.py"), *(word.format(**places) for word in COMMANDS[command])],
        cwd=ROOT, env={**os.environ, "BUNDLE_RESULTS": str(tmp_path)}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "packed.tar").exists()
