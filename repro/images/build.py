"""Images from locks: layers built in parallel, each once per key, and held to the digests that the repository pins."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base.errors import CouldNotRun
from repro.base.paths import Paths
from repro.base.system_errors import advice
from repro.container.image import Image, Layer
from repro.fetching import Cache
from repro.images import cost
from repro.images.compile import EngineFor, compile_layer
from repro.images.definition import load_definition
from repro.images.layer_index import image_of, known_layer, remember_layer
from repro.images.layers.built import BuiltLock
from repro.images.layers.debs import add_debs
from repro.images.layers.tree import Spool, Tree
from repro.images.layers.wheels import add_wheels
from repro.images.oci import publish
from repro.images.pins import check_pin, load_pins
from repro.images.recipes import INTERPRETER, LayerRecipe, recipes_of
from repro.locks.model import LockedFile

Say = Callable[[str], None]
Timed = Callable[[str, float, float], None]
"""Told of a layer that was built: its name, when that began (monotonic clock) and how many seconds it took."""


def files_needed(paths: Paths, names: Iterable[str], architectures: Iterable[str]) -> dict[str, LockedFile]:
    """Every locked file that building these images needs and no built layer stands for, by sha256."""
    needed: dict[str, LockedFile] = {}
    wanted = list(names)
    for architecture in architectures:
        for name in wanted:
            for recipe in recipes_of(paths, name, architecture):
                if known_layer(paths, recipe) is None:
                    needed.update({file.sha256: file for file in recipe.files})
                    if recipe.definition.kind == "built":
                        needed.update(files_needed(paths, [recipe.definition.toolchain], [architecture]))
    return needed


@dataclass(frozen=True)
class _Builder:
    """What building a layer takes beside its recipe."""

    paths: Paths
    say: Say
    engine_for: EngineFor
    timed: Timed
    pins: Mapping[str, Any]
    toolchains: Mapping[str, Image]

    def build(self, recipe: LayerRecipe) -> Layer:
        """Build one layer, hold it to its pin, and enter it as built."""
        began_s = time.monotonic()
        files = _files(self.paths, recipe)
        spool = Spool(self.paths.temporary)
        try:
            tree = Tree(spool)
            self._fill(tree, recipe, files)
            diff_id, size_bytes = tree.write(self.paths.blobs)
            check_pin("layers", recipe.architecture, recipe.name, diff_id, self.pins)
            layer = remember_layer(self.paths, recipe, diff_id, size_bytes)
        except OSError as error:
            raise CouldNotRun(
                f"cannot build layer {recipe.name}: {error}", hint=advice(error, "check artifacts/ and its disk")
            ) from error
        finally:
            spool.close()
        self.say(f"built layer {recipe.name} ({recipe.architecture}, {size_bytes / 1e6:.0f} MB) {diff_id[:19]}")
        self.timed(recipe.name, began_s, time.monotonic() - began_s)
        return layer

    def _fill(self, tree: Tree, recipe: LayerRecipe, files: Sequence[tuple[LockedFile, Path]]) -> None:
        if isinstance(recipe.lock, BuiltLock):
            toolchain = self.toolchains[recipe.definition.toolchain]
            fetched = {file.project: path for file, path in files}
            compile_layer(self.paths, recipe.lock, fetched, toolchain, tree, self.say, self.engine_for)
        else:
            _unpack(tree, recipe, files)


def unpack_packages(paths: Paths, tree: Tree, recipe: LayerRecipe) -> None:
    """Fill a tree with the locked packages of a layer that nothing is compiled for.

    Raises:
        CouldNotRun: a locked file is not fetched.
        VerificationFailed: one is not what its lock says.
    """
    _unpack(tree, recipe, _files(paths, recipe))


def _files(paths: Paths, recipe: LayerRecipe) -> list[tuple[LockedFile, Path]]:
    cache, found = Cache(paths.root), []
    for file in recipe.files:
        path = cache.path(file.sha256) if cache.holds(file.sha256) else None
        if path is None:
            raise CouldNotRun(
                f"layer {recipe.name} ({recipe.architecture}) needs {file.entry}, which is not fetched",
                hint="run `invoke fetch` on a machine with a network, or put the file into data/sources",
            )
        found.append((file, path))
    return found


def _unpack(tree: Tree, recipe: LayerRecipe, files: Sequence[tuple[LockedFile, Path]]) -> None:
    if recipe.definition.kind == "debs":
        add_debs(tree, [(file.project, path) for file, path in files], recipe.alternatives(), recipe.status_file)
    else:
        named = [(file.name, path) for file, path in files]
        add_wheels(tree, named, INTERPRETER, recipe.image.site_packages)


def build_images(
    paths: Paths,
    names: Sequence[str],
    architecture: str,
    say: Say,
    *,
    engine_for: EngineFor,
    check_pins: bool = True,
    timed: Timed = lambda _name, _began_s, _seconds: None,
) -> dict[str, Image]:
    """Build what is missing of some images, for one architecture, without network.

    Args:
        paths: of the checkout.
        names: images, such as ['base', 'runtime'].
        architecture: 'amd64' or 'arm64'; only a built layer needs that architecture to run.
        say: is told of each layer that is built.
        engine_for: chooses what runs the compilers of a built layer.
        check_pins: hold the digests to conf/locks/images.json.
        timed: is told of each layer that was built, from the thread that built it.

    Returns:
        The images by name, published in the OCI layout.

    Raises:
        CouldNotRun: a locked file is not fetched, or there is no space.
        VerificationFailed: a file is not what its lock says, or a digest is not the pinned one.
    """
    recipes = {name: recipes_of(paths, name, architecture) for name in names}
    unique = {recipe.key(): recipe for group in recipes.values() for recipe in group}
    pins = load_pins(paths) if check_pins else {"layers": {}, "images": {}}
    layers = {key: known_layer(paths, recipe) for key, recipe in unique.items()}
    missing = [unique[key] for key, layer in layers.items() if layer is None]
    announced = cost.sentence(_work(paths, missing))
    if announced:
        say(announced)
    compilers = sorted({recipe.definition.toolchain for recipe in missing} - {""})
    toolchains: dict[str, Image] = {}
    if compilers:
        toolchains = build_images(
            paths, compilers, architecture, say, engine_for=engine_for, check_pins=check_pins, timed=timed
        )
    builder = _Builder(paths, say, engine_for, timed, pins, toolchains)
    for layer_key, layer in _build_all(builder, missing).items():
        layers[layer_key] = layer
    images = {}
    for name in names:
        chosen = [layers[recipe.key()] for recipe in recipes[name]]
        definition = load_definition(paths.docker, name)
        image = image_of(definition, architecture, [layer for layer in chosen if layer])
        check_pin("images", architecture, name, image.config_digest, pins)
        publish(paths, image)
        images[name] = image
    return images


def _build_all(builder: _Builder, missing: Sequence[LayerRecipe]) -> dict[str, Layer]:
    """The layers by key, built side by side; those that a compilers' image made on the way are taken as they are."""
    layers = {recipe.key(): known_layer(builder.paths, recipe) for recipe in missing}
    wanted = [recipe for recipe in missing if layers[recipe.key()] is None]
    wanted.sort(key=lambda recipe: -recipe.package_bytes)  # the longest first: nothing is left to wait for alone
    if wanted:
        with ThreadPoolExecutor(min(len(wanted), os.cpu_count() or 1)) as pool:
            layers.update(zip((recipe.key() for recipe in wanted), pool.map(builder.build, wanted)))
    return {key: layer for key, layer in layers.items() if layer}


