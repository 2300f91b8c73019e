"""The digests that the repository pins: what each layer and each image must come out as."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.base import typed_json
from repro.base.errors import VerificationFailed
from repro.base.files import pretty_json, write_atomic
from repro.base.paths import Paths
from repro.base.values import Digest, Strict
from repro.container.image import Image
from repro.images.definition import image_names, load_definition

PINS = "conf/locks/images.json"


class _Pins(Strict, frozen=True):
    layers: dict[str, dict[str, Digest]]
    images: dict[str, dict[str, Digest]]


def load_pins(paths: Paths) -> dict[str, Any]:
    """The digests that the repository pins: {'layers': {ARCH: {NAME: diff ID}}, 'images': {ARCH: {NAME: ID}}}.

    Raises:
        VerificationFailed: the file does not hold them.
    """
    try:
        pins = typed_json.read((paths.root / PINS).read_bytes(), _Pins, what=PINS)
    except FileNotFoundError:
        return {"layers": {}, "images": {}}
    except VerificationFailed as error:
        hint = f"`git checkout {PINS}` brings it back, or the bundle that it came from"
        raise VerificationFailed(error.message, hint=hint) from error
    return {"layers": pins.layers, "images": pins.images}


def check_pin(kind: str, architecture: str, name: str, found: str, pins: Mapping[str, Any]) -> None:
    """Hold one digest to the pinned one, where there is one.

    Args:
        kind: 'layers' or 'images'.
        found: what came out.

    Raises:
        VerificationFailed: the pinned one is another.
    """
    pinned = pins[kind].get(architecture, {}).get(name)
    if pinned is not None and pinned != found:
        raise VerificationFailed(
            f"{kind[:-1]} {name} ({architecture}) came out as {found}, but {PINS} pins {pinned}",
            hint="the same locks must give the same bytes: if a lock, an image.toml or the builder was changed on "
            "purpose, write the new digests with `invoke images.pin`; if not, this build is not the one that was "
            "published: please report it",
        )


def write_pins(paths: Paths, built: dict[str, dict[str, Image]]) -> Path:
    """Write conf/locks/images.json from images just built, by architecture and name.

    What is pinned of an image that was not built now stays, as long as its definition does.
    """
    old = load_pins(paths)
    pins: dict[str, Any] = {"layers": {}, "images": {}}
    for architecture, images in built.items():
        absent = [load_definition(paths.docker, name) for name in image_names(paths.docker) if name not in images]
        absent = [image.of(architecture) for image in absent if image.optional or image.of(architecture).built_layers]
        kept = {image.name for image in absent}
        kept_layers = {layer.name for image in absent for layer in image.layers}
        pins["images"][architecture] = {
            **{name: pin for name, pin in old["images"].get(architecture, {}).items() if name in kept},
            **{name: image.config_digest for name, image in images.items()},
        }
        pins["layers"][architecture] = {
            **{name: pin for name, pin in old["layers"].get(architecture, {}).items() if name in kept_layers},
            **{layer.name: layer.diff_id for image in images.values() for layer in image.layers},
        }
    target = paths.root / PINS
    write_atomic(target, pretty_json(pins))
    return target
