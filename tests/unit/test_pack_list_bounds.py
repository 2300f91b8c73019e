"""The signed list of a bundle and the bytes that it lists, at their bounds: read, or refused by what and where."""

from __future__ import annotations

import contextlib
import itertools
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.packing.installer import archive as archives
from repro.packing.installer.archive import Archive, Meter, check_bytes
from repro.packing.installer.ed25519 import ed25519_holds
from repro.packing.installer.listing import (
    LIST_NAME,
    Malformed,
    Refused,
    canonical,
    check_paths,
    decoded,
    padding_bytes,
    parsed,
    public_key_of,
    read_listing,
    tar_header,
)
from tests.unit import _bundle_cases as cases

KEY, OTHER = cases.signer(), cases.signer(2)


@pytest.fixture(autouse=True)
def _no_trusted_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_a_signature_of_any_length_but_its_own_or_changed_anywhere_does_not_hold():
    public, message = public_key_of(KEY.public_pem), b"message"
    signature = KEY.sign(message)
    assert ed25519_holds(public, message, signature)
    for place, bit in itertools.product(range(0, 64, 7), (1, 128)):
        changed = bytearray(signature)
        changed[place] ^= bit
        assert not ed25519_holds(public, message, bytes(changed))
    for wrong in (
        (public[:-1], message, signature),
        (public, message, signature[:-1]),
        (public, message, signature + b"x"),
        (public, message + b"x", signature),
        (bytes(32), message, signature),
        (b"\xff" * 32, message, signature),
        (public_key_of(OTHER.public_pem), message, signature),
    ):
        assert not ed25519_holds(*wrong)
    order = 2**252 + 27742317777372353535851937790883648493
    higher = int.from_bytes(signature[32:], "little") + order
    assert not ed25519_holds(public, message, signature[:32] + higher.to_bytes(32, "little")), "a second spelling"
    small = (1).to_bytes(32, "little")  # the neutral point, for which every message has this signature
    assert not ed25519_holds(small, message, small + bytes(32))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(1 - 10**18, 10**18) | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
)
def test_canonical_json_reads_back_and_has_one_spelling(value):
    assert parsed("x", canonical(value), whole_numbers=True) == value
    assert canonical(parsed("x", canonical(value))) == canonical(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1" * 19, None),
        ("1" * 20, "a number of 20 digits"),
        ("-" + "1" * 18, None),
        ("-" + "1" * 19, "20 digits"),
        ("1.5", "1.5 is not a whole number"),
        ("NaN", "NaN is not"),
        ("1e5", "1e5 is not"),
        ("[" * 63 + "]" * 63, None),
        ("[" * 65 + "]" * 65, "the thing is not JSON"),
        ('{"a":' * 65 + "1" + "}" * 65, "the thing is not JSON"),
        ("{", "the thing is not JSON"),
        ("é", "the thing is not JSON"),
        ("[" * 200_000, "the thing is not JSON"),
    ],
)
def test_json_of_a_list_is_bounded(text, told):
    data = text.encode("latin-1")
    if told is None:
        parsed("the thing", data, whole_numbers=True)
        return
    with pytest.raises(Malformed, match=told):
        parsed("the thing", data, whole_numbers=True)
    if text in ("1.5", "1e5"):
        assert parsed("the thing", data) == float(text)


@given(st.binary(max_size=50), st.text("=\n A", min_size=1, max_size=2))
def test_base64_has_one_spelling(data, more):
    import base64

    text = base64.b64encode(data).decode()
    assert decoded("it", text) == data
    for wrong in (text + more, more + text, None, 5):
        if wrong != text and not (isinstance(wrong, str) and wrong == base64.b64encode(data + b"").decode()):
            try:
                found = decoded("it", wrong)
            except Malformed as error:
                assert str(error).startswith("it is not base64")
            else:
                assert base64.b64encode(found).decode() == wrong


LONG = "a" * 240
PATHS = [
    (["a", "b/c", "b/d"], None),
    (["tree/" + "x" * 200], None),
    ([LONG], None),
    ([LONG + "a"], "not portable"),
    (["x" * 255 + "y"], "not portable"),
    (["a."], "not portable"),
    (["a "], "not portable"),
    (["."], "climbs"),
    (["a/../b"], "climbs"),
    (["/a"], "absolute"),
    (["a//b"], "not portable"),
    (["é"], "not portable"),
    ([""], "not portable"),
    (["a\n"], "not portable"),
    (["a", "A"], "twice"),
    (["a/b", "A/c"], "case alone"),
    (["a", "a/b"], "a file and as a folder"),
    (["a/b/c", "a/B/d"], "case alone"),
    (["Made-Here"], "made on the machine"),
    (["tree/x/.git/y"], "made on the machine"),
    (["tree/x/__PyCache__/y"], "made on"),
    (["tree/x/Y.PYC"], "made on"),
    (["tree/artifacts"], "made on"),
    (["tree/artifacts/store/x"], "made on"),
    (["tree/Artifacts/OCI/x"], None),
    (["tree/artifacts/oci/.lock"], "made on"),
    (["tree/.venv-2/x"], "made on"),
    (["tree/.ruff_cache/x"], "made on"),
    (["tree/x/.venv"], None),
    (["tree/conf/site.toml"], "made on"),
    (["tree/data/user.lock.json"], "made on"),
    (["tree/x/conf/site.toml"], None),
    (["x/.git/y"], None),
    (["trees/.git"], None),
]


