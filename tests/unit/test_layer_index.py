"""A layer counts as built only while its blob holds the bytes that were hashed, and only for what it was built from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from test_layer_tars import unpacked

from repro.base.errors import VerificationFailed
from repro.base.paths import Paths
from repro.container.image import Layer
from repro.images import layer_index, recipes
from repro.images.layer_index import enter_layer, known_layer, remember_layer
from repro.images.layer_tars import blob_of
from repro.images.pins import check_pin
from repro.images.recipes import LayerRecipe, recipes_of

ROOT = Path(__file__).resolve().parents[2]
DATA = b"a layer's bytes"
DIFF_ID = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture
def recipe() -> LayerRecipe:
    return recipes_of(Paths(ROOT), "base", "amd64")[0]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(tmp_path)
    made.blobs.mkdir(parents=True)
    (made.blobs / DIFF_ID[7:]).write_bytes(DATA)
    return made


def test_a_remembered_layer_is_known_without_being_read(paths: Paths, recipe: LayerRecipe, monkeypatch):
    made = remember_layer(paths, recipe, DIFF_ID, len(DATA))
    monkeypatch.setattr(layer_index, "sha256_file", lambda path: pytest.fail(f"{path} was read"))
    assert known_layer(paths, recipe) == made
    assert made.made_from == f"sha256:{recipe.lock.digest}"


def test_other_bytes_of_the_same_size_and_times_are_not_the_layer(paths: Paths, recipe: LayerRecipe):
    remember_layer(paths, recipe, DIFF_ID, len(DATA))
    blob = paths.blobs / DIFF_ID[7:]
    before = blob.stat()
    blob.write_bytes(b"x" * len(DATA))
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known_layer(paths, recipe) is None


def test_a_blob_that_only_moved_is_hashed_once_and_then_known(paths: Paths, recipe: LayerRecipe, monkeypatch):
    remember_layer(paths, recipe, DIFF_ID, len(DATA))
    blob = paths.blobs / DIFF_ID[7:]
    blob.rename(blob.with_suffix(".old"))
    blob.write_bytes(DATA)
    assert known_layer(paths, recipe) is not None
    monkeypatch.setattr(layer_index, "sha256_file", lambda path: pytest.fail(f"{path} was read again"))
    assert known_layer(paths, recipe) is not None


def test_what_somebody_else_says_of_a_blob_is_checked_before_it_counts(paths: Paths, recipe: LayerRecipe):
    enter_layer(paths, recipe, DIFF_ID, len(DATA))
    assert known_layer(paths, recipe) is not None
    (paths.blobs / DIFF_ID[7:]).write_bytes(b"x" * len(DATA))
    enter_layer(paths, recipe, DIFF_ID, len(DATA))
    assert known_layer(paths, recipe) is None


@pytest.mark.parametrize("entry", [b"", b"[]", b"{}", b'{"diff_id": 1, "size_bytes": "x"}', b"\xff"])
def test_a_broken_entry_is_no_layer(paths: Paths, recipe: LayerRecipe, entry: bytes):
    remember_layer(paths, recipe, DIFF_ID, len(DATA))
    (paths.layer_index / f"{recipe.key()}.json").write_bytes(entry)
    assert known_layer(paths, recipe) is None


@pytest.mark.parametrize("size_bytes", [0, len(DATA) - 1, len(DATA) + 1])
def test_a_size_that_is_not_the_blobs_is_no_layer(paths: Paths, recipe: LayerRecipe, size_bytes: int):
    remember_layer(paths, recipe, DIFF_ID, size_bytes)
    assert known_layer(paths, recipe) is None


@pytest.fixture
def unpacked_layer(paths: Paths, recipe: LayerRecipe) -> Layer:
    """A layer that lies unpacked alone, as a build leaves it."""
    layer, _ = unpacked(paths.root / "work", lambda tree: tree.file("a", b"x"), paths.layer_trees)
    return remember_layer(paths, recipe, layer.diff_id, layer.size_bytes)


def test_an_unpacked_layer_is_known_without_a_look_at_its_files(paths, recipe, unpacked_layer, monkeypatch):
    monkeypatch.setattr(layer_index, "sha256_file", lambda path: pytest.fail(f"{path} was read"))
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"{path} was walked"))
    assert known_layer(paths, recipe) == unpacked_layer and not unpacked_layer.path.exists()


def test_a_copied_checkout_knows_its_unpacked_layers(paths, recipe, unpacked_layer, tmp_path, monkeypatch):
    manifest = unpacked_layer.tree / "manifest.json"
    manifest.write_bytes(manifest.read_bytes())  # the same bytes, another state
    assert known_layer(paths, recipe) == unpacked_layer
    monkeypatch.setattr(layer_index, "sha256_file", lambda path: pytest.fail(f"{path} was read again"))
    assert known_layer(paths, recipe) == unpacked_layer


@pytest.mark.parametrize("change", ["gone", "another manifest", "a link", "no manifest"])
def test_an_unpacked_layer_with_another_manifest_counts_as_not_built(paths, recipe, unpacked_layer, change):
    manifest = unpacked_layer.tree / "manifest.json"
    if change == "gone":
        shutil.rmtree(unpacked_layer.tree)
    elif change == "another manifest":
        manifest.write_bytes(manifest.read_bytes().replace(b'"file"', b'"link"'))
    else:
        manifest.rename(paths.root / "elsewhere")
        if change == "a link":
            manifest.symlink_to(paths.root / "elsewhere")
    assert known_layer(paths, recipe) is None


def test_a_blob_beside_an_unpacked_layer_is_held_to_its_bytes_too(paths, recipe, unpacked_layer):
    blob_of(unpacked_layer)
    assert known_layer(paths, recipe) == unpacked_layer
    unpacked_layer.path.write_bytes(b"x" * unpacked_layer.size_bytes)
    assert known_layer(paths, recipe) is None
    unpacked_layer.path.unlink()
    assert known_layer(paths, recipe) == unpacked_layer


def with_alternatives(recipe: LayerRecipe) -> LayerRecipe:
    package = recipe.lock.files[0].project
    changed = {**recipe.image.alternatives, package: {"usr/bin/awk": "/usr/bin/other"}}
    return dataclasses.replace(recipe, image=dataclasses.replace(recipe.image, alternatives=changed))


CHANGES = {
    "lock": lambda r: dataclasses.replace(r, lock=dataclasses.replace(r.lock, debs=r.lock.debs[1:])),
    "architecture": lambda r: dataclasses.replace(r, architecture="arm64"),
    "alternatives": with_alternatives,
    "name": lambda r: dataclasses.replace(r, definition=dataclasses.replace(r.definition, lock="other")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_layer_is_another_one_with_another(recipe: LayerRecipe, what: str):
    assert CHANGES[what](recipe).key() != recipe.key()


def test_a_layer_is_another_one_with_another_builder(recipe: LayerRecipe, monkeypatch):
    before = recipe.key()
    monkeypatch.setattr(recipes, "_builder_digest", lambda kind: f"other {kind}")
    assert recipe.key() != before


def test_a_layer_of_wheels_is_another_one_with_another_installer_python_or_place(monkeypatch):
    recipe = next(r for r in recipes_of(Paths(ROOT), "base", "amd64") if r.definition.kind == "wheels")
    python = dataclasses.replace(recipe, image=dataclasses.replace(recipe.image, python="3.12"))
    place = dataclasses.replace(recipe, image=dataclasses.replace(recipe.image, site_packages="opt/python"))
    keys = {each.key() for each in (recipe, python, place)}
    monkeypatch.setattr(recipes, "_installer", lambda: "99")
    assert len(keys | {recipe.key()}) == 4


def test_the_builder_digest_follows_the_code_that_makes_the_bytes(tmp_path: Path, monkeypatch):
    def forget() -> None:
        recipes._builder_digest.cache_clear()
        recipes._own_modules.cache_clear()

    forget()
    real = recipes._builder_digest("debs")
    try:
        for name in ("repro/images/layers/debs.py", "repro/images/layers/tree.py"):
            folder = tmp_path / name.replace("/", "_")
            for path in sorted(ROOT.glob("repro/**/*.py")):
                place = folder / path.relative_to(ROOT)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(path.read_bytes())
            with open(folder / name, "a", encoding="utf-8") as stream:
                stream.write("# another builder\n")
            monkeypatch.setattr(recipes, "__file__", str(folder / "repro" / "images" / "recipes.py"))
            forget()
            assert recipes._builder_digest("debs") != real
    finally:
        forget()


def test_a_digest_that_is_not_the_pinned_one_fails_and_names_both():
    pins = {"layers": {"amd64": {"debs:base": "sha256:a"}}, "images": {"amd64": {"base": "sha256:b"}}}
    check_pin("layers", "amd64", "debs:base", "sha256:a", pins)
    check_pin("layers", "arm64", "debs:base", "sha256:z", pins)
    for kind, name in (("layers", "debs:base"), ("images", "base")):
        with pytest.raises(VerificationFailed, match=r"came out as sha256:z.*pins sha256:[ab]"):
            check_pin(kind, "amd64", name, "sha256:z", pins)


def test_a_layer_that_fails_its_pin_is_not_entered_as_built(tmp_path: Path, monkeypatch):
    from repro.images import build

    recipe = recipes_of(Paths(ROOT), "base", "amd64")[0]
    paths = Paths(tmp_path)
    monkeypatch.setattr(build, "_files", lambda *_: [])
    monkeypatch.setattr(build._Builder, "_fill", lambda _self, tree, *_: tree.file("a", b"x"))
    pins = {"layers": {"amd64": {recipe.name: "sha256:other"}}}
    builder = build._Builder(paths, lambda _: None, lambda _: None, lambda *_: None, pins, {})
    with pytest.raises(VerificationFailed, match="pins sha256:other"):
        builder.build(recipe)
    assert list(paths.layer_index.glob("*")) == []
    layer = dataclasses.replace(builder, pins={"layers": {}}).build(recipe)
    assert known_layer(paths, recipe) == layer
    assert json.loads((paths.layer_index / f"{recipe.key()}.json").read_bytes())["diff_id"] == layer.diff_id


def test_a_file_of_the_cache_with_other_bytes_is_not_built_from(tmp_path: Path):
    from repro.base.errors import CouldNotRun
    from repro.images import build

    recipe = recipes_of(Paths(ROOT), "base", "amd64")[0]
    for file in recipe.files:
        place = tmp_path / "artifacts" / "cache" / "sha256" / file.sha256[:2] / file.sha256
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"not what the lock names")
    builder = build._Builder(Paths(tmp_path), lambda _: None, lambda _: None, lambda *_: None, {"layers": {}}, {})
    with pytest.raises(CouldNotRun, match="which is not fetched"):
        builder.build(recipe)


def test_a_link_in_place_of_a_blob_is_no_layer_whatever_lies_behind_it(paths: Paths, recipe: LayerRecipe):
    layer = remember_layer(paths, recipe, DIFF_ID, len(DATA))
    elsewhere = paths.root / "elsewhere"
    layer.path.rename(elsewhere)
    layer.path.symlink_to(elsewhere)
    remember_layer(paths, recipe, layer.diff_id, layer.size_bytes)
    assert known_layer(paths, recipe) is None


def test_a_blob_that_changes_while_it_is_hashed_is_hashed_again(paths: Paths, recipe: LayerRecipe, monkeypatch):
    layer = remember_layer(paths, recipe, DIFF_ID, len(DATA))
    enter_layer(paths, recipe, layer.diff_id, layer.size_bytes)
    real = layer_index.sha256_file

    def swapped(path: Path) -> str:
        found = real(path)
        path.write_bytes(b"x" * layer.size_bytes)
        return found

    monkeypatch.setattr(layer_index, "sha256_file", swapped)
    known_layer(paths, recipe)
    monkeypatch.setattr(layer_index, "sha256_file", real)
    assert known_layer(paths, recipe) is None
