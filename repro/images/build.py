"""Images from locks: layers built in parallel, each once per key, and held to the digests that the repository pins."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.base.errors import CouldNotRun
from repro.base.paths import Paths
from repro.base.system_errors import advice
from repro.base.temporary import temporary_folder
from repro.container.image import Image, Layer
from repro.fetching import Cache
from repro.images import cost
from repro.images.arrivals import Arrivals
from repro.images.coming import Ready
from repro.images.compile import EngineFor, compile_layer
from repro.images.definition import load_definition
from repro.images.layer_index import image_of, known_layer, remember_layer
from repro.images.layer_tars import write_blob
from repro.images.layer_trees import place, publish_layer
from repro.images.layers.tree import Tree, tar_chunks
from repro.images.oci import publish
from repro.images.pins import check_pin, load_pins
from repro.images.recipes import INTERPRETER, LayerRecipe, recipes_of
from repro.images.unpacked import ROOT
from repro.locks.built import BuiltLock
from repro.locks.model import LockedFile

Say = Callable[[str], None]
Timed = Callable[[str, float, float], None]
"""Told of a layer that was built: its name, when that began (monotonic clock) and how many seconds it took."""


@dataclass(frozen=True)
class Beside:
    """What goes on beside a build.

    Attributes:
        timed: is told of each layer that was built, from the thread that built it.
        ready: is told of each image as soon as its layers are there.
        arrivals: of the locked files; complete where none is on its way.
    """

    timed: Timed = lambda _name, _began_s, _seconds: None
    ready: Ready = lambda _image: None
    arrivals: Arrivals = field(default_factory=lambda: Arrivals(complete=True))


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
        try:
            with temporary_folder(self.paths.layer_trees, "build") as work:
                tree = Tree(work / "contents")
                self._fill(tree, recipe, files)
                diff_id, size_bytes = self._publish(tree, recipe, work / "layer")
            layer = remember_layer(self.paths, recipe, diff_id, size_bytes)
        except OSError as error:
            raise CouldNotRun(
                f"cannot build layer {recipe.name}: {error}", hint=advice(error, "check artifacts/ and its disk")
            ) from error
        self.say(f"built layer {recipe.name} ({recipe.architecture}, {size_bytes / 1e6:.0f} MB) {diff_id[:19]}")
        self.timed(recipe.name, began_s, time.monotonic() - began_s)
        return layer

    def _publish(self, tree: Tree, recipe: LayerRecipe, made: Path) -> tuple[str, int]:
        """Put the layer in place under its digest: unpacked, or as a tar where the file system cannot hold its files.

        Returns:
            The diff ID ('sha256:…') and the size of the tar in bytes.
        """
        made.mkdir(mode=0o755)
        manifest = place(tree, made / ROOT)
        digest, size_bytes = hashlib.sha256(), 0
        for chunk in tar_chunks(tree.members()):
            digest.update(chunk)
            size_bytes += len(chunk)
        diff_id = f"sha256:{digest.hexdigest()}"
        check_pin("layers", recipe.architecture, recipe.name, diff_id, self.pins)
        if manifest is None:
            write_blob(self.paths.blobs, tar_chunks(tree.members()))
        else:
            publish_layer(made, manifest, self.paths.layer_trees / diff_id[7:])
            (self.paths.blobs / diff_id[7:]).unlink(missing_ok=True)  # an older checkout's; or it was changed
        return diff_id, size_bytes

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
        from repro.images.layers.debs import add_debs  # noqa: PLC0415 - of use when a layer is built, and in few runs

        add_debs(tree, [(file.project, path) for file, path in files], recipe.alternatives(), recipe.status_file)
    else:
        from repro.images.layers.wheels import add_wheels  # noqa: PLC0415 - the same

        named = [(file.name, path) for file, path in files]
        add_wheels(tree, named, INTERPRETER, recipe.image.site_packages)


@dataclass
class _Assembly:
    """Images that are put together as their layers come, held to their pins and published."""

    paths: Paths
    pins: Mapping[str, Any]
    recipes: Mapping[str, Sequence[LayerRecipe]]
    layers: dict[str, Layer]
    ready: Ready
    images: dict[str, Image] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, key: str, layer: Layer) -> None:
        """A layer was built; `key` is its recipe's."""
        with self.lock:
            self.layers[key] = layer
            self.put_together()

    def put_together(self) -> None:
        """Each image whose layers are all there."""
        for name, recipes in self.recipes.items():
            layers = [self.layers[key] for recipe in recipes if (key := recipe.key()) in self.layers]
            if name in self.images or len(layers) < len(recipes):
                continue
            architecture = recipes[0].architecture
            image = image_of(load_definition(self.paths.docker, name), architecture, layers)
            check_pin("images", architecture, name, image.config_digest, self.pins)
            publish(self.paths, image)
            self.images[name] = image
            self.ready(image)


