"""Building images from recipes: shared layers once, held to their pins, nothing done twice, without network."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.images import build
from repro.images.arrivals import Arrivals
from repro.images.build import Beside, build_images, describe_missing, files_needed, work_for
from repro.images.layer_index import known_images
from repro.images.layer_tars import blob_of, tar_of
from repro.images.rootfs import Roots
from repro.images.unpacked import manifest_of, read_manifest, write_manifest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("base", "features", "runtime")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A checkout with this one's locks and definitions, in which nothing is fetched or built."""
    for name in ("conf", "docker", "requirements"):
        (tmp_path / name).symlink_to(ROOT / name)
    return Paths(tmp_path)


@pytest.fixture
def filled(monkeypatch) -> list[str]:
    """Layers hold one small file in place of their packages; gives the names of those that were built."""
    built: list[str] = []
    lock = threading.Lock()

    def fill(_self, tree, recipe, _files):
        with lock:
            built.append(recipe.name)
        tree.file("name", f"{recipe.name} {recipe.architecture}".encode())

    monkeypatch.setattr(build, "_files", lambda *_: [])
    monkeypatch.setattr(build._Builder, "_fill", fill)
    return built


def made(paths: Paths, names=NAMES, **more):
    said: list[str] = []
    more.setdefault("check_pins", False)
    images = build_images(paths, names, "amd64", said.append, engine_for=lambda _: pytest.fail("compiles"), **more)
    return images, said


def test_images_share_their_layers_and_each_is_built_once(paths: Paths, filled: list[str]):
    images, said = made(paths)
    wanted = {layer.name for image in images.values() for layer in image.layers}
    assert sorted(filled) == sorted(wanted)
    assert images["features"].layers[:2] == images["base"].layers == images["runtime"].layers[:2]
    assert len([line for line in said if line.startswith("built layer ")]) == len(wanted)
    published = json.loads((paths.oci / "index.json").read_bytes())["manifests"]
    assert {item["digest"] for item in published} == {image.manifest_digest for image in images.values()}


def test_what_is_built_is_not_built_again_and_comes_out_the_same(paths: Paths, filled: list[str]):
    first, _ = made(paths)
    filled.clear()
    second, said = made(paths)
    assert filled == said == []
    assert {name: image.config_digest for name, image in first.items()} == {
        name: image.config_digest for name, image in second.items()
    }
    assert known_images(paths, NAMES, "amd64") == second


def test_a_layer_whose_blob_was_changed_is_built_again(paths: Paths, filled: list[str]):
    images, _ = made(paths)
    layer = images["base"].layers[0]
    blob_of(layer).write_bytes(blob_of(layer).read_bytes().replace(b"amd64", b"AMD64"))
    filled.clear()
    assert set(known_images(paths, NAMES, "amd64")) == set()
    again, _ = made(paths)
    assert filled == [layer.name]
    assert again["base"].config_digest == images["base"].config_digest
    assert not layer.path.exists()


def test_a_layer_lies_on_the_disk_once_and_nothing_else_is_left_of_its_build(paths: Paths, filled: list[str]):
    images, _ = made(paths)
    layers = {layer.diff_id[7:]: layer for image in images.values() for layer in image.layers}
    assert {path.name for path in paths.layer_trees.iterdir()} == set(layers)
    assert not layers.keys() & {path.name for path in paths.blobs.iterdir()}
    for layer in layers.values():
        assert (layer.tree / "root" / "name").read_bytes() == f"{layer.name} amd64".encode()
        assert sum(map(len, tar_of(layer))) == layer.size_bytes


@pytest.mark.parametrize("image_first", [True, False], ids=["of an image", "of no image yet"])
def test_a_layer_whose_file_was_changed_is_refused_with_its_path_and_then_built_again(
    paths: Paths, filled: list[str], image_first: bool
):
    images, _ = made(paths, ("base",))
    layer = images["base"].layers[-1]
    changed = layer.tree / "root" / "name"
    root = Roots(paths).of(images["base"]) if image_first else None
    changed.chmod(0o755)
    with pytest.raises(VerificationFailed, match="name has another kind or mode") as caught:
        Roots(paths).of(images["base"])
    assert "run" in caught.value.hint and not layer.tree.exists()
    if root is not None:
        shutil.rmtree(root.parent)  # as the message says
    filled.clear()
    again, _ = made(paths, ("base",))
    assert filled == [layer.name] and again == images
    assert (Roots(paths).of(again["base"]) / "name").stat().st_mode & 0o777 == 0o644


