"""A bundle's bytes are as listed and signed, or what differs is named and nothing is believed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.packing import trust_key, verify_bundle
from repro.packing.installer.archive import Archive
from repro.packing.installer.listing import BLOCK_BYTES, LIST_NAME, check_paths, padding_bytes, tar_header
from repro.packing.writer import Item, write_bundle
from tests.unit import _bundle_cases as cases
from tests.unit._forged_bundles import ODD_MEMBERS, ODD_NAMES, OF_THE_MACHINE, edited

KEY = cases.signer().fingerprint


@pytest.fixture(autouse=True)
def _no_trusted_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_a_bundle_as_it_was_packed_is_verified(tmp_path):
    report = verify_bundle(cases.pack(tmp_path), [KEY])
    assert report.verified and report.trust == "pinned" and report.failures == ()
    assert report.files == len(cases.files())


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert cases.pack(tmp_path / "a").read_bytes() == cases.pack(tmp_path / "b").read_bytes()


def test_any_tar_reads_it(tmp_path):
    with tarfile.open(cases.pack(tmp_path), "r:") as archive:
        names = archive.getnames()
        assert names == [LIST_NAME, *(item.path for item in cases.files())]
        for item in cases.files():
            assert archive.extractfile(item.path).read() == item.source
            assert bool(archive.getmember(item.path).mode & 0o100) == item.executable


def test_nobodys_bundle_is_never_called_verified(tmp_path):
    path = write_bundle(tmp_path / "x.tar", cases.files(None), cases.about(), None, cases.Silent())[0]
    report = verify_bundle(path)
    assert report.failures == () and report.trust == "unsigned" and not report.verified


def test_an_unknown_signer_is_not_trusted_because_the_bytes_are_sound(tmp_path):
    report = verify_bundle(cases.pack(tmp_path))
    assert report.trust == "unknown" and not report.verified


def test_first_use_is_remembered_and_another_key_is_then_refused(tmp_path):
    assert verify_bundle(cases.pack(tmp_path), first_use=True).trust == "first use"
    assert verify_bundle(tmp_path / "small.tar").verified
    cases.pack(tmp_path, key=cases.signer(2))
    with pytest.raises(VerificationFailed, match="not by a key trusted here"):
        verify_bundle(tmp_path / "small.tar", first_use=True)


def test_first_use_of_a_damaged_bundle_trusts_nobody(tmp_path):
    path = cases.pack(tmp_path)
    _flip(path, path.stat().st_size - 1500)
    assert verify_bundle(path, first_use=True).trust == "unknown"
    assert not (tmp_path / "config").exists()


def test_a_pinned_key_stays_pinned(tmp_path):
    trust_key(KEY)
    assert verify_bundle(cases.pack(tmp_path)).trust == "pinned"
    with pytest.raises(UsageError):
        trust_key("abc")


def test_another_key_than_the_named_one(tmp_path):
    with pytest.raises(VerificationFailed, match="not by the key named"):
        verify_bundle(cases.pack(tmp_path, key=cases.signer(2)), [KEY])


def test_no_signature_where_one_is_expected(tmp_path):
    path = write_bundle(tmp_path / "x.tar", cases.files(None), cases.about(), None, cases.Silent())[0]
    with pytest.raises(VerificationFailed, match="not signed"):
        verify_bundle(path, [KEY])


def _flip(path, position, bit=1):
    with open(path, "r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([byte ^ bit]))


def refusal_of(path, keys=(KEY,)):
    """What a verification says is wrong, or '' for nothing."""
    try:
        return "\n".join(verify_bundle(path, keys).failures)
    except (VerificationFailed, CouldNotVerify) as error:
        return error.message


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return cases.pack(tmp_path_factory.mktemp("sound"))


@settings(max_examples=150)
@given(st.data())
def test_any_changed_bit_is_detected_and_its_file_named(sound, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flip")
    path = Path(shutil.copy(sound, folder))
    what, offset, length = data.draw(st.sampled_from(cases.layout(sound)))
    _flip(path, offset + data.draw(st.integers(0, length - 1)), 1 << data.draw(st.integers(0, 7)))
    said = refusal_of(path)
    assert said, what
    name = what.rpartition(" ")[2]
    if name in {item.path for item in cases.files()}:
        assert name in said
    shutil.rmtree(folder)


@pytest.mark.parametrize("keep", [0, 1, 512, 5000, -1])
def test_truncation(tmp_path, keep):
    path = cases.pack(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    assert refusal_of(path)


def test_something_behind_the_end(tmp_path):
    path = cases.pack(tmp_path)
    path.write_bytes(path.read_bytes() + b"x")
    assert "follows it" in refusal_of(path) or "too long" in refusal_of(path)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("missing", "images.json"),
        ("extra", "tree/evil"),
        ("swapped", "out of order"),
        ("link", "link, device"),
        ("hard link", "link, device"),
        ("device", "link, device"),
        ("fifo", "link, device"),
        ("climbing", "../../evil"),
        ("absolute", "/etc/evil"),
    ],
)
def test_entries_that_the_list_does_not_name(tmp_path, fault, named):
    path = edited(cases.pack(tmp_path), ODD_MEMBERS[fault])
    assert named in refusal_of(path), fault


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_signed_list_with_a_harmful_name_is_refused_all_the_same(tmp_path, name):
    def change(statement):
        statement["subject"][2]["name"] = name

    path = cases.resigned(cases.pack(tmp_path), change, cases.signer())
    said = refusal_of(path)
    assert said if name not in OF_THE_MACHINE else "a place for what is made on the machine or is its user's" in said


def test_an_edited_list(tmp_path):
    path = cases.pack(tmp_path)

    def change(statement):
        statement["subject"][0]["digest"]["sha256"] = "0" * 64

    cases.resigned(path, change, cases.signer(2))
    assert "not by the key named" in refusal_of(path)
    assert not verify_bundle(path).verified


def test_a_list_that_claims_the_trusted_key_but_is_signed_by_another(tmp_path):
    path = cases.pack(tmp_path)
    archive = Archive(path)
    envelope = json.loads(archive.envelope)
    archive.close()
    rest = path.read_bytes()[BLOCK_BYTES + len(archive.envelope) + padding_bytes(len(archive.envelope)) :]
    other = cases.pack(tmp_path, key=cases.signer(2))
    forged = Archive(other)
    envelope["payload"] = json.loads(forged.envelope)["payload"]
    forged.close()
    assert refusal_of(cases.replace_head(path, cases.recanonical(envelope), rest))


@pytest.mark.parametrize("spelling", [lambda d: json.dumps(d), lambda d: cases.recanonical(d).decode() + " "])
def test_the_envelope_has_one_spelling(tmp_path, spelling):
    path = cases.pack(tmp_path)
    archive = Archive(path)
    rest = path.read_bytes()[BLOCK_BYTES + len(archive.envelope) + padding_bytes(len(archive.envelope)) :]
    archive.close()
    path = cases.replace_head(path, spelling(json.loads(archive.envelope)).encode(), rest)
    assert "one spelling" in refusal_of(path)


def test_paths_that_are_fit_to_be_installed():
    assert check_paths(["a", "b/c", "b/d", "tree/x-1.0+y@z.whl"]) is None
    assert "collid" not in (check_paths(["a/b", "A/c"]) or "") and check_paths(["a/b", "A/c"])
    assert check_paths(["a", "a/b"]) and check_paths(["a", "A"]) and check_paths(["x" * 300])


def test_a_header_of_a_long_path_is_three_blocks():
    assert len(tar_header("short", 1, executable=False)) == BLOCK_BYTES
    assert len(tar_header(cases.LONG, 1, executable=False)) == 3 * BLOCK_BYTES


# --- parts


def _parts(tmp_path, size=40_000):
    cases.pack(tmp_path, part_size_bytes=size)
    return sorted(tmp_path.glob("small.tar.*"))


def test_parts_are_the_whole_cut_in_pieces(tmp_path):
    parts = _parts(tmp_path)
    assert len(parts) >= 3 and verify_bundle(parts[0], [KEY]).verified
    joined = tmp_path / "joined" / "small.tar"
    joined.parent.mkdir()
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(joined, "r:") as archive:
        assert len(archive.getnames()) == len(cases.files()) + 1


def test_a_folder_of_parts_is_found(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    _parts(folder)
    assert verify_bundle(folder, [KEY]).verified


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_missing_part_is_named(tmp_path, number):
    parts = _parts(tmp_path)
    parts[number].unlink()
    with pytest.raises(CouldNotVerify, match=parts[number].name):
        verify_bundle(parts[0], [KEY])


def test_an_extra_part_is_named(tmp_path):
    parts = _parts(tmp_path)
    extra = tmp_path / f"small.tar.{len(parts) + 1:03d}"
    shutil.copy(parts[-1], extra)
    assert f"{extra.name} is one part too many" in refusal_of(parts[0])


def test_swapped_parts_are_named(tmp_path):
    parts = _parts(tmp_path, 45_000)
    one, other = parts[0].read_bytes(), parts[1].read_bytes()
    parts[0].write_bytes(other)
    parts[1].write_bytes(one)
    assert refusal_of(parts[0])


def test_swapped_later_parts_are_named(tmp_path):
    items = [*cases.files(), *(Item.of_bytes(f"tree/more/{n}", cases.noise(9000, str(n))) for n in range(12))]
    cases.pack(tmp_path, items, part_size_bytes=40_000)
    parts = sorted(tmp_path.glob("small.tar.*"))
    one, other = parts[-2], parts[-3]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    said = refusal_of(parts[0])
    assert f"{one.name} holds part" in said and f"{other.name} holds part" in said


def test_a_repeated_part_is_named(tmp_path):
    items = [*cases.files(), *(Item.of_bytes(f"tree/more/{n}", cases.noise(9000, str(n))) for n in range(12))]
    cases.pack(tmp_path, items, part_size_bytes=40_000)
    parts = sorted(tmp_path.glob("small.tar.*"))
    parts[-2].write_bytes(parts[-3].read_bytes())
    assert f"{parts[-2].name} holds part {len(parts) - 2}" in refusal_of(parts[0])


def test_a_part_cut_short_is_named(tmp_path):
    parts = _parts(tmp_path)
    parts[1].write_bytes(parts[1].read_bytes()[:-1])
    assert f"{parts[1].name} was cut short" in refusal_of(parts[0])


def test_parts_of_an_earlier_packing_are_gone(tmp_path):
    _parts(tmp_path, 40_000)
    cases.pack(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["small.tar"]


def test_parts_too_small_for_the_list_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(UsageError, match="first part"):
        cases.pack(tmp_path, part_size_bytes=600)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_what_its_digest_says_is_not_packed(tmp_path):
    with pytest.raises(VerificationFailed, match="should have"):
        cases.pack(tmp_path, [Item("tree/x", b"abc", 3, sha256="0" * 64)])
    assert not list(tmp_path.iterdir())


_MEASURE = """
import pathlib, sys
sys.path.insert(0, {root!r})
from repro.packing import verify_bundle
from repro.packing.writer import Item, write_bundle
from tests.unit import _bundle_cases as cases
from tests.unit._forged_bundles import ODD_MEMBERS, ODD_NAMES, edited
folder = pathlib.Path({folder!r})
big = folder / "big"
with open(big, "wb") as stream:
    stream.truncate(300_000_000)
items = [*cases.files(), *(Item.of_file(f"tree/big/{{n}}", big) for n in range(2))]
path = cases.pack(folder, items)
assert verify_bundle(path, [cases.signer().fingerprint]).verified
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak[0].split()[1])
"""


def test_memory_stays_flat_whatever_the_size(tmp_path):
    root = Path(__file__).resolve().parent.parent.parent
    script = _MEASURE.format(root=str(root), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    for path in tmp_path.iterdir():
        path.unlink()
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150_000  # KiB, for 600 MB: a megabyte a thread beside the program itself
