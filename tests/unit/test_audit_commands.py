"""The commands `audit.*`: what each hands on of its options, what it says, where its page goes and how it ends."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from _audit_cases import PATHS, make_run, reopen
from _bundle_cases import signer

from repro.audit import commands, farm, ledger, rerun
from repro.audit.bundles import Given
from repro.audit.claims import Outcome
from repro.audit.commands import FarmAsked, Page, Verify, run_folder
from repro.audit.compare import machine_of
from repro.audit.farm import Audited, Farm
from repro.audit.rerun import Rerun
from repro.base.errors import CouldNotRun, CouldNotVerify, UsageError, VerificationFailed
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.packing.signing import load_key, make_key
from repro.packing.verify import NOBODY, Rebuilders

CONSOLE = object()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("commanded")
    make_run(folder)
    return reopen(folder).run


@pytest.fixture
def key(tmp_path: Path, monkeypatch) -> Path:
    """This machine's own key, where it is looked for."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))
    path = commands.default_key_path()
    path.parent.mkdir(parents=True)
    make_key(path, {})
    return path


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """What the commands ask of the audit itself, which finds everything in order."""
    noted: list[tuple] = []

    def examine(name: str):
        def noting(*given, **more):
            noted.append((name, *given, *more.values()))
            with given[0].examine(name, f"{name} holds"):
                pass

        return noting

    def bundle(*given):
        noted.append(("bundle", *given))
        outcome = Outcome("verify", "a bundle")
        with outcome.examine("bundle", "the bundle holds"):
            pass
        return outcome

    monkeypatch.setattr(commands, "examine_run", examine("run"))
    monkeypatch.setattr(commands, "examine_statements", examine("statements"))
    monkeypatch.setattr(rerun, "rerun", examine("rerun"))
    monkeypatch.setattr(commands, "verify_a_bundle", bundle)
    return noted


def page_of(folder: Path):
    return json.loads((folder / "audit.json").read_bytes())


def test_a_run_is_named_by_a_path_or_as_the_latest(tmp_path: Path):
    paths = Paths(tmp_path)
    assert run_folder(paths, "latest") == tmp_path / "artifacts" / "runs" / "latest"
    assert run_folder(paths, str(tmp_path / "x")) == tmp_path / "x"
    with pytest.raises(UsageError, match=r"^the run .*: no file can have such a name"):
        run_folder(paths, "n" * 300)


def test_verify_examines_a_run_by_what_is_given_with_it(run: Path, tmp_path: Path, asked):
    (tmp_path / "data").mkdir()
    (tmp_path / "weights").touch()
    make_key(tmp_path / "auditor.pem", {})
    (tmp_path / "keys.pem").write_text(load_key(tmp_path / "auditor.pem").public_pem)
    options = Verify(
        str(run), str(tmp_path / "data"), str(tmp_path / "weights"), auditors=str(tmp_path / "keys.pem"),
        rebuilders=replace(NOBODY, attestations=tmp_path),
    )  # fmt: skip
    said: list[str] = []
    commands.verify(PATHS, options, Page(str(tmp_path / "page")), said.append)
    (_, outcome, evidence, data, checkpoint), (_, same, place, auditors) = asked
    assert (data, checkpoint, place) == (tmp_path / "data", tmp_path / "weights", tmp_path)
    assert list(auditors) == [load_key(tmp_path / "auditor.pem").fingerprint] and same is outcome
    digest = sha256_bytes((run / "record.json").read_bytes())
    assert (evidence.run, evidence.paths, evidence.sha256) == (run, PATHS, digest)
    assert (outcome.kind, outcome.subject, outcome.subjects) == (
        "verify", f"record.json sha256 {digest}", {"record.json": digest},
    )  # fmt: skip
    assert [claim.key for claim in outcome.claims] == ["schema", "run", "statements"]
    assert said == [
        "Every claim holds: 3 recomputed from these bytes.",
        "proven here: 3",
        f"audit: {tmp_path / 'page' / 'audit.html'} (also audit.md, audit.json)",
    ]
    assert page_of(tmp_path / "page")["subjects"] == {"record.json": digest}


