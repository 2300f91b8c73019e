"""Which layers are built: an entry per recipe, with the layer's digest and what tells that its bytes are still here.

A blob is taken for what it was hashed as while its inode, size and times stay the same; after any change it is hashed
again, and one that holds other bytes counts as not built. Without a blob, the manifest of the unpacked layer is looked
at in the same way.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from repro.base.files import pretty_json, sha256_file, write_atomic
from repro.base.paths import Paths
from repro.base.states import state_of
from repro.container.image import Image, Layer
from repro.images.definition import ImageDefinition, load_definition
from repro.images.oci import compute_image
from repro.images.recipes import BASE_ENV, LayerRecipe, recipes_of
from repro.images.unpacked import MANIFEST


def entry_path(paths: Paths, recipe: LayerRecipe) -> Path:
    """Where a recipe's layer is entered."""
    return paths.layer_index / f"{recipe.key()}.json"


def enter_layer(paths: Paths, recipe: LayerRecipe, diff_id: str, size_bytes: int) -> None:
    """Enter a layer that somebody else says is this recipe's: its blob is hashed when it is first wanted."""
    _write(paths, recipe, _Entry(diff_id, size_bytes))


def remember_layer(paths: Paths, recipe: LayerRecipe, diff_id: str, size_bytes: int) -> Layer:
    """Enter a layer whose bytes the caller has just hashed: its blob, its unpacked form, or both.

    Raises:
        OSError: neither is there, or the entry cannot be written.
    """
    layer = _layer(paths, recipe, diff_id, size_bytes)
    manifest = _manifest(layer)
    unpacked = manifest.is_file()
    _write(
        paths, recipe,
        _Entry(diff_id, size_bytes, None if unpacked and not layer.path.exists() else state_of(layer.path),
               state_of(manifest) if unpacked else None, sha256_file(manifest) if unpacked else ""),
    )  # fmt: skip
    return layer


@dataclass(frozen=True)
class _Entry:
    """What is entered of a layer.

    Attributes:
        state: of its blob when that was last known to be right.
        manifest_state, manifest: state and sha256 of its unpacked form's manifest, which never changes.
    """

    diff_id: str
    size_bytes: int
    state: list[int] | None = None
    manifest_state: list[int] | None = None
    manifest: str = ""


def _write(paths: Paths, recipe: LayerRecipe, entry: _Entry) -> None:
    document = {"name": recipe.name, "architecture": recipe.architecture, **asdict(entry)}
    write_atomic(entry_path(paths, recipe), pretty_json(document))


def known_layer(paths: Paths, recipe: LayerRecipe) -> Layer | None:
    """The layer if it was built before and its blob, or else its unpacked form, is still there; None otherwise.

    A blob is held to its bytes here. Of the unpacked form only the manifest is: its files are held to that before use.
    """
    try:
        document = json.loads(entry_path(paths, recipe).read_bytes())
        entry = _Entry(
            str(document["diff_id"]), int(document["size_bytes"]), document.get("state"),
            document.get("manifest_state"), document.get("manifest", ""),
        )  # fmt: skip
        layer = _layer(paths, recipe, entry.diff_id, entry.size_bytes)
        now = _held_blob(layer, entry) if os.path.lexists(layer.path) else _held_manifest(layer, entry)
        if now is not None and now != entry:
            with contextlib.suppress(OSError):  # a checkout that cannot be written is only slower
                _write(paths, recipe, now)
        return layer if now is not None else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _held_blob(layer: Layer, entry: _Entry) -> _Entry | None:
    """The entry with the blob's state as it was before it was hashed; None where it is not the layer's."""
    now = state_of(layer.path)
    if layer.path.is_symlink() or layer.path.stat().st_size != layer.size_bytes:
        return None  # a link's own state says nothing of the bytes behind it
    if now != entry.state and f"sha256:{sha256_file(layer.path)}" != layer.diff_id:
        return None
    return replace(entry, state=now)


def _held_manifest(layer: Layer, entry: _Entry) -> _Entry | None:
    """As `_held_blob`, of the manifest of its unpacked form."""
    path = _manifest(layer)
    now = state_of(path)
    if now != entry.manifest_state and (path.is_symlink() or sha256_file(path) != entry.manifest):
        return None
    return replace(entry, manifest_state=now)


def _manifest(layer: Layer) -> Path:
    assert layer.tree is not None  # a layer of a checkout has a place for it
    return layer.tree / MANIFEST


def _layer(paths: Paths, recipe: LayerRecipe, diff_id: str, size_bytes: int) -> Layer:
    return Layer(
        name=recipe.name,
        kind=recipe.definition.kind,
        diff_id=diff_id,
        size_bytes=size_bytes,
        path=paths.blobs / diff_id[7:],
        made_from=f"sha256:{recipe.lock.digest}",
        tree=paths.layer_trees / diff_id[7:],
    )


def image_of(definition: ImageDefinition, architecture: str, layers: Sequence[Layer]) -> Image:
    """The image of these layers, with its digests."""
    env = {**BASE_ENV, **definition.env} if definition.python else dict(definition.env)
    return compute_image(definition.name, architecture, layers, env, definition.python, definition.description)


def known_images(paths: Paths, names: Iterable[str], architecture: str) -> dict[str, Image]:
    """Those of the images whose layers are all built, without building or publishing anything."""
    images = {}
    for name in names:
        layers = [known_layer(paths, recipe) for recipe in recipes_of(paths, name, architecture)]
        if all(layers):
            definition = load_definition(paths.docker, name)
            images[name] = image_of(definition, architecture, [layer for layer in layers if layer])
    return images
