"""How long things may be: a function that one screen holds, a module that one sitting reads, commands at a glance."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FUNCTION_LINES, MODULE_LINES, COMMANDS_LINES = 60, 450, 300

# `PATH: FUNCTION` and why it cannot be split, such as a kernel whose parts have to be inlined. None at present.
LONG_FUNCTIONS: dict[str, str] = {}


def modules() -> Iterator[tuple[str, str]]:
    """Path and text of all product code."""
    for path in (ROOT / "tasks.py", *sorted((ROOT / "repro").rglob("*.py")), *sorted((ROOT / "stages").rglob("*.py"))):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_no_function_is_longer_than_a_screen():
    long = {
        f"{path}: {node.name}"
        for path, text in modules()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES
    }
    assert long == set(LONG_FUNCTIONS)


def test_no_module_is_longer_than_a_sitting():
    assert [path for path, text in modules() if len(text.splitlines()) > MODULE_LINES] == []


def test_the_commands_are_seen_at_a_glance():
    assert len((ROOT / "tasks.py").read_text(encoding="utf-8").splitlines()) <= COMMANDS_LINES
