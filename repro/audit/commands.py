"""What the tasks `invoke audit.*` do: audit, write the page, and end with the exit code that the outcome demands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from repro.audit.claims import STATUSES, Outcome
from repro.audit.evidence import Evidence, open_run
from repro.audit.page import sentence, write_page
from repro.base.errors import UsageError
from repro.base.paths import Paths, given_path
from repro.display.console import Console
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


def verify(paths: Paths, subject: str, data: str, checkpoint: str, key: str, to: str, say: Say) -> None:
    """Audit a run's folder, or a packed bundle, and write the page.

    Raises:
        VerificationFailed: a claim is refuted.
        CouldNotVerify: none is, but for some something is missing.
    """
    from repro.audit.bundles import is_run, verify_a_bundle
    from repro.audit.verify import verify_run
    from repro.base.files import sha256_bytes

    place = _run_folder(paths, subject)
    if not is_run(place) and place.exists():
        keys = [key] if key else []
        outcome = verify_a_bundle(place, paths.temporary, keys, _given(data), _given(checkpoint))
        _finish(outcome, paths, sha256_bytes(place.resolve().name.encode()), to, say)
        return
    evidence = open_run(place, paths)
    _finish(verify_run(evidence, _given(data), _given(checkpoint)), paths, evidence.sha256, to, say)


def rerun(paths: Paths, console: Console, subject: str, how: Rerun, to: str, say: Say) -> None:
    """Run a run's stages again and write the page. Errors as `verify`."""
    from repro.audit.rerun import rerun as run_again

    if how.rounds < 10:
        raise UsageError(f"--rounds {how.rounds} is too few", hint="10 at least: fewer give no interval of the median")
    evidence = open_run(_run_folder(paths, subject), paths)
    _finish(run_again(evidence, how, console), paths, evidence.sha256, to, say)


def challenge(paths: Paths, subject: str, arch: str, images: str, to: str, say: Say, *, offline: bool) -> None:
    """Build layers again and write the page. Errors as `verify`."""
    from repro.audit.challenge import challenge as build_again
    from repro.images.commands import architectures

    evidence: Evidence | None = open_run(_run_folder(paths, subject), paths) if subject else None
    names = [name.strip() for name in images.split(",") if name.strip()]
    outcome = build_again(paths, architectures(arch), names, evidence, not offline, say)
    _finish(outcome, paths, evidence.sha256 if evidence else "pins", to, say)


def compare(paths: Paths, first: str, second: str, to: str, say: Say) -> None:
    """Hold two runs against each other and write the page. Errors as `verify`."""
    from repro.audit.compare import compare_runs

    one, two = (
        open_run(given_path("the first run", first), paths),
        open_run(given_path("the second run", second), paths),
    )
    outcome = Outcome("compare", f"A: record.json sha256 {one.sha256}; B: record.json sha256 {two.sha256}")
    for word, evidence in (("A", one), ("B", two)):
        host = evidence.record["host"]
        outcome.facts.append((word, f"{host.get('cpu', 'unknown')}, {evidence.record['engine']['name']}"))
    compare_runs(outcome, one, two)
    _finish(outcome, paths, one.sha256, to, say)


def _finish(outcome: Outcome, paths: Paths, name: str, to: str, say: Say) -> None:
    folder = given_path("--to", to) if to else paths.results / "audits" / f"{outcome.kind}-{name[:16]}"
    write_page(outcome, folder)
    say(sentence(outcome))
    counts = outcome.counts()
    say(", ".join(f"{status}: {counts[status]}" for status in STATUSES))
    say(f"page: {folder / 'audit.html'} (also audit.md, audit.json)")
    error = outcome.error()
    if error is not None:
        raise error
