"""Why two things differ: each planted cause is named, equal sides give nothing, and hostile inputs are bounded."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import struct
import tarfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from _audit_cases import make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layer_tars import unpacked

from repro.audit import commands
from repro.audit.claims import PROVEN, REFUTED, UNVERIFIED
from repro.audit.explain import causes, sides
from repro.audit.explain.command import explain
from repro.audit.explain.comparison import IRREPRODUCIBLE, OPEN, SUBSTITUTED, compare
from repro.audit.explain.contents import places
from repro.audit.explain.files import Looking, difference
from repro.audit.explain.kept import Kept
from repro.audit.explain.sides import TarSide
from repro.base.errors import NotPlain, UsageError, VerificationFailed
from repro.base.files import sha256_file
from repro.base.paths import Paths
from repro.container.image import Layer
from repro.images.oci import compute_image
from tests.planted_causes import npy, plant, zipped
from tests.unit._record_cases import identify

ROOT = Path(__file__).resolve().parent.parent.parent


def tar(path: Path, files: dict[str, bytes], **header) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in header.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))
    return path


def elf(code: bytes, identity: bytes = b"\x01" * 20) -> bytes:
    """A program of 64 bits whose sections .text and .note.gnu.build-id hold what is given."""
    names = b"\0.text\0.note.gnu.build-id\0.shstrtab\0"
    places_of = [(0, 0), (64, len(code)), (64 + len(code), len(identity)), (64 + len(code) + len(identity), len(names))]
    body = code + identity + names
    table_at = 64 + len(body)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 64, 0, table_at, 0, 64, 0, 0, 64, 4, 3)
    offsets = [0, 1, 7, 26]
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, start, size, 0, 0, 1, 0)
        for name, (start, size) in zip(offsets, places_of)
    )
    return head + body + table


def explained(tmp_path: Path, one: Path, two: Path):
    (part,) = explain(Paths(tmp_path), str(one), str(two)).parts
    return {finding.path: finding for finding in part.findings}


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path):
    (tmp_path / "conf" / "locks").mkdir(parents=True)


def why(name: str, one: bytes, two: bytes):
    return difference(name, io.BytesIO(one), io.BytesIO(two), Looking())


def test_each_of_fifteen_planted_causes_is_named_in_its_own_file(tmp_path: Path):
    layer = tar(tmp_path / "layer", {"usr/bin/program": elf(b"\x90" * 64), "var/a": b"1", "var/b": b"2"}, mtime=1)
    wanted = plant(layer, "usr/bin/program", tmp_path / "A.tar", tmp_path / "B.tar")
    found = explained(tmp_path, tmp_path / "A.tar", tmp_path / "B.tar")
    assert {path: finding.causes for path, finding in found.items()} == {
        path: (cause,) for path, cause in wanted.items()
    }
    assert "section .text" in found["usr/bin/program"].where
    assert "value 0: 0.300000012 and 0.300000042" in found["opt/planted/weights.npy"].where
    explanation = explain(Paths(tmp_path), str(tmp_path / "A.tar"), str(tmp_path / "B.tar"))
    assert {claim.key: claim.status for claim in explanation.claims()} == {
        "the layer: equal": REFUTED, "the layer: not substituted": UNVERIFIED,
    }  # fmt: skip
    told = {path for path, finding in found.items() if finding.judgement == IRREPRODUCIBLE}
    assert set(wanted) - told == {f"opt/planted/{name}" for name in ("status", "link", "added")} | {"usr/bin/program"}


def test_equal_layers_and_a_layer_and_its_copy_give_no_difference(tmp_path: Path):
    one = tar(tmp_path / "A", {"a": b"1"})
    shutil.copy(one, tmp_path / "B")
    explanation = explain(Paths(tmp_path), str(one), str(tmp_path / "B"))
    assert not explanation.differ and list(explanation.lines()) == ["no difference"]
    assert [(claim.key, claim.status) for claim in explanation.claims()] == [("A and B: equal", PROVEN)]


def test_an_archive_in_another_form_is_no_equal_archive(tmp_path: Path):
    one = tar(tmp_path / "A", {"a": b"1"})
    (tmp_path / "B").write_bytes(one.read_bytes() + bytes(10240))
    found = explained(tmp_path, one, tmp_path / "B")
    assert found["the archive itself"].causes == (causes.FORM,) and "byte 10240" in found["the archive itself"].where


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=3000), st.data())
def test_any_changed_byte_is_found_at_its_place(data, draws):
    at = draws.draw(st.integers(0, len(data) - 1))
    changed = data[:at] + bytes([data[at] ^ draws.draw(st.integers(1, 255))]) + data[at + 1 :]
    found = places(io.BytesIO(data), io.BytesIO(changed))
    assert [place.offset for place in found] == [at]
    assert why("any", data, changed) is not None and why("any", data, data) is None


_TREES = st.dictionaries(
    st.text("ab/é.", min_size=1, max_size=4).filter(lambda name: name.strip("./")),
    st.tuples(st.binary(max_size=3), st.sampled_from((0o644, 0o755)), st.integers(0, 2)),
    max_size=5,
)


@settings(max_examples=60)
@given(_TREES, _TREES)
def test_exactly_the_paths_that_differ_are_listed(first, second):
    listed, known = [], []
    for tree in (first, second):
        stream, held = io.BytesIO(), {}
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name in sorted(tree):
                path = "/".join(part for part in name.split("/") if part not in ("", "."))
                data, mode, mtime = held[path] = tree[name]
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = len(data), mode, mtime
                archive.addfile(info, io.BytesIO(data))
        listed.append(TarSide(stream, 0, len(stream.getvalue()), "a tar"))
        known.append(held)
    moved = {finding.path for finding in compare(*listed) if finding.causes == (causes.ORDER,)}
    found = {finding.path for finding in compare(*listed)} - moved
    assert found == {path for path in {*known[0], *known[1]} if known[0].get(path) != known[1].get(path)}


@pytest.mark.parametrize(
    ("name", "one", "two", "cause"),
    [
        ("a.gz", zipped(b"text\n", 1), zipped(b"text\n", 2), causes.COMPRESSION),
        ("a.gz", zipped(b"text\n" * 999, 1, 1), zipped(b"text\n" * 999, 1, 9), causes.COMPRESSION),
        ("a.gz", zipped(b"made 2026-01-02\n", 1), zipped(b"made 2026-01-03\n", 1), causes.TIME),
        ("lines", b"b\na\n", b"a\nb\n", causes.ORDER),
        ("lines", b"B\na\n", b"a\nB\n", causes.LOCALE),
        ("text", "é\n".encode(), "é\n".encode("latin-1"), causes.LOCALE),
        ("text", b"0,5 s\n", b"0.5 s\n", causes.LOCALE),
        ("text", b"loss 0.12345678\n", b"loss 0.12345679\n", causes.FLOAT),
        ("text", b"numpy 1.26.4\n", b"numpy 1.26.5\n", causes.VERSION),
        ("lib.a", b"!<arch>\n" + b"a.o/".ljust(16) + b"1700000000  " + b"0     0     100644  1         `\nx\n",
         b"!<arch>\n" + b"a.o/".ljust(16) + b"1700000009  " + b"0     0     100644  1         `\nx\n", causes.TIME),
        ("prog", elf(b"\x90" * 32), elf(b"\x90" * 32, b"\x02" * 20), causes.RANDOM),
        ("prog", elf(b"\0/build/one/x.c\0\0"), elf(b"\0/home1/ann/x.c\0\0"), causes.PATH),
        ("prog", elf(b"\0/build/one/x.c\0\0"), elf(b"\0/home/elsewhere/x.c\0\0"), causes.PATH),
        ("data", b"\0\1\2\3", b"\0\1\2\4", causes.FOREIGN),
        ("text", b"yes\n", b"no\n", causes.FOREIGN),
        ("w.npy", npy(struct.pack("<2f", 1, 2)), npy(struct.pack("<2f", 1, 3)), causes.FOREIGN),
    ],
)  # fmt: skip
def test_a_cause_is_read_from_what_stands_at_the_difference(name, one, two, cause):
    assert why(name, one, two).causes == (cause,)


def test_foreign_bytes_behind_a_time_are_not_taken_for_a_time():
    one = b"\0made 2026-01-02\0" + bytes(100) + b"\x11\x22"
    two = b"\0made 2026-01-03\0" + bytes(100) + b"\x33\x44"
    assert why("data", one, two).causes == (causes.FOREIGN,)
    many = [b"\0".join(b"%04d-01-02 10:00:00" % (year + shift) for year in range(200)) + end
            for shift, end in ((1, b"\0\x11"), (2, b"\0\x22"))]  # fmt: skip
    found = why("data", *many)
    assert found.causes == (causes.TIME,) and "first 64 differing places" in found.doubt


def test_a_file_of_another_kind_and_a_version_in_a_path_are_named(tmp_path: Path):
    one = tar(tmp_path / "A", {"p/x-1.0.dist-info/M": b"1", "p/Ő.crt": b"c", "p/tmpab12cd": b"", "k": b""})
    two = tar(tmp_path / "B", {"p/x-1.1.dist-info/M": b"1", "p/?.crt": b"c", "p/tmpzz99yy": b""})
    with tarfile.open(two, "a") as archive:
        folder = tarfile.TarInfo("k")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    found = explained(tmp_path, one, two)
    assert {found[path].causes for path in found if "dist-info" in path} == {(causes.VERSION,)}
    assert {found[path].causes for path in found if path.endswith(".crt")} == {(causes.LOCALE,)}
    assert {found[path].causes for path in found if "tmp" in path} == {(causes.RANDOM,)}
    assert causes.KIND in found["k"].causes
    other = tar(tmp_path / "C", {"p/?.crt": b"another certificate", "p/tmpzz99yy": b"x"})
    found = explained(tmp_path, one, other)
    for path in ("p/Ő.crt", "p/?.crt", "p/tmpab12cd"):  # a name explains nothing where the content is another
        assert (found[path].causes, found[path].judgement) == ((causes.MISSING,), OPEN)


def test_locked_sources_tell_a_substituted_file_from_a_careless_build(tmp_path: Path):
    truth = {"bin/x": b"\1\2", "etc/made": b"2026-01-01\n"}
    paths = [
        tar(tmp_path / "T", truth, mtime=1),
        tar(tmp_path / "A", truth, mtime=2),
        tar(tmp_path / "B", {"bin/x": b"\1\3", "etc/made": b"2026-01-02\n", "new.pyc": b"c", "new": b"n"}, mtime=2),
    ]
    with ExitStack() as stack:
        streams = [stack.enter_context(path.open("rb")) for path in paths]
        true, one, two = (TarSide(s, 0, p.stat().st_size, p.name) for s, p in zip(streams, paths))
        held = {finding.path: finding for finding in compare(one, two, true)}
        assert {finding.judgement for finding in compare(true, one, true)} == {IRREPRODUCIBLE}  # another time alone
        assert {path: item.judgement for path, item in held.items()} == {
            "bin/x": SUBSTITUTED, "etc/made": SUBSTITUTED, "new": SUBSTITUTED, "new.pyc": OPEN,
        }  # fmt: skip
        assert held["bin/x"].reason == "B does not have what the locked sources hold"
        free = {finding.path: finding.judgement for finding in compare(one, two)}
    assert (free["etc/made"], free["bin/x"]) == (IRREPRODUCIBLE, OPEN)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: b"no tar" * 200, "is not a plain tar"),
        (lambda: zipped(b"x", 1), "is not a plain tar"),
        (lambda: _header(b"x", b"L", 1 << 30), "a header of a tar takes more"),
        (lambda: _header(b"x", b"0", 1 << 40), "does not fit into the file"),
        (lambda: _header(b"x", b"x", 64) * 3000, "is not a plain tar|takes more|more than"),
    ],
)
def test_a_hostile_tar_is_refused_by_name(tmp_path: Path, made, message):
    (tmp_path / "A").write_bytes(made())
    tar(tmp_path / "B", {"a": b""})
    with pytest.raises(VerificationFailed, match=message):
        explain(Paths(tmp_path), str(tmp_path / "A"), str(tmp_path / "B"))


def _header(name: bytes, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name.decode())
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def test_members_are_counted_and_bombs_are_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bombs = [zipped(bytes(40 << 20) + end, 1) for end in (b"a", b"b")]
    assert why("bomb.gz", *bombs).causes == (causes.FOREIGN,)  # not looked into
    monkeypatch.setattr(sides, "MOST_MEMBERS", 3)
    many = tar(tmp_path / "A", {str(n): b"" for n in range(4)})
    with pytest.raises(VerificationFailed, match="more than 3 members"):
        explain(Paths(tmp_path), str(many), str(tar(tmp_path / "B", {"a": b""})))


def test_links_and_pipes_are_not_followed_or_waited_for(tmp_path: Path):
    one = tar(tmp_path / "A", {"a": b""})
    (tmp_path / "link").symlink_to(one)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(NotPlain):
            explain(Paths(tmp_path), str(one), str(tmp_path / name))
    for name in ("X", "Y"):
        (tmp_path / name).mkdir()
    (tmp_path / "X" / "f").symlink_to("/etc/passwd")
    with pytest.raises(NotPlain):
        explain(Paths(tmp_path), str(tmp_path / "X"), str(tmp_path / "Y"))
    with pytest.raises(UsageError, match="no such file"):
        explain(Paths(tmp_path), str(one), "0" * 64)


def test_a_name_cannot_command_the_terminal(tmp_path: Path):
    one = tar(tmp_path / "A", {"a\x1b[2J\u202e": b"\x1b[2J1"})
    two = tar(tmp_path / "B", {"a\x1b[2J\u202e": b"\x1b[2J2"})
    text = "\n".join(explain(Paths(tmp_path), str(one), str(two)).lines())
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[2J" in text


def test_two_results_are_explained_to_the_frame(tmp_path: Path):
    values = struct.pack("<4f", 0.5, 0.25, 0.125, 0.75)
    for name, data in (("X", values), ("Y", struct.pack("<f", 0.50000006) + values[4:])):
        (tmp_path / name / "out").mkdir(parents=True)
        (tmp_path / name / "result.json").write_text("{}")
        (tmp_path / name / "out" / "f.ark").write_bytes(b"utt \0BFM \4\2\0\0\0\4\2\0\0\0" + data)
    found = explained(tmp_path, tmp_path / "X", tmp_path / "Y")
    assert found["f.ark"].causes == (causes.FLOAT,) and "utterance utt, frame 0, value 0" in found["f.ark"].where


def test_two_runs_are_explained_stage_by_stage(tmp_path: Path):
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    score = next(stage for stage in runs[1].record.stages if stage.name == "score")
    document = json.loads((runs[1].run / "record.json").read_bytes())
    stage = next(item for item in document["stages"] if item["key"] == score.key)
    stage["outputs"]["digest"] = "0" * 64
    (runs[1].run / "record.json").write_text(json.dumps(document))
    place = runs[1].store / score.fingerprint[:2] / score.fingerprint / "out" / "score.json"
    place.chmod(0o644)
    place.write_bytes(place.read_bytes().replace(b"cer", b"CER", 1))
    (part,) = explain(Paths(ROOT), str(runs[0].run), str(runs[1].run)).parts  # the record may contradict itself
    assert part.name == f"output of stage {score.key}" and [finding.path for finding in part.findings] == ["score.json"]
    assert not explain(Paths(ROOT), str(runs[0].run), str(runs[0].run)).differ
    document["request"]["loop"] += 1
    identify(document)
    (runs[1].run / "record.json").write_text(json.dumps(document))
    first = explain(Paths(ROOT), str(runs[0].run), str(runs[1].run)).parts[0]
    assert first.name == "what was asked and given" and "request.loop" in first.findings[0].where


def _saved(path: Path, layer: Path, env: str) -> Path:
    config = json.dumps({"config": {"Env": [env]}, "rootfs": {"diff_ids": ["sha256:" + sha256_file(layer)]}}).encode()
    listed = json.dumps([{"Config": "config.json", "RepoTags": ["x/base:1"], "Layers": ["layer.tar"]}]).encode()
    return tar(path, {"manifest.json": listed, "config.json": config, "layer.tar": layer.read_bytes()})


def test_saved_images_are_explained_by_settings_and_layers(tmp_path: Path):
    one = _saved(tmp_path / "A", tar(tmp_path / "a", {"f": b"1\n"}), "X=1")
    two = _saved(tmp_path / "B", tar(tmp_path / "b", {"f": b"2\n"}), "X=2")
    parts = {part.name: part for part in explain(Paths(tmp_path), str(one), str(two)).parts}
    assert any("Env" in finding.where for finding in parts["settings of image x/base:1"].findings)
    assert [finding.path for finding in parts["layer 1 of image x/base:1"].findings] == ["f"]


def test_images_of_the_layout_are_explained_by_their_digests(tmp_path: Path):
    paths = Paths(tmp_path)
    paths.blobs.mkdir(parents=True)

    def blob(data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        (paths.blobs / digest).write_bytes(data)
        return f"sha256:{digest}"

    manifests = []
    for data in (b"1\n", b"2\n"):
        layers = [blob(tar(tmp_path / "l", {"f": data}).read_bytes()), "sha256:" + data.hex() * 16]
        config = blob(json.dumps({"rootfs": {"diff_ids": layers}}).encode())
        manifests.append(blob(json.dumps({"config": {"digest": config}, "layers": []}).encode()))
    parts = explain(paths, *manifests).parts
    assert [finding.path for part in parts if "layer 1" in part.name for finding in part.findings] == ["f"]
    assert ["the bytes of A are not here" in part.notes for part in parts if "layer 2" in part.name] == [True]
    hostile = blob(json.dumps({"rootfs": {"diff_ids": ["../../etc/passwd"]}}).encode())
    with pytest.raises(VerificationFailed, match="which is no digest"):
        explain(paths, manifests[0], hostile)
    with pytest.raises(UsageError, match="one is an image"):
        explain(paths, manifests[0], str(tar(tmp_path / "x", {"a": b""})))


def test_what_is_written_is_the_same_each_time_and_says_that_they_differ(tmp_path: Path):
    one, two = tar(tmp_path / "A", {"a": b"1"}), tar(tmp_path / "B", {"a": b"2"})
    said = []
    page = commands.Page()
    assert commands.explain(Paths(tmp_path), str(one), str(two), page, said.append)
    (written,) = (tmp_path / "artifacts" / "audits").glob("explain-*/explanation.json")
    first = written.read_bytes()
    assert commands.explain(Paths(tmp_path), str(one), str(two), page, said.append) and written.read_bytes() == first
    assert "the layer: 1 path differs (1 by foreign bytes)" in said[0]


def test_both_sides_of_a_challenged_layer_are_kept_and_explained(tmp_path: Path):
    paths = Paths(tmp_path)
    claimed, built = tar(tmp_path / "C", {"a": b"\1"}), tar(tmp_path / "B", {"a": b"\2"})
    digests = ["sha256:" + sha256_file(path) for path in (claimed, built)]
    paths.blobs.mkdir(parents=True)
    layer = Layer("debs:base", "debs", digests[1], built.stat().st_size, built, "sha256:" + "0" * 64)
    kept = Kept(paths, tmp_path / "page" / "differences")
    assert "are not here to compare with" in kept.layer(layer, digests[0])[0]
    shutil.copy(claimed, paths.blobs / digests[0][7:])
    lines = kept.layer(layer, digests[0])
    assert "substituted: A does not have what the locked sources hold" in "\n".join(lines)
    shutil.copy(built, tmp_path / "T")
    built.unlink()  # as the challenge's scratch folder goes
    folder = tmp_path / "page" / "differences" / "debs-base"
    assert sorted(path.name.partition("-")[0] for path in folder.iterdir()) == ["built", "claimed", "explanation.json"]
    assert {"sha256:" + sha256_file(path) for path in folder.glob("*.tar")} == set(digests)
    (paths.blobs / digests[0][7:]).unlink()
    (paths.blobs / digests[0][7:]).write_bytes(b"damaged")
    layer = dataclasses.replace(layer, path=tmp_path / "T")
    assert "other bytes than" in kept.layer(layer, digests[0])[0]


def test_layers_that_lie_unpacked_alone_are_explained_and_kept_as_tars(tmp_path: Path):
    paths = Paths(tmp_path)
    layers = []
    for name, data in (("claimed", b"\1"), ("built", b"\2")):
        (tmp_path / name).mkdir()
        trees = paths.layer_trees if name == "claimed" else tmp_path / "scratch"
        layer, _ = unpacked(tmp_path / name, lambda tree, data=data: tree.file("a", data), trees)
        layers.append(dataclasses.replace(layer, name="debs:base"))
    claimed, built = layers
    kept = Kept(paths, tmp_path / "page" / "differences")
    assert "substituted: A does not have what" in "\n".join(kept.layer(built, claimed.diff_id))
    folder = tmp_path / "page" / "differences" / "debs-base"
    assert {"sha256:" + sha256_file(path) for path in folder.glob("*.tar")} == {claimed.diff_id, built.diff_id}
    parts = explain(paths, claimed.diff_id, str(built.path)).parts
    assert [finding.path for part in parts for finding in part.findings] == ["a"]
    assert not list(paths.temporary.glob("*")) and not list(paths.oci.glob("**/*"))
    (claimed.tree / "root" / "a").write_bytes(b"damaged")
    assert "a has another content" in kept.layer(built, claimed.diff_id)[0]


def test_both_configs_of_a_challenged_image_are_kept_and_explained(tmp_path: Path):
    paths = Paths(tmp_path)
    claimed, built = (compute_image("base", "amd64", [], {"X": value}, "", "a test") for value in "12")
    kept = Kept(paths, tmp_path / "differences")
    paths.blobs.mkdir(parents=True)
    assert "is not here to compare with" in kept.image(built, claimed.config_digest)[0]
    (paths.blobs / claimed.config_digest[7:]).write_bytes(claimed.config)
    first, last = kept.image(built, claimed.config_digest)
    assert "config.config.Env" in first and "X=1" in first and "X=2" in first and "image-base/" in last
    assert len(list((tmp_path / "differences" / "image-base").iterdir())) == 2
