"""The outcome of an audit as signed statements that other people's tools read, made from its JSON alone.

A test result with one test per claim, a SLSA Verification Summary of the whole, and for each layer and image that was
built again a rebuilder's test result. Equal audits, signed by one key, give equal bytes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

import repro
from repro.audit.claims import ATTESTED, REFUTED, UNVERIFIED, Digests, Outcome, Rebuild
from repro.base import typed_json
from repro.base.confined import read_below
from repro.base.errors import CouldNotRun, UsageError
from repro.base.files import canonical_json, sha256_bytes, sha256_file, write_atomic
from repro.packing.installer.listing import STATEMENT_TYPE
from repro.packing.installer.provenance import named
from repro.packing.installer.statements import REBUILD, SUMMARY, TEST_RESULT, Statement, files_beside, read_statements
from repro.packing.signing import Signer
from repro.packing.statements import signed_files

AUDIT_FILE = "audit.json"
EXPLANATION = "explanation.json"  # what audit.explain writes in its place
FOLDER = "attestations"  # of an audit's folder
_MOST_BYTES = 64 * 1024**2
_VERIFIER = "urn:lstm-ctc-bundle:verifier:1"
_POLICY = "urn:lstm-ctc-bundle:audit:{}:3"
_CODE = ("*.py", "*.j2", "*.css", "*.json", "*.toml")


class SignedClaim(msgspec.Struct, frozen=True):
    """What of a claim is signed by name; the rest is in audit.json's digest."""

    key: str
    kind: str
    status: str


class AuditDocument(msgspec.Struct, frozen=True):
    """audit.json or explanation.json, as far as statements are made of it."""

    version: int
    kind: str
    subjects: Digests
    looked_at: Digests
    verifier: str
    claims: tuple[SignedClaim, ...]
    rebuilt: tuple[Rebuild, ...] = ()


@functools.cache
def code_digest() -> str:
    """Hex sha256 over the files of this verifier's own code."""
    root = Path(repro.__file__).parent
    files = {path for pattern in _CODE for path in root.rglob(pattern)}
    return sha256_bytes(canonical_json({path.relative_to(root).as_posix(): sha256_file(path) for path in files}))


def statements_of(document: AuditDocument, source: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, statement) of everything that an audit says.

    Args:
        document: what it wrote.
        source: a descriptor of that file, with its sha256.

    Raises:
        CouldNotRun: nothing could be audited, so that there is nothing to speak of.
    """
    if not document.subjects or not document.claims:
        raise CouldNotRun("this audit speaks of nothing that has a digest, so it cannot be signed")
    stem = "{}-{}".format(document.kind, source["digest"]["sha256"][:12])
    result = _test_result(document, source)
    rebuilds = [(_rebuild_name(item), _rebuild_statement(item, document.verifier)) for item in document.rebuilt]
    return [(f"{stem}.result", result), (f"{stem}.summary", _summary(document, result)), *rebuilds]


def _statement(kind: str, subjects: Sequence[Mapping[str, Any]], predicate: Mapping[str, Any]) -> dict[str, Any]:
    return {"_type": STATEMENT_TYPE, "predicateType": kind, "subject": list(subjects), "predicate": dict(predicate)}


def _subjects(document: AuditDocument) -> list[dict[str, Any]]:
    return [named(name, sha256) for name, sha256 in sorted(document.subjects.items())]


def _tests(result: str, **tests: Sequence[str]) -> dict[str, Any]:
    return {"result": result, **{f"{word}Tests": list(tests.get(word, ())) for word in ("passed", "warned", "failed")}}


def _test_result(document: AuditDocument, source: Mapping[str, Any]) -> dict[str, Any]:
    failed = [claim.key for claim in document.claims if claim.status == REFUTED]
    warned = [claim.key for claim in document.claims if claim.status == UNVERIFIED]
    passed = [claim.key for claim in document.claims if claim.status not in (REFUTED, UNVERIFIED)]
    result = "FAILED" if failed else "WARNED" if warned else "PASSED"
    configuration = [dict(source), named("verifier's code", document.verifier)]
    configuration += [named(name, sha256) for name, sha256 in sorted(document.looked_at.items())]
    tests = _tests(result, passed=passed, warned=warned, failed=failed)
    return _statement(TEST_RESULT, _subjects(document), {**tests, "configuration": configuration})


def _summary(document: AuditDocument, result: Mapping[str, Any]) -> dict[str, Any]:
    """A summary knows no third outcome: what could not be verified did not pass."""
    passed = result["predicate"]["result"] == "PASSED"
    kinds = {re.sub(r"\W+", "_", claim.kind).upper() for claim in document.claims}
    sha256 = next(sha256 for _, sha256 in sorted(document.subjects.items()))
    return _statement(
        SUMMARY,
        _subjects(document),
        {
            "verifier": {"id": _VERIFIER, "version": {"lstm-ctc-bundle": f"sha256:{document.verifier}"}},
            "resourceUri": f"urn:lstm-ctc-bundle:sha256:{sha256}",
            "policy": {"uri": _POLICY.format(document.kind), "digest": {"sha256": document.verifier}},
            "inputAttestations": [
                {"uri": TEST_RESULT, "digest": {"sha256": sha256_bytes(canonical_json(result))}},
            ],
            "verificationResult": "PASSED" if passed else "FAILED",
            "verifiedLevels": sorted(kinds) if passed else ["FAILED"],
        },
    )


def _rebuild_name(item: Rebuild) -> str:
    return f"rebuild-{re.sub(r'[^A-Za-z0-9._-]+', '-', item.name).strip('-')}-{item.claimed[:12]}"


def _rebuild_statement(item: Rebuild, verifier: str) -> dict[str, Any]:
    subject = named(item.name, item.claimed)
    if item.result == "FAILED":
        subject["annotations"] = {"built again": f"sha256:{item.found}"}
    sources = [named("verifier's code", verifier)]
    sources += [named(name, sha256) for name, sha256 in sorted(item.made_from.items())]
    tests = _tests(item.result, **{item.result.lower(): [REBUILD]})
    return _statement(TEST_RESULT, [subject], {**tests, "configuration": sources})


def sign_audit(folder: Path, signer: Signer) -> Path:
    """Sign what an audit wrote.

    Args:
        folder: of the audit; it holds audit.json, explanation.json, or both.
        signer: the auditor's key.

    Returns:
        The folder of the statements in it. Those of other signers stay there.

    Raises:
        UsageError: it holds neither.
        VerificationFailed: one of them is not what its name says.
        CouldNotRun: it speaks of nothing that has a digest.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    for name in (AUDIT_FILE, EXPLANATION):
        try:
            data = read_below(folder, name, _MOST_BYTES)
        except OSError:
            continue
        document = typed_json.read(data, AuditDocument, what=name, max_bytes=_MOST_BYTES)
        found += statements_of(document, named(name, sha256_bytes(data)))
    if not found:
        raise UsageError(f"{folder} holds no {AUDIT_FILE} or {EXPLANATION} to read", hint="name an audit's folder")
    target, mine = folder / FOLDER, signer.fingerprint[:8]
    for name, content in signed_files(((f"{stem}.{mine}", said) for stem, said in found), signer).items():
        write_atomic(target / name, content)
    return target


