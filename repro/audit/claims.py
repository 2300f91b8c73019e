"""The outcome of an audit: claims, each proven here, attested, refuted or not verifiable, with the evidence.

'Refuted' means that bytes were there and contradict the claim; 'could not verify' that bytes, a tool or a machine
were missing. Neither is ever said for the other, and the exit codes keep them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from repro.base.errors import BundleError, CouldNotVerify, VerificationFailed

PROVEN = "proven here"
ATTESTED = "attested"
REFUTED = "refuted"
UNVERIFIED = "could not verify"
STATUSES = (PROVEN, ATTESTED, REFUTED, UNVERIFIED)

_MOST_FINDINGS = 40  # of one claim: a page is read by people; the number of the others is said


@dataclass(frozen=True)
class Claim:
    """One sentence about a run, and what this audit found of it.

    Attributes:
        key: names the claim for programs and in messages, such as 'score@8'.
        text: the sentence that is claimed.
        status: one of STATUSES.
        findings: what is wrong or missing, the gravest first; empty where the claim holds.
        evidence: what was looked at.
    """

    key: str
    text: str
    status: str
    findings: tuple[str, ...]
    evidence: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The claim in the outcome's JSON."""
        return {
            "key": self.key,
            "claim": self.text,
            "status": self.status,
            "findings": list(self.findings),
            "evidence": list(self.evidence),
        }


@dataclass
class Examination:
    """A claim while it is examined: it holds unless something is found wrong or missing."""

    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    if_it_holds: str = PROVEN

    @property
    def status(self) -> str:
        """What has been found so far."""
        if self.wrong:
            return REFUTED
        return UNVERIFIED if self.missing else self.if_it_holds


@dataclass
class Outcome:
    """Every claim of one audit, in the order in which they were examined.

    Attributes:
        kind: 'verify', 'rerun', 'challenge' or 'compare'.
        subject: what was audited, by digest where it has one; no path of this machine.
        facts: (name, value) pairs for the page's head.
    """

    kind: str
    subject: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    @contextmanager
    def examine(self, key: str, text: str) -> Iterator[Examination]:
        """Examine one claim; errors that are raised on purpose become its findings, and the audit goes on."""
        examination = Examination()
        try:
            yield examination
        except VerificationFailed as error:
            examination.wrong.append(_one_line(error))
        except BundleError as error:
            examination.missing.append(_one_line(error))
        except OSError as error:
            examination.missing.append(f"cannot be read: {error}")
        findings = [*examination.wrong, *examination.missing]
        if len(findings) > _MOST_FINDINGS:
            findings = [*findings[:_MOST_FINDINGS], f"and {len(findings) - _MOST_FINDINGS} more"]
        self.claims.append(Claim(key, text, examination.status, tuple(findings), tuple(examination.evidence)))

    def of_status(self, status: str) -> list[Claim]:
        """The claims of one status, in order."""
        return [claim for claim in self.claims if claim.status == status]

    def counts(self) -> Mapping[str, int]:
        """How many claims there are of each status."""
        return {status: len(self.of_status(status)) for status in STATUSES}

    def error(self) -> BundleError | None:
        """What a command ends with: VerificationFailed, CouldNotVerify, or None where everything holds."""
        refuted, unverified = self.of_status(REFUTED), self.of_status(UNVERIFIED)
        if refuted:
            return VerificationFailed(
                f"refuted: {refuted[0].text}: {refuted[0].findings[0]}",
                detail=_listed([*refuted, *unverified]),
                hint="the page of this audit lists every claim with its evidence",
            )
        if unverified:
            return CouldNotVerify(
                f"nothing is refuted, but {len(unverified)} of {len(self.claims)} claims could not be verified; the "
                f"first: {unverified[0].text}",
                detail=_listed(unverified),
                hint="each line says what is missing; the other claims stand",
            )
        return None

    def as_json(self) -> dict[str, Any]:
        """The outcome as one document; equal audits give equal bytes."""
        return {
            "schema": "lstm-ctc-bundle/audit",
            "version": 1,
            "kind": self.kind,
            "subject": self.subject,
            "facts": [{"name": name, "value": value} for name, value in self.facts],
            "counts": dict(self.counts()),
            "first_refuted": next((claim.key for claim in self.of_status(REFUTED)), None),
            "claims": [claim.as_json() for claim in self.claims],
        }


def _one_line(error: BundleError) -> str:
    detail = "; ".join(error.detail.splitlines())
    return error.message + (f" ({detail})" if detail else "")


def _listed(claims: list[Claim]) -> str:
    return "\n".join(f"{claim.status}: {claim.key}: {finding}" for claim in claims for finding in claim.findings)