@pytest.mark.parametrize("given", ["", "demo"])
def test_what_is_not_given_and_the_demo_s_are_held_to_the_record_alone(run: Path, tmp_path: Path, asked, given: str):
    commands.verify(PATHS, Verify(str(run), given, given), Page(str(tmp_path)), lambda _: None)
    ((_, _, _, data, checkpoint),) = asked
    assert (data, checkpoint) == (None, None)


@pytest.mark.parametrize("option", ["data", "checkpoint"])
def test_a_path_that_is_not_there_is_wrong_use_before_anything_is_read(run: Path, tmp_path: Path, asked, option: str):
    options = replace(Verify(str(run)), **{option: str(tmp_path / "none")})
    with pytest.raises(UsageError, match=r"none: there is no such file or folder"):
        commands.verify(PATHS, options, Page(str(tmp_path / "page")), lambda _: None)
    with pytest.raises(UsageError, match=r"the option's value .*: no file can have such a name"):
        commands.verify(PATHS, replace(options, **{option: "n" * 300}), Page(), lambda _: None)
    assert asked == [] and not (tmp_path / "page").exists()


def test_a_page_lies_by_the_kind_and_digest_of_its_audit_unless_it_is_told_where(run: Path, tmp_path: Path, asked):
    paths = Paths(tmp_path)
    commands.verify(paths, Verify(str(run)), Page(), lambda _: None)
    digest = sha256_bytes((run / "record.json").read_bytes())
    (folder,) = (tmp_path / "artifacts" / "audits").iterdir()
    assert folder.name == f"verify-{digest[:16]}" and page_of(folder)["kind"] == "verify"


def test_what_is_no_run_is_a_bundle_with_the_keys_and_bundles_that_are_given(tmp_path: Path, asked):
    for name in ("b.tar", "base.tar"):
        (tmp_path / name).touch()
    paths, people = Paths(tmp_path), replace(NOBODY, attestations=tmp_path)
    said: list[str] = []
    commands.verify(paths, Verify(str(tmp_path / "b.tar"), rebuilders=people), Page(), said.append)
    options = Verify(str(tmp_path / "b.tar"), key="aa", base=str(tmp_path / "base.tar"), rebuilders=people)
    commands.verify(paths, options, Page(), said.append)
    assert asked == [
        ("bundle", tmp_path / "b.tar", paths.temporary, Given(None, None, [], [], people)),
        ("bundle", tmp_path / "b.tar", paths.temporary, Given(None, None, ["aa"], [tmp_path / "base.tar"], people)),
    ]
    (folder,) = (tmp_path / "artifacts" / "audits").iterdir()
    assert folder.name == f"verify-{sha256_bytes(os.fsencode('b.tar'))[:16]}"
    assert said[0] == said[3] == "Every claim holds: 1 recomputed from these bytes."


def test_a_path_of_nothing_is_asked_for_its_record(tmp_path: Path, asked):
    with pytest.raises(UsageError, match="holds no record"):
        commands.verify(PATHS, Verify(str(tmp_path / "none")), Page(), lambda _: None)
    assert asked == []


def test_without_attestations_no_statement_is_looked_for(run: Path, tmp_path: Path, asked):
    commands.verify(PATHS, Verify(str(run)), Page(str(tmp_path)), lambda _: None)
    assert [name for name, *_ in asked] == ["run"]


