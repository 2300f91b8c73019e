"""An audit's outcome as signed statements: what they say, that they are the same twice, and of which run they are."""

from __future__ import annotations

import base64
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from _audit_cases import PATHS, audit, make_run, reopen

from repro.audit import commands
from repro.audit.challenge import Challenge, _hold_image, _not_rebuilt
from repro.audit.claims import ATTESTED, REFUTED, UNVERIFIED, Outcome, Rebuild
from repro.audit.explain.kept import Kept
from repro.audit.page import write_page
from repro.audit.statements import code_digest, examine_statements, sign_audit
from repro.base.errors import CouldNotRun, CouldNotVerify, UsageError, VerificationFailed
from repro.base.files import sha256_file
from repro.container.image import Layer
from repro.images.oci import compute_image
from repro.packing.installer.statements import read_statements
from repro.packing.verify import Rebuilders
from tests.unit import _bundle_cases as cases

KEY = cases.signer(21)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("signed")
    make_run(folder)
    return folder


def signed(outcome: Outcome, folder: Path, key=KEY) -> dict[str, dict[str, Any]]:
    """The statements of an audit by name, read from its folder as anybody would."""
    write_page(outcome, folder)
    place = sign_audit(folder, key)
    names = [path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()]
    found, failures = read_statements(names, lambda name: (place / name).read_bytes(), {})
    assert failures == [] and {statement.signer for statement in found} == {key.fingerprint}
    return {statement.name: statement.document for statement in found}


def of_run(folder: Path) -> Outcome:
    outcome = audit(folder)
    outcome.subjects["record.json"] = reopen(folder).sha256
    return outcome


def test_each_claim_is_a_test_and_the_whole_is_a_summary_with_what_was_looked_at(run: Path, tmp_path: Path):
    outcome = of_run(run)
    found = signed(outcome, tmp_path)
    (result,) = (said for name, said in found.items() if ".result." in name)
    (summary,) = (said for name, said in found.items() if ".summary." in name)
    tests = result["predicate"]
    by_status = {word: {claim.key for claim in outcome.of_status(word)} for word in (REFUTED, UNVERIFIED)}
    assert set(tests["failedTests"]) == by_status[REFUTED] == set()
    assert set(tests["warnedTests"]) == by_status[UNVERIFIED] != set()
    assert len(tests["passedTests"]) + len(tests["warnedTests"]) == len(outcome.claims)
    assert tests["result"] == "WARNED"
    for said in (result, summary):
        assert said["subject"] == [{"name": "record.json", "digest": {"sha256": reopen(run).sha256}}]
    looked_at = {item["name"]: item["digest"]["sha256"] for item in tests["configuration"]}
    record = reopen(run).record
    assert looked_at["verifier's code"] == code_digest()
    for layers in record.image_layers.values():
        for layer in layers:
            assert looked_at[f"layer {layer.name}"] == layer.diff_id[7:]
    assert all(looked_at[f"output of {stage.key}"] == stage.outputs.digest for stage in record.stages)
    assert summary["predicate"]["verificationResult"] == "FAILED"  # a summary knows no third outcome
    assert summary["predicate"]["verifier"]["version"] == {"lstm-ctc-bundle": f"sha256:{code_digest()}"}


def test_where_every_claim_holds_the_summary_has_passed_with_its_kinds(tmp_path: Path):
    outcome = Outcome("verify", "a run", subjects={"record.json": "1" * 64})
    with outcome.examine("score@8", "a rate"):
        pass
    with outcome.examine("host", "a host", ATTESTED):
        pass
    found = signed(outcome, tmp_path)
    (summary,) = (said["predicate"] for name, said in found.items() if ".summary." in name)
    assert summary["verificationResult"] == "PASSED"
    assert summary["verifiedLevels"] == ["ATTESTED", "RECOMPUTED_FROM_THESE_BYTES"]


