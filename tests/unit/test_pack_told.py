"""What a verification of a bundle tells, whole: of its files and parts, and of the statements in and beside it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from repro.packing.installer import archive as archives
from repro.packing.installer import statements
from repro.packing.installer.archive import Archive, Meter, check_bytes
from repro.packing.installer.listing import BLOCK_BYTES, LIST_NAME, Refused, canonical
from repro.packing.installer.provenance import image_statement, run_statement
from repro.packing.installer.statements import files_beside, read_beside, read_statements
from repro.packing.installer.trust import Asked, verify
from repro.packing.statements import envelope, signed_files
from tests.unit import _bundle_cases as cases
from tests.unit._forged_bundles import attested, audit, contradictions, packed

KEY, OTHER = cases.signer(), cases.signer(2)
IMAGE = cases.images()["amd64"]["base"]
RUN = "tree/artifacts/received/20260101T000000Z/record.json"
BLOBS = "tree/artifacts/oci/blobs/sha256/"
DEPENDENCIES = "predicate.buildDefinition.resolvedDependencies"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "lstm-ctc-bundle"


def failures(path: Path) -> list[str]:
    return list(verify(path, Asked([KEY.fingerprint])).failures)


# --- how far it is


def test_a_meter_tells_every_few_seconds_what_is_done_and_how_fast(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(archives.time, "monotonic", lambda: now[0])
    meter = Meter("verifying", 2_000_000_000_000, every_s=5.0)
    for seconds, count in ((104.9, 10**11), (105.0, 4 * 10**11), (109.9, 10**11), (110.0, 0), (200.0, 10**12)):
        now[0] = seconds
        meter.advance(count)
    assert capsys.readouterr().err.splitlines() == [
        "verifying: 500000 of 2000000 MB, 100000 MB/s",
        "verifying: 600000 of 2000000 MB, 60000 MB/s",
        "verifying: 1600000 of 2000000 MB, 16000 MB/s",
    ]
    Meter("verifying", 1).advance(1)
    assert capsys.readouterr().err == "", "nothing of what is done at once"


# --- its files


def parts(tmp_path: Path, part_bytes: int = 40_000) -> list[Path]:
    cases.pack(tmp_path, part_size_bytes=part_bytes)
    return sorted(tmp_path.glob("small.tar.*"))


def test_a_bundle_is_its_file_or_the_parts_beside_the_one_that_is_named(tmp_path: Path):
    found = parts(tmp_path)
    assert len(found) > 3
    whole = b"".join(path.read_bytes() for path in found)
    for named in (found[0], found[1], tmp_path):
        archive = Archive(named)
        assert (archive.paths, archive.total_bytes) == (found, len(whole))
        assert archive.sizes_bytes == [path.stat().st_size for path in found]
        assert archive.read(39_990, 20) == whole[39_990:40_010]
        assert archive.read(len(whole) - 5, 99) == whole[-5:] and archive.read(len(whole), 9) == b""
        assert archive.read_part(1, 7, 9) == whole[40_007:40_016]
        assert archive.beside() == tmp_path / "small.tar.attestations"
        assert archive.part_name(12) == "small.tar.012"
        archive.close()
    with contextlib.closing(archives.Archive(found[0])) as archive:
        assert b"".join(map(bytes, archive.chunks(0, len(whole)))) == whole


@pytest.mark.parametrize("system", ["Linux", "Windows"])
def test_bytes_are_read_by_their_place_whatever_else_reads(tmp_path: Path, monkeypatch, system: str):
    path = cases.pack(tmp_path)
    archive = Archive(path)
    if system == "Windows":
        monkeypatch.delattr(os, "preadv")
    else:
        monkeypatch.setattr(os, "lseek", lambda *_: pytest.fail("a descriptor's one place is shared by the threads"))
    assert archive.read(1000, 9) == path.read_bytes()[1000:1009]
    assert archive.read(10, 1 << 19) == path.read_bytes()[10 : 10 + (1 << 19)]
    assert check_bytes(archive) == []
    archive.close()


def test_a_place_is_told_by_the_names_of_its_parts(tmp_path: Path):
    archive = Archive(parts(tmp_path)[0])
    assert archive.place(0, 1) == archive.place(0, 0) == archive.place(39_999, 1) == "in small.tar.001"
    assert archive.place(40_000, 0) == archive.place(40_000, 40_000) == "in small.tar.002"
    assert archive.place(39_999, 2) == "in small.tar.001 to small.tar.002: one of these 2"
    assert archive.place(39_999, 40_002) == "in small.tar.001 to small.tar.003: one of these 3"
    assert archive.place(archive.total_bytes, 1) == "behind the last part"
    archive.close()


def test_a_file_s_content_is_read_where_this_bundle_carries_it(tmp_path: Path):
    archive = Archive(cases.pack(tmp_path))
    assert archive.content("README.txt") == b"read me\n" and archive.content("tree/empty") == b""
    assert archive.content("README") is None
    based = [entry._replace(offset=-1, content=-1) for entry in archive.listing.entries]
    archive.listing = archive.listing._replace(entries=tuple(based))
    assert archive.content("README.txt") is None
    assert archive.beside() == tmp_path / "small.tar.attestations" and archive.part_name(1) == "small.tar.001"
    archive.close()


def refused(path: Path) -> tuple[int, str, str]:
    with pytest.raises(Refused) as error:
        Archive(path)
    return error.value.code, error.value.message, error.value.hint


def test_what_is_no_bundle_s_file_is_refused_by_its_name(tmp_path: Path):
    name = "name the bundle's file, or the first of its parts"
    assert refused(tmp_path / "x.tar") == (4, f"{tmp_path}/x.tar is not there", f"{name}: NAME.tar.001")
    os.mkfifo(tmp_path / "pipe.tar")
    assert refused(tmp_path / "pipe.tar") == (4, f"{tmp_path}/pipe.tar is not a plain file", f"{name}: NAME.tar.001")
    folder = tmp_path / "bundles"
    folder.mkdir()
    assert refused(folder) == (4, f"{folder} holds 0 bundles", "name the file, or the first of its parts")
    for count, file in enumerate(("a.tar", "B.TAR.1", "c.tar;1"), 1):
        (folder / file).write_bytes(b"no bundle" * 60)
        if count > 1:
            assert refused(folder)[1] == f"{folder} holds {count} bundles"
    start = f"{folder}/a.tar does not begin as a bundle does: another file, or its first header was changed"
    assert refused(folder / "a.tar") == (3, start, "")
    (folder / "b.tar.002").touch()
    (folder / "b.tar.001").touch()
    (folder / "x.tar.2").touch()
    assert refused(folder / "b.tar.002")[1] == "B.TAR.1 and b.tar.001 are both part 1"
    assert refused(folder / "x.tar.2") == (
        4, "part 1 is missing: x.tar.001", f"bring all parts into {folder}; their names end in .001, .002 and so on",
    )  # fmt: skip
    (folder / "y.tar.000").touch()
    (folder / "y.tar.001").touch()
    assert refused(folder / "y.tar.001")[1] == "y.tar.000: parts are numbered from 1"


def test_parts_in_each_other_s_place_are_told_by_both_numbers(tmp_path: Path):
    found = parts(tmp_path)
    first, second = found[1].read_bytes(), found[2].read_bytes()
    found[1].write_bytes(second)
    found[2].write_bytes(first)
    assert failures(found[0])[0] == "small.tar.002 holds part 3, not part 2: swapped or repeated"


def test_parts_of_the_wrong_size_or_number_are_told(tmp_path: Path):
    found = parts(tmp_path)
    count, data = len(found), found[1].read_bytes()
    found[1].write_bytes(data[:-7])
    assert failures(found[0])[0] == "small.tar.002 was cut short: 39993 bytes instead of 40000"
    found[1].write_bytes(data + b"x")
    assert failures(found[0])[0] == "small.tar.002 is too long: 40001 bytes instead of 40000"
    found[1].write_bytes(data)
    extra = tmp_path / f"small.tar.{count + 1:03d}"
    extra.write_bytes(b"x")
    assert failures(found[0])[0] == f"{extra.name} is one part too many: the bundle has {count}"
    extra.unlink()
    found[-1].unlink()
    with pytest.raises(Refused) as error:
        failures(found[0])
    assert (error.value.code, error.value.message, error.value.hint) == (
        4, f"{count - 1} of {count} parts are here; missing: small.tar.{count:03d} onwards",
        "bring all parts into one folder",
    )  # fmt: skip


def test_a_file_cut_short_or_lengthened_is_told_with_its_sizes(tmp_path: Path):
    path = cases.pack(tmp_path)
    data = path.read_bytes()
    end = "small.tar: the archive's end was changed, or something follows it"
    path.write_bytes(data + b"\0")
    assert failures(path) == [f"small.tar is too long: {len(data) + 1} bytes instead of {len(data)}", end]
    path.write_bytes(data[:-1])
    assert failures(path) == [f"small.tar was cut short: {len(data) - 1} bytes instead of {len(data)}", end]


def expected(region: str, archive: Archive, data: bytes) -> str:
    """What is told of one changed byte at the start of a region."""
    kind, _, path = region.partition(" of ")
    entry = next((each for each in archive.listing.entries if each.path == path), None)
    if kind == "header":
        name = data[entry.offset : entry.content][-BLOCK_BYTES:]
        found = name[:100].split(b"\0")[0].decode("latin-1")
        return f"{path}: the entry {found!a} stands in its place: extra, missing or out of order"
    if kind == "content":
        digest = hashlib.sha256(data[entry.content : entry.content + entry.size_bytes]).hexdigest()
        return f"{path}: its content has sha256 {digest}, listed is {entry.sha256}"
    return {
        "padding": f"{LIST_NAME if path == 'the list' else path}: the zeros behind it were changed",
        "end": "small.tar: the archive's end was changed, or something follows it",
    }[kind]


def test_one_changed_byte_anywhere_is_told_of_its_own_file_and_of_no_other(tmp_path: Path):
    path = cases.pack(tmp_path)
    sound, archive = path.read_bytes(), Archive(path)
    for region, offset, length in cases.layout(path):
        if region in ("list", "list header") or (region.startswith("header") and length > BLOCK_BYTES):
            continue
        for at in {offset, offset + length - 1} if not region.startswith("header") else {offset}:
            data = bytearray(sound)
            data[at] ^= 0x02 if region.startswith("header") else 1
            path.write_bytes(data)
            opened = Archive(path)
            told = check_bytes(opened)
            opened.close()
            if region.startswith("header"):
                assert len(told) == 1 and told[0].startswith(f"{region[10:]}: "), region
            else:
                assert told == [expected(region, archive, bytes(data))], region
    archive.close()


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0, b"Z", "the entry 'ZEADME.txt' stands in its place: extra, missing or out of order"),
        (156, b"2", "a link, device or other special entry 'README.txt' stands in its place"),
        (100, b"0000755", "its header in the archive was changed"),
        (148, b"7777777", "its header in the archive was changed"),
    ],
)
def test_what_stands_in_an_entry_s_place_is_told(tmp_path: Path, at: int, value: bytes, said: str):
    path = cases.pack(tmp_path)
    data = bytearray(path.read_bytes())
    with_archive = Archive(path)
    entry = next(each for each in with_archive.listing.entries if each.path == "README.txt")
    with_archive.close()
    header = data[entry.offset : entry.content]
    header[at : at + len(value)] = value
    if at != 148:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    data[entry.offset : entry.content] = header
    path.write_bytes(data)
    assert failures(path) == [f"README.txt: {said}"]


def test_a_file_over_several_parts_is_told_with_them(tmp_path: Path):
    found = parts(tmp_path, 30_000)
    archive = Archive(found[0])
    entry = next(each for each in archive.listing.entries if each.size_bytes == 70_000)
    names = archive.place(entry.content, entry.size_bytes)
    archive.close()
    number = (entry.content + 100) // 30_000
    data = bytearray(found[number].read_bytes())
    data[(entry.content + 100) % 30_000] ^= 1
    found[number].write_bytes(data)
    (told,) = failures(found[0])
    assert told.startswith(f"{entry.path} ({names}): its content has sha256 ") and told.endswith(entry.sha256)


# --- its statements


TOLD = {
    "a config that is none": [
        f"{BLOBS}{IMAGE['image_id'][7:]}: its bytes have another digest",
        "images.json: image base (amd64) has other layers than its config",
    ],
    "a layer of other bytes": [f"{BLOBS}{IMAGE['layers'][0]['diff_id'][7:]}: its bytes have another digest"],
    "a layer that the image's config does not name": [
        "image-base.amd64: it contradicts images.json and the commit: predicate.runDetails.byproducts[0].digest.sha256",
        "images.json: image base (amd64) has other layers than its config",
    ],
    "a lock of no form": ["images.json: layer debs:base (amd64) is not made from conf/locks/debs/base.amd64.json"],
    "a lock that the layer is not made from": [
        "images.json: layer debs:base (amd64) is not made from conf/locks/debs/base.amd64.json"
    ],
    "a result that is not its tests'": ["audit: its result is not that of its tests"],
    "a signer whose key is not there": [
        f"attestations/image-base.amd64.dsse.json: the key {OTHER.fingerprint} that it names is not beside it"
    ],
    "an ID that is a number": ["images.json is not a list of images: a digest or a name is not text"],
    "an audit of another run": [f"audit: it speaks of record.json sha256 {'8' * 64}, which is not in this bundle"],
    "an image without an ID": ["images.json is not a list of images: it is not built as it should be"],
    "an image without its config": ["images.json: image base (amd64) has no config in artifacts/oci"],
    "another commit": [
        f"image-base.amd64: it contradicts images.json and the commit: {DEPENDENCIES}[0].digest.gitCommit"
    ],
    "another image": ["image-base.amd64: it contradicts images.json and the commit: subject[0].digest.sha256"],
    "another kind": ["x: it is of a kind that nothing here reads: 'https://example.org/x'"],
    "another lock": [f"image-base.amd64: it contradicts images.json and the commit: {DEPENDENCIES}[1].digest.sha256"],
    "another output": [f"run-20260101T000000Z: it contradicts {RUN}: subject[1].digest.sha256"],
    "another record": [
        f"run-20260101T000000Z: it speaks of a record with sha256 {'9' * 64}, which is not in this bundle"
    ],
    "another's Sigstore bundle": [
        "attestations/image-base.amd64.dsse.json: image-base.amd64.sigstore.json is not the Sigstore bundle of it"
    ],
    "another's key": [f"attestations/keys/{KEY.fingerprint}.pem: it is not the public key of that fingerprint"],
    "no Sigstore bundle": [
        "attestations/image-base.amd64.dsse.json: image-base.amd64.sigstore.json is not the Sigstore bundle of it"
    ],
    "no envelope": [
        "attestations/x.dsse.json: the envelope has members too few or too many: payload, payloadType, signatures"
    ],
    "no list of images": ["images.json is not a list of images: it is not built as it should be"],
    "no statement": ["attestations/notes.txt: it is no statement"],
    "nobody's": ["image-base.amd64: it is not signed by the key that signed the list"],
    "other code": [f"run-20260101T000000Z: it contradicts {RUN}: {DEPENDENCIES}[3].digest.sha256"],
    "other data": [f"run-20260101T000000Z: it contradicts {RUN}: {DEPENDENCIES}[1].digest.sha256"],
    "provenance of another signer": ["image-base.amd64: it is not signed by the key that signed the list"],
}


def test_every_contradiction_is_told_here():
    assert set(TOLD) == set(contradictions())


@pytest.mark.parametrize("case", sorted(TOLD))
def test_a_contradiction_is_told_whole_and_nothing_beside_it(tmp_path: Path, case: str):
    assert failures(packed(tmp_path, **contradictions()[case][0])) == TOLD[case]


def statement_of(subject: str, **predicate: Any) -> dict[str, Any]:
    return {**audit(subject), "predicate": {**audit(subject)["predicate"], **predicate}}


@pytest.mark.parametrize(
    ("stem", "statement", "told"),
    [
        ("image-more.amd64", image_statement("amd64", "more", IMAGE, "c" * 40),
         "image-more.amd64: images.json has no image 'more' for 'amd64'"),
        ("image-base.s390x", image_statement("s390x", "base", IMAGE, "c" * 40),
         "image-base.s390x: images.json has no image 'base' for 's390x'"),
        ("p", {**image_statement("amd64", "base", IMAGE, "c" * 40), "predicate": {}},
         "p: it cannot be held to the bundle: it is not built as it should be"),
        ("a", {**audit("8" * 64), "subject": []}, "attestations/a.dsse.json: it speaks of nothing"),
        ("a", {**audit("8" * 64), "predicate": []}, "attestations/a.dsse.json: it speaks of nothing"),
        ("a", statement_of("8" * 64, passedTests=7), "attestations/a.dsse.json: it is not built as it should be"),
        ("a", statement_of("8" * 64, passedTests=[]), "a: its result is not that of its tests"),
        ("a", {**audit("8" * 64), "subject": [{"name": "x\x1b", "digest": {"sha256": "9" * 64}}]},
         f"a: it speaks of x\\x1b sha256 {'9' * 64}, which is not in this bundle"),
    ],
)  # fmt: skip
def test_a_statement_that_does_not_fit_is_told_with_its_name(tmp_path: Path, stem: str, statement, told: str):
    assert failures(packed(tmp_path, **attested(stem, statement))) == [told]


def test_a_record_that_is_none_is_told_by_what_is_wrong_with_it(tmp_path: Path):
    record = b"{"
    run = run_statement(cases.record(), hashlib.sha256(record).hexdigest())
    (told,) = failures(packed(tmp_path, **attested("run-20260101T000000Z", run), **{RUN: record}))
    assert told.startswith("run-20260101T000000Z: it cannot be held to the bundle: the record is not ")


def test_what_is_no_number_has_no_canonical_form():
    assert canonical({"b": "\xe9", "a": [1, None]}) == b'{"a":[1,null],"b":"\xc3\xa9"}'
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            canonical({"a": number})


def test_an_audit_that_nobody_signed_counts_for_nothing(tmp_path: Path):
    nobody = {"attestations/a.dsse.json": envelope(audit("8" * 64), None)}
    assert failures(packed(tmp_path, **nobody)) == ["a: nobody signed it"]


def test_an_image_of_a_lock_that_is_not_carried_is_not_held_to_it(tmp_path: Path):
    assert failures(packed(tmp_path, **{"tree/conf/locks/debs/base.amd64.json": None})) == []


def test_statements_beside_a_bundle_are_told_by_their_folder_and_count_apart(tmp_path: Path):
    path = cases.pack(tmp_path)
    archive = Archive(path)
    archive.close()
    folder = cases.put_beside(path, {"mine": cases.rebuild(IMAGE["image_id"])}, KEY)
    (folder / "notes\x1b.txt").write_text("x")
    list_statement = json.loads(base64.b64decode(json.loads(archive.envelope)["payload"]))
    for stem, signer in (("again", OTHER), ("unsigned", None), ("own", KEY)):
        (folder / f"{stem}.dsse.json").write_bytes(envelope(list_statement, signer))
        if signer:
            twin = next(
                data for name, data in signed_files([(stem, list_statement)], signer).items() if "sigst" in name
            )
            (folder / f"{stem}.sigstore.json").write_bytes(twin)
    (folder / "keys").mkdir(exist_ok=True)
    (folder / "keys" / f"{OTHER.fingerprint}.pem").write_text(OTHER.public_pem)
    beside = read_beside(archive.listing, folder, {})
    assert [(each.name, each.signer) for each in beside.statements] == [("mine", KEY.fingerprint)]
    assert beside.failures == (f"{folder.name}/notes\\x1b.txt: it is no statement",)
    assert beside.countersigners == (OTHER.fingerprint,), "nobody and the signer do not sign it once more"
    assert read_beside(archive.listing, tmp_path / "none", {}) == type(beside)()


def test_files_beside_a_bundle_are_listed_without_following_links(tmp_path: Path):
    (tmp_path / "s" / "keys").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    for name in ("a", "keys/b"):
        (tmp_path / "s" / name).touch()
    (tmp_path / "s" / "way").symlink_to(tmp_path / "other")
    assert sorted(files_beside(tmp_path / "s")) == ["a", "keys/b"]
    assert files_beside(tmp_path / "none") == []


def test_statements_together_are_bounded(monkeypatch):
    monkeypatch.setattr(statements, "_MOST_STATEMENT_BYTES", 10)
    content = {"a": b"x" * 6, "b": b"x" * 5, "c": b"x"}
    read = []

    def give(name: str) -> bytes:
        read.append(name)
        return content[name]

    found, wrong = read_statements(["c", "a", "b"], give, {})
    large = "it cannot be read, or is too large"
    assert (found, wrong) == ([], [f"b: {large}", f"c: {large}", "a: it is no statement"]) and read == ["a", "b"]
    assert read_statements(["a", "b"], {"a": b"x" * 5, "b": b"x" * 5}.get, {})[1] == [
        "a: it is no statement", "b: it is no statement",
    ]  # fmt: skip
    assert read_statements(["gone"], lambda name: None, {})[1] == [f"gone: {large}"]
