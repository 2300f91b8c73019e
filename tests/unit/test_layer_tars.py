"""The tar of a layer made again from its unpacked files: to the byte, or refused, whoever reads it."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import shutil
import tarfile
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.paths import Paths
from repro.container.image import Layer
from repro.images import layer_trees
from repro.images.layer_tars import blob_of, is_here, opened, tar_of
from repro.images.layer_trees import LayerTrees, place, publish_layer
from repro.images.layers.tree import SOURCE_DATE_EPOCH, Tree, tar_chunks
from repro.images.oci import compute_image, docker_archive_stream
from repro.packing.writer import Item

_NAMES = st.one_of(
    st.sampled_from(["a", "b", "a b", "A", "ä", "ä", "-x", "…" * 40, "x" * 101, "'\"", "\udcff", "line\nline", "a."]),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
        lambda name: name not in (".", "..")
    ),
)
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join)
_ENTRIES = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=2000), st.sampled_from([0o644, 0o755, 0o400, 0o4755, 0o000])),
    st.tuples(st.just("folder"), st.just(b""), st.sampled_from([0o755, 0o1777, 0o700, 0o2775])),
    st.tuples(st.just("link"), st.binary(min_size=1, max_size=120).filter(lambda data: b"\0" not in data), st.just(0)),
)


def filled(tree: Tree, entries: dict[str, tuple[str, bytes, int]]) -> None:
    """Each entry that lies in folders; those whose path another file takes are passed over."""
    for path, (kind, data, mode) in sorted(entries.items()):
        above = path
        while above := posixpath.dirname(above):
            if entries.get(above, ("folder",))[0] != "folder":
                break
        if above:
            continue
        if kind == "file":
            tree.file(path, data, mode)
        elif kind == "folder":
            tree.folder(path, mode)
        else:
            tree.symlink(path, os.fsdecode(data))


def as_tarfile_writes(tree: Tree) -> bytes:
    """The tar by the standard library's own writer."""
    whole = io.BytesIO()
    types = {"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}
    with tarfile.open(fileobj=whole, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for path, entry in tree.whole().items():
            info = tarfile.TarInfo(path)
            info.type, info.mtime, info.linkname = types[entry.kind], SOURCE_DATE_EPOCH, entry.target
            info.mode = entry.mode & (0o1777 if entry.kind == "folder" else 0o777)
            data = tree.read(path) or b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return whole.getvalue()


def unpacked(folder: Path, fill, trees: Path | None = None) -> tuple[Layer, bytes]:
    """A layer that lies unpacked alone, and its tar as the standard library writes it."""
    trees = trees or folder / "trees"
    folder.mkdir(parents=True, exist_ok=True)
    tree = Tree(folder / "contents")
    fill(tree)
    data = as_tarfile_writes(tree)
    sha256 = hashlib.sha256(data).hexdigest()
    made = folder / "made"
    made.mkdir()
    manifest = place(tree, made / "root")
    assert manifest is not None
    assert b"".join(tar_chunks(tree.members())) == data
    trees.mkdir(parents=True, exist_ok=True)
    publish_layer(made, manifest, trees / sha256)
    shutil.rmtree(folder / "contents")
    return Layer("debs:x", "debs", f"sha256:{sha256}", len(data), folder / "blobs" / sha256, "", trees / sha256), data


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_PATHS, _ENTRIES, max_size=8))
def test_the_tar_is_made_again_to_the_byte(entries):
    with tempfile.TemporaryDirectory() as name, mock.patch.multiple(os, sync=lambda: None, fsync=lambda _: None):
        layer, data = unpacked(Path(name), lambda tree: filled(tree, entries))
        assert b"".join(tar_of(layer)) == data
        shutil.copytree(layer.tree, Path(name) / "copy", symlinks=True)  # other inodes and times
        shutil.rmtree(layer.tree)
        os.rename(Path(name) / "copy", layer.tree)
        with opened(layer) as stream:
            assert stream.read(700) == data[:700]
        again = LayerTrees(Path(name) / "audit")
        (Path(name) / "root").mkdir()
        again.add_to(Path(name) / "root", layer)  # unpacked of that tar, and put together
        assert blob_of(layer).read_bytes() == data


def plain(tree: Tree) -> None:
    tree.file("etc/name", b"content")
    tree.file("etc/other", b"content")
    tree.symlink("link", "etc/name")
    tree.folder("tmp", 0o1777)


def change_content(root: Path) -> None:
    before = (root / "etc" / "name").stat()
    (root / "etc" / "name").write_bytes(b"CONTENT")
    os.utime(root / "etc" / "name", ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "etc/name has another content": change_content,
    "etc/name has another kind or mode": lambda root: (root / "etc" / "name").chmod(0o600),
    "tmp has another kind or mode": lambda root: (root / "tmp").chmod(0o777),
    "etc/name is missing": lambda root: (root / "etc" / "name").unlink(),
    "etc/added was not unpacked": lambda root: (root / "etc" / "added").touch(),
    "link has another content": lambda root: ((root / "link").unlink(), (root / "link").symlink_to("etc/other")),
    "etc/name is no file, folder or link": lambda root: (
        (root / "etc" / "name").unlink(), os.mkfifo(root / "etc" / "name")),
}  # fmt: skip


