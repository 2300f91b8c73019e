"""`invoke test`: style, types and Python 3.7 for the stages side by side, then pytest; one summary, one exit code."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import CouldNotRun, UsageError, VerificationFailed

_TOOLS = ("ruff", "mypy", "vermin", "vulture", "pytest", "pytest_timeout", "xdist", "hypothesis")
_PYTEST_NOTHING_CHOSEN = 5
_QUICK = "not slow and not integration"
_AT_ONCE = 8  # processes of tests: each may run stages, which take gigabytes


@dataclass(frozen=True)
class Check:
    """One program that must end with 0: what it looks at, and its arguments after `python`."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """How a check ended."""

    check: Check
    passed: bool
    seconds: float
    output: str


def python37_checks(folder: str = "stages") -> tuple[Check, ...]:
    """What holds the stages to Python 3.7: its grammar (ruff), its features (vermin), its library and types (mypy).

    Stubs of other libraries are left out: they are written for newer Pythons.
    """
    return (
        Check(
            "Python 3.7 syntax of stages",
            ("-m", "ruff", "check", "--isolated", "--no-cache", "--target-version", "py37", "--select", "E9,F", folder),
        ),
        Check(
            "Python 3.7 features of stages",
            ("-c", "from vermin import main; main()", "-t=3.7-", "--no-tips", "--violations", folder),
        ),
        Check(
            "Python 3.7 library of stages",
            ("-W", "ignore", "-m", "mypy", "--config-file=", "--python-version", "3.7", "--no-site-packages",
             "--ignore-missing-imports", "--check-untyped-defs", folder),
        ),
    )  # fmt: skip


def import_contracts() -> tuple[Check, ...]:
    """What may import what, as pyproject.toml says. The tool has no release for Python 3.9 that knows all contracts."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    return (Check("imports (import-linter)", ("-c", command)),) if sys.version_info >= (3, 10) else ()


def all_checks() -> tuple[Check, ...]:
    """Every check that is not a test; each takes seconds."""
    return (
        Check("style (ruff check)", ("-m", "ruff", "check", ".")),
        Check("layout (ruff format)", ("-m", "ruff", "format", "--check", ".")),
        Check("types of repro (mypy, strict)", ("-W", "ignore", "-m", "mypy")),
        Check("dead code (vulture)", ("-m", "repro.cli.dead_code")),
        *import_contracts(),
        *python37_checks(),
    )


def run_check(check: Check, root: Path) -> Finding:
    """Run one check in the checkout `root`, its output kept."""
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, *check.arguments],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Finding(check, done.returncode == 0, time.monotonic() - began_s, done.stdout)


def run_checks(checks: Sequence[Check], root: Path) -> list[Finding]:
    """Run checks side by side, as many as there are processors."""
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda check: run_check(check, root), checks))


def pytest_arguments(*, unit_only: bool, expression: str) -> list[str]:
    """The arguments of pytest after `python`. The files run side by side, each in one process."""
    if expression:
        marks = ["tests/unit", "-m", _QUICK] if unit_only else []
        return ["-m", "pytest", *marks, "-k", expression]
    side_by_side = ["-m", "pytest", "-n", "auto", "--maxprocesses", str(_AT_ONCE), "--dist", "loadfile"]
    # In our own order, which begins with the longest files: one at the end would leave processors idle.
    side_by_side += ["--no-loadscope-reorder", "--durations=40"]
    return [*side_by_side, *(["tests/unit", "-m", _QUICK] if unit_only else ["tests/integration", "tests/unit"])]


def run_tests(root: Path, *, unit_only: bool = False, full: bool = False, expression: str = "") -> None:
    """Run the checks, then the tests; the summary of pytest is the last line when everything passes.

    Args:
        root: the checkout.
        unit_only: only the fast tests, without images or engines.
        full: long tests run whole, by the variable that tests/forms.py reads.
        expression: pytest's -k; the checks are left out, as a person looks at a few tests.

    Raises:
        CouldNotRun: the tools of requirements/test.txt are not installed.
        UsageError: no test's name fits the expression.
        VerificationFailed: a check or a test failed.
    """
    missing = [name for name in _TOOLS if importlib.util.find_spec(name) is None]
    if missing:
        raise CouldNotRun(
            f"the tools of the tests are not installed here: {', '.join(missing)}",
            hint="`./bootstrap test` installs them from requirements/test.txt",
        )
    findings = [] if expression else run_checks(all_checks(), root)
    for finding in findings:
        print(f"{'ok' if finding.passed else 'FAILED':<7} {finding.check.name} ({finding.seconds:.1f} s)", flush=True)
    failed = [finding for finding in findings if not finding.passed]
    for finding in failed:
        print(f"\n--- {finding.check.name}\n{finding.output.rstrip()}", flush=True)
    arguments = pytest_arguments(unit_only=unit_only, expression=expression)
    environment = {**os.environ, "TESTS": "full"} if full else None
    code = subprocess.call([sys.executable, *arguments], cwd=root, env=environment)
    if expression and code == _PYTEST_NOTHING_CHOSEN:
        raise UsageError(f"no test's name fits {expression!r}", hint="--keep takes pytest's -k expressions")
    if failed:
        names = ", ".join(finding.check.name for finding in failed)
        raise VerificationFailed(f"failed before the tests: {names}", hint="what each said stands above the tests")
    if code:
        raise VerificationFailed("tests failed", hint="pytest's summary above names them")
