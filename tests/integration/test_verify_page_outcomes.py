"""verify.html in Chromium ends as bundle.verify does, in the same words, whatever was done to a bundle."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from repro.audit.bundles import Given, verify_a_bundle
from repro.packing.installer.listing import canonical, parsed
from repro.packing.installer.provenance import run_statement
from repro.packing.resign import resign
from repro.packing.verify import NOBODY, Rebuilders
from repro.packing.writer import Item, write_bundle
from repro.record import record_bytes
from tests.forms import FULL
from tests.integration._pages import Opened
from tests.integration._verify_page import KEY, OTHER, assert_same, by_command, file, in_page, place, seen
from tests.unit import _bundle_cases as cases
from tests.unit._forged_bundles import (
    IMAGE,
    ODD_HEADS,
    ODD_LISTS,
    ODD_MEMBERS,
    attested,
    audit,
    contradictions,
    edited,
    packed,
)
from tests.unit._record_cases import demo_record, record_of

__all__ = ["file", "place", "seen"]  # fixtures
CHANGES = 1000 if FULL else 250

# One changed byte after another in one page, by the same path: [[code, message, ...failures], ...].
_CAMPAIGN = """async ([text, keys, changes]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const found = [];
  for (const [position, value] of changes) {
    bytes[position] ^= value;
    const { code, message, failures } = await verifier.verifyBundle([new File([bytes], "small.tar")], {keys});
    bytes[position] ^= value;
    found.push([code, message, ...failures]);
  }
  return found;
}"""


# --- the same outcome


@pytest.mark.parametrize("key", [KEY, KEY.upper(), OTHER, "", "abc", f"{KEY[:8]}:{KEY[8:]}"])
def test_a_sound_bundle_ends_as_bundle_verify_ends(seen: Opened, place: Path, key: str):
    found = assert_same(seen.page, [cases.pack(place)], key)
    assert found["code"] == {KEY: 0, KEY.upper(): 0, OTHER: 3, "": 4, "abc": 2}.get(key, 0)


def test_a_bundle_that_nobody_signed_is_not_verified(seen: Opened, place: Path):
    items = [item for item in cases.files() if not item.path.startswith("attestations/")]
    path = write_bundle(place / "x.tar", items, cases.about(), None, cases.Silent())[0]
    assert assert_same(seen.page, [path], "")["code"] == 4
    assert assert_same(seen.page, [path], KEY)["code"] == 3


def test_licence_notes_a_base_and_a_size_at_a_half_are_told_alike(seen: Opened, place: Path):
    notes = {"cann": "the vendor's", "a\u202eb": "<b>"}
    items = [Item.of_bytes("a", bytes(1_250_000))]
    found = assert_same(
        seen.page, [cases.pack(place, items, base="ab" * 32, contents={"licence_notes": notes})]
    )  # fmt: skip
    assert "1.2 MB" in found["message"] and "a difference" in found["message"]


CLAIMS = ("bundle-bytes", "bundle-signature", "statements", "rebuilders")


def assert_same_claims(page: Page, paths: Sequence[Path], key: str, whose: Rebuilders = NOBODY, **asked: Any):
    """What an audit claims of the bundle itself; of its runs, the page claims nothing."""
    given = Given(keys=[key] if key else [], rebuilders=whose)
    wanted = [claim for claim in verify_a_bundle(paths[0], paths[0].parent, given).claims if claim.key in CLAIMS]
    found = in_page(page, paths, key, **asked)["claims"]
    names = ("key", "text", "kind", "status", "findings", "evidence")
    assert [[claim[name] for name in names] for claim in found] == [
        [[*value] if isinstance(value, tuple) else value for value in (getattr(claim, name) for name in names)]
        for claim in wanted
    ]


def test_the_claims_are_those_of_an_audit(seen: Opened, place: Path):
    path = cases.pack(place)
    for key in (KEY, "", OTHER):
        assert_same_claims(seen.page, [path], key)
    data = bytearray(path.read_bytes())
    data[-2000] ^= 1
    path.write_bytes(data)
    assert_same_claims(seen.page, [path], KEY)


def test_parts_in_any_order_and_spelling_are_one_bundle(seen: Opened, place: Path):
    cases.pack(place, part_size_bytes=40_000)
    parts = sorted(place.iterdir())
    assert assert_same(seen.page, parts)["code"] == 0
    assert in_page(seen.page, parts[::-1], KEY)["code"] == 0
    there = [part.rename(place / f"SMALL.TAR.{number};1") for number, part in enumerate(parts, 1)]
    assert assert_same(seen.page, there)["code"] == 0


@pytest.mark.parametrize(
    "fault", ["first", "middle", "last", "short", "long", "swapped", "repeated", "surplus", "twice"]
)
def test_faults_of_parts_are_named_alike(seen: Opened, place: Path, fault: str):
    items = [*cases.files(), *(Item.of_bytes(f"tree/more/{n}", cases.noise(9000, str(n))) for n in range(12))]
    cases.pack(place, items, part_size_bytes=40_000)
    parts = sorted(place.iterdir())
    if fault in ("first", "middle", "last"):
        parts.pop({"first": 0, "middle": 1, "last": -1}[fault]).unlink()
    elif fault == "short":
        parts[1].write_bytes(parts[1].read_bytes()[:-1])
    elif fault == "long":
        parts[1].write_bytes(parts[1].read_bytes() + b"x")
    elif fault == "swapped":
        one, other = parts[-2].read_bytes(), parts[-3].read_bytes()
        parts[-2].write_bytes(other)
        parts[-3].write_bytes(one)
    elif fault == "repeated":
        parts[-2].write_bytes(parts[-3].read_bytes())
    elif fault == "surplus":
        parts.append(place / f"small.tar.{len(parts) + 1:03d}")
        parts[-1].write_bytes(parts[0].read_bytes())
    else:
        parts.append(place / "SMALL.TAR.2")
        parts[-1].write_bytes(parts[1].read_bytes())
    code, message, _, failures = by_command(parts[0], KEY)
    found = in_page(seen.page, parts, KEY)
    assert code in (3, 4)
    if fault == "first":  # install.py is told the name of a part, and the page sees all of them
        assert found["code"] == 4
    else:
        assert (found["code"], found["message"], found["failures"]) == (code, message, failures)


@pytest.mark.parametrize("fault", ODD_MEMBERS)
def test_members_that_the_list_does_not_name_are_refused_alike(seen: Opened, place: Path, fault: str):
    path = edited(cases.pack(place), ODD_MEMBERS[fault])
    assert assert_same(seen.page, [path])["code"] == 3


def test_signed_lists_that_are_not_as_they_must_be_are_refused_alike(seen: Opened, place: Path):
    sound = cases.pack(place).read_bytes()
    for fault, change in ODD_LISTS.items():
        (place / "small.tar").write_bytes(sound)
        path = cases.resigned(place / "small.tar", change, cases.signer())
        assert assert_same(seen.page, [path])["code"] == 3, fault


def test_heads_that_are_no_lists_are_refused_alike(seen: Opened, place: Path):
    sound = cases.pack(place)
    for fault, head in ODD_HEADS.items():
        path = cases.replace_head(place / "x.tar", head(sound), bytes(1024))
        assert assert_same(seen.page, [path], "")["code"] == 3, fault


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 5000, 70_000, -1025, -1])
def test_a_bundle_cut_short_is_refused_alike(seen: Opened, place: Path, keep: int):
    path = cases.pack(place)
    path.write_bytes(path.read_bytes()[:keep])
    assert assert_same(seen.page, [path])["code"] == 3


def test_something_behind_the_end_is_refused_alike(seen: Opened, place: Path):
    path = cases.pack(place)
    path.write_bytes(path.read_bytes() + b"x")
    assert assert_same(seen.page, [path])["code"] == 3


def test_changed_bytes_are_refused_in_the_same_words(seen: Opened, place: Path, capsys):
    path = cases.pack(place)
    sound = path.read_bytes()
    changes = list(cases.changes(path, CHANGES))
    found = seen.page.evaluate(
        _CAMPAIGN, [base64.b64encode(sound).decode(), KEY, [change[1:] for change in changes]]
    )  # fmt: skip
    for (what, position, value), (code, message, *failures) in zip(changes, found):
        damaged = bytearray(sound)
        damaged[position] ^= value
        path.write_bytes(damaged)
        assert (code, message, failures) == (3, *by_command(path, KEY)[1::2]), (what, position)
    assert len(found) == CHANGES
    with capsys.disabled():
        print(f"\n{CHANGES} single-byte changes, all refused by the page in the words of bundle.verify")


# --- statements, in the bundle and beside it


def test_statements_that_contradict_the_bundle_are_refused_alike(seen: Opened, place: Path):
    for fault, (replaced, said) in contradictions().items():
        found = assert_same(seen.page, [packed(place, **replaced)])
        assert found["code"] == 3 and said in "\n".join(found["failures"]), fault


def test_a_whole_record_with_its_fractions_agrees_with_its_statement(seen: Opened, place: Path):
    data = record_bytes(record_of(demo_record()))
    statement = run_statement(parsed("the record", data), hashlib.sha256(data).hexdigest())
    path = "tree/artifacts/received/20260101T000000Z/record.json"
    said = attested("explain", audit(statement["subject"][1]["digest"]["sha256"]))  # of an output that it names
    replaced = {path: data, **attested("run-20260101T000000Z", statement), **said}
    assert assert_same(seen.page, [packed(place, **replaced)])["code"] == 0
    assert assert_same(seen.page, [packed(place, **{**replaced, path: b"[]"})])["code"] == 3


def with_beside(path: Path) -> list[Path]:
    """A bundle, and the files of the folder of statements beside it, as somebody chooses them together."""
    folder = path.with_name(f"{path.name}.attestations")
    return [path, *sorted(file for file in folder.rglob("*") if file.is_file())]


def test_the_list_signed_once_more_is_trusted_by_either_key(seen: Opened, place: Path):
    path = cases.pack(place)
    resign(path, cases.signer(2))
    for key, code in ((OTHER, 0), (KEY, 0), (cases.signer(3).fingerprint, 3)):
        assert assert_same(seen.page, with_beside(path), key)["code"] == code
    assert in_page(seen.page, [path], OTHER)["code"] == 3, "without the second signature beside it"


SEEDS = (11, 12, 13)


@pytest.mark.parametrize(
    ("results", "threshold", "code"),
    [
        (("PASSED", "PASSED", "FAILED"), 2, 0),
        (("PASSED", "PASSED", "FAILED"), 3, 3),
        (("PASSED", "PASSED", "WARNED"), 3, 4),
        (("PASSED", "PASSED", ""), 3, 4),
        (("PASSED", "PASSED", "PASSED"), 3, 0),
        (("PASSED", "PASSED", "PASSED"), 4, 2),
        (("PASSED", "PASSED", "PASSED"), 0, 2),
    ],
)
def test_so_many_rebuilders_must_confirm_as_for_bundle_verify(
    seen: Opened, place: Path, results: tuple[str, ...], threshold: int, code: int
):
    path = cases.pack(place)
    for seed, result in zip(SEEDS, results):
        if result:
            cases.put_beside(path, {f"rebuild-{seed}": cases.rebuild(IMAGE["image_id"], result)}, cases.signer(seed))
    stranger = {"stranger": cases.rebuild(IMAGE["image_id"], "FAILED")}
    cases.put_beside(path, stranger, cases.signer(99))
    keys = place / "keys.txt"
    keys.write_text("".join(cases.signer(seed).public_pem for seed in SEEDS))
    wanted = by_command(path, KEY, Rebuilders(str(keys), threshold))
    found = in_page(seen.page, with_beside(path), KEY, rebuilders=keys.read_text(), threshold=threshold)
    assert found["code"] == code
    assert (found["code"], found["message"], found["failures"]) == (wanted[0], wanted[1], wanted[3])
    asked = {"rebuilders": keys.read_text(), "threshold": threshold}
    assert_same_claims(seen.page, with_beside(path), KEY, Rebuilders(str(keys), threshold), **asked)


def test_a_threshold_without_rebuilders_is_wrong_use_in_both(seen: Opened, place: Path):
    path = cases.pack(place)
    code, message, hint, _ = by_command(path, KEY, Rebuilders(threshold=2))
    found = in_page(seen.page, [path], KEY, threshold=2)
    assert (found["code"], found["message"], found["hint"]) == (code, message, hint) and code == 2


def test_changed_bytes_beside_a_bundle_are_refused_alike(seen: Opened, place: Path):
    path = cases.pack(place)
    sha256 = hashlib.sha256(canonical(cases.record())).hexdigest()
    cases.put_beside(path, {"audit": audit(sha256), "rebuild": cases.rebuild(IMAGE["image_id"])}, cases.signer(3))
    resign(path, cases.signer(2))
    assert assert_same(seen.page, with_beside(path))["code"] == 0
    chance = random.Random(16)
    for number in range(24):
        every = with_beside(path)[1:]
        file = every[number % len(every)]
        sound = file.read_bytes()
        damaged = bytearray(sound)
        damaged[chance.randrange(len(damaged))] ^= chance.randrange(1, 256)
        file.write_bytes(damaged)
        assert assert_same(seen.page, with_beside(path))["code"] == 3, (file, number)
        file.write_bytes(sound)
