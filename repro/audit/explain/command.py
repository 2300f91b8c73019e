"""`invoke audit.explain A B`, its outcome as claims, and what an audit shows of two layers that should be one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from repro.audit.claims import PROVEN, RECOMPUTED, REFUTED, UNVERIFIED
from repro.audit.explain.comparison import IRREPRODUCIBLE, MEANING, OPEN, SUBSTITUTED, Finding, counted
from repro.audit.explain.rebuilt import Truths
from repro.audit.explain.subjects import Blob, Part, explain_blobs, explain_folders, opened
from repro.audit.statements import EXPLANATION, SignedClaim, code_digest
from repro.base.errors import UsageError
from repro.base.files import pretty_json, write_atomic
from repro.base.foreign import shown
from repro.base.paths import Paths

Say = Callable[[str], None]
_MOST_LINES = 20  # of one part on a terminal or a page; the JSON has all


@dataclass(frozen=True)
class Explanation:
    """Why A and B differ; no part where they are equal.

    Attributes:
        subjects: what A and B are, name -> hex sha256.
        looked_at: what was read of them, likewise.
        parts: each has a finding or a note.
    """

    subjects: Mapping[str, str]
    looked_at: Mapping[str, str]
    parts: tuple[Part, ...]

    @property
    def differ(self) -> bool:
        return bool(self.parts)

    def claims(self) -> Iterator[SignedClaim]:
        """A and B are equal; where they are not, what is known of a substitution: no cause clears anybody of it."""
        if not self.differ:
            yield SignedClaim("A and B: equal", RECOMPUTED, PROVEN)
        for part in self.parts:
            yield SignedClaim(f"{part.name}: equal", RECOMPUTED, REFUTED)
            substituted = any(finding.judgement == SUBSTITUTED for finding in part.findings)
            yield SignedClaim(f"{part.name}: not substituted", RECOMPUTED, REFUTED if substituted else UNVERIFIED)

    def as_json(self) -> dict[str, Any]:
        """All of it; equal sides give equal bytes."""
        return {
            "schema": "lstm-ctc-bundle/explanation",
            "version": 2,
            "kind": "explain",
            "subjects": dict(self.subjects),
            "looked_at": dict(self.looked_at),
            "verifier": code_digest(),
            "meaning": MEANING,
            "claims": [msgspec.to_builtins(claim) for claim in self.claims()],
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
            subjects: Mapping[str, str] = {"A: file": one.sha256, "B: file": two.sha256}
        elif isinstance(one, Path) and isinstance(two, Path):
            parts = explain_folders(paths, one, two, stack, truths)
            subjects = parts[0].looked_at
        else:
            raise UsageError(f"{shown(a)} and {shown(b)}: one is a folder and the other is a file")
    looked_at = {name: sha256 for part in parts for name, sha256 in part.looked_at.items()}
    return Explanation(subjects, looked_at, tuple(part for part in parts if part.findings or part.notes))


def write_explanation(explanation: Explanation, folder: Path, say: Say) -> None:
    """Tell it, and write explanation.json into a folder."""
    for line in explanation.lines():
        say(line)
    write_atomic(folder / EXPLANATION, pretty_json(explanation.as_json()))
    if explanation.differ:
        say("; ".join(f"{word}: {text}" for word, text in MEANING.items()))
