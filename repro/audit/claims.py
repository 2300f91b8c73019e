"""The outcome of an audit: claims, how far each is known, what is wrong or missing, and the evidence.

'Refuted' means that bytes were there and contradict the claim; 'could not verify' that bytes, a tool or a machine were
missing. Neither is ever said for the other, and the exit codes keep them apart. A claim that holds says how far it is
known, in kinds that are never mixed: recomputed from bytes that this audit read, run again by this audit, true if it
were run again, attested, or claimed by both of two records.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from repro.base.errors import BundleError, CouldNotVerify, VerificationFailed
from repro.base.foreign import shown

RECOMPUTED = "recomputed from these bytes"
RUN_AGAIN = "run again here"
IF_RERUN = "true if rerun"
ATTESTED = "attested"
CLAIMED = "claimed by both"
KINDS = (RECOMPUTED, RUN_AGAIN, IF_RERUN, ATTESTED, CLAIMED)

PROVEN = "proven here"
REFUTED = "refuted"
UNVERIFIED = "could not verify"
STATUSES = (PROVEN, IF_RERUN, ATTESTED, CLAIMED, REFUTED, UNVERIFIED)
_WHERE_IT_HOLDS = {RECOMPUTED: PROVEN, RUN_AGAIN: PROVEN, IF_RERUN: IF_RERUN, ATTESTED: ATTESTED, CLAIMED: CLAIMED}

VERSION = 3  # of audit.json
Digests = dict[str, str]  # name -> hex sha256
DEFECT = "a defect of this audit"
_MOST_FINDINGS = 40  # of one claim: a page is read by people; the number of the others is given
_LINE = 1000  # characters of a finding


@dataclass(frozen=True)
class Claim:
    """One sentence about a run, and what this audit found of it; every text is safe to show.

    Attributes:
        key: names the claim for programs and in messages, such as 'score@8'.
        text: the sentence that is claimed.
        kind: how far it is known where it holds; one of KINDS.
        status: one of STATUSES.
        findings: what is wrong or missing, the gravest first; empty where the claim holds.
        evidence: what was looked at.
        open_to: the forgeries that this kind of claim does not find, and what finds them.
    """

    key: str
    text: str
    kind: str
    status: str
    findings: tuple[str, ...]
    evidence: tuple[str, ...]
    open_to: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The claim in the outcome's JSON."""
        return {
            "key": self.key,
            "claim": self.text,
            "kind": self.kind,
            "status": self.status,
            "findings": list(self.findings),
            "evidence": list(self.evidence),
            "open_to": list(self.open_to),
        }


class Rebuild(msgspec.Struct, frozen=True):
    """How the rebuild of one layer or image ended.

    Attributes:
        name: such as 'layer debs:base (amd64)'.
        claimed: hex sha256 that somebody claims of it.
        found: hex sha256 of what was built; '' where nothing could be built.
        made_from: name -> hex sha256 of what it was built from.
    """

    name: str
    claimed: str
    found: str
    made_from: Digests

    @property
    def result(self) -> str:
        """Of the test `rebuild`."""
        if not self.found:
            return "WARNED"
        return "PASSED" if self.found == self.claimed else "FAILED"


@dataclass
class Examination:
    """A claim while it is examined: it holds, as its kind says, unless something is found wrong or missing."""

    kind: str = RECOMPUTED
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    open_to: list[str] = field(default_factory=list)
    looked_at: Digests = field(default_factory=dict)

    def read(self, name: str, digest: str) -> None:
        """Note that bytes with this sha256 were read; what an audit looked at is signed with its outcome."""
        self.looked_at[shown(name, _LINE)] = digest.rpartition(":")[2]

    @property
    def status(self) -> str:
        """What has been found so far."""
        if self.wrong:
            return REFUTED
        return UNVERIFIED if self.missing else _WHERE_IT_HOLDS[self.kind]

    def claim(self, key: str, text: str) -> Claim:
        """What was found, every text of a stranger made safe to show."""
        findings = [*self.wrong, *self.missing]
        if len(findings) > _MOST_FINDINGS:
            findings = [*findings[:_MOST_FINDINGS], f"and {len(findings) - _MOST_FINDINGS} more"]
        return Claim(
            shown(key, _LINE), shown(text, _LINE), self.kind, self.status,
            _shown(findings), _shown(self.evidence), _shown(self.open_to),
        )  # fmt: skip


def _shown(lines: list[str]) -> tuple[str, ...]:
    return tuple(shown(line, _LINE) for line in lines)