def test_of_what_is_no_record_nothing_more_is_claimed(tmp_path: Path, asked):
    (tmp_path / "record.json").write_text("{}")
    how, said = Rerun(), []
    for command in (
        lambda: commands.verify(PATHS, Verify(str(tmp_path)), Page(str(tmp_path)), said.append),
        lambda: commands.rerun(PATHS, CONSOLE, str(tmp_path), how, Page(str(tmp_path)), said.append),
        lambda: commands.challenge(PATHS, str(tmp_path), "amd64", "", Page(str(tmp_path)), said.append, offline=True),
        lambda: commands.compare(PATHS, str(tmp_path), str(tmp_path), Page(str(tmp_path)), said.append),
    ):
        with pytest.raises(VerificationFailed, match="is a record: strict JSON"):
            command()
    assert asked == [] and said[1] == "refuted: 1" and said[10] == "refuted: 2"


def test_a_rerun_hands_on_how_and_its_console(run: Path, tmp_path: Path, asked):
    said: list[str] = []
    commands.rerun(PATHS, CONSOLE, str(run), Rerun(rounds=10), Page(str(tmp_path)), said.append)
    ((_, outcome, evidence, how, console),) = asked
    assert (outcome.kind, evidence.run, how, console) == ("rerun", run, Rerun(rounds=10), CONSOLE)
    assert outcome.subjects == {"record.json": evidence.sha256} and page_of(tmp_path)["kind"] == "rerun"
    assert said[-1] == f"audit: {tmp_path / 'audit.html'} (also audit.md, audit.json)"
    with pytest.raises(UsageError, match="--rounds 9 is too few"):
        commands.rerun(PATHS, CONSOLE, str(run), Rerun(rounds=9), Page(str(tmp_path)), said.append)
    assert len(asked) == 1


def test_a_challenge_of_a_run_is_held_to_its_record(run: Path, tmp_path: Path, monkeypatch):
    from repro.audit import challenge

    noted = []

    def build(outcome, given):
        noted.append((outcome, given))
        with outcome.examine("x", "it holds"):
            pass

    monkeypatch.setattr(challenge, "challenge", build)
    commands.challenge(Paths(PATHS.root, tmp_path), str(run), "", "", Page(), lambda _: None, offline=False)
    ((outcome, given),) = noted
    digest = sha256_bytes((run / "record.json").read_bytes())
    assert (outcome.kind, outcome.subject, outcome.subjects) == (
        "challenge", f"record.json sha256 {digest}", {"record.json": digest},
    )  # fmt: skip
    assert given.evidence.run == run and given.fetch and given.names == []
    assert given.kept.folder == tmp_path / "audits" / f"challenge-{digest[:16]}" / "differences"
    assert (tmp_path / "audits" / f"challenge-{digest[:16]}" / "audit.json").is_file()
    commands.challenge(Paths(PATHS.root, tmp_path), "", "", "", Page(), lambda _: None, offline=True)
    assert noted[1][0].subject == "the layers and images that conf/locks pins" and noted[1][1].evidence is None
    assert (tmp_path / "audits" / "challenge-pins" / "audit.json").is_file()


def test_two_runs_are_compared_under_their_names_and_digests(run: Path, tmp_path: Path, monkeypatch):
    sides = []
    monkeypatch.setattr(commands, "compare_runs", lambda outcome, given: sides.append(given))
    paths, said = Paths(PATHS.root, tmp_path), []
    commands.compare(paths, str(run), str(run / "record.json"), Page(), said.append)
    digest = sha256_bytes((run / "record.json").read_bytes())
    found = page_of(tmp_path / "audits" / f"compare-{digest[:16]}")
    assert found["subject"] == f"A: record.json sha256 {digest}; B: record.json sha256 {digest}"
    assert found["subjects"] == {"A: record.json": digest, "B: record.json": digest}
    machine = machine_of(sides[0].one)
    assert found["facts"] == [{"name": "A", "value": machine}, {"name": "B", "value": machine}]
    assert found["looked_at"] == {"A": digest, "B": digest}
    assert sides[0].one == sides[0].two == reopen(run.parents[2]).record
    assert said[1] == "proven here: 2"
    for place, words in (((str(run), "n" * 300), "the second run"), (("n" * 300, str(run)), "the first run")):
        with pytest.raises(UsageError, match=f"^{words} n"):
            commands.compare(paths, *place, Page(), said.append)