@pytest.mark.parametrize(("paths", "told"), PATHS)
def test_a_path_is_fit_for_every_machine_and_in_no_place_of_one(paths, told):
    found = check_paths(paths)
    if told is None:
        assert found is None
    else:
        assert told in found and (ascii(paths[-1]) in found or ascii(paths[0]) in found)


def listed(tmp_path, change):
    path = cases.resigned(cases.pack(tmp_path), change, KEY)
    archive = Archive(path)
    archive.close()
    return archive.listing


def at(*way):
    """A change of the list: all of `way` but the last two lead to what is set."""
    *steps, name, value = way

    def change(statement):
        inside = statement
        for step in steps:
            inside = inside[step]
        if value is Ellipsis:
            del inside[name]
        else:
            inside[name] = value

    return change


NOTES = ("subject", 1, "annotations")
MALFORMED = [
    (("_type", "x"), "not a list of format 1"),
    (("predicateType", "x"), "not a list of format 1"),
    (("predicate", "format", 2), "not a list of format 1"),
    (("predicate", "format", True), "not a list of format 1"),
    (("predicate", "more", 1), "predicate has members too few or too many: more"),
    (("predicate", "base", ...), "predicate has members too few or too many: base"),
    (("more", 1), "too many: more"),
    (("predicate", "part_size_bytes", -1), "part_size_bytes is no proper number"),
    (("predicate", "part_size_bytes", True), "part_size_bytes is no"),
    (("predicate", "unpacked_bytes", 1 << 53), "unpacked_bytes is no"),
    (("predicate", "name", "a/b"), "its name is not"),
    (("predicate", "name", "-a"), "its name is not"),
    (("predicate", "name", ".a"), "its name is not"),
    (("predicate", "name", 1), "its name is not"),
    (("predicate", "name", ""), "its name is not"),
    (("predicate", "contents", "licence_notes", "x", 1), "licence notes are no texts"),
    (("predicate", "contents", {}), "not built as a list is"),
    (("predicate", "base", "x"), "its base or commit"),
    (("predicate", "commit", "A" * 40), "its base or commit"),
    (("predicate", "commit", "a" * 65), "its base or"),
    (("subject", {}), "its files are no list"),
    (("subject", 1, "more", 1), "a file of the list has members"),
    (("subject", 1, "name", 5), "name is no text"),
    (("subject", 1, "digest", "sha512", "x"), "its digest has members too few or too many: sha512"),
    (("subject", 1, "digest", "sha256", "A" * 64), "has no proper digest"),
    (("subject", 1, "digest", "sha256", "a" * 63), "has no proper digest"),
    ((*NOTES, "x", 1), "its annotations has members"),
    ((*NOTES, "size_bytes", -1), "no proper size or mode"),
    ((*NOTES, "size_bytes", 1 << 53), "no proper size"),
    ((*NOTES, "size_bytes", True), "no proper size"),
    ((*NOTES, "executable", 1), "no proper size or mode"),
    ((*NOTES, "in_base", None), "no proper size or mode"),
    ((*NOTES, "size_bytes", (1 << 53) - 1), "larger than any disk"),
]


@pytest.mark.parametrize(("way", "told"), MALFORMED, ids=[f"{way[-2:]}" for way, _ in MALFORMED])
def test_a_signed_list_that_is_not_built_as_one_is_refused_with_what_is_wrong(tmp_path, way, told):
    with pytest.raises(Refused) as error:
        listed(tmp_path, at(*way))
    assert error.value.code == 3 and told in error.value.message and error.value.message.startswith(LIST_NAME)


@pytest.mark.parametrize(
    "way", [("predicate", "runs", []), ("predicate", "base", "a" * 64), ("predicate", "part_size_bytes", (1 << 53) - 1)]
)
def test_a_list_at_its_bounds_is_read(tmp_path, way):
    assert listed(tmp_path, at(*way)).about[way[1]] == way[2]


# --- Bytes