def work_for(paths: Paths, names: Iterable[str], architecture: str) -> cost.Work:
    """What building these images would still have to do; printed before it is spent."""
    recipes = [recipe for name in names for recipe in recipes_of(paths, name, architecture)]
    return _work(paths, [recipe for recipe in recipes if known_layer(paths, recipe) is None])


def _work(paths: Paths, missing: Sequence[LayerRecipe]) -> cost.Work:
    """Of layers that are not built, each compiler's image included."""
    pending, layers = list(missing), {}
    while pending:
        recipe = pending.pop()
        if recipe.key() in layers:
            continue
        layers[recipe.key()] = recipe
        if recipe.definition.toolchain:
            found = recipes_of(paths, recipe.definition.toolchain, recipe.architecture)
            pending += [each for each in found if known_layer(paths, each) is None]
    compiled = [recipe for recipe in layers.values() if recipe.definition.kind == "built"]
    return cost.Work(
        architecture=missing[0].architecture if missing else "",
        compile_s={recipe.name: recipe.definition.cpu_seconds for recipe in compiled},
        package_bytes=sum(recipe.package_bytes for recipe in layers.values()),
    )


def describe_missing(paths: Paths, names: Iterable[str], architecture: str) -> list[str]:
    """What a build of these images would first have to do, a line per layer."""
    lines = []
    for name in names:
        for recipe in recipes_of(paths, name, architecture):
            if known_layer(paths, recipe) is None:
                if recipe.definition.kind == "built":
                    lines += describe_missing(paths, [recipe.definition.toolchain], architecture)
                    expected = cost.expected(recipe.definition.cpu_seconds, architecture)
                    lines.append(f"layer {recipe.name:<16} compile in image {recipe.definition.toolchain}: {expected}")
                    continue
                size_mb = recipe.package_bytes / 1e6
                line = f"layer {recipe.name:<16} build from {len(recipe.files)} locked files, {size_mb:.0f} MB"
                if line not in lines:
                    lines.append(line)
    return lines
