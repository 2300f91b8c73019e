"""A folder of bundles audited: hostile names stop nothing, and no change of the ledger goes unnoticed."""

from __future__ import annotations

import base64
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from _bundle_cases import pack, signer

from repro.audit import farm as farming
from repro.audit.bundles import Given, verify_a_bundle
from repro.audit.claims import PROVEN, REFUTED, Outcome
from repro.audit.farm import Audited, Farm, audit_folder, error_of
from repro.audit.ledger import FIRST, PREDICATE, Entry, Ledger, add, content_of, keys_with, read_ledger
from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.base.paths import Paths
from repro.machine import facts
from repro.packing import adopt
from repro.packing.installer.listing import canonical
from repro.packing.installer.statements import Statement
from repro.packing.runs import RECEIVED

KEY = signer(7)  # the auditor's


@pytest.fixture(autouse=True)
def _no_key_is_trusted_here(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two bundles, of which one has a changed byte."""
    place = tmp_path / "archive"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        place.mkdir(exist_ok=True)
        shutil.move(pack(tmp_path / name), place / f"{name}.tar")
    data = bytearray((place / "two.tar").read_bytes())
    data[-3000] ^= 1
    (place / "two.tar").write_bytes(data)
    return place


def farm(tmp_path: Path, **changes) -> Farm:
    keys = keys_with(KEY)
    plain = Farm(Given(keys=[signer().fingerprint]), "verify", tmp_path / "kept" / "ledger.jsonl", KEY, keys)
    return replace(plain, **changes)


def audited(tmp_path: Path, folder: Path, **changes):
    said: list[str] = []
    paths = Paths(tmp_path / "checkout")
    found = audit_folder(paths, folder, farm(tmp_path, **changes), tmp_path / "page", said.append)
    assert said
    return {one.name: one for one in found}


def lines(tmp_path: Path) -> list[bytes]:
    return (tmp_path / "kept" / "ledger.jsonl").read_bytes().splitlines()


def payload(line: bytes):
    return json.loads(base64.b64decode(json.loads(line)["payload"]))


def test_each_bundle_gets_a_signed_entry_chained_to_the_one_before(tmp_path: Path, folder: Path):
    found = audited(tmp_path, folder)
    assert (found["two.tar"].result, found["two.tar"].entry, found["two.tar"].new) == ("FAILED", 2, True)
    assert found["one.tar"].entry == 1
    first, second = map(payload, lines(tmp_path))
    assert first["predicateType"] == second["predicateType"] == PREDICATE
    assert (first["predicate"]["previous"], first["predicate"]["number"]) == (FIRST, 1)
    ledger = read_ledger(tmp_path / "kept" / "ledger.jsonl", keys_with(KEY))
    assert second["predicate"]["previous"] == ledger.entries[0].sha256
    assert [item["name"] for item in first["subject"]] == ["20260101T000000Z/record.json", "list of one.tar"]
    assert second["predicate"]["claims"]["refuted"] == ["bundle-bytes"]
    assert isinstance(error_of(list(found.values())), VerificationFailed)
    page = (tmp_path / "page" / "farm.html").read_text()
    assert "2 of 2 are refuted" in page and "<script" not in page
    assert json.loads((tmp_path / "page" / "00002" / "audit.json").read_text())["first_refuted"] == "bundle-bytes"


def test_the_same_bundles_again_add_nothing_and_give_the_same_bytes(tmp_path: Path, folder: Path):
    audited(tmp_path, folder)
    before = lines(tmp_path)
    found = audited(tmp_path, folder)
    assert lines(tmp_path) == before
    assert not any(one.new for one in found.values())
    assert "The same outcome as entry 2." in found["two.tar"].said
    (tmp_path / "kept" / "ledger.jsonl").unlink()
    audited(tmp_path, folder)
    assert lines(tmp_path) == before  # no clock and no machine in it


def test_an_entry_is_added_where_it_is_asked_for_or_the_outcome_is_another(tmp_path: Path, folder: Path):
    audited(tmp_path, folder)
    audited(tmp_path, folder, again=True)
    assert len(lines(tmp_path)) == 4
    stranger = {"given": Given(keys=["ab" * 32])}
    found = audited(tmp_path, folder, **stranger)
    assert len(lines(tmp_path)) == 6
    assert found["one.tar"].new


def test_what_is_no_bundle_is_named_and_stops_nothing(tmp_path: Path, folder: Path):
    (folder / "link.tar").symlink_to(folder / "one.tar")
    os.mkfifo(folder / "fifo.tar")
    (folder / "half.tar").write_bytes((folder / "one.tar").read_bytes()[:700])
    (folder / "empty.tar").touch()
    (folder / "x.tar.002").touch()
    (folder / "notes.txt").touch()
    (folder / "plain").mkdir()
    (folder / "one.tar.attestations").mkdir()
    (folder / ("n" * 251 + ".tar")).touch()
    (folder / "dir.tar").mkdir()
    os.close(os.open(os.fsencode(folder) + b"/bad\xff\x1b[31m.tar", os.O_CREAT | os.O_WRONLY, 0o600))
    found = audited(tmp_path, folder)
    assert found["link.tar"].said == "not looked at: it is a link"
    assert found["fifo.tar"].said == "not looked at: it is a FIFO"
    assert found["x.tar.002"].said.endswith("part of a bundle whose first part, x.tar.001, is not here")
    assert "no bundle by its name" in found["notes.txt"].said
    assert (
        "not installed from a bundle" in found["plain"].said and "not installed from a bundle" in found["dir.tar"].said
    )
    assert "one.tar.attestations" not in found
    (odd,) = [one for name, one in found.items() if name.startswith("bad")]
    assert "is not UTF-8" in odd.said
    for name in ("half.tar", "empty.tar", "n" * 251 + ".tar"):
        assert found[name].result in ("WARNED", "FAILED") and found[name].new, name
    assert found["one.tar"].result and found["two.tar"].result == "FAILED"
    assert len(lines(tmp_path)) == 5
    page = (tmp_path / "page" / "farm.html").read_text()
    assert "\x1b" not in page and "n" * 130 not in page


def test_an_archive_without_a_bundle_could_not_be_verified(tmp_path: Path):
    (tmp_path / "none").mkdir()
    found = audited(tmp_path, tmp_path / "none")
    assert isinstance(error_of(list(found.values())), CouldNotVerify)
    with pytest.raises(UsageError):
        audited(tmp_path, tmp_path / "gone")


def swapped(given):
    return [given[1], given[0], *given[2:]]


def changed(given):
    document = json.loads(given[0])
    statement = json.loads(base64.b64decode(document["payload"]))
    statement["predicate"]["result"] = "PASSED"
    document["payload"] = base64.b64encode(canonical(statement)).decode()
    return [canonical(document), *given[1:]]


@pytest.mark.parametrize(
    ("attack", "entry"),
    [
        (swapped, 1),
        (changed, 1),
        (lambda given: given[1:], 1),
        (lambda given: [given[0], *given[2:]], 2),
        (lambda given: [given[0], given[0], *given[1:]], 2),
        (lambda given: [*given, b"{}"], 5),
        (lambda given: [*given, b""], 5),
        (lambda given: [given[0], b"[" * 5000, *given[2:]], 2),
        (lambda given: [given[0].replace(b'","', b'", "'), *given[1:]], 1),
    ],
    ids=["moved", "changed", "first gone", "middle gone", "twice", "no statement", "empty", "deep", "spelling"],
)
def test_an_entry_that_was_changed_removed_or_moved_is_named_and_nothing_is_audited(
    tmp_path: Path, folder: Path, attack, entry: int, monkeypatch
):
    audited(tmp_path, folder)
    audited(tmp_path, folder, again=True)
    path = tmp_path / "kept" / "ledger.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in attack(lines(tmp_path))))
    broken = path.read_bytes()
    monkeypatch.setattr(farming, "verify_a_bundle", None)
    with pytest.raises(VerificationFailed, match=f"entry {entry}: "):
        audited(tmp_path, folder)
    assert path.read_bytes() == broken


def test_a_ledger_that_is_cut_off_is_named(tmp_path: Path, folder: Path):
    audited(tmp_path, folder)
    path = tmp_path / "kept" / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(VerificationFailed, match="entry 2: it is cut off"):
        audited(tmp_path, folder)


def test_the_last_entry_taken_away_is_found_by_a_head_that_was_noted(tmp_path: Path, folder: Path):
    audited(tmp_path, folder)
    path = tmp_path / "kept" / "ledger.jsonl"
    head = read_ledger(path, keys_with(KEY)).head
    audited(tmp_path, folder, pinned=[head])
    path.write_bytes(lines(tmp_path)[0] + b"\n")
    with pytest.raises(VerificationFailed, match="taken away"):
        audited(tmp_path, folder, pinned=[head])


def test_an_entry_of_a_stranger_is_refused_and_one_of_a_named_auditor_counts(tmp_path: Path, folder: Path):
    other = signer(8)
    audited(tmp_path, folder, signer=other, keys=keys_with(other))
    with pytest.raises(VerificationFailed, match=r"entry 1: .*not beside it"):
        audited(tmp_path, folder)
    audited(tmp_path, folder, keys=keys_with(KEY, keys_with(other)), again=True)
    assert [entry.statement.signer for entry in read_ledger(
        tmp_path / "kept" / "ledger.jsonl", keys_with(KEY, keys_with(other))).entries
    ] == [other.fingerprint] * 2 + [KEY.fingerprint] * 2  # fmt: skip


def test_another_statement_signed_by_the_same_key_is_no_entry(tmp_path: Path):
    outcome = Outcome("verify", "x")
    with outcome.examine("a", "b"):
        pass
    content = {**content_of(outcome, {"x": "ab" * 32}), "predicateType": "urn:another"}
    path = tmp_path / "ledger.jsonl"
    with pytest.raises(ValueError, match="no entry of a ledger"):
        add(path, read_ledger(path, keys_with(KEY)), content, KEY)


def test_runs_are_run_again_where_that_is_asked_for(tmp_path: Path, folder: Path):
    reached = []

    def examine(outcome, evidence):
        reached.append(evidence.run.name)
        with outcome.examine("run", "every stage runs again on this machine"):
            pass

    found = audited(tmp_path, folder, kind="rerun", given=Given(keys=[signer().fingerprint], examine=examine))
    assert payload(lines(tmp_path)[0])["predicate"]["kind"] == "rerun"
    assert found["one.tar"].new
    audited(tmp_path, folder)
    assert [payload(line)["predicate"]["kind"] for line in lines(tmp_path)] == ["rerun", "rerun", "verify", "verify"]
    audited(tmp_path, folder, kind="rerun", given=Given(keys=[signer().fingerprint], examine=examine))
    assert len(lines(tmp_path)) == 4


def test_before_a_packed_run_runs_again_the_bundles_layers_count_as_built(tmp_path: Path, folder: Path, monkeypatch):
    adopted = []

    def adopt_layers(paths, architecture):
        adopted.append((architecture, (paths.root / RECEIVED).is_dir()))
        return {"base": SimpleNamespace(config_digest="sha256:1")}

    monkeypatch.setattr(adopt, "adopt_layers", adopt_layers)
    given = Given(keys=[signer().fingerprint], examine=lambda *_: None)
    outcome = verify_a_bundle(folder / "one.tar", tmp_path, given)
    assert adopted == [(facts.architecture(), True)]
    claim = next(claim for claim in outcome.claims if claim.key == "bundle-images")
    assert claim.status == PROVEN and claim.evidence == ("base: sha256:1",)
    verify_a_bundle(folder / "one.tar", tmp_path, replace(given, examine=None))
    assert len(adopted) == 1, "nothing runs, so nothing is adopted"


def test_layers_that_are_not_the_listed_images_refute_a_bundle_whose_runs_run_again(
    tmp_path: Path, folder: Path, monkeypatch
):
    def adopt_layers(paths, architecture):
        raise VerificationFailed("image base comes out as another")

    monkeypatch.setattr(adopt, "adopt_layers", adopt_layers)
    given = Given(keys=[signer().fingerprint], examine=lambda *_: None)
    outcome = verify_a_bundle(folder / "one.tar", tmp_path, given)
    assert [claim.key for claim in outcome.of_status(REFUTED)] == ["bundle-images"]


def test_what_is_asked_for_arrives(monkeypatch):
    from test_options import typed

    from repro.audit import commands
    from repro.audit.rerun import Rerun

    reached = []
    monkeypatch.setattr(commands, "farm", lambda paths, console, asked, say: reached.append(asked))
    words = (
        "--rounds 20 --key k --sign s --ledger l --auditors a --head h --to t --data d --checkpoint c --engine podman"
    )
    typed("audit.farm", "f", "--rerun", "--again", "--offline", *words.split())
    typed("audit.farm", "f")
    assert reached == [
        commands.FarmAsked("f", "d", "c", "k", "s", "l", "a", "h", True, "t", Rerun("d", "c", "podman", False, 20)),
        commands.FarmAsked("f"),
    ]


def test_the_farm_s_page_and_document_tell_each_bundle_and_each_entry(tmp_path: Path):
    def entry(number: int, kind: str, result: str) -> Entry:
        document = {"predicate": {"kind": kind, "result": result, "number": number, "previous": "0"}}
        return Entry(number, f"{number}" * 64, Statement("x", "f" * 64, document, "0" * 64))

    ledger = Ledger((entry(1, "verify", "PASSED"), entry(2, "rerun", "FAILED")), b"")
    found = [
        Audited("one.tar", "It holds.", "PASSED", 1), Audited("two\x1b.tar", "It does not.", "FAILED", 2, new=True),
        Audited("three.tar", "Something is missing.", "WARNED", 3, new=True), Audited("four", "not looked at: a link"),
    ]  # fmt: skip
    farming._write(found, ledger, farm(tmp_path), tmp_path / "page")
    assert json.loads((tmp_path / "page" / "farm.json").read_bytes()) == {
        "schema": "lstm-ctc-bundle/farm", "version": 1, "kind": "verify", "head": "2" * 64, "entries": 2,
        "audited": [
            {"name": "one.tar", "result": "PASSED", "entry": 1, "new": False, "said": "It holds."},
            {"name": "two\\x1b.tar", "result": "FAILED", "entry": 2, "new": True, "said": "It does not."},
            {"name": "three.tar", "result": "WARNED", "entry": 3, "new": True, "said": "Something is missing."},
            {"name": "four", "result": "", "entry": 0, "new": False, "said": "not looked at: a link"},
        ],
    }  # fmt: skip
    told = (tmp_path / "page" / "farm.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in told.splitlines() if line.startswith("| ")]
    assert [row for row in rows if "---" not in row] == [
        ["name", "outcome", "entry", "ledger", "in words"],
        ["one.tar", "holds", "1", "as before", "It holds."],
        ["two\\\\x1b.tar", "refuted", "2", "added now", "It does not."],
        ["three.tar", "could not verify", "3", "added now", "Something is missing."],
        ["four", "not looked at", "", "", "not looked at: a link"],
        ["entry", "kind", "result", "sha256", "signer"],
        ["1", "verify", "PASSED", "1" * 64, "f" * 64],
        ["2", "rerun", "FAILED", "2" * 64, "f" * 64],
    ]
    head = told.partition("## Bundles")[0].splitlines()
    assert head[0] == "# Audit of a folder of bundles" and head[2].endswith(" 4 names were found in the folder.")
    facts = "kind of audit: verify", "entries: 2", f"head of the ledger: {'2' * 64}", f"signed by: {KEY.fingerprint}"
    assert head[4:8] == [f"- {fact}" for fact in facts]
    assert "- Note the head: the chain alone does not tell that its last entries were taken away." in told