def test_progress_is_told_now_and_then_with_share_and_speed(capsys, monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(archives.time, "monotonic", lambda: now_s[0])
    meter = Meter("verifying", 8_000_000)
    for step_s, count in ((4.9, 1_000_000), (0.1, 1_000_000), (4.0, 1_000_000), (1.0, 1_000_000)):
        now_s[0] += step_s
        meter.advance(count)
    assert capsys.readouterr().err.splitlines() == ["verifying: 2 of 8 MB, 0 MB/s", "verifying: 4 of 8 MB, 0 MB/s"]


@pytest.fixture
def parts(tmp_path):
    cases.pack(tmp_path, part_size_bytes=20_000)
    archive = Archive(tmp_path / "small.tar.001")
    yield archive
    archive.close()


@given(st.data())
def test_any_bytes_are_the_same_from_parts_as_from_one_file(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("x")
    sizes = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    content = bytes(range(sum(sizes)))
    archive = Archive.__new__(Archive)
    archive.paths, archive.sizes_bytes, archive._descriptors, archive._ends = [], [], [], []
    archive._lock = archives.threading.Lock()
    with contextlib.closing(archive):  # whatever an example is given up for
        at_byte = 0
        for number, size in enumerate(sizes):
            archive.paths.append(folder / f"p{number}")
            archive.paths[-1].write_bytes(content[at_byte : at_byte + size])
            archive._open(archive.paths[-1])
            at_byte += size
        offset, size = data.draw(st.integers(0, len(content) + 3)), data.draw(st.integers(0, len(content) + 3))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(archives, "CHUNK_BYTES", data.draw(st.integers(1, 9)))
            assert archive.read(offset, size) == content[offset : offset + size]
        if data.draw(st.booleans()) and hasattr(os, "preadv"):
            with pytest.MonkeyPatch.context() as patch:
                patch.delattr(os, "preadv")
                assert archive.read(offset, size) == content[offset : offset + size]
        inside = [number for number, end in enumerate(archive._ends)
                  if offset < end and (end - sizes[number]) < offset + max(size, 1)]  # fmt: skip
    place = archive.place(offset, size)
    if not inside:
        assert place == "behind the last part"
    elif len(inside) == 1:
        assert place == f"in p{inside[0]}"
    else:
        assert place == f"in p{inside[0]} to p{inside[-1]}: one of these {len(inside)}"
    archive.close()


@pytest.mark.parametrize("where", ["header", "content", "padding", "list padding", "end", "behind"])
@pytest.mark.parametrize("chunk_bytes", [archives.CHUNK_BYTES, 512], ids=["at once", "in pieces"])
def test_each_changed_byte_is_named_by_its_file_and_part(parts, where, chunk_bytes, monkeypatch):
    monkeypatch.setattr(archives, "CHUNK_BYTES", chunk_bytes)
    entry = max(parts.listing.entries, key=lambda each: padding_bytes(each.size_bytes))
    head = 512 + len(parts.envelope)
    place = {"header": entry.offset, "content": entry.content, "padding": entry.content + entry.size_bytes,
             "list padding": head, "end": parts.total_bytes - 1, "behind": parts.total_bytes}[where]  # fmt: skip
    number, inside = divmod(place, 20_000)
    path = parts.paths[min(number, len(parts.paths) - 1)]
    data = bytearray(path.read_bytes() + (b"\0" if where == "behind" else b""))
    data[inside if where != "behind" else -1] ^= 1
    path.write_bytes(data)
    archive = Archive(parts.paths[0])
    failures = check_bytes(archive)
    archive.close()
    told = {
        "header": f"{entry.path} (in {path.name}): ",
        "content": f"{entry.path} (in ",
        "padding": "zeros behind it were changed",
        "list padding": f"{LIST_NAME}: the zeros behind it",
        "end": f"{path.name}: the archive's end",
        "behind": f"{path.name} is too long",
    }
    assert any(told[where] in failure for failure in failures) and len(failures) <= 2, failures
    if where == "content":
        assert f"listed is {entry.sha256}" in failures[0]


def test_names_beside_a_bundle_follow_its_own(parts, tmp_path):
    assert parts.beside() == tmp_path / "small.tar.attestations"
    assert parts.part_name(7) == "small.tar.007"
    one = Archive(cases.pack(tmp_path / "one"))
    one.close()
    assert one.beside() == tmp_path / "one" / "small.tar.attestations"


@given(
    st.from_regex(r"[a-z0-9][a-zA-Z0-9 ._+/-]{0,149}(?<!/)", fullmatch=True),
    st.integers(0, 1 << 40) | st.integers((1 << 33) - 2, (1 << 33) + 2),
    st.booleans(),
)
def test_a_header_is_what_any_tar_reads(path, size, executable):
    header = tar_header(path, size, executable=executable)
    mode = 0o755 if executable else 0o644
    whole = tarfile.TarInfo(path)
    whole.size, whole.mtime, whole.mode = size, 1667260800, mode
    assert header == whole.tobuf(tarfile.PAX_FORMAT, "ascii", "strict")
    assert len(header) == (512 if len(path) <= 100 and size < 1 << 33 else 1536)
    if len(header) == 512:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        assert (info.name, info.size, info.mode, info.mtime) == (path, size, mode, 1667260800)
    assert (size + padding_bytes(size)) % 512 == 0 and 0 <= padding_bytes(size) < 512


def test_an_envelope_is_refused_where_it_is_no_list():
    for data in (b"", b"{}", b"[]", canonical({"payload": "", "payloadType": "x", "signatures": []}), b"\xff"):
        with pytest.raises(Refused, match=LIST_NAME) as error:
            read_listing(data)
        assert error.value.code == 3