def test_the_same_audit_signed_twice_is_the_same_bytes(run: Path, tmp_path: Path):
    for name in ("one", "two"):
        signed(of_run(run), tmp_path / name)
    files = [{p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in ("one", "two")]
    assert len(files[0]) == 8 and files[0] == files[1]


def test_two_auditors_sign_beside_each_other(tmp_path: Path):
    outcome = Outcome("verify", "a run", subjects={"record.json": "1" * 64})
    with outcome.examine("score@8", "a rate"):
        pass
    write_page(outcome, tmp_path)
    for key in (KEY, cases.signer(22)):
        place = sign_audit(tmp_path, key)
    assert len(list(place.glob("*.dsse.json"))) == 4 and len(list(place.glob("keys/*.pem"))) == 2


def shown(folder: Path, outcome: Outcome, *keys) -> tuple[str, tuple[str, ...]]:
    examine_statements(outcome, folder, {key.fingerprint: key.key.public_key().public_bytes_raw() for key in keys})
    return outcome.claims[-1].status, outcome.claims[-1].findings


def test_an_audit_of_one_run_shown_for_another_is_refused(run: Path, tmp_path: Path):
    signed(of_run(run), tmp_path / "audit")
    place = tmp_path / "audit" / "attestations"
    assert shown(place, Outcome("verify", "x", subjects={"record.json": reopen(run).sha256}))[0] == ATTESTED
    status, findings = shown(place, Outcome("verify", "y", subjects={"record.json": "7" * 64}))
    assert status == REFUTED
    assert f"speaks of record.json sha256 {reopen(run).sha256}, which is not what is audited here" in findings[0]


def test_an_auditor_whose_key_was_not_named_proves_nothing(run: Path, tmp_path: Path):
    signed(of_run(run), tmp_path / "audit")
    place = tmp_path / "audit" / "attestations"
    subject = {"record.json": reopen(run).sha256}
    assert shown(place, Outcome("verify", "x", subjects=subject), KEY)[0] == ATTESTED
    status, findings = shown(place, Outcome("verify", "x", subjects=subject), cases.signer(22))
    assert status == UNVERIFIED and "whose key you did not name" in findings[0]
    assert shown(tmp_path / "none", Outcome("verify", "x", subjects=subject))[0] == UNVERIFIED


def test_a_changed_statement_is_refuted(run: Path, tmp_path: Path):
    signed(of_run(run), tmp_path / "audit")
    place = tmp_path / "audit" / "attestations"
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        sound = path.read_bytes()
        path.write_bytes(sound.replace(b"A", b"B", 1))
        assert shown(place, Outcome("verify", "x", subjects={"record.json": reopen(run).sha256}))[0] == REFUTED, path
        path.write_bytes(sound)


def test_an_audit_that_was_changed_after_it_was_signed_is_refuted(run: Path, tmp_path: Path):
    signed(of_run(run), tmp_path / "audit")
    page, chance = tmp_path / "audit" / "audit.json", random.Random(16)
    sound = page.read_bytes()
    for _ in range(40):
        damaged = bytearray(sound)
        damaged[chance.randrange(len(sound))] ^= chance.randrange(1, 256)
        page.write_bytes(damaged)
        outcome = Outcome("verify", "x", subjects={"record.json": reopen(run).sha256})
        status, findings = shown(tmp_path / "audit" / "attestations", outcome)
        assert status == REFUTED and "was made of another audit.json" in findings[0]


def test_the_commands_sign_and_read_what_they_signed(run: Path, tmp_path: Path, monkeypatch):
    from repro.packing.signing import make_key

    made = make_key(tmp_path / "key.pem", {})
    said: list[str] = []
    runs = [str(reopen(run).run)] * 2
    commands.compare(PATHS, *runs, commands.page(str(tmp_path / "page"), str(tmp_path / "key.pem")), said.append)
    assert said[-1] == f"signed by {made.fingerprint}: {tmp_path / 'page' / 'attestations'}"
    first = sorted((tmp_path / "page" / "attestations").glob("*.json"))
    before = {path: path.read_bytes() for path in first}
    commands.sign(str(tmp_path / "page"), str(tmp_path / "key.pem"), said.append)
    assert {path: path.read_bytes() for path in first} == before
    with pytest.raises(UsageError, match=r"holds no audit\.json"):
        commands.sign(str(tmp_path), str(tmp_path / "key.pem"), said.append)


def explained(one: Path, two: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """The statements of `audit.explain`, read from its folder as anybody would."""
    commands.explain(PATHS, str(one), str(two), commands.Page(str(folder), KEY), lambda _: None)
    place = folder / "attestations"
    names = [path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()]
    found, failures = read_statements(names, lambda name: (place / name).read_bytes(), {})
    assert failures == [] and {statement.signer for statement in found} == {KEY.fingerprint}
    assert all(statement.is_consistent() for statement in found)
    return {statement.name: statement.document for statement in found}


def test_an_explanation_is_a_statement_of_both_sides(run: Path, tmp_path: Path):
    evidence = reopen(run)
    stages = [evidence.record.stage(key) for key in ("infer@4", "reference@4")]
    assert None not in stages
    sides = [evidence.store / stage.fingerprint[:2] / stage.fingerprint for stage in stages if stage]
    found = explained(*sides, tmp_path / "results")
    (result,) = (said for name, said in found.items() if ".result." in name)
    assert [item["digest"]["sha256"] for item in result["subject"]] == [s.outputs.digest for s in stages if s]
    assert result["predicate"]["result"] == "FAILED"
    assert result["predicate"]["failedTests"] == ["the result: equal"]
    assert result["predicate"]["warnedTests"] == ["the result: not substituted"]
    looked_at = {item["name"]: item["digest"]["sha256"] for item in result["predicate"]["configuration"]}
    page = tmp_path / "results" / "explanation.json"
    assert looked_at["explanation.json"] == sha256_file(page) and looked_at["verifier's code"] == code_digest()
    assert explained(*sides, tmp_path / "again") == found
    outcome = of_run(run)
    assert shown(page.parent / "attestations", outcome)[0] == ATTESTED  # it speaks of what this run gave
    assert shown(page.parent / "attestations", Outcome("verify", "y", subjects={"record.json": "7" * 64}))[0] == REFUTED
    page.write_bytes(page.read_bytes().replace(b"irreproducible", b"substituted", 1))
    status, findings = shown(page.parent / "attestations", outcome)
    assert status == REFUTED and "was made of another explanation.json" in findings[0]


def test_an_explanation_of_equal_files_passes_and_lies_beside_an_audit(run: Path, tmp_path: Path):
    record = reopen(run).run / "record.json"
    commands.explain(PATHS, str(record), str(record), commands.Page(str(tmp_path)), lambda _: None)
    found = signed(of_run(run), tmp_path)
    said = {name.partition("-")[0]: document for name, document in found.items() if ".summary." in name}
    assert set(said) == {"explain", "verify"}
    assert said["explain"]["predicate"]["verificationResult"] == "PASSED"
    assert {item["digest"]["sha256"] for item in said["explain"]["subject"]} == {sha256_file(record)}


def test_a_bundle_that_is_refused_is_a_signed_outcome_too(tmp_path: Path):
    broken = tmp_path / "x.tar"
    broken.write_bytes(b"no bundle")
    page = commands.Page(str(tmp_path / "page"), KEY)
    with pytest.raises(VerificationFailed):
        commands.verify(PATHS, commands.Verify(str(broken)), page, lambda _: None)
    (path,) = (tmp_path / "page" / "attestations").glob("*.result.*.dsse.json")
    said = json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"]))
    assert said["predicate"]["result"] == "FAILED"
    assert said["subject"] == [{"name": "x.tar", "digest": {"sha256": sha256_file(broken)}}]


def test_what_is_refuted_is_told_even_where_it_cannot_be_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def nothing(*_: object) -> Path:
        raise CouldNotRun("the disk is full")

    monkeypatch.setattr(commands, "sign_audit", nothing)
    (tmp_path / "x.tar").write_bytes(b"no bundle")
    page = commands.Page(str(tmp_path / "page"), KEY)
    with pytest.raises(VerificationFailed):
        commands.verify(PATHS, commands.Verify(str(tmp_path / "x.tar")), page, lambda _: None)


def test_an_audit_of_nothing_is_not_signed(tmp_path: Path):
    write_page(Outcome("verify", "a bundle"), tmp_path)
    with pytest.raises(CouldNotRun, match="speaks of nothing"):
        sign_audit(tmp_path, KEY)
    (tmp_path / "audit.json").write_bytes(b'{"version": "x"}')
    with pytest.raises(VerificationFailed, match=r"audit\.json"):
        sign_audit(tmp_path, KEY)


def test_a_bundle_carries_audits_and_an_audit_of_it_lists_them(run: Path, tmp_path: Path, monkeypatch):
    from repro.audit.bundles import Given, verify_a_bundle

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = cases.pack(tmp_path)
    said = {"rebuild": cases.rebuild(cases.images()["amd64"]["base"]["image_id"], "FAILED")}
    cases.put_beside(path, said, KEY)
    (tmp_path / "keys.pem").write_text(KEY.public_pem)
    given = Given(keys=[cases.signer().fingerprint], rebuilders=Rebuilders(str(tmp_path / "keys.pem")))
    found = {claim.key: claim for claim in verify_a_bundle(path, tmp_path / "scratch", given).claims}
    assert found["statements"].status == ATTESTED
    assert f"rebuild: FAILED, signed by {KEY.fingerprint}" in found["statements"].evidence
    assert found["rebuilders"].status == REFUTED
    assert f"contradicted by {KEY.fingerprint}" in found["rebuilders"].findings[0]


def test_keys_and_thresholds_that_cannot_be_are_wrong_use_and_no_finding(tmp_path: Path):
    (tmp_path / "keys.pem").write_text(KEY.public_pem)
    for asked, said in (
        (Rebuilders(str(tmp_path / "none.pem")), "cannot be read"),
        (Rebuilders(str(tmp_path / "keys.pem"), 2), "cannot be met by 1 rebuilders"),
        (Rebuilders("", 2), "none are named"),
    ):
        with pytest.raises(UsageError, match=said):
            commands.verify(PATHS, commands.Verify("x.tar", rebuilders=asked), commands.Page(str(tmp_path)), print)
    with pytest.raises(UsageError, match="cannot be read"):
        commands.verify(PATHS, commands.Verify("x.tar", auditors="/none"), commands.Page(str(tmp_path)), print)


# --- rebuilds


def layer(tmp_path: Path, digit: str) -> Layer:
    return Layer("debs:sandbox", "debs", f"sha256:{digit * 64}", 10, tmp_path / "none", "sha256:" + "a" * 64)


def challenged(tmp_path: Path) -> tuple[Outcome, Challenge]:
    outcome = Outcome("challenge", "the pins", subjects={"conf/locks/images.json": "1" * 64})
    kept = Kept(PATHS, tmp_path / "kept")
    return outcome, Challenge(PATHS, ["amd64"], ["sandbox"], None, False, print, kept)


def results(statements: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {said["subject"][0]["name"]: said["predicate"]["result"]
            for name, said in statements.items() if name.startswith("rebuild-")}  # fmt: skip


def test_each_rebuilt_layer_and_image_is_a_statement_whether_it_came_out_the_same_or_not(tmp_path: Path):
    outcome, asked = challenged(tmp_path)
    made = compute_image("sandbox", "amd64", [layer(tmp_path, "9")], {}, "", "a test")
    _hold_image(outcome, asked, "amd64", made)
    found = signed(outcome, tmp_path / "page")
    assert results(found) == {"layer debs:sandbox (amd64)": "FAILED", "image sandbox (amd64)": "FAILED"}
    (said,) = (said for name, said in found.items() if "debs-sandbox" in name)
    pinned = json.loads((PATHS.conf / "locks" / "images.json").read_bytes())["layers"]["amd64"]["debs:sandbox"]
    assert said["subject"] == [{"name": "layer debs:sandbox (amd64)", "digest": {"sha256": pinned[7:]},
                                "annotations": {"built again": f"sha256:{'9' * 64}"}}]  # fmt: skip
    assert {"name": "lock of debs:sandbox", "digest": {"sha256": "a" * 64}} in said["predicate"]["configuration"]


def test_what_could_not_be_built_says_nothing_for_or_against(tmp_path: Path):
    outcome, asked = challenged(tmp_path)
    with outcome.examine("build:sandbox:amd64", "it can be built"):
        raise CouldNotVerify("no network")
    outcome.rebuilt += _not_rebuilt(asked, PATHS, "amd64", "sandbox")
    found = results(signed(outcome, tmp_path / "page"))
    assert found["image sandbox (amd64)"] == found["layer debs:sandbox (amd64)"] == "WARNED"


def test_the_result_of_a_rebuild_follows_from_its_digests():
    assert Rebuild("x", "1" * 64, "1" * 64, {}).result == "PASSED"
    assert Rebuild("x", "1" * 64, "2" * 64, {}).result == "FAILED"
    assert Rebuild("x", "1" * 64, "", {}).result == "WARNED"


# --- other people's tools


def test_the_libraries_of_in_toto_and_securesystemslib_accept_every_statement(run: Path, tmp_path: Path):
    """Also under `unshare -n`: nothing here opens a connection."""
    securesystemslib = pytest.importorskip("securesystemslib.dsse")
    statements = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
    from in_toto_attestation.v1.statement import Statement
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey

    outcome = of_run(run)
    outcome.rebuilt += [Rebuild("image base (amd64)", "1" * 64, "2" * 64, {"layer x": "3" * 64})]
    explained(reopen(run).run, reopen(run).run, tmp_path)
    signed(outcome, tmp_path)
    path = cases.pack(tmp_path)
    shutil.copytree(cases.put_beside(path, {}, KEY), tmp_path / "attestations", dirs_exist_ok=True)
    for name, data in cases.attestations(KEY).items():
        (tmp_path / "attestations" / name).write_bytes(data)
    kinds = {
        "https://slsa.dev/provenance/v1": provenance_pb2.Provenance,
        "https://in-toto.io/attestation/test-result/v0.1": test_result_pb2.TestResult,
    }  # its type of a summary is older than SLSA 1.1: it knows no verifier.version, and takes verifiedLevels for a text
    key = SSlibKey(KEY.fingerprint, "ed25519", "ed25519", {"public": KEY.key.public_key().public_bytes_raw().hex()})
    seen = set()
    for path in sorted((tmp_path / "attestations").glob("*.dsse.json")):
        envelope = securesystemslib.Envelope.from_dict(json.loads(path.read_bytes()))
        assert set(envelope.verify([key], 1)) == {KEY.fingerprint}
        document = json.loads(envelope.payload)
        Statement.copy_from_pb(json_format.ParseDict(document, statements.Statement())).validate()
        if document["predicateType"] in kinds:
            json_format.ParseDict(document["predicate"], kinds[document["predicateType"]]())
        seen.add(document["predicateType"])
        envelope.payload += b" "
        with pytest.raises(VerificationError):
            envelope.verify([key], 1)
        bundle = json.loads(path.with_name(path.name.replace(".dsse.", ".sigstore.")).read_bytes())
        assert base64.b64decode(bundle["dsseEnvelope"]["payload"]) == envelope.payload[:-1]
    assert seen == {*kinds, "https://slsa.dev/verification_summary/v1"}