def test_a_layer_that_is_gone_is_built_again(paths: Paths, filled: list[str]):
    images, _ = made(paths, ("base",))
    shutil.rmtree(images["base"].layers[0].tree)
    with pytest.raises(CouldNotRun, match="is not here any more") as caught:
        Roots(paths).of(images["base"])
    assert "run the same command again" in caught.value.hint
    filled.clear()
    assert made(paths, ("base",))[0] == images and filled == [images["base"].layers[0].name]


def test_a_build_that_ends_between_its_steps_leaves_nothing_trusted(paths: Paths, filled: list[str], monkeypatch):
    """Between the folder that is put in place and its entry: the next build makes it again, and takes what is sound."""
    monkeypatch.setattr(build, "remember_layer", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        made(paths, ("base",))
    assert known_images(paths, ("base",), "amd64") == {} and list(paths.layer_index.glob("*")) == []
    for folder in paths.layer_trees.iterdir():
        (folder / "root" / "name").write_bytes(b"another content")  # meanwhile
    monkeypatch.undo()
    monkeypatch.setattr(build, "_files", lambda *_: [])
    monkeypatch.setattr(build._Builder, "_fill", lambda _self, tree, recipe, _: tree.file("name", recipe.name.encode()))
    images, _ = made(paths, ("base",))
    for layer in images["base"].layers:
        assert sum(map(len, tar_of(layer))) == layer.size_bytes


def test_a_build_does_not_take_another_s_files_with_a_manifest_that_fits_them(paths: Paths, filled: list[str]):
    images, _ = made(paths, ("base",))
    for layer in images["base"].layers:
        (layer.tree / "root" / "name").write_bytes(b"substituted")
        manifest = manifest_of(layer.tree / "root", {"name": sha256_bytes(b"substituted")})
        (layer.tree / "manifest.json").write_bytes(write_manifest(manifest))
    assert known_images(paths, ("base",), "amd64") == {}
    assert made(paths, ("base",))[0] == images
    for layer in images["base"].layers:
        assert sum(map(len, tar_of(layer))) == layer.size_bytes


def test_what_an_older_checkout_left_is_taken_and_each_layer_lies_once_afterwards(paths: Paths, filled: list[str]):
    """It holds blobs, and layers unpacked beside them, whose entries are of another builder."""
    images, _ = made(paths, ("base",))
    for layer in images["base"].layers:
        blob_of(layer)
        manifest = read_manifest(layer.tree / "manifest.json")
        (layer.tree / "manifest.json").write_bytes(write_manifest(manifest_of(layer.tree / "root", {
            path: entry.content for path, entry in manifest.items()})))  # fmt: skip
        (layer.tree / "states.json").unlink()
    root = Roots(paths).of(images["base"])
    for entry in paths.layer_index.iterdir():
        entry.unlink()
    assert made(paths, ("base",))[0] == images == known_images(paths, ("base",), "amd64")
    assert not any(layer.path.exists() for layer in images["base"].layers) and Roots(paths).of(images["base"]) == root


def test_a_blob_alone_is_a_layer(paths: Paths, filled: list[str]):
    """As a bundle brings it."""
    images, _ = made(paths, ("base",))
    for layer in images["base"].layers:
        blob_of(layer)
        shutil.rmtree(layer.tree)
    filled.clear()
    assert made(paths, ("base",))[0] == images and filled == []
    assert (Roots(paths).of(images["base"]) / "name").is_file()


def test_a_file_system_that_cannot_hold_a_layer_keeps_its_tar(paths: Paths, filled: list[str], monkeypatch):
    there, _ = made(paths, ("base",))
    shutil.rmtree(paths.artifacts)
    monkeypatch.setattr(Path, "chmod", lambda path, _: os.chmod(path, 0o777))  # it has one mode for everything
    here, _ = made(paths, ("base",))
    assert here == there == known_images(paths, ("base",), "amd64")
    for layer in here["base"].layers:
        assert layer.path.stat().st_size == layer.size_bytes and not layer.tree.exists()


def test_what_comes_out_is_held_to_the_pins(paths: Paths, filled: list[str]):
    with pytest.raises(VerificationFailed, match=r"conf/locks/images\.json pins"):
        made(paths, check_pins=True)


def test_an_image_that_is_not_the_pinned_one_is_refused_though_its_layers_are_known(paths: Paths, filled: list[str]):
    made(paths, ("base",))
    with pytest.raises(VerificationFailed, match=r"image base .* came out as"):
        made(paths, ("base",), check_pins=True)


def test_another_architecture_is_another_image(paths: Paths, filled: list[str]):
    here, _ = made(paths, ("base",))
    said: list[str] = []
    there = build_images(paths, ("base",), "arm64", said.append, engine_for=lambda _: None, check_pins=False)
    assert there["base"].config_digest != here["base"].config_digest
    assert {layer.diff_id for layer in there["base"].layers}.isdisjoint(layer.diff_id for layer in here["base"].layers)


def test_how_long_each_layer_took_is_told(paths: Paths, filled: list[str]):
    told: list[tuple[str, float, float]] = []
    made(paths, ("base",), beside=Beside(lambda *item: told.append(item)))
    assert sorted(name for name, _, _ in told) == sorted(filled)
    assert all(seconds >= 0 for _, _, seconds in told)


def test_without_its_files_nothing_is_built_and_the_first_is_named(paths: Paths):
    with pytest.raises(CouldNotRun, match="which is not fetched") as caught:
        made(paths, ("base",))
    assert "invoke fetch" in caught.value.hint
    assert not paths.layer_index.exists()


def test_what_is_needed_is_what_no_layer_stands_for(paths: Paths, filled: list[str]):
    needed = files_needed(paths, ("base",), ("amd64",))
    assert needed
    assert all(sha256 == file.sha256 for sha256, file in needed.items())
    assert work_for(paths, ("base",), "amd64").package_bytes == sum(file.size_bytes for file in needed.values())
    assert len(describe_missing(paths, ("base",), "amd64")) == 2
    made(paths, ("base",))
    assert files_needed(paths, ("base",), ("amd64",)) == {}
    assert describe_missing(paths, ("base",), "amd64") == []
    assert work_for(paths, ("base",), "amd64").package_bytes == 0


def test_a_layer_is_built_and_an_image_ready_when_their_own_files_came(paths: Paths, filled: list[str]):
    arrivals, ready = Arrivals(), []
    base = files_needed(paths, ("base",), ("amd64",))
    others = files_needed(paths, NAMES, ("amd64",)).keys() - base.keys()

    def tell(image):
        ready.append(image.name)
        if image.name == "base":
            assert set(filled) == {"debs:base", "wheels:base"}  # no other file came before
            for sha256 in others:
                arrivals.add(sha256)

    for sha256 in base:
        arrivals.add(sha256)
    made(paths, beside=Beside(ready=tell, arrivals=arrivals))
    assert ready[0] == "base" and sorted(ready) == sorted(NAMES)


def test_what_fetching_fails_of_ends_the_build_and_what_was_built_is_kept(paths: Paths, filled: list[str]):
    arrivals = Arrivals()
    for sha256 in files_needed(paths, ("base",), ("amd64",)):
        arrivals.add(sha256)

    def tell(image):
        arrivals.end(CouldNotRun("the network is gone"))

    with pytest.raises(CouldNotRun, match="the network is gone"):
        made(paths, beside=Beside(ready=tell, arrivals=arrivals))
    assert arrivals.stopped.is_set() and set(known_images(paths, NAMES, "amd64")) == {"base"}


def test_a_layer_that_fails_ends_the_others_and_the_downloads(paths: Paths, filled: list[str], monkeypatch):
    arrivals = Arrivals(complete=True)
    monkeypatch.setattr(build._Builder, "_fill", lambda *_: (_ for _ in ()).throw(VerificationFailed("wrong bytes")))
    with pytest.raises(VerificationFailed, match="wrong bytes"):
        made(paths, beside=Beside(arrivals=arrivals))
    assert arrivals.stopped.is_set()
