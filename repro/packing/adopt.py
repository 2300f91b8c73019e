"""`python -m repro.packing.adopt`: what install.py runs last, in the new environment, to make the images ready.

The layers lie in artifacts/oci as they were packed. Which recipe each stands for depends on the host's own packages
too, so it is worked out here: the recipes of this checkout are matched with the bundle's list of images, and every
image's ID is computed again from its layers and must be the listed one.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from repro.base.confined import read_below
from repro.base.errors import BundleError, CouldNotRun, EngineUnavailable, UsageError, VerificationFailed
from repro.base.foreign import shown
from repro.base.paths import Paths
from repro.base.strict_json import parse
from repro.container.image import Image
from repro.container.job import Engine
from repro.images.definition import ImageDefinition, load_definition
from repro.images.layer_index import enter_layer, known_images
from repro.images.recipes import recipes_of
from repro.images.rootfs import SANDBOX_IMAGE, ensure_sandbox_tools
from repro.machine import facts
from repro.packing.installer.folder import KEPT
from repro.run.engine_choice import AUTO, choose

IMAGES_FILE = "images.json"
_MOST_BYTES = 16 * 1024 * 1024
_ID = re.compile(r"sha256:[0-9a-f]{64}")


def adopt_layers(paths: Paths, architecture: str) -> dict[str, Image]:
    """Enter the installed layers of one architecture into this checkout's index of built layers.

    Raises:
        UsageError: the checkout was not installed from a bundle, or not with this architecture.
        VerificationFailed: an image does not come out as listed.
    """
    listed = _listed(paths, architecture)
    for name, image in listed.items():
        recipes = recipes_of(paths, name, architecture)
        if [recipe.name for recipe in recipes] != [layer["name"] for layer in image["layers"]]:
            raise VerificationFailed(f"image {name} has other layers in docker/ than in the bundle's list")
        for recipe, layer in zip(recipes, image["layers"]):
            enter_layer(paths, recipe, layer["diff_id"], layer["size_bytes"])
    images = known_images(paths, listed, architecture)
    for name, image in listed.items():
        found = images[name].config_digest if name in images else "missing"
        if found != image["image_id"]:
            raise VerificationFailed(f"image {name} comes out as {found}; the bundle lists {image['image_id']}")
    return images


def _listed(paths: Paths, architecture: str) -> dict[str, Any]:
    """The bundle's list of images for one architecture, with what is read of it checked."""
    try:
        document = parse(read_below(paths.root, f"{KEPT}/{IMAGES_FILE}", _MOST_BYTES), what=IMAGES_FILE)
    except FileNotFoundError:
        document = {}
    try:
        listed: dict[str, Any] = document.get(architecture, {})
        for name, image in listed.items():
            known = "/" not in name and (paths.docker / name / "image.toml").is_file()
            if not known or not _ID.fullmatch(image["image_id"]) or not all(map(_is_layer, image["layers"])):
                raise VerificationFailed(f"{IMAGES_FILE}: {shown(name, 60)} is not described as an image of docker/")
    except (KeyError, TypeError, AttributeError) as error:
        raise VerificationFailed(f"{IMAGES_FILE} is not a list of images: {error}") from None
    if not listed:
        raise UsageError(
            f"no images for {architecture} were installed here", hint="ask for a bundle of this architecture"
        )
    return listed


def _is_layer(layer: Any) -> bool:
    sized = type(layer["size_bytes"]) is int and isinstance(layer["name"], str)
    return sized and bool(_ID.fullmatch(layer["diff_id"]))


def make_ready(paths: Paths, say: Callable[[str], None]) -> None:
    """Adopt the layers, and load or unpack the images for the engine that this machine will use.

    Args:
        paths: of the installed checkout.
        say: told what is done, line by line: gigabytes are unpacked.
    """
    images = adopt_layers(paths, facts.architecture())
    ensure_sandbox_tools(paths)
    say(f"images: {len(images)} for {facts.architecture()}, every ID computed from its layers as listed")
    try:
        choice = choose(AUTO, paths)
    except EngineUnavailable as error:
        say(f"no engine works here yet: {error.diagnostics()}")
        return
    say(choice.sentence())
    wanted = [image for name, image in images.items() if _is_portable(load_definition(paths.docker, name))]
    try:
        _prepare(choice.engine, wanted, say)
    except CouldNotRun as error:
        say(f"{choice.engine.name} is there and does not work here: {error.diagnostics()}")
    else:
        say(f"images ready for {choice.engine.name}")
        return
    try:
        _prepare(choose(SANDBOX_IMAGE, paths).engine, wanted, say)
    except EngineUnavailable as error:
        say(f"no engine works here yet: {error.diagnostics()}")
        return
    say("images ready for the embedded sandbox: give --engine sandbox")


def _is_portable(definition: ImageDefinition) -> bool:
    return bool(definition.stages) and not definition.optional


def _prepare(engine: Engine, images: Sequence[Image], say: Callable[[str], None]) -> None:
    """Side by side, the largest first: PyTorch's takes as long as all others together."""
    largest_first = sorted(images, key=lambda image: -_size_bytes(image))
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        begun = {pool.submit(engine.prepare, image): image for image in largest_first}
        for done in as_completed(begun):
            done.result()
            say(f"  {begun[done].name} ready for {engine.name} ({_size_bytes(begun[done]) / 1e6:.0f} MB)")


def _size_bytes(image: Image) -> int:
    return sum(layer.size_bytes for layer in image.layers)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """For install.py, which passes on that a verification failed."""
    try:
        make_ready(Paths(Path.cwd()), _say)
    except BundleError as error:
        sys.stderr.write(error.diagnostics() + "\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
