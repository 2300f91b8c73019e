"""`invoke audit.explain A B`, and what an audit shows of two layers that should have been one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.audit.explain.comparison import IRREPRODUCIBLE, MEANING, OPEN, SUBSTITUTED, Finding, counted
from repro.audit.explain.rebuilt import Truths
from repro.audit.explain.subjects import Blob, Part, explain_blobs, explain_folders, opened
from repro.base.errors import UsageError
from repro.base.files import pretty_json, sha256_bytes, write_atomic
from repro.base.foreign import shown
from repro.base.paths import Paths, given_path

Say = Callable[[str], None]
_MOST_LINES = 20  # of one part on a terminal or a page; the JSON has all


@dataclass(frozen=True)
class Explanation:
    """Why A and B differ; no part where they are equal."""

    a: str
    b: str
    parts: tuple[Part, ...]

    @property
    def differ(self) -> bool:
        return bool(self.parts)

    def as_json(self) -> dict[str, Any]:
        """All of it; equal sides give equal bytes."""
        return {
            "schema": "lstm-ctc-bundle/explanation",
            "version": 1,
            "a": self.a,
            "b": self.b,
            "meaning": MEANING,
            "parts": [part.as_json() for part in self.parts],
        }

    def lines(self) -> Iterator[str]:
        """For a person: each part, its causes counted, its files up to a number."""
        if not self.differ:
            yield "no difference"
        for part in self.parts:
            yield from part_lines(part)


def part_lines(part: Part) -> Iterator[str]:
    """One part as lines for a person."""
    causes = f" ({', '.join(counted(part.findings))})" if part.findings else ""
    count = len(part.findings)
    yield f"{part.name}: {count} path{'s differ' if count != 1 else ' differs'}{causes}"
    yield from (f"  {note}" for note in part.notes)
    yield from (f"  {finding}" for finding in _gravest_first(part.findings)[:_MOST_LINES])
    if len(part.findings) > _MOST_LINES:
        yield f"  and {len(part.findings) - _MOST_LINES} more: explanation.json has each"


def _gravest_first(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: (SUBSTITUTED, OPEN, IRREPRODUCIBLE).index(finding.judgement))


def explain(paths: Paths, a: str, b: str) -> Explanation:
    """Why two layers, images, results of a stage, or runs differ.

    Args:
        paths: of the checkout, whose locked sources decide where they can.
        a, b: a tar, a saved archive, a folder of a run or of a result, or a digest in artifacts/oci.

    Raises:
        UsageError: nothing of that name is there, or the two are not of one kind.
        VerificationFailed: one is malformed, or exceeds a bound.
    """
    with ExitStack() as stack:
        one, two = opened(paths, a, stack), opened(paths, b, stack)
        truths = Truths(paths, stack)
        if isinstance(one, Blob) and isinstance(two, Blob):
            parts = explain_blobs(paths, one, two, stack, truths)
            names = [f"sha256 {blob.sha256}" for blob in (one, two)]
        elif isinstance(one, Path) and isinstance(two, Path):
            parts = explain_folders(paths, one, two, stack, truths)
            names = [shown(os.path.basename(os.path.abspath(folder))) for folder in (one, two)]
        else:
            raise UsageError(f"{shown(a)} and {shown(b)}: one is a folder and the other is a file")
    return Explanation(names[0], names[1], tuple(part for part in parts if part.findings or part.notes))


def explain_and_write(paths: Paths, a: str, b: str, to: str, say: Say) -> bool:
    """Explain, tell, and write explanation.json; whether the two differ."""
    explanation = explain(paths, a, b)
    for line in explanation.lines():
        say(line)
    document = pretty_json(explanation.as_json())
    name = sha256_bytes(f"{explanation.a}\n{explanation.b}".encode())[:16]
    folder = given_path("--to", to) if to else paths.results / "audits" / f"explain-{name}"
    write_atomic(folder / "explanation.json", document)
    if explanation.differ:
        say("; ".join(f"{word}: {text}" for word, text in MEANING.items()))
    say(f"explanation: {paths.told(folder / 'explanation.json')}")
    return explanation.differ
