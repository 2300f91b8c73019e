"""What the tasks `invoke audit.*` do: audit, write the page, and end with the exit code that the outcome demands."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repro.audit.bundles import Given, is_run, verify_a_bundle
from repro.audit.claims import STATUSES, Outcome
from repro.audit.compare import Sides, compare_runs, machine_of
from repro.audit.evidence import RECORD, Evidence, examine_record, record_digest
from repro.audit.page import sentence, write_page
from repro.audit.statements import EXPLANATION, examine_statements, sign_audit
from repro.audit.verify import examine_run
from repro.base.errors import CouldNotRun, UsageError
from repro.base.files import sha256_bytes, sha256_file
from repro.base.paths import Paths, given_path
from repro.display.console import Console
from repro.images.commands import architectures
from repro.images.pins import PINS
from repro.packing.signing import Signer, default_key_path, load_key
from repro.packing.verify import NOBODY, Rebuilders, fingerprints, keys_of
from repro.run.inputs import DEMO

if TYPE_CHECKING:
    from repro.audit.rerun import Rerun

Say = Callable[[str], None]
LATEST = "latest"
LEDGER = "ledger.jsonl"


def run_folder(paths: Paths, option: str) -> Path:
    """The folder of a run as a user names it: a path, or the word latest."""
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
    rebuilders: Rebuilders = NOBODY
    auditors: str = ""


@dataclass(frozen=True)
class Page:
    """Where an audit's page goes, '' for a folder in artifacts/audits; and the auditor's key, if it is to be signed."""

    to: str = ""
    signer: Signer | None = None


def page(to: str, sign: str) -> Page:
    """The same from the command line; the key is read before the audit begins.

    Raises:
        CouldNotRun, UsageError: it cannot be read.
    """
    return Page(to, load_key(given_path("--sign", sign)) if sign else None)


def verify(paths: Paths, asked: Verify, page: Page, say: Say) -> None:
    """Audit a run's folder, or a packed bundle, and write the page.

    Raises:
        VerificationFailed: a claim is refuted.
        CouldNotVerify: none is, but for some something is missing.
    """
    place = run_folder(paths, asked.subject)
    data, checkpoint = _given(asked.data), _given(asked.checkpoint)
    auditors = keys_of(asked.auditors)
    asked.rebuilders.check()
    if not is_run(place) and place.exists():
        earlier = _given(asked.base)
        keys = [asked.key] if asked.key else []
        given = Given(data, checkpoint, keys, [earlier] if earlier else [], asked.rebuilders)
        outcome = verify_a_bundle(place, paths.temporary, given)
        _finish(outcome, paths, sha256_bytes(os.fsencode(place.resolve().name)), page, say)
        return
    digest, outcome = _begun("verify", place)
    evidence = examine_record(outcome, place, paths)
    if evidence is not None:
        examine_run(outcome, evidence, data, checkpoint)
        if asked.rebuilders.attestations is not None:
            examine_statements(outcome, asked.rebuilders.attestations, auditors)
    _finish(outcome, paths, digest, page, say)


def _begun(kind: str, place: Path) -> tuple[str, Outcome]:
    """The digest of a record, and the outcome of an audit of it.

    Raises:
        UsageError: there is none.
    """
    digest = record_digest(place)
    return digest, Outcome(kind, f"record.json sha256 {digest}", subjects={RECORD: digest})


def _check_rounds(rounds: int) -> None:
    if rounds < 10:
        raise UsageError(f"--rounds {rounds} is too few", hint="10 at least: fewer give no interval of the median")


def rerun(paths: Paths, console: Console, subject: str, how: Rerun, page: Page, say: Say) -> None:
    """Run a run's stages again and write the page. Errors as `verify`."""
    from repro.audit.rerun import rerun as run_again  # noqa: PLC0415 - Docker's client: 0.2 s

    _check_rounds(how.rounds)
    place = run_folder(paths, subject)
    digest, outcome = _begun("rerun", place)
    evidence = examine_record(outcome, place, paths)
    if evidence is not None:
        run_again(outcome, evidence, how, console)
    _finish(outcome, paths, digest, page, say)


@dataclass(frozen=True)
class FarmAsked:
    """Options of `invoke audit.farm`; '' for what is not given, `rerun` for --rerun."""

    folder: str
    data: str = ""
    checkpoint: str = ""
    key: str = ""
    sign: str = ""
    ledger: str = ""
    auditors: str = ""
    head: str = ""
    again: bool = False
    to: str = ""
    rerun: Rerun | None = None


