"""The command line: what is listed, what help explains, and how a command ends."""

from __future__ import annotations

import errno
import gc
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from repro.base.errors import BundleError, CouldNotVerify, FetchError, NonDeterministicResult, UsageError
from repro.cli.options import NoOptions
from repro.cli.tasking import Commands, exit_with_verdict, reporting, show

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


_EVERY_HELP = """
import sys
from repro.cli.main import main
for name in sys.argv[1:]:
    print(chr(12) + name, flush=True)
    sys.argv = ["tasks.py", "--help", name]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, name
"""


def test_every_option_of_every_task_is_explained():
    """In one process, as starting sixty takes longer than all their help."""
    done = subprocess.run(
        [sys.executable, "-c", _EVERY_HELP, *tasks()], cwd=ROOT, capture_output=True, text=True, check=True
    )
    helps = dict(page.split("\n", 1) for page in done.stdout.split("\f")[1:])
    assert list(helps) == list(tasks())
    for name, text in helps.items():
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
    assert re.search("^error: ", done.stderr, re.MULTILINE)  # after what is said of a data/sources that holds something
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


@pytest.mark.parametrize(
    "error", [KeyError("x"), OSError(errno.EBADF, "bad"), RecursionError(), zlib.error("-3")], ids=repr
)
def test_a_defect_ends_with_70_and_says_where_and_to_report_it(error: Exception, capsys: pytest.CaptureFixture[str]):
    @reporting
    def task() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        task()
    text = capsys.readouterr().err
    assert caught.value.code == 70
    assert text.startswith(f"error: a defect of this program: {type(error).__name__}")
    assert "tests/unit/test_tasks.py:" in text and "please report it" in text and "Traceback" not in text


def test_what_a_stranger_said_reaches_the_terminal_without_its_control_characters(capsys: pytest.CaptureFixture[str]):
    @reporting
    def task() -> None:
        raise CouldNotVerify("\x1b[2Jm", hint="\x1b]52;c;x\x07", detail="\u202ed\rVERDICT: Reproduced.")

    with pytest.raises(SystemExit):
        task()
    text = capsys.readouterr().err
    assert not any(letter in text for letter in "\x1b\x07\r\u202e")
    assert text.count("\n") == 3


def test_a_result_cannot_command_the_terminal_either(capsys: pytest.CaptureFixture[str]):
    show("a\tb\n\x1b[2Jc\rd \u202ee")
    assert capsys.readouterr().out == "a       b\n\\x1b[2Jc\\x0dd \\u202ee\n"


def shell(line: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """A command line with `$TASKS` for `python tasks.py`, its results in a folder of their own."""
    variables = {
        **os.environ, "TASKS": f"{sys.executable} {ROOT / 'tasks.py'}", "BUNDLE_RESULTS": str(folder / "results"),
        **environ,
    }  # fmt: skip
    return subprocess.run(["sh", "-c", line], env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (f"$TASKS stage.corpus --data {'x' * 300}", 2, "no file can have such a name"),
        ("$TASKS stage.corpus --data '~nosuchuser/TIMIT'", 2, "there is no user of that name"),
        ("$TASKS bundle.verify '~nosuchuser/b.tar'", 2, "there is no user of that name"),
        ("BUNDLE_RESULTS=$FILE $TASKS store.gc", 2, "is not a folder"),
        ("BUNDLE_RESULTS=/dev/null/x $TASKS store.gc", 2, "/dev/null is not a folder"),
        ("$TASKS stage.corpus --data $FILE/x 2>&-", 2, ""),
    ],
)
def test_what_the_system_or_a_path_refuses_is_never_not_reproduced(line: str, code: int, said: str, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    done = shell(line, tmp_path, FILE=str(tmp_path / "file"), DATA=str(ROOT / "tests/golden/TIMIT"))
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stderr and (not said or "\n-> " in done.stderr)


def test_too_few_descriptors_end_a_command_with_what_to_raise_or_not_at_all(tmp_path: Path):
    line = "ulimit -n 6; $TASKS reproduce --plan --data $DATA --engine sandbox"
    done = shell(line, tmp_path, DATA=str(ROOT / "tests/golden/TIMIT"))
    assert done.returncode in (0, 4), done.stderr  # 0 where only the cache of digests has to be done without
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or "ulimit -n" in done.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path):
    done = shell("($TASKS --list; echo code $? >&2) | true", tmp_path)
    assert done.stderr == "code 141\n"


def test_a_full_disk_behind_stdout_is_said(tmp_path: Path):
    done = shell("$TASKS --list > /dev/full", tmp_path)
    assert done.returncode == 4 and "No space left" in done.stderr


def test_closed_streams_are_not_taken_by_files(tmp_path: Path):
    done = shell(f"{sys.executable} -c 'import sys; sys.path.insert(0, \"{ROOT}\")\nfrom repro.cli.ending import *\n"
                 "insist_on_streams(); print(open(sys.path[0] + \"/README.md\").fileno(), file=sys.stdout)' 0<&- 2>&-",
                 tmp_path)  # fmt: skip
    assert int(done.stdout) > 2


@pytest.mark.parametrize(
    ("content", "variables"),
    [
        ("tasks: {collection_name: other, auto_dash_names: false}\n", {}),
        ("run: {dry: true\n", {}),
        ("", {"INVOKE_RUN_ECHO_FORMAT": "x", "INVOKE_TASKS_AUTO_DASH_NAMES": "", "INVOKE_RUN_ENV": "1"}),
    ],
)
def test_settings_of_invoke_for_other_projects_change_nothing(content: str, variables: dict[str, str], tmp_path: Path):
    (tmp_path / ".invoke.yaml").write_text(content, encoding="utf-8")
    done = shell("$TASKS bundle.keys.show", tmp_path, HOME=str(tmp_path), **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert shell("$TASKS --list", tmp_path, HOME=str(tmp_path), **variables).stdout == command("--list").stdout


def test_plain_invoke_is_independent_of_variables_for_other_projects(tmp_path: Path):
    variables = {"INVOKE_RUN_ENV": "1", "INVOKE_TASKS_DEDUPE": "x", "INVOKE_RUN_ECHO_FORMAT": "y"}
    line = f"cd {ROOT} && {sys.executable} -m invoke bundle.keys.show"
    done = shell(line, tmp_path, HOME=str(tmp_path), **variables)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_home_that_may_not_be_entered_ends_no_command(tmp_path: Path):
    home = tmp_path / "closed"
    home.mkdir(mode=0)
    assert shell("$TASKS --list", tmp_path, HOME=str(home)).returncode == 0


def test_an_interrupt_says_that_nothing_is_lost(capsys: pytest.CaptureFixture[str]):
    @reporting
    def task() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        task()
    assert caught.value.code == 130
    assert "goes on from there" in capsys.readouterr().err


def test_a_command_paces_the_garbage_collector_for_itself_alone():
    """Whoever imported the commands collected a hundred times more rarely, and kept the files that garbage holds."""
    before, during = gc.get_threshold(), []
    commands = Commands()
    commands.command("paced", NoOptions)(lambda *_: during.append(gc.get_threshold()))
    commands.root.tasks["paced"].body(None)
    assert during[0] > before
    assert gc.get_threshold() == before


@pytest.mark.parametrize("outcome", ["reproduced", "not-comparable"])
def test_what_does_not_contradict_is_a_success(outcome: str):
    exit_with_verdict(outcome)


def test_what_was_not_reproduced_ends_with_1():
    with pytest.raises(SystemExit) as caught:
        exit_with_verdict("not-reproduced")
    assert caught.value.code == 1