def finished(monkeypatch, error, unsigned=None):
    """`_finish` of an outcome that ends with this error, with a signer that may fail."""

    def sign(folder, by):
        if unsigned:
            raise unsigned
        return folder / "attestations"

    monkeypatch.setattr(commands, "sign_audit", sign)
    monkeypatch.setattr(commands, "write_page", lambda *_: None)
    counts = {"proven here": 0, "refuted": 2, "could not verify": 1}
    monkeypatch.setattr(commands, "sentence", lambda outcome: "a sentence")
    monkeypatch.setattr(commands, "STATUSES", tuple(counts))
    outcome = SimpleNamespace(kind="verify", counts=lambda: counts, error=lambda: error)
    said: list[str] = []
    page = Page("/srv/page", SimpleNamespace(fingerprint="f" * 64))
    try:
        commands._finish(outcome, PATHS, "d" * 64, page, said.append)
    except Exception as raised:  # noqa: BLE001 - whatever it is, it is compared
        return said, raised
    return said, None


def test_an_audit_ends_with_its_worst_claim_signed_or_not(monkeypatch):
    refuted, unsigned = VerificationFailed("refuted"), CouldNotRun("the disk is full")
    lines = ["a sentence", "refuted: 2, could not verify: 1", "audit: /srv/page/audit.html (also audit.md, audit.json)"]
    signed = f"signed by {'f' * 64}: /srv/page/attestations"
    assert finished(monkeypatch, None) == ([*lines, signed], None)
    assert finished(monkeypatch, refuted) == ([*lines, signed], refuted)
    assert finished(monkeypatch, refuted, unsigned) == (lines, refuted)
    assert finished(monkeypatch, None, unsigned) == (lines, unsigned)


def test_a_page_is_signed_by_the_key_that_is_named_and_by_none_otherwise(tmp_path: Path, key: Path):
    assert commands.page("there", "") == Page("there", None)
    signed = commands.page("", str(key))
    assert (signed.to, signed.signer.fingerprint) == ("", load_key(key).fingerprint)
    with pytest.raises(UsageError, match=r"^--sign n"):
        commands.page("", "n" * 300)


def test_an_audit_is_signed_by_this_machine_s_key_unless_another_is_named(tmp_path: Path, key: Path, monkeypatch):
    monkeypatch.setattr(commands, "sign_audit", lambda folder, by: f"{folder} by {by.fingerprint}")
    other = tmp_path / "other.pem"
    make_key(other, {})
    said: list[str] = []
    commands.sign(str(tmp_path / "page"), "", said.append)
    commands.sign(str(tmp_path / "page"), str(other), said.append)
    names = [load_key(path).fingerprint for path in (key, other)]
    assert said == [f"signed by {name}: {tmp_path / 'page'} by {name}" for name in names]
    for given, words in (((str(tmp_path), "n" * 300), "--key"), (("n" * 300, ""), "the audit")):
        with pytest.raises(UsageError, match=f"^{words} n"):
            commands.sign(*given, said.append)


# a farm


@pytest.fixture
def farmed(monkeypatch) -> list[tuple]:
    noted: list[tuple] = []

    def audit_folder(*given):
        noted.append(given)
        return [Audited("a", "it holds", "PASSED", 1)]

    monkeypatch.setattr(farm, "audit_folder", audit_folder)
    return noted


def test_a_farm_without_options_takes_this_machine_s_key_and_the_usual_ledger(tmp_path: Path, key: Path, farmed):
    paths, said = Paths(tmp_path), []
    commands.farm(paths, CONSOLE, FarmAsked(str(tmp_path / "bundles")), said.append)
    ((given_paths, folder, given, target, say),) = farmed
    by, audits = load_key(key), tmp_path / "artifacts" / "audits"
    assert (given_paths, folder, target, say) == (paths, tmp_path / "bundles", audits / "farm-verify", said.append)
    keys = ledger.keys_with(by)
    assert replace(given, signer=by) == Farm(
        Given(None, None, []), "verify", audits / "ledger.jsonl", by, keys, [], False
    )
    assert given.signer.fingerprint == by.fingerprint
    assert said == [f"farm: {audits / 'farm-verify' / 'farm.html'} (also farm.md, farm.json)"]


