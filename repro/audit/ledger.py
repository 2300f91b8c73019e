"""A ledger of audits' outcomes: signed statements, each chained to the one before by its digest; it is only added to.

One DSSE envelope per line, in its one spelling, around an in-toto statement about the bundle. No clock and nothing of
this machine is in it: what is compared of two entries is all except their number and the digest of the entry before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.audit.claims import REFUTED, UNVERIFIED, Outcome
from repro.audit.statements import code_digest
from repro.base.confined import read_below
from repro.base.errors import VerificationFailed
from repro.base.files import sha256_bytes, write_atomic
from repro.base.foreign import shown
from repro.packing.installer.listing import STATEMENT_TYPE, public_key_of
from repro.packing.installer.provenance import named
from repro.packing.installer.statements import Statement, read_statement
from repro.packing.signing import Signer
from repro.packing.statements import envelope

PREDICATE = "urn:lstm-ctc-bundle:ledger:1"
_MOST_BYTES = 1024**3
_CHAIN = ("number", "previous")
FIRST = "0" * 64  # what the first entry names as the digest of the one before


@dataclass(frozen=True)
class Entry:
    """One line of a ledger, verified. `sha256` is of the line's bytes, without its end."""

    number: int
    sha256: str
    statement: Statement

    @property
    def content(self) -> dict[str, Any]:
        """All of the statement except its place in the chain."""
        return _without_chain(self.statement.document)


@dataclass(frozen=True)
class Ledger:
    """The entries of a ledger, in order, and the bytes that they were read from."""

    entries: tuple[Entry, ...] = ()
    data: bytes = b""

    @property
    def head(self) -> str:
        """The digest of the last entry, which speaks for all before it; FIRST for an empty ledger."""
        return self.entries[-1].sha256 if self.entries else FIRST

    def last_about(self, content: Mapping[str, Any]) -> Entry | None:
        """The last entry about the same subjects by the same kind of audit; None where there is none."""
        wanted = (content["subject"], content["predicate"]["kind"])
        return next(
            (e for e in reversed(self.entries) if (e.content["subject"], e.content["predicate"]["kind"]) == wanted),
            None,
        )


def content_of(outcome: Outcome, subjects: Mapping[str, str]) -> dict[str, Any]:
    """What an entry says of an audit: its subjects, each claim by name with its status, and the verifier's code.

    Args:
        outcome: of the audit.
        subjects: name -> hex sha256 of what was audited; at least one.
    """
    claims: dict[str, list[str]] = {}
    for claim in outcome.claims:
        claims.setdefault(claim.status, []).append(claim.key)
    counts = outcome.counts()
    result = "FAILED" if counts[REFUTED] else "WARNED" if counts[UNVERIFIED] else "PASSED"
    return {
        "_type": STATEMENT_TYPE,
        "predicateType": PREDICATE,
        "subject": [named(name, sha256) for name, sha256 in sorted(subjects.items())],
        "predicate": {"kind": outcome.kind, "result": result, "claims": claims, "verifier": code_digest()},
    }


def _without_chain(document: Mapping[str, Any]) -> dict[str, Any]:
    predicate = {name: value for name, value in document["predicate"].items() if name not in _CHAIN}
    return {**document, "predicate": predicate}


def add(path: Path, ledger: Ledger, content: Mapping[str, Any], signer: Signer) -> Ledger:
    """Add an entry, durably, and return the ledger with it. The file is replaced whole: a killed process adds nothing.

    Args:
        path: of the ledger, whose lock the caller holds.
        ledger: as it was read.
    """
    number = len(ledger.entries) + 1
    predicate = {**content["predicate"], "number": number, "previous": ledger.head}
    line = envelope({**content, "predicate": predicate}, signer)
    data = ledger.data + line + b"\n"
    write_atomic(path, data)
    return Ledger((*ledger.entries, _entry(number, line, ledger.head, keys_with(signer))), data)


def keys_with(signer: Signer, others: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """The public keys, by fingerprint, whose entries count: the signer's own and others'."""
    return {**(others or {}), signer.fingerprint: public_key_of(signer.public_pem)}


def read_ledger(path: Path, keys: Mapping[str, bytes], pinned: Sequence[str] = ()) -> Ledger:
    """Read a ledger and verify every entry: its signature, its number, and the digest of the entry before.

    Args:
        path: of the ledger; an absent one is empty.
        keys: who may have signed, by fingerprint.
        pinned: digests that entries of it must have: of a head that was noted earlier, since the chain alone does not
            tell that its last entries were taken away.

    Raises:
        VerificationFailed: names the entry, and what is wrong with it.
    """
    try:
        data = read_below(path.parent, path.name, _MOST_BYTES)
    except FileNotFoundError:
        data = b""
    if data and not data.endswith(b"\n"):
        raise _wrong(path, data.count(b"\n") + 1, "it is cut off in its middle")
    entries: list[Entry] = []
    previous = FIRST
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            entries.append(_entry(number, line, previous, keys))
        except ValueError as error:
            raise _wrong(path, number, str(error)) from error
        previous = entries[-1].sha256
    known = {entry.sha256 for entry in entries}
    for digest in pinned:
        if digest not in known:
            raise VerificationFailed(
                f"the ledger {path} has no entry with sha256 {shown(digest)}: its last entries were taken away, or "
                "it is another ledger",
                hint="bring back the ledger that this head was noted of",
            )
    return Ledger(tuple(entries), data)


def _entry(number: int, line: bytes, previous: str, keys: Mapping[str, bytes]) -> Entry:
    statement = read_statement(f"entry {number}", line, keys)
    predicate = statement.document["predicate"]
    if not statement.signer:
        raise ValueError("nobody signed it")
    if statement.kind() != PREDICATE or not isinstance(predicate.get("kind"), str):
        raise ValueError("it is no entry of a ledger")
    if predicate.get("previous") != previous:
        raise ValueError(
            f"the entry before it has sha256 {previous}, and it names {shown(predicate.get('previous'))}: that entry "
            "was changed, or one between them was removed, added or moved"
        )
    if predicate.get("number") != number:
        raise ValueError(f"it is entry {shown(predicate.get('number'))} by its own number")
    return Entry(number, sha256_bytes(line), statement)


def _wrong(path: Path, number: int, why: str) -> VerificationFailed:
    return VerificationFailed(
        f"the ledger {path}: entry {number}: {why}",
        hint="nothing is added to such a ledger: bring back an unchanged copy, or begin another with --ledger",
    )
