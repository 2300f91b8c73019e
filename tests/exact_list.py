"""The digests of exact stages that were seen, and on which processors: tests/data/exact_digests.json, and its table.

python -m tests.exact_list    writes the table into docs/decisions/exactness.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from repro.base.files import write_atomic
from repro.base.locking import locked

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "data" / "exact_digests.json"
PAGE = ROOT / "docs" / "decisions" / "exactness.md"
_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
_SHOWN = 12  # of a digest's figures


def listed() -> dict[str, dict[str, dict[str, Any]]]:
    """Per corpus and step: its `digest`, where it was `seen`, and of which files so far where only `in_part`."""
    corpora: dict[str, dict[str, dict[str, Any]]] = json.loads(LIST.read_bytes())["corpora"]
    return corpora


def note(corpus: str, step: str, place: str, found: str) -> bool:
    """Write where a digest was seen; returns whether it is the listed one. One that differs is not written."""
    with locked(LIST.parent):
        document: dict[str, Any] = json.loads(LIST.read_bytes())
        entry = document["corpora"].setdefault(corpus, {}).setdefault(step, {"digest": found, "seen": []})
        if entry["digest"] != found:
            return False
        if place not in entry["seen"]:
            entry["seen"].append(place)
            _write(document)
        return True


def note_part(corpus: str, step: str, place: str, file: str, whole: str, files: Iterable[str]) -> bool:
    """Write that one of a step's files was seen; with the last of `files`, the step was. False where nothing is noted.

    Args:
        whole: the digest of the outputs that the file is equal to one of; it has to be the listed one.
    """
    with locked(LIST.parent):
        document: dict[str, Any] = json.loads(LIST.read_bytes())
        entry = document["corpora"][corpus][step]
        if entry["digest"] != whole:
            return False
        part = sorted({*entry.setdefault("in_part", {}).pop(place, []), file})
        if set(part) == set(files):
            entry["seen"] = list(dict.fromkeys([*entry["seen"], place]))
        elif place not in entry["seen"]:
            entry["in_part"][place] = part
        if not entry["in_part"]:
            del entry["in_part"]
        _write(document)
        return True


def _write(document: dict[str, Any]) -> None:
    write_atomic(LIST, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")


def table() -> str:
    """One row per corpus and step, one column per place."""
    rows = [(corpus, step, entry) for corpus, steps in listed().items() for step, entry in steps.items()]
    places = list(dict.fromkeys(place for _, _, entry in rows for place in [*entry["seen"], *entry.get("in_part", ())]))
    lines = [f"| corpus | step | outputs | {' | '.join(places)} |", "|---" * (3 + len(places)) + "|"]
    for corpus, step, entry in rows:
        cells = [_cell(entry, place) for place in places]
        lines.append(f"| {corpus} | {step} | `{entry['digest'][:_SHOWN]}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(entry: dict[str, Any], place: str) -> str:
    part = entry.get("in_part", {}).get(place)
    return "yes" if place in entry["seen"] else f"{len(part)} of its files" if part else "not run"


def write_page() -> None:
    """Draw the page's table anew."""
    write_atomic(PAGE, _TABLE.sub(table(), PAGE.read_text("utf-8"), count=1).encode())


if __name__ == "__main__":
    write_page()