def test_a_farm_hands_on_every_option(tmp_path: Path, key: Path, farmed, asked):
    for name in ("data", "weights"):
        (tmp_path / name).touch()
    make_key(tmp_path / "other.pem", {})
    (tmp_path / "keys.pem").write_text(load_key(key).public_pem)
    fingerprint, said = signer().fingerprint, []
    how = Rerun(rounds=10)
    options = FarmAsked(
        str(tmp_path / "bundles"), str(tmp_path / "data"), str(tmp_path / "weights"), key=fingerprint,
        sign=str(tmp_path / "other.pem"), ledger=str(tmp_path / "kept"), auditors=str(tmp_path / "keys.pem"),
        head="h" * 64, again=True, to=str(tmp_path / "page"), rerun=how,
    )  # fmt: skip
    commands.farm(Paths(tmp_path), CONSOLE, options, said.append)
    ((_, _, given, target, _),) = farmed
    by = load_key(tmp_path / "other.pem")
    assert (given.kind, given.ledger, given.signer.fingerprint, given.pinned, given.again, target) == (
        "rerun", tmp_path / "kept", by.fingerprint, ["h" * 64], True, tmp_path / "page",
    )  # fmt: skip
    assert set(given.keys) == {by.fingerprint, load_key(key).fingerprint}
    assert (given.given.data, given.given.checkpoint, given.given.keys) == (
        tmp_path / "data", tmp_path / "weights", [fingerprint],
    )  # fmt: skip
    outcome = Outcome("verify", "x")
    given.given.examine(outcome, "evidence")
    assert asked == [("rerun", outcome, "evidence", how, CONSOLE)]
    assert said == [f"farm: {tmp_path / 'page' / 'farm.html'} (also farm.md, farm.json)"]


def test_a_farm_run_again_lies_in_a_folder_of_its_own_and_needs_its_rounds(tmp_path: Path, key: Path, farmed):
    commands.farm(Paths(tmp_path), CONSOLE, FarmAsked(str(tmp_path), rerun=Rerun(rounds=10)), lambda _: None)
    assert farmed[0][3] == tmp_path / "artifacts" / "audits" / "farm-rerun"
    with pytest.raises(UsageError, match="--rounds 9 is too few"):
        commands.farm(Paths(tmp_path), CONSOLE, FarmAsked(str(tmp_path), rerun=Rerun(rounds=9)), lambda _: None)
    for option, words in (("sign", "--sign"), ("ledger", "--ledger"), ("to", "--to"), ("folder", "the folder")):
        with pytest.raises(UsageError, match=f"^{words} n"):
            asked = replace(FarmAsked(str(tmp_path)), **{option: "n" * 300})
            commands.farm(Paths(tmp_path), CONSOLE, asked, lambda _: None)
    assert len(farmed) == 1


def test_a_farm_ends_as_its_bundles_demand(tmp_path: Path, key: Path, monkeypatch):
    monkeypatch.setattr(farm, "audit_folder", lambda *_: [Audited("a", "why", "WARNED", 1)])
    with pytest.raises(CouldNotVerify, match="1 of 1 could not be verified; the first: a"):
        commands.farm(Paths(tmp_path), CONSOLE, FarmAsked(str(tmp_path)), lambda _: None)


def test_rebuilders_that_cannot_be_counted_are_wrong_use(tmp_path: Path, asked):
    (tmp_path / "b.tar").touch()
    with pytest.raises(UsageError, match="threshold"):
        commands.verify(PATHS, Verify(str(tmp_path / "b.tar"), rebuilders=Rebuilders(threshold=2)), Page(), print)
    assert asked == []