def build_images(
    paths: Paths,
    names: Sequence[str],
    architecture: str,
    say: Say,
    *,
    engine_for: EngineFor,
    check_pins: bool = True,
    beside: Beside | None = None,
) -> dict[str, Image]:
    """Build what is missing of some images, for one architecture, without network.

    Args:
        paths: of the checkout.
        names: images, such as ['base', 'runtime']; those that are needed first come first.
        architecture: 'amd64' or 'arm64'; only a built layer needs that architecture to run.
        say: is told of each layer that is built.
        engine_for: chooses what runs the compilers of a built layer.
        check_pins: hold the digests to conf/locks/images.json.
        beside: what goes on meanwhile.

    Returns:
        The images by name, published in the OCI layout.

    Raises:
        CouldNotRun: a locked file is not fetched, or there is no space.
        VerificationFailed: a file is not what its lock says, or a digest is not the pinned one.
    """
    beside = beside or Beside()
    recipes = {name: recipes_of(paths, name, architecture) for name in names}
    unique = {recipe.key(): recipe for group in recipes.values() for recipe in group}
    pins = load_pins(paths) if check_pins else {"layers": {}, "images": {}}
    known = {key: layer for key, recipe in unique.items() if (layer := known_layer(paths, recipe))}
    missing = {key: recipe for key, recipe in unique.items() if key not in known}
    announced = cost.sentence(_work(paths, list(missing.values())))
    if announced:
        say(announced)
    assembly = _Assembly(paths, pins, recipes, known, beside.ready)
    with assembly.lock:
        assembly.put_together()
    compilers = sorted({recipe.definition.toolchain for recipe in missing.values()} - {""})
    toolchains: dict[str, Image] = {}
    if compilers:
        beside.arrivals.wait()
        made = Beside(beside.timed)
        toolchains = build_images(
            paths, compilers, architecture, say, engine_for=engine_for, check_pins=check_pins, beside=made
        )
    _build_all(_Builder(paths, say, engine_for, beside.timed, pins, toolchains), missing, beside.arrivals, assembly)
    return {name: assembly.images[name] for name in names}


def _build_all(builder: _Builder, missing: Mapping[str, LayerRecipe], arrivals: Arrivals, assembly: _Assembly) -> None:
    """Build layers side by side; those that a compilers' image made on the way are taken as they are.

    The longest comes first, so that it is not left to wait for alone; the others in the order in which they are needed.
    """
    if not missing:
        return
    longest = max(missing.values(), key=lambda recipe: recipe.package_bytes)
    wanted = [longest, *(recipe for recipe in missing.values() if recipe is not longest)]
    workers = min(len(wanted), os.cpu_count() or 1)

    def work() -> None:
        while (recipe := arrivals.take(wanted)) is not None:
            try:
                assembly.add(recipe.key(), known_layer(builder.paths, recipe) or builder.build(recipe))
            except BaseException as error:
                arrivals.end(error)
                raise

    with ThreadPoolExecutor(workers) as pool:
        try:
            for worker in [pool.submit(work) for _ in range(workers)]:
                worker.result()
        except BaseException as error:  # a person who interrupts does not wait for the layers that are left
            arrivals.end(error)
            raise


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
