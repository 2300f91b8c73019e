"""`invoke audit.farm`: every bundle of a folder verified, and if asked run again, with a signed ledger of outcomes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repro.audit.bundles import Given, verify_a_bundle
from repro.audit.claims import REFUTED, UNVERIFIED
from repro.audit.evidence import digest_below
from repro.audit.ledger import Ledger, add, content_of, read_ledger
from repro.audit.page import sentence, write_page
from repro.base.confined import check_name
from repro.base.errors import BundleError, CouldNotVerify, NotPlain, UsageError, VerificationFailed
from repro.base.files import pretty_json, write_atomic
from repro.base.foreign import shown
from repro.base.locking import locked
from repro.base.paths import Paths
from repro.packing.signing import Signer
from repro.packing.verify import is_installed
from repro.report.parts import Bullet, Cell, Section, digest, table
from repro.report.view import Judged, View
from repro.report.writer import html_of, markdown_of

Say = Callable[[str], None]
_MOST_NAMES = 100_000
_FIRST = re.compile(r".+\.tar(\.0*1)?(;[0-9]+)?", re.IGNORECASE)
_PART = re.compile(r"(.+\.tar)\.([0-9]{1,3})(;[0-9]+)?", re.IGNORECASE)
_BESIDE = ".attestations"
_NAME_SHOWN = 120  # characters


@dataclass(frozen=True)
class Audited:
    """What came of one name of the folder.

    Attributes:
        said: the sentence of its audit, or why it is not looked at.
        result: 'PASSED', 'WARNED', 'FAILED', or '' for what is not looked at.
        entry: its number in the ledger; 0 for none.
        new: the entry was added now.
    """

    name: str
    said: str
    result: str = ""
    entry: int = 0
    new: bool = False


@dataclass(frozen=True)
class Farm:
    """What a farm works with.

    Attributes:
        given: keys, data and checkpoint for every bundle.
        kind: of the entries: 'verify', or 'rerun' where `examine` runs the runs again.
        ledger: its file.
        keys: whose entries in it count, by fingerprint.
        pinned: digests that it must hold.
        again: add an entry though the outcome is the one of the last entry.
    """

    given: Given
    kind: str
    ledger: Path
    signer: Signer
    keys: Mapping[str, bytes]
    pinned: Sequence[str] = ()
    again: bool = False


def audit_folder(paths: Paths, folder: Path, farm: Farm, target: Path, say: Say) -> list[Audited]:
    """Audit every bundle of a folder, and write the page.

    Args:
        folder: of bundles; what is no bundle in it is named, and nothing of it is followed or opened.
        target: where farm.html, farm.md, farm.json and the page of each audit go.

    Raises:
        UsageError: there is no such folder.
        VerificationFailed: the ledger does not hold; nothing was audited.
    """
    if not folder.is_dir():
        raise UsageError(f"{shown(folder)} is not a folder", hint="name the folder that holds the bundles")
    farm.ledger.parent.mkdir(parents=True, exist_ok=True)
    with locked(farm.ledger.parent):  # nobody else adds to it meanwhile
        ledger = read_ledger(farm.ledger, farm.keys, farm.pinned)
        found: list[Audited] = []
        for number, (name, refused) in enumerate(_names(folder), start=1):
            if refused:
                found.append(Audited(name, refused))
            else:
                one, ledger = _audited(paths, folder / name, farm, ledger, target / f"{number:05d}")
                found.append(one)
            say(f"{shown(name, _NAME_SHOWN)}: {found[-1].said}")
    _write(found, ledger, farm, target)
    say(f"ledger: {paths.told(farm.ledger)}: {len(ledger.entries)} entries, the last has sha256 {ledger.head}")
    return found


def _names(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, why it is not looked at) of what lies in a folder, in byte order; '' for a bundle."""
    with os.scandir(folder) as entries:
        kinds = {entry.name: entry.stat(follow_symlinks=False).st_mode for _, entry in zip(range(_MOST_NAMES), entries)}
        more = next(entries, None)
    for name in sorted(kinds, key=os.fsencode):
        refused = _refused(folder, name, kinds)
        if refused is not None:
            yield name, refused
    if more is not None:
        yield "…", f"not looked at: the folder holds more than {_MOST_NAMES} names"


def _refused(folder: Path, name: str, kinds: Mapping[str, int]) -> str | None:
    """Why a name is not looked at, '' for a bundle, None for what belongs to one."""
    mode = kinds[name]
    try:
        check_name(name)
    except NotPlain as error:
        return f"not looked at: {error.message}"
    part = _PART.fullmatch(name)
    if stat.S_ISDIR(mode):
        if name.endswith(_BESIDE):
            return None
        return "" if is_installed(folder / name) else "not looked at: a folder that was not installed from a bundle"
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "no plain file"
        return f"not looked at: it is {kind}"
    if _FIRST.fullmatch(name):
        return ""
    if part is None:
        return "not looked at: no bundle by its name (NAME.tar, or NAME.tar.001 for the first of its parts)"
    first = f"{part.group(1)}.{1:0{len(part.group(2))}d}"
    return None if first in kinds else f"not looked at: part of a bundle whose first part, {first}, is not here"


