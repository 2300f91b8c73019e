"""The check for code that nothing uses: it finds what is planted, and no argument outlives its cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.cli import dead_code

ROOT = Path(__file__).resolve().parents[2]


def planted(root: Path, text: str) -> list[str]:
    (root / "repro").mkdir()
    (root / "stages").mkdir()
    (root / "repro" / "planted.py").write_text(text)
    (root / "tasks.py").write_text("")
    return [line for line in dead_code.complaints(dead_code.found(root)) if "is argued, and in use" not in line]


@pytest.mark.parametrize("text", ["def left_over(): pass\n", "class LeftOver: pass\n", "LEFT_OVER = 1\n"])
def test_what_nothing_uses_is_named_with_its_place(tmp_path: Path, text: str):
    (complaint,) = planted(tmp_path, text)
    assert "repro/planted.py:1: unused" in complaint


def test_commands_and_what_is_used_are_not(tmp_path: Path):
    assert planted(tmp_path, "def used(): pass\n\n@command('x')\ndef task(): used()\n") == []


def test_an_argument_without_a_cause_is_a_complaint(tmp_path: Path):
    said = list(dead_code.complaints([]))
    assert len(said) == len(dead_code._ARGUED) and all("is argued, and in use" in line for line in said)
