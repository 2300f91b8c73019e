"""Real runs for the integration tests: the command line in its own process, results in a folder of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from repro.base.paths import Paths

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDEN = ROOT / "tests" / "golden"
QUICK = ("--bs", "8", "--data", str(GOLDEN / "TIMIT"), "--checkpoint", "demo", "--loop", "2")


def environment(results: Path) -> dict[str, str]:
    return {**os.environ, "BUNDLE_RESULTS": str(results)}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "invoke", *words]


def run(results: Path, *words: str, timeout_s: float = 3000) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; the test looks at its exit code and words."""
    return subprocess.run(
        command(*words),
        cwd=ROOT,
        env=environment(results),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def reproduce(results: Path, *words: str) -> dict[str, Any]:
    """A quick whole run on golden's corpus with the demo checkpoint; returns the record."""
    done = run(results, "reproduce", *QUICK, *words)
    assert done.returncode == 0, done.stderr + done.stdout
    return record(results)


def record(results: Path) -> dict[str, Any]:
    """The latest record below a folder of results."""
    return json.loads((Paths(ROOT, results).runs / "latest" / "record.json").read_bytes())


def copy_of(results: Path, target: Path) -> Path:
    """A copy of a finished run's results, for a test to work on."""
    shutil.copytree(results, target, symlinks=True)
    return target


def store_of(results: Path, target: Path) -> None:
    """Only the stages' results, for runs in another checkout, whose other results are made there."""
    shutil.copytree(results / "store", target / "store", symlinks=True)


def output_digests(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Per step, every output file with its digest."""
    return {stage["key"]: stage["outputs"] for stage in document["stages"]}


def processes_using(folder: Path) -> list[str]:
    """Processes that have something of `folder` mounted or on their command line, this one aside."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "mountinfo").read_text() + (entry / "cmdline").read_text()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            name = (entry / "comm").read_text().strip()
        except OSError:
            continue
        if str(folder) in text and state != "Z":
            found.append(f"{entry.name} {name}")
    return found