def _audited(paths: Paths, place: Path, farm: Farm, ledger: Ledger, target: Path) -> tuple[Audited, Ledger]:
    try:
        outcome = verify_a_bundle(place, paths.temporary, farm.given)
        outcome = replace(outcome, kind=farm.kind)
        subjects = outcome.subjects or {place.name: digest_below(place.parent, place.name).sha256}
    except (BundleError, OSError) as error:  # such as a disk that is full: the next bundle may be smaller
        why = error.message if isinstance(error, BundleError) else str(error)
        return Audited(place.name, f"could not be audited: {shown(why)}"), ledger
    write_page(outcome, target)
    content = content_of(outcome, subjects)
    last = ledger.last_about(content)
    result = str(content["predicate"]["result"])
    if last is not None and last.content == content and not farm.again:
        said = f"{sentence(outcome)} The same outcome as entry {last.number}."
        return Audited(place.name, said, result, last.number), ledger
    ledger = add(farm.ledger, ledger, content, farm.signer)
    changed = "" if last is None or last.content == content else f" It differs from entry {last.number}."
    said = f"{sentence(outcome)}{changed}"
    return Audited(place.name, said, result, len(ledger.entries), new=True), ledger


def error_of(found: Sequence[Audited]) -> BundleError | None:
    """What the command ends with: VerificationFailed, CouldNotVerify, or None where every bundle holds."""
    refuted = [one for one in found if one.result == "FAILED"]
    open_ones = [one for one in found if one.result in ("", "WARNED")]
    detail = "\n".join(f"{one.name}: {one.said}" for one in (*refuted, *open_ones))
    hint = "the page of each audit lists its claims"
    if refuted:
        return VerificationFailed(
            f"{len(refuted)} of {len(found)} are refuted; the first: {refuted[0].name}", detail=detail, hint=hint
        )
    if open_ones or not found:
        first = f"; the first: {open_ones[0].name}" if open_ones else ": the folder holds no bundle"
        return CouldNotVerify(
            f"nothing is refuted, but {len(open_ones)} of {len(found)} could not be verified{first}",
            detail=detail, hint=hint,
        )  # fmt: skip
    return None


_TONES = {"PASSED": "good", "WARNED": "open", "FAILED": "bad", "": "open"}
_WORDS = {"PASSED": "holds", "WARNED": UNVERIFIED, "FAILED": REFUTED, "": "not looked at"}


def _write(found: Sequence[Audited], ledger: Ledger, farm: Farm, target: Path) -> None:
    error = error_of(found)
    tone = "good" if error is None else "bad" if isinstance(error, VerificationFailed) else "open"
    headline = "Every bundle holds" if error is None else error.message
    rows = [
        [Cell(shown(one.name, _NAME_SHOWN)), Cell(_WORDS[one.result], tone=_TONES[one.result]), one.entry or "",
         "added now" if one.new else "as before" if one.entry else "", one.said]
        for one in found
    ]  # fmt: skip
    entries = [
        [entry.number, str(entry.content["predicate"]["kind"]), str(entry.content["predicate"].get("result", "")),
         digest(entry.sha256), digest(entry.statement.signer)]
        for entry in ledger.entries
    ]  # fmt: skip
    view = View(
        title="Audit of a folder of bundles",
        verdicts=[Judged(headline, f"{len(found)} names were found in the folder.", tone)],
        demo_notice="",
        figures=table([], []),
        facts=[("kind of audit", farm.kind), ("entries", str(len(ledger.entries))), ("head of the ledger", ledger.head),
               ("signed by", farm.signer.fingerprint)],
        sections=[
            Section("Bundles", tables=[table(["name", "outcome", "#entry", "ledger", "in words"], rows)], folded=False),
            Section(
                "The ledger", tables=[table(["#entry", "kind", "result", "sha256", "signer"], entries)],
                bullets=[Bullet("Note the head: the chain alone does not tell that its last entries were taken away.")],
                lead=f"{len(ledger.entries)} entries",
            ),
        ],
        caption="",
    )  # fmt: skip
    document = {
        "schema": "lstm-ctc-bundle/farm", "version": 1, "kind": farm.kind, "head": ledger.head,
        "entries": len(ledger.entries),
        "audited": [{"name": shown(one.name, 1000), "result": one.result, "entry": one.entry, "new": one.new,
                     "said": one.said} for one in found],
    }  # fmt: skip
    write_atomic(target / "farm.json", pretty_json(document))
    write_atomic(target / "farm.md", markdown_of(view).encode())
    write_atomic(target / "farm.html", html_of(view, {}).encode())