def farm(paths: Paths, console: Console, asked: FarmAsked, say: Say) -> None:
    """Audit every bundle of a folder, keep the ledger and write the pages.

    Raises:
        VerificationFailed: a bundle is refuted, or the ledger does not hold.
        CouldNotVerify: nothing is refuted, but something could not be verified or was not looked at.
        UsageError, CouldNotRun: there is no such folder or key.
    """
    from repro.audit.farm import Farm, audit_folder, error_of  # noqa: PLC0415 - the report's templates
    from repro.audit.ledger import keys_with  # noqa: PLC0415 - likewise

    signer = load_key(given_path("--sign", asked.sign) if asked.sign else default_key_path())
    how, examine = asked.rerun, None
    if how is not None:
        from repro.audit.rerun import rerun as run_again  # noqa: PLC0415 - Docker's client: 0.2 s

        _check_rounds(how.rounds)
        examine = functools.partial(run_again, how=how, console=console)
    given = Given(
        _given(asked.data), _given(asked.checkpoint), fingerprints([asked.key] if asked.key else []), examine=examine
    )
    folder = given_path("the folder", asked.folder)
    ledger = given_path("--ledger", asked.ledger) if asked.ledger else paths.results / "audits" / LEDGER
    keys = keys_with(signer, keys_of(asked.auditors))
    kind = "verify" if how is None else "rerun"
    target = given_path("--to", asked.to) if asked.to else paths.results / "audits" / f"farm-{kind}"
    heads = [asked.head] if asked.head else []
    found = audit_folder(paths, folder, Farm(given, kind, ledger, signer, keys, heads, asked.again), target, say)
    say(f"farm: {target / 'farm.html'} (also farm.md, farm.json)")
    error = error_of(found)
    if error is not None:
        raise error


def challenge(paths: Paths, subject: str, arch: str, images: str, page: Page, say: Say, *, offline: bool) -> None:
    """Build layers again and write the page. Errors as `verify`."""
    from repro.audit.challenge import Challenge  # noqa: PLC0415 - Docker's client: 0.2 s
    from repro.audit.challenge import challenge as build_again  # noqa: PLC0415 - Docker's client: 0.2 s
    from repro.audit.explain.kept import Kept  # noqa: PLC0415 - Docker's client: 0.2 s

    evidence: Evidence | None = None
    pins = sha256_file(paths.root / PINS)
    digest, outcome = "pins", Outcome("challenge", "the layers and images that conf/locks pins", subjects={PINS: pins})
    if subject:
        place = run_folder(paths, subject)
        digest, outcome = _begun("challenge", place)
        evidence = examine_record(outcome, place, paths)
    if evidence is not None or not subject:
        names = [name.strip() for name in images.split(",") if name.strip()]
        kept = Kept(paths, _page_folder(outcome.kind, paths, digest, page.to) / "differences")
        build_again(outcome, Challenge(paths, architectures(arch), names, evidence, not offline, say, kept))
    _finish(outcome, paths, digest, page, say)


def compare(paths: Paths, first: str, second: str, page: Page, say: Say) -> None:
    """Hold two runs against each other and write the page. Errors as `verify`."""
    places = {"A": given_path("the first run", first), "B": given_path("the second run", second)}
    digests = {word: record_digest(place) for word, place in places.items()}
    named = "; ".join(f"{word}: {RECORD} sha256 {sha256}" for word, sha256 in digests.items())
    outcome = Outcome("compare", named, subjects={f"{word}: {RECORD}": sha256 for word, sha256 in digests.items()})
    opened = [examine_record(outcome, place, paths, word) for word, place in places.items()]
    one, two = opened
    if one is not None and two is not None:
        for word, evidence in (("A", one), ("B", two)):
            outcome.fact(word, machine_of(evidence.record))
        compare_runs(outcome, Sides(one, two))
    _finish(outcome, paths, digests["A"], page, say)


def explain(paths: Paths, first: str, second: str, page: Page, say: Say) -> bool:
    """Say why two layers, images, results or runs differ, and write explanation.json; whether they differ.

    Raises:
        As `repro.audit.explain.command.explain`.
    """
    from repro.audit.explain.command import explain as say_why  # noqa: PLC0415 - images and their clients: 0.2 s
    from repro.audit.explain.command import write_explanation  # noqa: PLC0415 - likewise

    explanation = say_why(paths, first, second)
    name = sha256_bytes("\n".join(explanation.subjects.values()).encode())
    folder = _page_folder("explain", paths, name, page.to)
    write_explanation(explanation, folder, say)
    say(f"explanation: {paths.told(folder / EXPLANATION)}")
    _sign(folder, page, say)
    return explanation.differ


def _page_folder(kind: str, paths: Paths, name: str, to: str) -> Path:
    return given_path("--to", to) if to else paths.results / "audits" / f"{kind}-{name[:16]}"


def _sign(folder: Path, page: Page, say: Say) -> None:
    if page.signer is not None:
        say(f"signed by {page.signer.fingerprint}: {sign_audit(folder, page.signer)}")


def _finish(outcome: Outcome, paths: Paths, name: str, page: Page, say: Say) -> None:
    folder = _page_folder(outcome.kind, paths, name, page.to)
    write_page(outcome, folder)
    say(sentence(outcome))
    counts = outcome.counts()
    say(", ".join(f"{status}: {counts[status]}" for status in STATUSES if counts[status]))
    say(f"audit: {folder / 'audit.html'} (also audit.md, audit.json)")
    error = outcome.error()
    try:
        _sign(folder, page, say)
    except CouldNotRun as unsigned:  # what was found is told whether it could be signed or not
        raise (error or unsigned) from unsigned
    if error is not None:
        raise error


def sign(folder: str, key: str, say: Say) -> None:
    """`audit.sign`: sign what an audit wrote.

    Raises:
        UsageError, CouldNotRun: there is no audit, or no key.
    """
    signer = load_key(given_path("--key", key) if key else default_key_path())
    say(f"signed by {signer.fingerprint}: {sign_audit(given_path('the audit', folder), signer)}")
