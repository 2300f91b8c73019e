"""The command line: what is listed, what help explains, and how a command ends."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from repro.base.errors import BundleError, CouldNotVerify, FetchError, NonDeterministicResult, UsageError
from repro.cli.tasking import HELP, exit_with_verdict, reporting

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str, cwd: Path = ROOT):
    """What `./bootstrap ARGUMENTS` becomes once its environment is there."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tasks.py"), *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def tasks() -> dict[str, str]:
    """Name: first line of help, of every task."""
    listing = command("--list").stdout
    rows = re.findall(r"^  (\S+)(?: \([\w.-]+\))?\s{3,}(.+)$", listing, re.MULTILINE)
    return dict(rows)


def test_the_list_reads_like_a_table_of_contents(tmp_path: Path):
    listed = tasks()
    assert {"reproduce", "doctor", "fetch", "test", "images.build", "lock.verify", "stage.features"} <= set(listed)
    for name, text in listed.items():
        assert text.endswith("."), f"{name}: {text!r} does not fit one line of 80 columns"
    assert command("--list", cwd=tmp_path).stdout == command("--list").stdout


def test_every_option_of_every_task_is_explained():
    for name in tasks():
        text = command("--help", name).stdout
        options = text.partition("Options:\n")[2]
        assert text.startswith("Usage: "), name
        for line in options.splitlines():
            if re.match(r"  -", line):
                assert re.search(r"\S {3,}\S", line), f"{name}: {line.strip()} has no explanation"


def test_help_of_reproduce_names_every_choice():
    text = command("--help", "reproduce").stdout
    for option in ("--bs", "--data", "--checkpoint", "--engine", "--decode", "--plan", "--force", "--skip-bad"):
        assert option in text
    for choice in ("all", "docker", "podman", "sandbox", "Greedy", "Beam", "dev", "test", "demo"):
        assert choice in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-task",),
        ("reproduce", "--no-such-option"),
        ("reproduce", "--bs"),
        ("reproduce", "--beam-width", "wide", "--plan"),
        ("reproduce", "--bs", "eight", "--plan"),
        ("reproduce", "--bs", "0", "--plan"),
        ("reproduce", "--checkpoint", "/no/such/file.pth", "--plan"),
        ("reproduce", "--decode", "Viterbi", "--plan"),
        ("stage.no-such-stage",),
        ("--help", "no-such-task"),
    ],
    ids=" ".join,
)
def test_wrong_use_ends_with_2_and_says_what_is_right(arguments: tuple[str, ...]):
    done = command(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "\n-> " in done.stderr
    assert "Traceback" not in done.stderr


def test_the_test_task_reaches_pytest_and_a_name_that_no_test_has_is_wrong_use():
    done = command("test", "--unit", "--keep", "no_" + "such_test_name")
    assert done.returncode == 2, done.stderr
    assert "deselected" in done.stdout
    assert "no test's name fits" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("wrong", hint="do this"), 2),
        (NonDeterministicResult("different", hint="do this"), 3),
        (FetchError("nowhere", hint="do this"), 4),
        (CouldNotVerify("missing", hint="do this"), 4),
    ],
)
def test_errors_end_with_the_tables_code(error: BundleError, code: int, capsys: pytest.CaptureFixture[str]):
    @reporting
    def task() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        task()
    assert caught.value.code == code
    assert capsys.readouterr().err == f"error: {error.message}\n-> do this\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_or_closed_disk_is_no_defect(number: int, capsys: pytest.CaptureFixture[str]):
    @reporting
    def task() -> None:
        raise OSError(number, os.strerror(number), "/some/file")

    with pytest.raises(SystemExit) as caught:
        task()
    assert caught.value.code == 4
    assert "/some/file" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback():
    @reporting
    def task() -> None:
        raise OSError(errno.EBADF, "a defect")

    with pytest.raises(OSError, match="a defect"):
        task()


def test_an_interrupt_says_that_nothing_is_lost(capsys: pytest.CaptureFixture[str]):
    @reporting
    def task() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        task()
    assert caught.value.code == 130
    assert "goes on from there" in capsys.readouterr().err


@pytest.mark.parametrize("outcome", ["reproduced", "not-comparable"])
def test_what_does_not_contradict_is_a_success(outcome: str):
    exit_with_verdict({"verdict": {"outcome": outcome}})


def test_what_was_not_reproduced_ends_with_1():
    with pytest.raises(SystemExit) as caught:
        exit_with_verdict({"verdict": {"outcome": "not-reproduced"}})
    assert caught.value.code == 1


def test_no_help_text_is_left_over():
    source = (ROOT / "tasks.py").read_text(encoding="utf-8")
    assert [name for name in HELP if f'"{name}"' not in source] == []
