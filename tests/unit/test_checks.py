"""`invoke test` itself: what fails must fail it, and its last line must tell."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.cli import checks
from repro.cli.checks import Check

GOOD = Check("good", ("-c", "print('fine')"))
BAD = Check("bad", ("-c", "import sys; print('line 7 is wrong'); sys.exit(1)"))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one test that passes; what the surrounding pytest set must not reach the inner one."""
    folder = tmp_path / "a checkout" / "tests" / "unit"
    folder.mkdir(parents=True)
    (folder / "test_one.py").write_text("def test_that_passes():\n    pass\n", encoding="utf-8")
    integration = tmp_path / "a checkout" / "tests" / "integration"
    integration.mkdir()
    (integration / "test_engines.py").write_text(
        "import pytest\n\n@pytest.mark.integration\ndef test_that_passes_too():\n    pass\n", encoding="utf-8"
    )
    (tmp_path / "a checkout" / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\nmarkers = ["slow: x", "integration: x"]\n', encoding="utf-8"
    )
    monkeypatch.setattr(checks, "all_checks", lambda: (GOOD,))
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "a checkout"


def add_test(checkout: Path, text: str) -> None:
    (checkout / "tests" / "unit" / "test_two.py").write_text(text, encoding="utf-8")


def test_all_passing_ends_with_pytests_own_line(checkout: Path, capfd: pytest.CaptureFixture[str]):
    checks.run_tests(checkout)
    lines = capfd.readouterr().out.strip().splitlines()
    assert lines[0].startswith("ok")
    assert "2 passed" in lines[-1]  # unit tests and those of engines


def test_a_failing_test_fails_the_run(checkout: Path, capfd: pytest.CaptureFixture[str]):
    add_test(checkout, "def test_that_fails():\n    assert 1 == 2\n")
    with pytest.raises(VerificationFailed):
        checks.run_tests(checkout)
    assert "1 failed, 2 passed" in capfd.readouterr().out


def test_a_failing_check_fails_the_run_although_all_tests_pass(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(checks, "all_checks", lambda: (GOOD, BAD))
    with pytest.raises(VerificationFailed, match="failed before the tests: bad"):
        checks.run_tests(checkout)
    assert "line 7 is wrong" in capfd.readouterr().out


def test_a_broken_test_file_fails_the_run(checkout: Path):
    add_test(checkout, "import no_such_module\n")
    with pytest.raises(VerificationFailed):
        checks.run_tests(checkout)


def test_unit_only_leaves_out_slow_tests_and_integration(checkout: Path, capfd: pytest.CaptureFixture[str]):
    add_test(checkout, "import pytest\n\n@pytest.mark.slow\ndef test_slow():\n    raise RuntimeError\n")
    (checkout / "tests" / "integration").mkdir(exist_ok=True)
    (checkout / "tests" / "integration" / "test_three.py").write_text("raise RuntimeError\n", encoding="utf-8")
    checks.run_tests(checkout, unit_only=True)
    printed = capfd.readouterr().out
    assert "1 passed" in printed and "RuntimeError" not in printed


def test_an_expression_chooses_tests_by_name(checkout: Path, capfd: pytest.CaptureFixture[str]):
    add_test(checkout, "def test_other():\n    raise RuntimeError\n")
    checks.run_tests(checkout, expression="passes")
    assert "2 passed, 1 deselected" in capfd.readouterr().out


def test_an_expression_that_fits_nothing_is_wrong_use_not_success(checkout: Path):
    with pytest.raises(UsageError, match="no test's name fits"):
        checks.run_tests(checkout, expression="unheard_of")


def test_missing_tools_are_named(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "_TOOLS", ("pytest", "no_such_tool"))
    with pytest.raises(CouldNotRun, match="no_such_tool") as caught:
        checks.run_tests(checkout)
    assert "bootstrap test" in caught.value.hint


def test_every_check_is_started_with_this_interpreter(checkout: Path):
    finding = checks.run_check(Check("which", ("-c", "import sys; print(sys.executable)")), checkout)
    assert finding.passed
    assert finding.output.strip() == sys.executable
