"""What the tasks `invoke audit.*` do: audit, write the page, and end with the exit code that the outcome demands."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repro.audit.bundles import Given, is_run, verify_a_bundle
from repro.audit.claims import STATUSES, Outcome
from repro.audit.compare import Sides, compare_runs, machine_of
from repro.audit.evidence import Evidence, examine_record, record_digest
from repro.audit.page import sentence, write_page
from repro.audit.verify import examine_run
from repro.base.errors import UsageError
from repro.base.files import sha256_bytes
from repro.base.paths import Paths, given_path
from repro.display.console import Console
from repro.images.commands import architectures
from repro.run.inputs import DEMO

if TYPE_CHECKING:
    from repro.audit.rerun import Rerun

Say = Callable[[str], None]
LATEST = "latest"


def _run_folder(paths: Paths, option: str) -> Path:
    return paths.runs / LATEST if option == LATEST else given_path("the run", option)


def _given(option: str) -> Path | None:
    """A path of the user's; None for what a record itself can be held against: nothing given, or the demo's."""
    if option in ("", DEMO):
        return None
    path = given_path("the option's value", option)
    if not path.exists():
        raise UsageError(f"{option}: there is no such file or folder")
    return path


@dataclass(frozen=True)
class Verify:
    """Options of `invoke audit.verify`; '' for what is not given."""

    subject: str
    data: str = ""
    checkpoint: str = ""
    key: str = ""
    base: str = ""


def verify(paths: Paths, asked: Verify, to: str, say: Say) -> None:
    """Audit a run's folder, or a packed bundle, and write the page.

    Raises:
        VerificationFailed: a claim is refuted.
        CouldNotVerify: none is, but for some something is missing.
    """
    place = _run_folder(paths, asked.subject)
    data, checkpoint = _given(asked.data), _given(asked.checkpoint)
    if not is_run(place) and place.exists():
        earlier = _given(asked.base)
        given = Given(data, checkpoint, [asked.key] if asked.key else [], [earlier] if earlier else [])
        outcome = verify_a_bundle(place, paths.temporary, given)
        _finish(outcome, paths, sha256_bytes(os.fsencode(place.resolve().name)), to, say)
        return
    digest, outcome = _begun("verify", place)
    evidence = examine_record(outcome, place, paths)
    if evidence is not None:
        examine_run(outcome, evidence, data, checkpoint)
    _finish(outcome, paths, digest, to, say)


def _begun(kind: str, place: Path) -> tuple[str, Outcome]:
    """The digest of a record, and the outcome of an audit of it.

    Raises:
        UsageError: there is none.
    """
    digest = record_digest(place)
    return digest, Outcome(kind, f"record.json sha256 {digest}")


def rerun(paths: Paths, console: Console, subject: str, how: Rerun, to: str, say: Say) -> None:
    """Run a run's stages again and write the page. Errors as `verify`."""
    from repro.audit.rerun import rerun as run_again  # noqa: PLC0415 - Docker's client: 0.2 s

    if how.rounds < 10:
        raise UsageError(f"--rounds {how.rounds} is too few", hint="10 at least: fewer give no interval of the median")
    place = _run_folder(paths, subject)
    digest, outcome = _begun("rerun", place)
    evidence = examine_record(outcome, place, paths)
    if evidence is not None:
        run_again(outcome, evidence, how, console)
    _finish(outcome, paths, digest, to, say)


def challenge(paths: Paths, subject: str, arch: str, images: str, to: str, say: Say, *, offline: bool) -> None:
    """Build layers again and write the page. Errors as `verify`."""
    from repro.audit.challenge import Challenge  # noqa: PLC0415 - Docker's client: 0.2 s
    from repro.audit.challenge import challenge as build_again  # noqa: PLC0415 - Docker's client: 0.2 s
    from repro.audit.explain.kept import Kept  # noqa: PLC0415 - Docker's client: 0.2 s

    evidence: Evidence | None = None
    digest, outcome = "pins", Outcome("challenge", "the layers and images that conf/locks pins")
    if subject:
        place = _run_folder(paths, subject)
        digest, outcome = _begun("challenge", place)
        evidence = examine_record(outcome, place, paths)
    if evidence is not None or not subject:
        names = [name.strip() for name in images.split(",") if name.strip()]
        kept = Kept(paths, _page_folder(outcome, paths, digest, to) / "differences")
        build_again(outcome, Challenge(paths, architectures(arch), names, evidence, not offline, say, kept))
    _finish(outcome, paths, digest, to, say)


def compare(paths: Paths, first: str, second: str, to: str, say: Say) -> None:
    """Hold two runs against each other and write the page. Errors as `verify`."""
    places = {"A": given_path("the first run", first), "B": given_path("the second run", second)}
    digests = {word: record_digest(place) for word, place in places.items()}
    outcome = Outcome("compare", "; ".join(f"{word}: record.json sha256 {sha256}" for word, sha256 in digests.items()))
    opened = [examine_record(outcome, place, paths, word) for word, place in places.items()]
    one, two = opened
    if one is not None and two is not None:
        for word, evidence in (("A", one), ("B", two)):
            outcome.fact(word, machine_of(evidence.record))
        compare_runs(outcome, Sides(one, two))
    _finish(outcome, paths, digests["A"], to, say)


def _page_folder(outcome: Outcome, paths: Paths, name: str, to: str) -> Path:
    return given_path("--to", to) if to else paths.results / "audits" / f"{outcome.kind}-{name[:16]}"


def _finish(outcome: Outcome, paths: Paths, name: str, to: str, say: Say) -> None:
    folder = _page_folder(outcome, paths, name, to)
    write_page(outcome, folder)
    say(sentence(outcome))
    counts = outcome.counts()
    say(", ".join(f"{status}: {counts[status]}" for status in STATUSES if counts[status]))
    say(f"audit: {folder / 'audit.html'} (also audit.md, audit.json)")
    error = outcome.error()
    if error is not None:
        raise error
