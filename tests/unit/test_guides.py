"""The program that reads the guides' commands, and what can be said of those commands without running them."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import tasks
from tests.guides.blocks import PAGES, ROOT, Block, MarkError, blocks_of, missing_line, parse
from tests.guides.terminal import Terminal

EVERY = sorted({*PAGES, *(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])})


def in_chinese(page: str) -> Path:
    """Where the Chinese form of a page lies, if there is one."""
    return ROOT / "README.zh-CN.md" if page == "README.md" else ROOT / "docs/zh-CN" / Path(page).name


def test_blocks_marks_and_outputs_are_read():
    page = (
        "# T\n\n<!-- start in checkout, offline -->\n<!-- exits with 4 -->\n```sh\nls\ncd x\n```\n\n```text\na…\n```\n"
        "\nwords\n\n```text\nno output\n```\n\n<!-- long: a minute -->\n```sh\ndf\n```\n"
        "<!-- not run: no NPU -->\n```sh\nnpu\n```\n"
    )
    assert parse("p.md", page) == [
        Block("p.md", 6, "ls\ncd x\n", ("a…",), "checkout", True, 4),
        Block("p.md", 22, "df\n", long="a minute"),
        Block("p.md", 26, "npu\n", not_run="no NPU"),
    ]


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("```sh\nls\n```\n", "no terminal yet"),
        ("<!-- start in space -->\n```sh\nls\n```\n", "is no mark"),
        ("<!-- not run -->\n```sh\nls\n```\n", "is no mark"),
        ("<!-- not run: x -->\nwords\n", "no block of commands"),
        ("words\n\n    ./bootstrap doctor\n", "fenced blocks"),
        ("words\n\n    invoke doctor\n", "fenced blocks"),
    ],
)
def test_a_page_that_cannot_be_understood_is_named(page, said):
    with pytest.raises(MarkError, match=said):
        parse("p.md", page)


def test_lines_of_an_output_come_in_their_order_with_others_between():
    output = "one 1 s\ntwo\nthree 3.5 s\n"
    assert missing_line(("one … s", "three … s"), output) == ""
    assert missing_line(("one", "two"), output) == "one"
    assert missing_line(("three … s", "two"), output) == "two"
    assert missing_line(("…", "two", ""), output) == ""
    assert missing_line(("B  figure      95 %",), "B  figure  95 %") == ""
    assert missing_line(("  run … Run it.",), "  run        Run it.") == ""


def test_a_terminal_goes_on_from_block_to_block_and_tells_what_failed(tmp_path: Path):
    terminal = Terminal([], tmp_path, dict(os.environ), tmp_path)
    try:
        assert terminal.run("mkdir a && cd a\nx=5\n", 60).exit_code == 0
        said = terminal.run('pwd; echo "$x"; echo seen >&2\n', 60)
        assert said.output == f"{tmp_path}/a\n5\nseen\n"
        assert terminal.run("(exit 4)\ntrue\n", 60).exit_code == 4
        assert terminal.run("false || true\n", 60).exit_code == 0
        with pytest.raises(TimeoutError):
            terminal.run("exit 3\n", 60)
    finally:
        terminal.close()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_guide_is_run_or_has_its_reason(page):
    blocks = blocks_of(page)
    assert all(block.commands.strip() for block in blocks)
    guides = [name for name in PAGES if "guide" in name or name == "README.md"]
    assert blocks or page not in guides
    run = [block for block in blocks if not block.not_run]
    silent = [block.line for block in run if not block.prints and not _is_silent(block.commands)]
    assert not silent, f"{page}: these blocks do not show what they print: lines {silent}"


@pytest.mark.parametrize("page", [page for page in PAGES if in_chinese(page).exists()])
def test_a_page_in_chinese_has_the_english_ones_commands_and_marks_so_that_one_run_covers_both(page: str):
    chinese = parse(page, in_chinese(page).read_text("utf-8"))
    assert [_as_run(block) for block in chinese] == [_as_run(block) for block in blocks_of(page)]
    assert {in_chinese(name) for name in PAGES} >= {*ROOT.glob("*.zh-CN.md"), *ROOT.glob("docs/zh-CN/*.md")}


def _as_run(block: Block) -> Block:
    """What of a block does not depend on the language of its page."""
    return replace(block, line=0, long="long" if block.long else "", not_run="not run" if block.not_run else "")


def _is_silent(commands: str) -> bool:
    """Whether none of the commands prints anything that matters to a reader."""
    return all(re.match(r"(?:cd|mkdir|cp|export|\.) ", line) for line in commands.splitlines())


def commands_in(page: str) -> list[list[str]]:
    """Every command of ours in a page: in its blocks and in its text."""
    text = (ROOT / page).read_text("utf-8")
    spans = re.findall(r"(?<!\\)`((?:\./bootstrap|invoke) [^`\n]+)`", text)  # an escaped ` is text
    lines = [line.strip() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    lines = [line.rstrip("\\") for line in lines]
    found = []
    for line in [*spans, *lines]:
        for part in re.split(r"&&|;|\|", line):
            words = shlex.split(part, comments=True) if part.count('"') % 2 == 0 and part.count("'") % 2 == 0 else []
            if words[:1] in (["./bootstrap"], ["invoke"]):
                found.append(words[1:])
    return found


TASKS = {**tasks.ns.task_names, **{alias: () for names in tasks.ns.task_names.values() for alias in names}}
CORE = {"--list", "--help", "--version"}


@pytest.mark.parametrize("page", EVERY)
def test_every_command_in_any_page_exists_with_its_options(page):
    for words in commands_in(page):
        name = words[0] if words else ""
        if name in CORE or name[:1].isupper() or "NAME" in name or "…" in name or "*" in name:
            continue
        assert name in TASKS, f"{page}: there is no task {name!r}"
        flags = {flag for context in [tasks.ns[name]] for flag in _flags(context)}
        for word in words[1:]:
            option = word.partition("=")[0]
            assert not option.startswith("--") or option in flags, f"{page}: {name} has no option {option}"


def _flags(task) -> set[str]:
    return {"--help", *(f"--{argument.name.rstrip('_').replace('_', '-')}" for argument in task.get_arguments())}


def test_the_keys_of_debians_archive_in_the_auditors_guide_are_those_of_the_keyring():
    pysequoia = pytest.importorskip("pysequoia")
    keyring = (ROOT / "conf/keys/debian-archive-keyring.gpg").read_bytes()
    held = {certificate.fingerprint.upper() for certificate in pysequoia.Cert.split_bytes(keyring)}
    printed = re.findall(r"^([0-9A-F]{40})  ", (ROOT / "docs/guide-auditor.md").read_text("utf-8"), re.MULTILINE)
    assert len(printed) == len(set(printed)) and set(printed) == held


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_table_of_commands_has_each_of_them(page: str):
    rows = "\n".join(line for line in (ROOT / page).read_text().splitlines() if line.startswith("| `"))
    names = {name for name in tasks.ns.task_names if not name.startswith("stage.")}
    short = {name: name.rpartition(".")[2] for name in names}
    missing = {name for name in names if f"`{name}`" not in rows and f"`.{short[name]}`" not in rows}
    assert missing <= {"images.list", "lock.write"}  # what the collections' own names mean
    assert "`images`" in rows and "`lock`" in rows and "`stage.NAME`" in rows