def left_unread(layer: Layer) -> None:
    with opened(layer) as stream:
        stream.read(1)


READERS = {
    "the tar": lambda layer, _: list(tar_of(layer)),
    "a stream": lambda layer, _: left_unread(layer),
    "a blob": lambda layer, _: blob_of(layer),
    "an archive for an engine": lambda layer, _: list(
        docker_archive_stream([compute_image("x", "amd64", [layer], {}, "3", "x")])
    ),
    "a bundle": lambda layer, _: Item.of_layer("tree/x", layer).content(),
    "an audit's own folder": lambda layer, folder: LayerTrees(folder / "audit").add_to(folder / "root", layer),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_file_is_refused_and_named(tmp_path: Path, what: str):
    layer, _ = unpacked(tmp_path, plain)
    CHANGES[what](layer.tree / "root")
    with pytest.raises(VerificationFailed, match=f"layer debs:x: .*{what}") as caught:
        list(tar_of(layer))
    assert f"remove {layer.tree} and run `invoke images.build`" in caught.value.hint


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gets_the_bytes_of_the_digest_or_an_error_and_leaves_nothing(tmp_path: Path, reader: str):
    layer, _ = unpacked(tmp_path, plain)
    (tmp_path / "root").mkdir()
    READERS[reader](layer, tmp_path)
    for place_ in (tmp_path / "blobs", tmp_path / "audit"):
        shutil.rmtree(place_, ignore_errors=True)
    change_content(layer.tree / "root")
    with pytest.raises(VerificationFailed, match="layer debs:x"):
        READERS[reader](layer, tmp_path)
    left = [path for place_ in ("blobs", "audit") for path in (tmp_path / place_).glob("*")]
    assert left == []
    shutil.rmtree(layer.tree)
    assert not is_here(layer)
    with pytest.raises(CouldNotRun, match="layer debs:x is not here"):
        READERS[reader](layer, tmp_path)


def test_another_manifest_does_not_make_other_files_the_layer(tmp_path: Path):
    """Somebody who writes the folder can write its manifest and states too: then the digest differs."""
    layer, _ = unpacked(tmp_path, plain)
    other, _ = unpacked(
        tmp_path / "other", lambda tree: (plain(tree), tree.file("etc/name", b"CONTENT")), tmp_path / "t"
    )
    shutil.rmtree(layer.tree)
    os.rename(other.tree, layer.tree)
    with pytest.raises(VerificationFailed, match=f"layer debs:x at .* has the digest {other.diff_id}, not"):
        list(tar_of(layer))


def test_a_file_that_changes_while_the_tar_is_made_is_refused(tmp_path: Path, monkeypatch):
    layer, _ = unpacked(tmp_path, plain)
    chunks = tar_of(layer)
    next(chunks)
    (layer.tree / "root" / "etc" / "name").write_bytes(b"longer content")
    with pytest.raises(VerificationFailed, match="does not have the 7 bytes"):
        list(chunks)


@pytest.mark.parametrize(
    "hostile",
    [
        lambda tree: tree.file("a/../../x", b"x"),
        lambda tree: (tree.symlink("a", "/tmp"), tree.file("a/planted", b"x")),
        lambda tree: (tree.file("a", b"x"), tree.file("a/b", b"x")),
    ],
    ids=["leaves", "behind a link", "behind a file"],
)
def test_what_does_not_lie_in_its_folders_is_never_put_in_place(tmp_path: Path, hostile):
    tree = Tree(tmp_path / "contents")
    hostile(tree)
    with pytest.raises(VerificationFailed, match=r"does not lie in its folders|leaves its folder"):
        place(tree, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_where_two_names_are_one_the_contents_are_still_there_for_a_tar(tmp_path: Path, monkeypatch):
    """On a file system that does not tell capitals apart the second one would take the first one's place."""
    tree = Tree(tmp_path / "contents")
    tree.file("Name", b"upper")
    tree.file("name", b"lower")
    before = as_tarfile_writes(tree)
    there = os.path.lexists
    monkeypatch.setattr(layer_trees.os.path, "lexists", lambda path: there(path) or there(Path(path).parent / "Name"))
    assert place(tree, tmp_path / "root") is None
    assert b"".join(tar_chunks(tree.members())) == before


def test_a_full_disk_is_not_taken_for_a_file_system_that_cannot_hold_the_layer(tmp_path: Path, monkeypatch):
    tree = Tree(tmp_path / "contents")
    plain(tree)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        place(tree, tmp_path / "root")


def test_a_checkout_s_own_layer_is_not_unpacked_again(tmp_path: Path, monkeypatch):
    paths = Paths(tmp_path)
    layer, _ = unpacked(tmp_path, plain, paths.layer_trees)
    monkeypatch.setattr(layer_trees, "unpack_layer", lambda *_: pytest.fail("unpacked"))
    inode = (layer.tree / "root" / "etc" / "name").stat().st_ino
    (tmp_path / "root").mkdir()
    LayerTrees(paths.layer_trees).add_to(tmp_path / "root", layer)
    assert (tmp_path / "root" / "etc" / "name").stat().st_ino == inode
