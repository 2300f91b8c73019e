"""Images from locks: layers built in parallel, each once a key, and held to the digests that the repository pins."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.base.files import canonical_json, pretty_json, sha256_bytes, write_atomic
from repro.base.imports import Modules, digest_of_closure
from repro.base.paths import Paths
from repro.container.image import Image, Layer
from repro.fetching import Cache
from repro.images import cost
from repro.images.compile import EngineFor, compile_layer
from repro.images.definition import ImageDefinition, LayerDefinition, image_names, load_definition
from repro.images.layers.built import BuiltLock
from repro.images.layers.debs import add_debs
from repro.images.layers.tree import Spool, Tree
from repro.images.layers.wheels import add_wheels
from repro.images.oci import compute_image, publish
from repro.locks.archives import known_source, load_sources, settled
from repro.locks.model import load_deb_lock, load_wheel_lock

INTERPRETER = "/usr/bin/python3"
BASE_ENV = {
    "HOME": "/tmp/home",  # noqa: S108 - inside the container, fresh and private
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "TZ": "UTC",
}
_TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}

Say = Callable[[str], None]
Timed = Callable[[str, float, float], None]
"""Told of a layer that was built: its name, when that began (monotonic clock) and how many seconds it took."""


@functools.cache
def _builder_digest(kind: str) -> str:
    """Digest of our own code that makes the bytes of a layer of this kind."""
    root = Path(__file__).parents[2]
    return digest_of_closure(Modules(root).closure(f"repro.images.layers.{kind}"))


@dataclass(frozen=True)
class LayerRecipe:
    """All that a layer's bytes depend on."""

    definition: LayerDefinition
    image: ImageDefinition
    architecture: str
    lock: Any

    @property
    def name(self) -> str:
        return f"{self.definition.kind}:{self.definition.lock}"

    def key(self) -> str:
        """Digest of everything that the layer's bytes depend on, the builder's own code included."""
        return sha256_bytes(
            canonical_json(
                {
                    "kind": self.definition.kind,
                    "name": self.name,
                    "architecture": self.architecture,
                    "lock": self.lock.digest,
                    "python": self.image.python if self.definition.kind == "wheels" else "",
                    "alternatives": self.alternatives(),
                    "builder": _builder_digest(self.definition.kind),
                    "installer": version("installer") if self.definition.kind == "wheels" else "",
                    **self._placement(),
                }
            )
        )

    def alternatives(self) -> dict[str, dict[str, str]]:
        """The links for packages of this layer; '{triplet}' in a path is the architecture's library folder."""
        packages = {file.project for file in self.lock.files}
        triplet = _TRIPLETS[self.architecture]
        return {
            package: {path.replace("{triplet}", triplet): target for path, target in links.items()}
            for package, links in self.image.alternatives.items()
            if package in packages
        }

    def _placement(self) -> dict[str, str]:
        """Where wheels go, for an image that says so."""
        usual = self.image.site_packages == f"usr/local/lib/python{self.image.python}/dist-packages"
        return {} if usual or self.definition.kind != "wheels" else {"site_packages": self.image.site_packages}


def _recipes(paths: Paths, image: ImageDefinition, architecture: str) -> list[LayerRecipe]:
    recipes = []
    for layer in image.layers:
        lock: Any
        if layer.kind == "built":
            lock = _built_lock(paths, layer, architecture)
        else:
            load = load_deb_lock if layer.kind == "debs" else load_wheel_lock
            lock = load(paths.root, layer.lock, architecture)
        recipes.append(LayerRecipe(layer, image, architecture, lock))
    return recipes


def _built_lock(paths: Paths, layer: LayerDefinition, architecture: str) -> BuiltLock:
    """A compiled layer's recipe, archives and compilers. The compilers' image stands in by the locks of its layers, so
    that this digest is known before that image is built, and is the same whatever packages the host has."""
    toolchain = _recipes(paths, load_definition(paths.docker, layer.toolchain), architecture)
    known = load_sources(paths.conf)
    script = paths.docker / layer.lock / "build.sh"
    try:
        content = script.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"docker/{layer.lock} has no build.sh, which a built layer is made by") from None
    return BuiltLock(
        name=layer.lock,
        architecture=architecture,
        script=content,
        sources=tuple(settled(paths, known_source(known, name)) for name in layer.source_names(architecture)),
        toolchain=sha256_bytes(canonical_json([[recipe.name, recipe.lock.digest] for recipe in toolchain])),
    )


def recipes_of(paths: Paths, name: str, architecture: str) -> list[LayerRecipe]:
    """The layers of one image, lowest first, each with its lock and all else that its bytes depend on."""
    return _recipes(paths, load_definition(paths.docker, name), architecture)


def files_needed(paths: Paths, names: Iterable[str], architectures: Iterable[str]) -> dict[str, Any]:
    """Every locked file that building these images needs and no built layer stands for, by sha256."""
    needed: dict[str, Any] = {}
    for architecture in architectures:
        for name in names:
            for recipe in _recipes(paths, load_definition(paths.docker, name), architecture):
                if _known_layer(paths, recipe) is None:
                    needed.update({file.sha256: file for file in recipe.lock.files})
                    if recipe.definition.kind == "built":
                        needed.update(files_needed(paths, [recipe.definition.toolchain], [architecture]))
    return needed


