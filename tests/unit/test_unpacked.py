"""What executes is held to its digest: layers while they are unpacked, an unpacked image before it is used."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
import threading
from pathlib import Path

import pytest
from test_layers import layer, two_layers

from repro.base.errors import VerificationFailed
from repro.base.paths import Paths
from repro.container.image import Image, Layer
from repro.images import layer_trees, rootfs
from repro.images.oci import compute_image
from repro.images.rootfs import Roots, chain_id


@pytest.fixture
def unpacked(tmp_path: Path) -> tuple[Paths, Image, Path]:
    paths, image = Paths(tmp_path), two_layers(tmp_path)
    return paths, image, Roots(paths).of(image)


def change_content(root: Path) -> None:
    """Another content of the same size, its time put back."""
    path = root / "etc" / "kept"
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(root: Path) -> None:
    """Another file in its place, with its size and times."""
    path = root / "etc" / "kept"
    before = path.stat()
    other = root / "etc" / "other"
    other.write_bytes(b"x" * before.st_size)
    other.chmod(before.st_mode)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


def retarget(root: Path) -> None:
    (root / "lib").unlink()
    (root / "lib").symlink_to("/somewhere")


def link_in_place_of_a_file(root: Path) -> None:
    (root / "etc" / "kept").rename(root.parent / "elsewhere")
    (root / "etc" / "kept").symlink_to(root.parent / "elsewhere")


def link_in_place_of_the_root(root: Path) -> None:
    shutil.copytree(root, root.parent / "elsewhere", symlinks=True)
    shutil.rmtree(root)
    root.symlink_to("elsewhere")


CHANGES = {
    "root": link_in_place_of_the_root,
    "no root": shutil.rmtree,
    "content": change_content,
    "another file": replace,
    "mode": lambda root: (root / "etc" / "kept").chmod(0o755),
    "folder's mode": lambda root: (root / "etc").chmod(0o700),
    "added": lambda root: (root / "etc" / "sitecustomize.py").write_text("import os"),
    "added folder": lambda root: (root / "etc" / "new").mkdir(),
    "removed": lambda root: (root / "etc" / "kept").unlink(),
    "link's target": retarget,
    "link for a file": link_in_place_of_a_file,
    "fifo for a file": lambda root: ((root / "etc" / "kept").unlink(), os.mkfifo(root / "etc" / "kept")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_unpacked_image_is_refused_and_names_the_path(unpacked, change: str):
    paths, image, root = unpacked
    CHANGES[change](root)
    with pytest.raises(VerificationFailed, match=re.escape(str(root))) as caught:
        Roots(paths).of(image)
    assert str(root.parent) in caught.value.hint


def test_after_the_advice_it_is_unpacked_anew(unpacked):
    paths, image, root = unpacked
    change_content(root)
    shutil.rmtree(root.parent)
    assert Roots(paths).of(image) == root
    assert (root / "etc" / "kept").read_bytes() == b"below"


def test_a_copied_checkout_is_hashed_once_and_then_known(unpacked, tmp_path: Path, monkeypatch):
    paths, image, root = unpacked
    copy = Paths(tmp_path / "copy")
    shutil.copytree(paths.rootfs, copy.rootfs, symlinks=True)
    assert Roots(copy).of(image) == copy.rootfs / root.parent.name / "root"
    monkeypatch.setattr("repro.images.unpacked.sha256_file", lambda path: pytest.fail(f"{path} was hashed again"))
    Roots(copy).of(image)


def test_a_folder_of_an_earlier_version_says_nothing_of_what_it_holds_and_is_unpacked_anew(tmp_path: Path):
    paths, image = Paths(tmp_path), two_layers(tmp_path)
    old = paths.rootfs / chain_id(image.layers)
    (old / "etc").mkdir(parents=True)
    (old / "etc" / "kept").write_text("who knows")
    root = Roots(paths).of(image)
    assert (root / "etc" / "kept").read_bytes() == b"below"
    assert sorted(path.name for path in old.iterdir()) == ["manifest.json", "root"]


def test_a_folder_that_another_process_has_just_put_in_place_is_not_taken_away(tmp_path: Path, monkeypatch):
    paths, image = Paths(tmp_path), two_layers(tmp_path)
    (paths.rootfs / chain_id(image.layers)).mkdir(parents=True)
    given, remove = [], rootfs.remove_tree
    other = threading.Thread(target=lambda: given.append(os.stat(Roots(paths).of(image)).st_ino))

    def while_another_comes(folder):
        monkeypatch.setattr(rootfs, "remove_tree", remove)
        other.start()
        other.join(1)
        remove(folder)

    monkeypatch.setattr(rootfs, "remove_tree", while_another_comes)
    root = Roots(paths).of(image)
    other.join(60)
    assert given == [os.stat(root).st_ino]


@pytest.mark.parametrize("damage", ["one bit", "a byte behind the end", "truncated"])
def test_a_layer_that_is_not_its_digest_is_never_unpacked_to_be_used(tmp_path: Path, damage: str):
    paths, image = Paths(tmp_path), two_layers(tmp_path)
    blob = image.layers[0].path
    data = bytearray(blob.read_bytes())
    if damage == "one bit":
        data[data.index(b"below" + bytes(16))] ^= 1
    blob.write_bytes(bytes(data) + b"x" if damage == "a byte behind the end" else bytes(data[: -512 * 4 or None]))
    if damage == "one bit":
        blob.write_bytes(bytes(data))
    with pytest.raises(VerificationFailed, match=image.layers[0].name):
        Roots(paths).of(image)
    assert [path.name for path in paths.rootfs.iterdir()] == ["layers"]
    assert not (paths.rootfs / "layers" / image.layers[0].diff_id[7:]).exists()


class Elsewhere(Paths):
    """As an audit has it: another folder for unpacked images."""

    @property
    def rootfs(self) -> Path:
        return self.artifacts / "audit"


def test_an_audit_with_a_folder_of_its_own_unpacks_afresh_whatever_lies_there(unpacked):
    paths, image, root = unpacked
    change_content(root)
    fresh = Roots(Elsewhere(paths.root)).of(image)
    assert fresh != root
    assert (fresh / "etc" / "kept").read_bytes() == b"below"


def test_an_audit_refuses_a_layer_that_is_not_its_digest(unpacked):
    paths, image, _ = unpacked
    image.layers[1].path.write_bytes(image.layers[1].path.read_bytes().replace(b"above", b"ABOVE"))
    with pytest.raises(VerificationFailed, match=image.layers[1].name):
        Roots(Elsewhere(paths.root)).of(image)


def test_what_a_killed_process_was_unpacking_is_removed(tmp_path: Path):
    paths, image = Paths(tmp_path), two_layers(tmp_path)
    (paths.rootfs / ".tmp.unpack.dead" / "root").mkdir(parents=True)
    Roots(paths).of(image)
    assert {path.name for path in paths.rootfs.iterdir()} == {chain_id(image.layers), "layers"}


def test_something_large_is_announced_before_it_is_unpacked(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("repro.images.rootfs._LARGE_BYTES", 1)
    said: list[str] = []
    image = compute_image("one", "amd64", [layer(tmp_path, "big", lambda tree: tree.file("a", b"x"))], {}, "3", "x")
    Roots(Paths(tmp_path), said.append).of(image)
    assert len(said) == 1
    assert "unpacking image one: layer 1 of 1" in said[0]


def test_one_image_is_given_while_another_is_unpacked(tmp_path: Path, monkeypatch):
    small = compute_image("small", "amd64", [layer(tmp_path, "a", lambda tree: tree.file("a", b"x"))], {}, "3", "x")
    large = compute_image("large", "amd64", [layer(tmp_path, "b", lambda tree: tree.file("b", b"x"))], {}, "3", "x")
    roots = Roots(Paths(tmp_path))
    began, go_on = threading.Event(), threading.Event()
    put_together = rootfs._put_together

    def slowly(image, *more):
        if image is large:
            began.set()
            assert go_on.wait(60)
        return put_together(image, *more)

    monkeypatch.setattr(rootfs, "_put_together", slowly)
    thread = threading.Thread(target=roots.of, args=(large,))
    thread.start()
    try:
        assert began.wait(60)
        given = threading.Thread(target=roots.of, args=(small,), daemon=True)
        given.start()
        given.join(30)
        assert not given.is_alive()
    finally:
        go_on.set()
        thread.join()


def _tar(*members: tuple[str, dict[str, object]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, fields in members:
            info = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info)
    return stream.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        [("a", {"pax_headers": {"GNU.sparse.map": "x,y", "GNU.sparse.size": "268435456"}})],
        [("a", {"pax_headers": {"GNU.sparse.map": "0,0", "GNU.sparse.size": "268435456"}})],
        [("a", {"type": b"2", "linkname": "b", "pax_headers": {"linkpath": "x\0y"}})],
        [("a", {"type": b"5", "mode": 0o755}), ("a", {})],
        [("a", {"type": b"5", "mode": 0o755}), ("a/x", {}), ("a", {"type": b"2", "linkname": ".."}), ("a/y", {})],
        [("a", {"type": b"2", "linkname": ".."}), ("a", {"type": b"5", "mode": 0o755}), ("a/y", {})],
    ],
    ids=[
        "sparse, no numbers",
        "sparse, large",
        "a link to NUL",
        "a file over a folder",
        "a link over a folder in use",
        "a folder over a link",
    ],
)
def test_a_layer_that_tar_itself_stumbles_over_is_refused_as_altered(tmp_path: Path, members):
    blob = tmp_path / "layer.tar"
    blob.write_bytes(_tar(*members))
    altered = Layer("altered", "debs", "sha256:" + "0" * 64, blob.stat().st_size, blob, "sha256:" + "0" * 64)
    with open(blob, "rb") as stream, pytest.raises(VerificationFailed):
        (tmp_path / "root").mkdir()
        layer_trees._unpack(altered, stream, tmp_path / "root", {})
    assert not (tmp_path / "y").exists()
    assert sum(path.lstat().st_size for path in (tmp_path / "root").rglob("*") if path.is_file()) < 1 << 20


def sharing(tmp_path: Path) -> tuple[Image, Image]:
    """Two images over one layer; the second one's own layer brings another content for one of its files."""
    pair = two_layers(tmp_path)
    return compute_image("lower", "amd64", pair.layers[:1], {}, "3.11", "the lower layer alone"), pair


