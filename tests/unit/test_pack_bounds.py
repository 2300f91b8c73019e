"""Writing and verifying bundles at their bounds: places of bytes, sizes of parts, whom to trust, codes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.base.errors import CouldNotRun, CouldNotVerify, UsageError, VerificationFailed
from repro.packing import verify, writer
from repro.packing.installer.archive import Archive
from repro.packing.installer.listing import (
    Refused,
    public_key_of,
)
from repro.packing.installer.rebuilders import Rebuilt, insist_on_rebuilders, read_rebuilders, trusted_rebuilders
from repro.packing.installer.trust import Asked, remember_key, trust_file, trust_in, trusted_keys
from tests.unit import _bundle_cases as cases

KEY, OTHER = cases.signer(), cases.signer(2)


@pytest.fixture(autouse=True)
def _no_trusted_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


class Told(cases.Silent):
    """Everything that is said of progress."""

    def __init__(self) -> None:
        self.totals: list[tuple[int, int]] = []
        self.done_bytes = self.files = 0

    def begin(self, files_total, bytes_total):
        self.totals.append((files_total, bytes_total))

    def advance(self, count_bytes):
        self.done_bytes += count_bytes

    def file_done(self):
        self.files += 1


# --- Writing


@settings(max_examples=20)
@given(st.integers(1, 9), st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=20)), max_size=6))
def test_what_is_written_over_parts_is_what_lies_at_its_place_in_one_file(tmp_path_factory, size, writes):
    folder = tmp_path_factory.mktemp("parts")
    whole = bytearray(64)
    output = writer._Output(folder / "b.tar", 64, size)
    for offset, data in writes:
        output.write(offset, data)
        whole[offset : offset + len(data)] = data
    paths = output.publish()
    count = -(-64 // size)
    assert [path.name for path in paths] == [f"b.tar.{number:03d}" for number in range(1, count + 1)]
    assert [path.stat().st_size for path in paths[:-1]] == [size] * (count - 1)
    assert b"".join(path.read_bytes() for path in paths) == bytes(whole)
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o644}
    assert sorted(folder.iterdir()) == sorted(paths), "nothing temporary is left"


@pytest.mark.parametrize(("size", "names"), [(0, ["b.tar"]), (1, None), (2, 999), (1998, ["b.tar.001"])])
def test_parts_are_999_at_most(tmp_path, size, names):
    if names is None:
        with pytest.raises(UsageError, match="makes 1998 parts; 999 is the most"):
            writer._Output(tmp_path / "b.tar", 1998, size)
    else:
        output = writer._Output(tmp_path / "b.tar", 1998, size)
        found = [path.name for path in output.names]
        assert found == names or len(found) == names
        output.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_written_with_every_byte_and_file_told_and_no_part_of_an_earlier_one_left(tmp_path):
    items = [*cases.files(), cases.Item.of_bytes("tree/based", b"in the base")]
    items[-1] = writer.replace(items[-1], in_base=True)
    for name in ("small.tar", "small.tar.001", "small.tar.999", "small.tar.1000", "small.tar.x", "other.tar.001"):
        (tmp_path / "new" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "new" / name).write_bytes(b"old")
    told = Told()
    carried_bytes = sum(item.size_bytes for item in items[:-1])
    paths = writer.write_bundle(
        tmp_path / "new" / "small.tar", items, cases.about(KEY, part_size_bytes=30_000), KEY, told
    )
    assert (told.totals, told.done_bytes, told.files) == (
        [(len(items) - 1, carried_bytes)],
        carried_bytes,
        len(items) - 1,
    )
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "other.tar.001", "small.tar.1000", "small.tar.x", *(path.name for path in paths),
    }  # fmt: skip
    archive = Archive(paths[0])
    found = {entry.path: entry for entry in archive.listing.entries}
    assert list(found) == [item.path for item in items]
    for item in items[:-1]:
        entry = found[item.path]
        assert archive.read(entry.content, entry.size_bytes) == item.content()
        assert (entry.sha256, entry.executable) == (hashlib.sha256(item.content()).hexdigest(), item.executable)
        assert archive.content(item.path) == item.content()
    assert (found["tree/based"].offset, archive.content("tree/based"), archive.content("none")) == (-1, None, None)
    assert archive.total_bytes == archive.listing.total_bytes == sum(path.stat().st_size for path in paths)
    assert archive.listing.entries[-2].content + archive.listing.entries[-2].size_bytes <= archive.total_bytes - 1024
    archive.close()


@pytest.mark.parametrize("found", [b"", b"12", b"1234"])
def test_a_file_of_another_size_than_was_listed_is_not_packed(tmp_path, found):
    path = tmp_path / "file"
    path.write_bytes(b"123")
    item = writer.Item.of_file("tree/x", path)
    path.write_bytes(found)
    with pytest.raises(CouldNotRun, match=f"{path} {'grew' if len(found) > 3 else 'shrank'} while it was packed"):
        cases.pack(tmp_path / "out", [item])
    assert list((tmp_path / "out").iterdir()) == []


def test_items_are_hashed_side_by_side_and_a_known_digest_is_held_to(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(cases.noise(600_000, "x"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    items = [writer.Item.of_file("a", path), writer.Item("b", b"12", 2), writer.Item.of_file("c", path, digest)]
    told = Told()
    assert [(item.path, item.sha256) for item in writer.hashed(items, told)] == [
        ("a", digest), ("b", hashlib.sha256(b"12").hexdigest()), ("c", digest),
    ]  # fmt: skip
    assert (told.totals, told.done_bytes) == ([(3, 1_200_002)], 1_200_002)
    wrong = "0" * 64
    for item, named in (
        (writer.Item.of_file("a", path, wrong), str(path)),
        (writer.Item("b", b"12", 2, sha256=wrong), "b"),
    ):
        with pytest.raises(VerificationFailed) as error:
            writer.hashed([item], told)
        found = hashlib.sha256(item.content()).hexdigest()
        assert error.value.message.startswith(f"{named} has sha256 {found}; it should have {wrong}")


def test_the_list_must_fit_into_the_first_part(tmp_path):
    def write(size):
        return writer.write_bundle(
            tmp_path / "s.tar", cases.files(), cases.about(KEY, part_size_bytes=size), KEY, Told()
        )

    end = min(writer._Layout(cases.files(), cases.about(KEY, part_size_bytes=99_999), KEY).offsets.values())
    with pytest.raises(UsageError, match=rf"--part-size must be {end} bytes or more"):
        write(end - 1)
    assert list(tmp_path.iterdir()) == []
    assert write(end)[0].stat().st_size == end


def test_an_item_knows_its_size_its_mode_and_as_far_as_it_can_its_digest(tmp_path):
    (tmp_path / "f").write_bytes(b"12")
    assert writer.Item.of_bytes("a", b"12") == writer.Item(
        "a", b"12", 2, False, hashlib.sha256(b"12").hexdigest(), False
    )
    assert writer.Item.of_bytes("a", b"", executable=True).executable
    assert writer.Item.of_file("a", tmp_path / "f") == writer.Item("a", tmp_path / "f", 2, False, "", False)


def test_a_path_that_no_bundle_can_hold_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match=r"a bundle cannot hold the path '\.\./x'"):
        cases.pack(tmp_path, [writer.Item.of_bytes("../x", b"")])


# --- Verifying


def test_a_report_says_all_that_was_found(tmp_path):
    path = cases.pack(tmp_path)
    archive = Archive(path)
    listing = archive.listing
    archive.close()
    report = verify.verify_bundle(path, [KEY.fingerprint.upper()])
    assert (report.signer, report.relied_on, report.also) == (KEY.fingerprint, KEY.fingerprint, ())
    assert (report.list_sha256, report.about) == (listing.sha256, listing.about)
    assert report.entries == {entry.path: entry for entry in listing.entries}
    assert (report.files, report.size_bytes) == (len(cases.files()), sum(item.size_bytes for item in cases.files()))
    assert (report.verified, report.trust, report.failures, report.not_covered) == (True, "pinned", (), ())
    assert {statement.name for statement in report.statements} == {"image-base.amd64", "run-20260101T000000Z"}
    assert report.rebuilt == ()


@pytest.mark.parametrize("code", [2, 3, 4, 70])
def test_a_refusal_keeps_its_kind_message_advice_and_details(code):
    error = verify.translated(Refused(code, "what", "do", ["one", "two"]))
    assert type(error) is {2: UsageError, 3: VerificationFailed}.get(code, CouldNotVerify)
    assert (error.message, error.hint, error.detail) == ("what", "do", "one\ntwo")


@given(
    st.text("0123456789abcdefABCDEF:", max_size=70) | st.sampled_from(["a" * 64, "A:" * 63 + "F", "a" * 65, "g" * 64])
)
def test_a_fingerprint_is_64_hex_digits_in_any_usual_spelling(text):
    plain = text.lower().replace(":", "")
    if len(plain) == 64 and set(plain) <= set("0123456789abcdef"):
        assert verify.fingerprints([text, "f" * 64]) == [plain, "f" * 64]
    else:
        with pytest.raises(UsageError) as error:
            verify.fingerprints(["f" * 64, text])
        assert repr(verify.shown(text, 80)) in error.value.message


def test_rebuilders_are_checked_before_anything_is_read(tmp_path):
    path = tmp_path / "keys.pem"
    path.write_text(KEY.public_pem + OTHER.public_pem + KEY.public_pem)
    assert verify.keys_of(str(path)) == {each.fingerprint: public_key_of(each.public_pem) for each in (KEY, OTHER)}
    assert verify.keys_of("") == {}
    for threshold in (1, 2):
        verify.Rebuilders(str(path), threshold).check()
    verify.NOBODY.check()
    for threshold in (0, 3, -1):
        with pytest.raises(UsageError, match=f"--threshold {threshold} cannot be met by 2 rebuilders"):
            verify.Rebuilders(str(path), threshold).check()
    with pytest.raises(UsageError, match="--threshold 2 counts rebuilders"):
        verify.Rebuilders(threshold=2).check()
    for keys in (str(tmp_path / "absent"), str(tmp_path)):
        with pytest.raises(UsageError, match="cannot be read"):
            verify.Rebuilders(keys).check()
        with pytest.raises(UsageError, match=r"(No such file|Is a directory)"):
            verify.keys_of(keys)
    asked = verify.Rebuilders(str(path), 2, tmp_path).asked(["k"], first_use=True)
    assert asked == Asked(["k"], True, tmp_path, verify.keys_of(str(path)))


def rebuilt(*confirmed: int, contradicted: int = 0, keys: int = 3):
    return [
        Rebuilt(
            f"image {number}", tuple("k" * count), tuple("x" * contradicted), tuple("s" * (keys - count - contradicted))
        )
        for number, count in enumerate(confirmed)
    ]


@pytest.mark.parametrize(
    ("found", "threshold", "code"),
    [
        (rebuilt(3, 3), 3, 0),
        (rebuilt(2, 3), 2, 0),
        (rebuilt(2, 3), 3, 4),
        (rebuilt(1, 1, contradicted=1), 1, 0),
        (rebuilt(1, 2, contradicted=1), 2, 3),
        (rebuilt(2), 4, 2),
        (rebuilt(2), 0, 2),
        ([], 1, 4),
        ([], 2, 2),
    ],
)
def test_each_image_needs_so_many_who_confirm_it(found, threshold, code):
    if not code:
        insist_on_rebuilders(found, threshold)
        return
    with pytest.raises(Refused) as error:
        insist_on_rebuilders(found, threshold)
    assert error.value.code == code
    few = [item for item in found if len(item.confirmed) < threshold]
    if code > 2:
        assert f"{len(few)} of {len(found)} images" in error.value.message
        assert error.value.failures == tuple(item.sentence() for item in few)
    rebuilders = verify.Rebuilders("keys", threshold)
    with pytest.raises({2: UsageError, 3: VerificationFailed, 4: CouldNotVerify}[code]):
        rebuilders.insist(type("Report", (), {"rebuilt": found})())
    verify.NOBODY.insist(type("Report", (), {"rebuilt": found})())


def test_what_rebuilders_say_is_told_by_name():
    assert Rebuilt("image b", ("1", "2"), ("3",), ("4", "5")).sentence() == (
        "image b: confirmed by 1, 2; contradicted by 3; nothing said by 4, 5"
    )
    assert Rebuilt("image b", (), (), ("4",)).sentence() == "image b: nothing said by 4"
    assert Rebuilt("image b", ("1",), (), ()).sentence() == "image b: confirmed by 1"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no public key"),
        ("é", "ascii"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a PEM public key"),
    ],
)
def test_a_file_without_a_rebuilder_s_key_is_wrong_use(tmp_path, text, told):
    (tmp_path / "k").write_text(text, "utf-8")
    with pytest.raises(Refused, match=told) as error:
        read_rebuilders(tmp_path / "k")
    assert error.value.code == 2 and str(tmp_path / "k") in error.value.message
    assert trusted_rebuilders(None, 1) == {}


# --- Trust


FINGERS = ["a" * 64, "b" * 64]


@pytest.mark.parametrize(
    ("signer", "named", "known", "found"),
    [
        (0, [0], {}, "pinned"),
        (0, [1, 0], {1: "pinned"}, "pinned"),
        (0, [1], {0: "pinned"}, None),
        (0, [], {0: "pinned"}, "pinned"),
        (0, [], {0: "first use", 1: "pinned"}, "first use"),
        (0, [], {1: "pinned"}, None),
        (0, [], {}, "unknown"),
        (None, [], {}, "unsigned"),
        (None, [0], {}, None),
        (None, [], {0: "pinned"}, None),
    ],
)
def test_a_signer_is_trusted_by_name_or_as_remembered_or_not_at_all(signer, named, known, found):
    who = "" if signer is None else FINGERS[signer]
    arguments = (who, [FINGERS[each] for each in named], {FINGERS[each]: how for each, how in known.items()})
    if found:
        assert trust_in(*arguments) == found
        return
    with pytest.raises(Refused) as error:
        trust_in(*arguments)
    assert error.value.code == 3
    assert ("not signed" in error.value.message) == (not who) and (who in error.value.message)
    assert ", ".join(sorted(arguments[1] or arguments[2])) in error.value.message
    assert ("the key named" in error.value.message) == bool(named)


@given(st.lists(st.tuples(st.sampled_from(FINGERS), st.sampled_from(["pinned", "first use"])), max_size=5))
def test_a_pinned_key_stays_pinned_and_a_first_use_counts_for_one_key_alone(tmp_path_factory, steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        known: dict[str, str] = {}
        for key, how in steps:
            if how == "first use" and known and key not in known:
                with pytest.raises(Refused):
                    remember_key(key, how)
            else:
                remember_key(key, how)
                known[key] = "pinned" if "pinned" in (how, known.get(key)) else how
            assert trusted_keys() == known


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{}", 0),
        ('{"x": "pinned"}', 2),
        (f'{{"{"a" * 64}": "maybe"}}', 2),
        ("[]", 2),
        ("[1]", 2),
        ("x", 2),
        ('"x"', 2),
        ("[" * 100_000, 2),
        (f'{{"{"a" * 64}": 1}}', 2),
    ],
)
def test_a_damaged_table_of_keys_is_refused_by_its_path(text, code):
    trust_file().parent.mkdir(parents=True)
    trust_file().write_text(text)
    if not code:
        assert trusted_keys() == {}
        return
    with pytest.raises(Refused) as error:
        trusted_keys()
    assert error.value.code == code and str(trust_file()) in error.value.message
    trust_file().unlink()
    trust_file().mkdir()
    with pytest.raises(Refused, match="Is a directory") as error:
        trusted_keys()
    assert error.value.code == 4