@dataclass
class Outcome:
    """Every claim of one audit, in the order in which they were examined.

    Attributes:
        kind: 'verify', 'rerun', 'challenge' or 'compare'.
        subject: what was audited, by digest where it has one; no path of this machine.
        facts: (name, value) pairs for the page's head; see `fact`.
        subjects: what was audited, name -> hex sha256: what a signed statement speaks of.
        looked_at: bytes that were read, name -> hex sha256.
        rebuilt: how each rebuild of a layer or an image ended.
    """

    kind: str
    subject: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    subjects: Digests = field(default_factory=dict)
    looked_at: Digests = field(default_factory=dict)
    rebuilt: list[Rebuild] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.subject = shown(self.subject, _LINE)

    def fact(self, name: str, value: object) -> None:
        """Note something for the page's head."""
        self.facts.append((shown(name), shown(value)))

    @contextmanager
    def examine(self, key: str, text: str, kind: str = RECOMPUTED) -> Iterator[Examination]:
        """Examine one claim; errors that are raised on purpose become its findings, and the audit goes on.

        Any other exception is a defect of the audit. It proves and refutes nothing: the claim could not be verified,
        the finding names the line of code, and the other claims stand.
        """
        examination = Examination(kind)
        try:
            yield examination
        except VerificationFailed as error:
            examination.wrong.append(_one_line(error))
        except BundleError as error:
            examination.missing.append(_one_line(error))
        except OSError as error:
            examination.missing.append(f"{error.filename or 'a file'} cannot be read: {error.strerror or 'unknown'}")
        except Exception as error:  # noqa: BLE001 - see above; the page must be written whatever a stranger's bytes do
            examination.missing.append(f"{DEFECT} ({_place(error)}): please report it with the record")
        self.looked_at.update(examination.looked_at)
        self.claims.append(examination.claim(key, text))

    def of_status(self, status: str) -> list[Claim]:
        """The claims of one status, in order."""
        return [claim for claim in self.claims if claim.status == status]

    def holding(self, kind: str) -> list[Claim]:
        """The claims of one kind that hold, in order."""
        return [claim for claim in self.claims if claim.kind == kind and claim.status not in (REFUTED, UNVERIFIED)]

    def counts(self) -> Mapping[str, int]:
        """How many claims there are of each status."""
        return {status: len(self.of_status(status)) for status in STATUSES}

    def explanation(self) -> str:
        """How far the claims that hold are known, kind by kind."""
        known = [f"{len(claims)} {kind}" for kind in KINDS for claims in [self.holding(kind)] if claims]
        return ", ".join(known) or "no claim holds"

    def error(self) -> BundleError | None:
        """What a command ends with: VerificationFailed, CouldNotVerify, or None where everything holds."""
        refuted, unverified = self.of_status(REFUTED), self.of_status(UNVERIFIED)
        hint = f"of the other claims: {self.explanation()}; the page lists each with its evidence"
        if refuted:
            return VerificationFailed(
                f"refuted: {refuted[0].text}: {refuted[0].findings[0]}",
                detail=_listed([*refuted, *unverified]),
                hint=hint,
            )
        if unverified:
            return CouldNotVerify(
                f"nothing is refuted, but {len(unverified)} of {len(self.claims)} claims could not be verified; the "
                f"first: {unverified[0].text}",
                detail=_listed(unverified),
                hint=f"each line names what is missing; {hint}",
            )
        return None

    def as_json(self) -> dict[str, Any]:
        """The outcome as one document; equal audits give equal bytes."""
        return {
            "schema": "lstm-ctc-bundle/audit",
            "version": VERSION,
            "kind": self.kind,
            "subject": self.subject,
            "subjects": self.subjects,
            "looked_at": self.looked_at,
            "rebuilt": msgspec.to_builtins(self.rebuilt),
            "facts": [{"name": name, "value": value} for name, value in self.facts],
            "counts": dict(self.counts()),
            "kinds": {kind: len(self.holding(kind)) for kind in KINDS},
            "first_refuted": next((claim.key for claim in self.of_status(REFUTED)), None),
            "claims": [claim.as_json() for claim in self.claims],
        }


def _one_line(error: BundleError) -> str:
    detail = "; ".join(error.detail.splitlines())
    return error.message + (f" ({detail})" if detail else "")


def _place(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {last.filename.rpartition('/')[2]}:{last.lineno}"


def _listed(claims: list[Claim]) -> str:
    return "\n".join(f"{claim.status}: {claim.key}: {finding}" for claim in claims for finding in claim.findings)