def examine_statements(outcome: Outcome, folder: Path, auditors: Mapping[str, bytes]) -> None:
    """Claim: the statements in a folder are signed, and speak of what is audited here.

    Args:
        outcome: of the audit; its `subjects` say what it is of.
        folder: such as an audit wrote.
        auditors: public keys of those whose word counts, by fingerprint; none for anybody's.
    """
    with outcome.examine("attestations", "what others signed speaks of this, and is signed by them", ATTESTED) as it:
        names = files_beside(folder)
        if not names:
            raise UsageError(f"{folder} holds no statement", hint="name the folder attestations of a signed audit")
        statements, wrong = read_statements(names, lambda name: read_below(folder, name, _MOST_BYTES), auditors)
        it.wrong += wrong
        pages = [folder.parent / name for name in (AUDIT_FILE, EXPLANATION)]  # where an audit wrote the folder
        beside = {page.name: sha256_file(page) for page in pages if page.is_file()}
        known = {*outcome.subjects.values(), *outcome.looked_at.values()}
        for statement in statements:
            of_others = [f"{name} sha256 {digest}" for digest, name in statement.digests().items()
                         if digest not in known]  # fmt: skip
            if len(of_others) == len(statement.digests()) and not statement.is_rebuild():
                it.wrong.append(f"{statement.name} speaks of {of_others[0]}, which is not what is audited here")
            elif not statement.signer or not statement.is_consistent():
                it.wrong.append(f"{statement.name}: nobody signed it, or its result is not that of its tests")
            elif auditors and statement.signer not in auditors:
                it.missing.append(f"{statement.name} is signed by {statement.signer}, whose key you did not name")
            elif not statement.is_rebuild() and (wrong_page := _other_page(statement, beside)):
                it.wrong.append(f"{statement.name} was made of another {wrong_page} than the one beside it")
            else:
                it.evidence.append(f"{statement.name}: {statement.result()}, signed by {statement.signer}")


def _other_page(statement: Statement, beside: Mapping[str, str]) -> str:
    """The name of a file beside the statements that a test result was made of, with another content; '' for none.

    A summary names its test result alone.
    """
    try:
        configuration = statement.document["predicate"].get("configuration", [])
        made_of = {item["name"]: item["digest"]["sha256"] for item in configuration if item["name"] in beside}
    except (KeyError, TypeError, AttributeError):
        return next(iter(beside), "")
    return next((name for name, sha256 in made_of.items() if sha256 != beside[name]), "")


def rebuilds_of(name: str, found: str, claims: Sequence[str | None], made_from: Mapping[str, str]) -> Iterator[Rebuild]:
    """One for each digest that somebody claims of a layer or an image.

    Args:
        name: for people.
        found: 'sha256:…' of what was built, '' for nothing.
        claims: 'sha256:…', or None where somebody claims nothing.
        made_from: name -> 'sha256:…' of what it was built from.
    """
    sources = {source: digest.rpartition(":")[2] for source, digest in made_from.items()}
    for claimed in sorted({claim for claim in claims if claim is not None}):
        yield Rebuild(name, claimed.rpartition(":")[2], found.rpartition(":")[2], sources)