def test_images_with_a_layer_in_common_have_its_files_in_common_and_none_that_another_layer_brings(tmp_path: Path):
    lower, pair = sharing(tmp_path)
    roots = Roots(Paths(tmp_path))
    below, above = roots.of(lower), roots.of(pair)
    assert os.stat(below / "etc" / "kept").st_ino == os.stat(above / "etc" / "kept").st_ino
    assert (below / "etc" / "replaced").read_bytes() != (above / "etc" / "replaced").read_bytes() == b"above"
    for image, root in ((lower, below), (pair, above)):
        assert Roots(Paths(tmp_path)).of(image) == root


def test_a_shared_file_that_somebody_changes_is_refused_in_every_image_that_has_it_and_in_no_later_one(tmp_path: Path):
    lower, pair = sharing(tmp_path)
    paths = Paths(tmp_path)
    roots = Roots(paths)
    below, above = roots.of(lower), roots.of(pair)
    change_content(below)
    for image, root in ((lower, below), (pair, above)):
        with pytest.raises(VerificationFailed, match=re.escape(str(root / "etc" / "kept"))):
            Roots(paths).of(image)
    shutil.rmtree(above.parent)
    assert (Roots(paths).of(pair) / "etc" / "kept").read_bytes() == b"below"  # its layer is held to its manifest too
    with pytest.raises(VerificationFailed, match="etc/kept"):
        Roots(paths).of(lower)


def test_where_files_cannot_be_linked_each_image_has_its_own(tmp_path: Path, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", refused)
    lower, pair = sharing(tmp_path)
    roots = Roots(Paths(tmp_path))
    one, two = roots.of(lower) / "etc" / "kept", roots.of(pair) / "etc" / "kept"
    assert one.read_bytes() == two.read_bytes() == b"below" and one.stat().st_ino != two.stat().st_ino
    assert one.stat().st_mode == two.stat().st_mode
    Roots(Paths(tmp_path)).of(pair)


def test_a_layer_s_folder_that_another_process_has_just_put_in_place_is_taken(tmp_path: Path, monkeypatch):
    lower, pair = sharing(tmp_path)
    paths = Paths(tmp_path)
    unpack = layer_trees.unpack_layer

    def while_another_does(layer, root):
        monkeypatch.setattr(layer_trees, "unpack_layer", unpack)
        Roots(paths).of(lower)
        return unpack(layer, root)

    monkeypatch.setattr(layer_trees, "unpack_layer", while_another_does)
    root = Roots(paths).of(pair)
    assert (root / "etc" / "kept").read_bytes() == b"below" and Roots(paths).of(pair) == root