def _known_layer(paths: Paths, recipe: LayerRecipe) -> Layer | None:
    """The layer if it was built before and its blob is whole in size; its digest is checked by an audit."""
    try:
        entry = json.loads((paths.layer_index / f"{recipe.key()}.json").read_bytes())
        blob = paths.blobs / entry["diff_id"][7:]
        if blob.stat().st_size == entry["size_bytes"]:
            return _layer(paths, recipe, entry["diff_id"], entry["size_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
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


def _build_layer(
    paths: Paths, recipe: LayerRecipe, cache: Cache, toolchains: Mapping[str, Image], say: Say, engine_for: EngineFor
) -> Layer:
    files = []
    for file in recipe.lock.files:
        path = cache.path(file.sha256) if cache.holds(file.sha256) else None
        if path is None:
            raise CouldNotRun(
                f"layer {recipe.name} ({recipe.architecture}) needs {file.entry}, which is not fetched",
                hint="run `invoke fetch` on a machine with a network, or put the file into data/sources",
            )
        files.append((file, path))
    spool = Spool(paths.temporary)
    try:
        tree = Tree(spool)
        if recipe.definition.kind == "built":
            toolchain = toolchains[recipe.definition.toolchain]
            compile_layer(paths, recipe.lock, toolchain, tree, say, engine_for)
        elif recipe.definition.kind == "debs":
            named = [(file.project, path) for file, path in files]
            add_debs(tree, named, recipe.alternatives(), _status_file(recipe))
        else:
            named = [(file.name, path) for file, path in files]
            add_wheels(tree, named, INTERPRETER, recipe.image.site_packages)
        diff_id, size_bytes = tree.write(paths.blobs)
    except OSError as error:
        raise CouldNotRun(
            f"cannot build layer {recipe.name}: {error}", hint="check free space and permissions of artifacts/"
        ) from error
    finally:
        spool.close()
    entry = {"name": recipe.name, "diff_id": diff_id, "size_bytes": size_bytes, "architecture": recipe.architecture}
    write_atomic(paths.layer_index / f"{recipe.key()}.json", pretty_json(entry))
    return _layer(paths, recipe, diff_id, size_bytes)


def _size_bytes(recipe: LayerRecipe) -> int:
    """Of the locked files that a layer is made from: about as its time."""
    return sum(file.size_bytes for file in recipe.lock.files)


def _status_file(recipe: LayerRecipe) -> str:
    """The first layer holds dpkg's status; a later one cannot append to it and has a file of its own."""
    first = recipe.image.layers[0] == recipe.definition
    return "var/lib/dpkg/status" if first else f"var/lib/dpkg/status.d/{recipe.definition.lock}"


def load_pins(paths: Paths) -> dict[str, Any]:
    """The digests that the repository pins: {'layers': {ARCH: {NAME: diff ID}}, 'images': {ARCH: {NAME: ID}}}."""
    try:
        pins: dict[str, Any] = json.loads((paths.conf / "locks" / "images.json").read_bytes())
    except FileNotFoundError:
        return {"layers": {}, "images": {}}
    return pins


def _check_pin(kind: str, architecture: str, name: str, found: str, pins: dict[str, Any]) -> None:
    pinned = pins[kind].get(architecture, {}).get(name)
    if pinned is not None and pinned != found:
        raise VerificationFailed(
            f"{kind[:-1]} {name} ({architecture}) came out as {found}, but conf/locks/images.json pins {pinned}",
            hint="the same locks must give the same bytes: if a lock, an image.toml or the builder was changed on "
            "purpose, write the new digests with `invoke images.pin`; if not, this build is not the one that was "
            "published: please report it",
        )


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
    cache = Cache(paths.root)
    definitions = {name: load_definition(paths.docker, name) for name in names}
    recipes = {name: _recipes(paths, definition, architecture) for name, definition in definitions.items()}
    unique = {recipe.key(): recipe for group in recipes.values() for recipe in group}
    pins = load_pins(paths) if check_pins else {"layers": {}, "images": {}}
    layers = {key: _known_layer(paths, recipe) for key, recipe in unique.items()}
    announced = cost.sentence(_work(paths, [unique[key] for key, layer in layers.items() if layer is None]))
    if announced:
        say(announced)
    compilers = sorted({unique[key].definition.toolchain for key, layer in layers.items() if layer is None} - {""})
    toolchains = {}
    if compilers:
        toolchains = build_images(
            paths, compilers, architecture, say, engine_for=engine_for, check_pins=check_pins, timed=timed
        )
    layers.update({key: _known_layer(paths, unique[key]) for key, layer in layers.items() if layer is None})
    missing = [key for key, layer in layers.items() if layer is None]
    missing.sort(key=lambda key: -_size_bytes(unique[key]))  # the longest first: nothing is left to wait for alone

    def build(key: str) -> Layer:
        recipe, began_s = unique[key], time.monotonic()
        layer = _build_layer(paths, recipe, cache, toolchains, say, engine_for)
        _check_pin("layers", architecture, recipe.name, layer.diff_id, pins)
        say(f"built layer {recipe.name} ({architecture}, {layer.size_bytes / 1e6:.0f} MB) {layer.diff_id[:19]}")
        timed(recipe.name, began_s, time.monotonic() - began_s)
        return layer

    if missing:
        with ThreadPoolExecutor(min(len(missing), os.cpu_count() or 1)) as pool:
            layers.update(zip(missing, pool.map(build, missing)))
    images = {}
    for name, definition in definitions.items():
        chosen = [layers[recipe.key()] for recipe in recipes[name]]
        image = _compute(definition, architecture, [layer for layer in chosen if layer])
        _check_pin("images", architecture, name, image.config_digest, pins)
        publish(paths, image)
        images[name] = image
    return images


def work_for(paths: Paths, names: Iterable[str], architecture: str) -> cost.Work:
    """What building these images would still have to do, to be told before it is spent."""
    recipes = [
        recipe for name in names for recipe in _recipes(paths, load_definition(paths.docker, name), architecture)
    ]
    return _work(paths, [recipe for recipe in recipes if _known_layer(paths, recipe) is None])


def _work(paths: Paths, missing: Sequence[LayerRecipe]) -> cost.Work:
    """Of layers that are not built, each compiler's image included."""
    pending, layers = list(missing), {}
    while pending:
        recipe = pending.pop()
        if recipe.key() in layers:
            continue
        layers[recipe.key()] = recipe
        if recipe.definition.toolchain:
            image = load_definition(paths.docker, recipe.definition.toolchain)
            found = _recipes(paths, image, recipe.architecture)
            pending += [each for each in found if _known_layer(paths, each) is None]
    compiled = [recipe for recipe in layers.values() if recipe.definition.kind == "built"]
    return cost.Work(
        architecture=missing[0].architecture if missing else "",
        compile_s={recipe.name: recipe.definition.cpu_seconds for recipe in compiled},
        package_bytes=sum(file.size_bytes for recipe in layers.values() for file in recipe.lock.files),
    )


def known_images(paths: Paths, names: Iterable[str], architecture: str) -> dict[str, Image]:
    """Those of the images whose layers are all built, without building or publishing anything."""
    images = {}
    for name in names:
        definition = load_definition(paths.docker, name)
        layers = [_known_layer(paths, recipe) for recipe in _recipes(paths, definition, architecture)]
        if all(layers):
            images[name] = _compute(definition, architecture, [layer for layer in layers if layer])
    return images


def describe_missing(paths: Paths, names: Iterable[str], architecture: str) -> list[str]:
    """What a build of these images would first have to do, a line a layer."""
    lines = []
    for name in names:
        for recipe in _recipes(paths, load_definition(paths.docker, name), architecture):
            if _known_layer(paths, recipe) is None:
                size_mb = sum(file.size_bytes for file in recipe.lock.files) / 1e6
                if recipe.definition.kind == "built":
                    lines += describe_missing(paths, [recipe.definition.toolchain], architecture)
                    expected = cost.expected(recipe.definition.cpu_seconds, architecture)
                    lines.append(f"layer {recipe.name:<16} compile in image {recipe.definition.toolchain}: {expected}")
                    continue
                line = f"layer {recipe.name:<16} build from {len(recipe.lock.files)} locked files, {size_mb:.0f} MB"
                if line not in lines:
                    lines.append(line)
    return lines


def _compute(definition: ImageDefinition, architecture: str, layers: Sequence[Layer]) -> Image:
    env = {**BASE_ENV, **definition.env} if definition.python else dict(definition.env)
    return compute_image(definition.name, architecture, layers, env, definition.python, definition.description)


def write_pins(paths: Paths, built: dict[str, dict[str, Image]]) -> Path:
    """Write conf/locks/images.json from images just built, by architecture and name.

    What is pinned of an optional image that was not built now stays, as long as its definition does.
    """
    old = load_pins(paths)
    pins: dict[str, Any] = {"layers": {}, "images": {}}
    for architecture, images in built.items():
        absent = [load_definition(paths.docker, name) for name in image_names(paths.docker) if name not in images]
        kept = {image.name for image in absent if image.optional}
        kept_layers = {f"{layer.kind}:{layer.lock}" for image in absent if image.optional for layer in image.layers}
        pins["images"][architecture] = {
            **{name: pin for name, pin in old["images"].get(architecture, {}).items() if name in kept},
            **{name: image.config_digest for name, image in images.items()},
        }
        pins["layers"][architecture] = {
            **{name: pin for name, pin in old["layers"].get(architecture, {}).items() if name in kept_layers},
            **{layer.name: layer.diff_id for image in images.values() for layer in image.layers},
        }
    target = paths.conf / "locks" / "images.json"
    write_atomic(target, pretty_json(pins))
    return target
