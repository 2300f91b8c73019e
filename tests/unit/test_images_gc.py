"""What `images.gc` removes: layers and unpacked images that no image of the checkout, or of its layout, is made of."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
from test_layer_tars import unpacked

from repro.base.files import disk_bytes, pretty_json, sha256_bytes
from repro.base.paths import Paths
from repro.images import in_use
from repro.images.definition import load_definition
from repro.images.layer_index import enter_layer, entry_path, image_of, known_layer, remember_layer
from repro.images.layer_tars import blob_of, tar_of
from repro.images.oci import publish
from repro.images.recipes import recipes_of
from repro.images.rootfs import chain_id
from repro.run.garbage import collect_images

ROOT = Path(__file__).parents[2]


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """A checkout that knows two images, one of them built and unpacked, beside what others left."""
    (tmp_path / "docker").symlink_to(ROOT / "docker")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    paths = Paths(tmp_path)
    monkeypatch.setattr(in_use, "image_names", lambda _: ["base", "kaldi"])
    paths.blobs.mkdir(parents=True)
    layers = []
    for recipe in recipes_of(paths, "base", "amd64"):
        data = recipe.name.encode() * 1000
        (paths.blobs / sha256_bytes(data)).write_bytes(data)
        layers.append(remember_layer(paths, recipe, "sha256:" + sha256_bytes(data), len(data)))
    image = image_of(load_definition(paths.docker, "base"), "amd64", layers)
    publish(paths, image)
    for chain in (chain_id(image.layers), "0" * 64):
        (paths.rootfs / chain / "root").mkdir(parents=True)
        (paths.rootfs / chain / "root" / "file").write_bytes(b"x" * 10_000)
    (paths.blobs / ("1" * 64)).write_bytes(b"x" * 100_000)
    for name in ("3" * 64, layers[0].diff_id[7:]):
        (paths.rootfs / "layers" / name / "root").mkdir(parents=True)
    (paths.layer_index / ("2" * 64 + ".json")).write_bytes(
        pretty_json({"name": "debs:base", "architecture": "amd64", "diff_id": "sha256:" + "1" * 64, "size_bytes": 1})
    )
    return paths


def _names(paths):
    folders = (paths.blobs, paths.layer_index, paths.rootfs, paths.rootfs / "layers")
    return {path.name for folder in folders for path in folder.iterdir()}


def test_what_no_image_is_made_of_goes_and_all_else_stays(paths):
    (paths.blobs / ("1" * 64)).write_bytes(b"x" * 3_000_000)
    (paths.blobs / ".being-written").write_bytes(b"x")
    for folder in (paths.rootfs, paths.rootfs / "layers"):
        (folder / ".being-unpacked").mkdir()
    before, said = _names(paths), []
    collect_images(paths, said.append)
    assert before - _names(paths) == {"1" * 64, "2" * 64 + ".json", "3" * 64, "0" * 64}
    assert said[-1] == "2 layers and 1 unpacked images removed; 3 MB freed"
    collect_images(paths, said.append)
    assert said[-1].startswith("0 layers and 0 unpacked images removed")


@pytest.mark.parametrize("change", [None, "content", "manifest"])
def test_a_tar_goes_where_its_unpacked_layer_gives_it_back_and_stays_where_not(paths, tmp_path, change):
    recipe = recipes_of(paths, "base", "amd64")[0]
    layer, _ = unpacked(tmp_path / "work", lambda tree: tree.file("a", b"x"), paths.layer_trees)
    layer = dataclasses.replace(layer, path=paths.blobs / layer.diff_id[7:])
    shutil.copy(blob_of(layer), tmp_path / "tar")
    remember_layer(paths, recipe, layer.diff_id, layer.size_bytes)
    if change == "content":
        (layer.tree / "root" / "a").write_bytes(b"y")
    elif change == "manifest":
        (layer.tree / "manifest.json").write_bytes(b"{}")
    said = []
    collect_images(paths, said.append)
    assert layer.path.exists() == (change is not None) and ("1 tars of layers" in said[-1]) == (change is None)
    assert b"".join(tar_of(known_layer(paths, recipe))) == (tmp_path / "tar").read_bytes()


def test_a_layer_that_came_as_a_tar_keeps_it(paths, tmp_path):
    """As in an installed bundle, whose files are held to its list."""
    recipe = recipes_of(paths, "base", "amd64")[0]
    layer, _ = unpacked(tmp_path / "work", lambda tree: tree.file("a", b"x"), paths.layer_trees)
    blob = blob_of(dataclasses.replace(layer, path=paths.blobs / layer.diff_id[7:]))
    enter_layer(paths, recipe, layer.diff_id, layer.size_bytes)
    collect_images(paths, print)
    assert blob.is_file() and layer.tree.is_dir()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "debs:base", "architecture": "amd64", "diff_id": 3}'])
def test_a_damaged_entry_is_of_no_layer_and_goes(paths, text: str):
    (paths.layer_index / ("2" * 64 + ".json")).write_text(text)
    collect_images(paths, lambda said: None)
    assert ("2" * 64 + ".json") not in _names(paths)


def test_a_layer_whose_sources_are_away_for_now_is_kept(paths, monkeypatch):
    """Compiled from archives that only the user has: without them its recipe cannot be known."""
    recipe = recipes_of(paths, "base", "amd64")[0]
    enter_layer(paths, recipe, "sha256:" + "1" * 64, 100_000)

    def away(paths, name, architecture):
        if (name, architecture) == ("base", "amd64"):
            raise in_use.BundleError("the archive is not there")
        return recipes_of(paths, name, architecture)

    monkeypatch.setattr(in_use, "recipes_of", away)
    collect_images(paths, print)
    assert entry_path(paths, recipe).exists() and (paths.blobs / ("1" * 64)).exists()


def test_space_is_counted_once_a_file_and_behind_no_link(tmp_path):
    (tmp_path / "counted").mkdir()
    (tmp_path / "away").write_bytes(b"x" * 1_000_000)
    (tmp_path / "counted" / "one").write_bytes(b"x" * 100_000)
    once = disk_bytes(tmp_path / "counted")
    os.link(tmp_path / "counted" / "one", tmp_path / "counted" / "two")
    (tmp_path / "counted" / "link").symlink_to(tmp_path / "away")
    assert 100_000 <= once <= disk_bytes(tmp_path / "counted") < once + 10_000
