"""Which layers are built: an entry per recipe, with the layer's digest and the state of its blob when it was hashed.

A blob is taken for what it was hashed as while its inode, size and times stay the same; after any change it is hashed
again, and one that holds other bytes counts as not built.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from repro.base.files import pretty_json, sha256_file, write_atomic
from repro.base.paths import Paths
from repro.base.states import state_of
from repro.container.image import Image, Layer
from repro.images.definition import ImageDefinition, load_definition
from repro.images.oci import compute_image
from repro.images.recipes import BASE_ENV, LayerRecipe, recipes_of


def entry_path(paths: Paths, recipe: LayerRecipe) -> Path:
    """Where a recipe's layer is entered."""
    return paths.layer_index / f"{recipe.key()}.json"


def enter_layer(paths: Paths, recipe: LayerRecipe, diff_id: str, size_bytes: int) -> None:
    """Enter a layer that somebody else says is this recipe's: its blob is hashed when it is first wanted."""
    _write(paths, recipe, diff_id, size_bytes, None)


def remember_layer(paths: Paths, recipe: LayerRecipe, diff_id: str, size_bytes: int) -> Layer:
    """Enter a layer whose blob the caller has just hashed.

    Raises:
        OSError: the blob is not there, or the entry cannot be written.
    """
    _write(paths, recipe, diff_id, size_bytes, state_of(paths.blobs / diff_id[7:]))
    return _layer(paths, recipe, diff_id, size_bytes)


def _write(paths: Paths, recipe: LayerRecipe, diff_id: str, size_bytes: int, state: list[int] | None) -> None:
    entry = {
        "name": recipe.name, "architecture": recipe.architecture, "diff_id": diff_id, "size_bytes": size_bytes,
        "state": state,
    }  # fmt: skip
    write_atomic(entry_path(paths, recipe), pretty_json(entry))


def known_layer(paths: Paths, recipe: LayerRecipe) -> Layer | None:
    """The layer if it was built before and its blob still holds its bytes; None otherwise."""
    try:
        entry = json.loads(entry_path(paths, recipe).read_bytes())
        diff_id, size_bytes, state = str(entry["diff_id"]), int(entry["size_bytes"]), entry.get("state")
        blob = paths.blobs / diff_id[7:]
        now = state_of(blob)
        if blob.is_symlink() or blob.stat().st_size != size_bytes:
            return None  # a link's own state says nothing of the bytes behind it
        if now != state:
            if f"sha256:{sha256_file(blob)}" != diff_id:
                return None
            with contextlib.suppress(OSError):  # a checkout that cannot be written is only slower
                _write(paths, recipe, diff_id, size_bytes, now)  # as it was before it was hashed
        return _layer(paths, recipe, diff_id, size_bytes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _layer(paths: Paths, recipe: LayerRecipe, diff_id: str, size_bytes: int) -> Layer:
    return Layer(
        name=recipe.name,
        kind=recipe.definition.kind,
        diff_id=diff_id,
        size_bytes=size_bytes,
        path=paths.blobs / diff_id[7:],
        made_from=f"sha256:{recipe.lock.digest}",
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
