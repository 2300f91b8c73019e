"""A layer made again of its locked packages, to tell a careless build from a substituted file."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

from repro.audit.explain.sides import Side, TarSide
from repro.base.errors import BundleError
from repro.base.files import remove_tree
from repro.base.paths import Paths
from repro.base.temporary import temporary_folder
from repro.images.build import unpack_packages
from repro.images.definition import image_names
from repro.images.layer_tars import write_blob
from repro.images.layers.tree import Tree, tar_chunks
from repro.images.pins import load_pins
from repro.images.recipes import LayerRecipe, recipes_of

_MOST_PACKAGE_BYTES = 256 << 20  # a large wheel is held in memory while it is installed


class Truths:
    """What the locked sources at hand hold of a layer that the repository pins."""

    def __init__(self, paths: Paths, stack: ExitStack) -> None:
        self._paths, self._stack = paths, stack

    def of(self, digests: Collection[str]) -> tuple[Side | None, str]:
        """The layer of one of these digests, made again.

        Returns:
            The layer; None, where there is none. A sentence for people on what was made, or why nothing was.
        """
        recipe = self._recipe(digests)
        if recipe is None:
            return None, "neither layer is one that conf/locks/images.json pins: no locked sources decide"
        if recipe.definition.kind not in ("debs", "wheels"):
            return None, f"layer {recipe.name} is compiled: only `invoke audit.challenge` makes it again"
        if recipe.package_bytes > _MOST_PACKAGE_BYTES:
            size = f"{recipe.package_bytes / 1e6:.0f} MB"
            return None, f"layer {recipe.name} has {size} of packages: only `invoke audit.challenge` makes it again"
        try:
            return self._made(recipe), f"held to layer {recipe.name}, made again of {len(recipe.files)} locked packages"
        except BundleError as error:
            return None, f"layer {recipe.name} cannot be made again here: {error.message}"

    def _recipe(self, digests: Collection[str]) -> LayerRecipe | None:
        for architecture, names in load_pins(self._paths)["layers"].items():
            known = {name for name, diff_id in names.items() if diff_id[7:] in digests}
            for image in image_names(self._paths.docker) if known else ():
                for recipe in recipes_of(self._paths, image, architecture):
                    if recipe.name in known:
                        return recipe
        return None

    def _made(self, recipe: LayerRecipe) -> Side:
        folder: Path = self._stack.enter_context(temporary_folder(self._paths.temporary, "explain"))
        tree = Tree(folder / "contents")
        unpack_packages(self._paths, tree, recipe)
        diff_id, _ = write_blob(folder, tar_chunks(tree.members()))
        remove_tree(folder / "contents")
        stream = self._stack.enter_context((folder / diff_id[7:]).open("rb"))
        return TarSide(stream, 0, stream.seek(0, os.SEEK_END), recipe.name)
