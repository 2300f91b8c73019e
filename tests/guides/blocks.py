"""The commands of the guides, as values: what stands in a page is what the tests run.

A page's commands stand in fenced blocks of the language `sh`. A block of the language `text` right below one holds what
it prints, cut to the lines that matter: they must come in that order, others may come between, and `…` stands for any
text, and a time or a speed for any other. Marks are comments of Markdown on the lines right above a block:

    <!-- start in PLACE -->            a new terminal: checkout, received or maker; the blocks below go on in it
    <!-- start in PLACE, offline -->   the same without a network
    <!-- exits with 4 -->              what the block's last failing command ends with
    <!-- long: WHY -->                 run only in the full form of the test
    <!-- not run: WHY -->              never run here
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md", "docs/guide-accuracy.md", "docs/guide-airgap.md", "docs/guide-auditor.md", "docs/guide-lab.md",
    "docs/guide-sweep.md", "docs/troubleshooting.md", "docs/report.md",
)  # fmt: skip
PLACES = ("checkout", "received", "maker")
_MEASURED = re.compile(r"\d+(?:\.\d+)?(?= (?:s|min|MB/s)\b)")
_MARK = re.compile(r"<!-- (.+?) -->")
_START = re.compile(r"start in (\w+)(, offline)?")
_EXIT = re.compile(r"exits with (\d+)")


@dataclass(frozen=True)
class Block:
    """Some commands of a page.

    Attributes:
        page, line: where they stand.
        commands: as printed, with the line ends.
        prints: the lines that matter of what they print.
        start: the place of a new terminal, '' to go on in the last one.
        offline: of that terminal.
        exit_code: of the last command that fails, 0 for none.
        long: why it is run in the full form alone, '' for a short one.
        not_run: why it is not run, '' for one that is.
    """

    page: str
    line: int
    commands: str = ""
    prints: tuple[str, ...] = ()
    start: str = ""
    offline: bool = False
    exit_code: int = 0
    long: str = ""
    not_run: str = ""


class MarkError(ValueError):
    """A page has a mark or a block that cannot be understood; the text says where."""


def blocks_of(page: str) -> list[Block]:
    """The command blocks of a page, in order.

    Raises:
        MarkError: an unknown mark, a mark without a block, a block that is indented instead of fenced, or one before
            the first terminal.
    """
    return parse(page, (ROOT / page).read_text("utf-8"))


def parse(page: str, text: str) -> list[Block]:
    """The same of a page's text."""
    found: list[Block] = []
    lines = text.splitlines()
    marked, number, opened = Block(page, 0), 0, False
    while number < len(lines):
        line = lines[number]
        number += 1
        mark = _MARK.fullmatch(line)
        if mark:
            marked = _with_mark(replace(marked, line=number), mark.group(1))
        elif line.startswith("```"):
            end = next((n for n in range(number, len(lines)) if lines[n] == "```"), len(lines))
            body, language, first = lines[number:end], line[3:].strip(), number + 1
            number = end + 1
            if language == "sh":
                opened = opened or bool(marked.start)
                if not opened and not marked.not_run:
                    raise MarkError(f"{page}:{first}: no terminal yet: put <!-- start in PLACE --> above this block")
                found.append(replace(marked, line=first, commands="\n".join(body) + "\n"))
                marked = Block(page, 0)
            elif language == "text" and found and _adjacent(lines, found[-1], first - 1):
                found[-1] = replace(found[-1], prints=tuple(body))
        elif marked.line and line.strip():
            raise MarkError(f"{page}:{marked.line}: this mark has no block of commands right below it")
        elif re.match(r" {4}(?:\S*[./]|invoke |\. )\S*", line) and not lines[number - 2].strip():
            raise MarkError(f"{page}:{number}: commands stand in fenced blocks (```sh), not in indented ones")
    return found


def _adjacent(lines: list[str], block: Block, fence: int) -> bool:
    """Whether nothing but empty lines lies between a block's end and a fence (line numbers from 1)."""
    end = block.line + block.commands.count("\n")
    return not any(line.strip() for line in lines[end : fence - 1])


def _with_mark(block: Block, mark: str) -> Block:
    start, code = _START.fullmatch(mark), _EXIT.fullmatch(mark)
    what, _, why = mark.partition(": ")
    if start and start.group(1) in PLACES:
        return replace(block, start=start.group(1), offline=bool(start.group(2)))
    if code:
        return replace(block, exit_code=int(code.group(1)))
    if what == "long" and why:
        return replace(block, long=why)
    if what == "not run" and why:
        return replace(block, not_run=why)
    raise MarkError(f"{block.page}:{block.line}: {mark!r} is no mark: see tests/guides/blocks.py")


def missing_line(prints: tuple[str, ...], output: str) -> str:
    """The first line of what a page prints that an output does not have in its place; '' for none.

    Spaces count once: a table is as wide as its widest figure.
    """
    said = (" ".join(line.split()) for line in output.splitlines())
    for wanted in prints:
        pieces = re.split(" ?(…) ?", _MEASURED.sub("…", " ".join(wanted.split())))
        pattern = re.compile("".join(".*" if piece == "…" else re.escape(piece) for piece in pieces))
        if wanted.strip() not in ("", "…") and not any(pattern.fullmatch(line) for line in said):
            return wanted
    return ""
