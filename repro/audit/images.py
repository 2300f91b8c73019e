"""The images of a record: layers by their bytes, images from their layers, layers from their locks; Debian's key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.audit.claims import ATTESTED, Examination, Outcome
from repro.audit.evidence import Evidence, parse_json
from repro.audit.leaves import differences
from repro.base.errors import CouldNotVerify
from repro.base.files import sha256_bytes, sha256_file
from repro.container.image import Image, Layer
from repro.fetching import Cache
from repro.images.definition import load_definition
from repro.images.oci import compute_image
from repro.images.pins import load_pins
from repro.images.recipes import BASE_ENV, LayerRecipe, recipes_of
from repro.locks.debian import verify_debian_chain
from repro.locks.model import DebLock, LockedFile


def examine_images(outcome: Outcome, evidence: Evidence) -> None:
    """Every claim about images, layers and locks."""
    layers = _unique_layers(evidence.record)
    for name, layer in sorted(layers.items()):
        with outcome.examine(f"layer:{name}", f"layer {name}: its bytes have the digest that the record names") as it:
            _examine_layer(it, evidence, layer)
    for name in evidence.record["images"]:
        with outcome.examine(f"image:{name}", f"image {name}: its ID is that of its layers and settings") as it:
            _examine_image(it, evidence, name)
    locks: dict[str, DebLock] = {}
    recipes = _recipes(outcome, evidence)
    for name, layer in sorted(layers.items()):
        with outcome.examine(f"lock:{name}", f"layer {name}: it is built from this checkout's lock") as it:
            _examine_lock(it, evidence, layer, recipes.get(name))
            lock = recipes[name].lock if name in recipes else None
            if isinstance(lock, DebLock):
                locks[name] = lock
    for name, deb_lock in sorted(locks.items()):
        text = f"lock {name}: Debian's own key vouches for the hash of every package"
        with outcome.examine(f"debian:{name}", text) as it:
            _examine_chain(it, evidence.paths.root, deb_lock)


def _unique_layers(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {layer["name"]: layer for layers in record["image_layers"].values() for layer in layers}


def _examine_layer(it: Examination, evidence: Evidence, layer: Mapping[str, Any]) -> None:
    blob = evidence.blobs / layer["diff_id"][7:]
    if not blob.is_file():
        it.missing.append(f"{layer['diff_id']} is not among the blobs here: `invoke images.build` makes them")
        return
    found, size_bytes = f"sha256:{sha256_file(blob)}", blob.stat().st_size
    if found != layer["diff_id"]:
        it.wrong.append(f"the blob {layer['diff_id']} has sha256 {found[7:]}")
    if size_bytes != layer["size_bytes"]:
        it.wrong.append(
            f"the blob {layer['diff_id'][:19]} has {size_bytes} bytes, the record says {layer['size_bytes']}"
        )
    it.evidence.append(f"{size_bytes} bytes hashed: {found}")


def _examine_image(it: Examination, evidence: Evidence, name: str) -> None:
    record = evidence.record
    if name not in record["image_layers"]:
        it.wrong.append(f"image_layers says nothing of image {name}")
        return
    layers = record["image_layers"][name]
    image = _compute(evidence, name, [_layer(evidence, entry) for entry in layers])
    if image.config_digest == record["images"][name]:
        manifest = record.get("image_manifests", {}).get(name)
        if manifest != image.manifest_digest:
            it.wrong.append(f"image_manifests.{name} is {manifest}; recomputed: {image.manifest_digest}")
    elif _is_of_another_checkout(evidence, record["images"][name], layers):
        it.missing.append(
            f"its config lists the record's layers, but this checkout would make {image.config_digest}: check out the "
            "commit that made the record"
        )
    else:
        it.wrong.append(f"images.{name} is {record['images'][name]}; recomputed: {image.config_digest}")
    one = {entry["name"]: entry for entry in layers}
    known = _unique_layers(record)
    for entry in one.values():
        it.wrong += differences(entry, known[entry["name"]], f"image_layers.{name}: {entry['name']}")
    it.evidence.append(f"{len(layers)} layers; config {image.config_digest}; manifest {image.manifest_digest}")


def _layer(evidence: Evidence, entry: Mapping[str, Any]) -> Layer:
    return Layer(
        name=entry["name"],
        kind=entry["kind"],
        diff_id=entry["diff_id"],
        size_bytes=entry["size_bytes"],
        path=evidence.blobs / entry["diff_id"][7:],
        made_from=entry["made_from"],
    )


def _compute(evidence: Evidence, name: str, layers: list[Layer]) -> Image:
    definition = load_definition(evidence.paths.docker, name)
    env = {**BASE_ENV, **definition.env} if definition.python else dict(definition.env)
    architecture = evidence.record["host"]["architecture"]
    return compute_image(name, architecture, layers, env, definition.python, definition.description)


def _is_of_another_checkout(evidence: Evidence, identity: str, layers: list[Mapping[str, Any]]) -> bool:
    """Whether a config with this digest is here and lists exactly these layers: then only the settings differ."""
    try:
        data = (evidence.blobs / identity[7:]).read_bytes()
    except OSError:
        return False
    if f"sha256:{sha256_bytes(data)}" != identity:
        return False
    config = parse_json(data, f"config {identity[:19]}")
    made = [f"{entry['name']} {entry['made_from']}" for entry in layers]
    return bool(
        config["rootfs"]["diff_ids"] == [entry["diff_id"] for entry in layers]
        and [step["created_by"] for step in config["history"]] == made
    )


def _recipes(outcome: Outcome, evidence: Evidence) -> dict[str, LayerRecipe]:
    """This checkout's recipe of each layer of the record's images, by the layer's name."""
    found: dict[str, LayerRecipe] = {}
    text = "the images are made of the layers that this checkout defines"
    with outcome.examine("definitions", text) as it:
        for name, entries in evidence.record["image_layers"].items():
            recipes = recipes_of(evidence.paths, name, evidence.record["host"]["architecture"])
            found.update({recipe.name: recipe for recipe in recipes})
            listed = [(entry["name"], entry["kind"]) for entry in entries]
            defined = [(recipe.name, recipe.definition.kind) for recipe in recipes]
            if listed != defined:
                it.missing.append(
                    f"image {name} is made of {_names(listed)}; docker/{name}/image.toml here says {_names(defined)}: "
                    "check out the commit that made the record"
                )
            it.evidence.append(f"{name}: {_names(defined)}")
    return found


def _names(layers: list[tuple[str, str]]) -> str:
    return ", ".join(name for name, _ in layers) or "nothing"


def _examine_lock(it: Examination, evidence: Evidence, layer: Mapping[str, Any], recipe: LayerRecipe | None) -> None:
    if recipe is None:
        it.missing.append("this checkout defines no such layer: check out the commit that made the record")
        return
    lock = f"sha256:{recipe.lock.digest}"
    if layer["made_from"] != lock:
        it.missing.append(
            f"the record says {layer['made_from'][:23]}, this checkout's lock is {lock[:23]}: check out the commit "
            "that made the record"
        )
    pins = load_pins(evidence.paths)["layers"].get(evidence.record["host"]["architecture"], {})
    pinned = pins.get(layer["name"])
    if pinned is None:
        it.evidence.append("conf/locks/images.json pins no digest of it")
    elif pinned != layer["diff_id"]:
        it.missing.append(f"conf/locks/images.json here pins {pinned}, the record has {layer['diff_id']}")
    else:
        it.evidence.append(f"conf/locks/images.json pins {pinned}")
    it.if_it_holds = ATTESTED
    it.evidence.append(f"lock digest {lock}; `invoke audit.challenge` builds the layer again and proves it")


def _examine_chain(it: Examination, root: Path, lock: DebLock) -> None:
    cache = Cache(root)

    def read_index(file: LockedFile) -> bytes:
        path = cache.path(file.sha256)
        if path is None:
            raise CouldNotVerify(f"{file.entry} is not here")
        return path.read_bytes()

    try:
        links = verify_debian_chain(root, lock, read_index)
        it.evidence += [f"{link.suite}: {link.debs} packages, signed by {', '.join(link.signers)}" for link in links]
    except CouldNotVerify as error:
        links = verify_debian_chain(root, lock, None)
        it.evidence += [f"{link.suite}: InRelease signed by {', '.join(link.signers)}" for link in links]
        it.evidence.append(
            f"that the signed indexes hold the lock's lines is not shown: {error.message}; `invoke audit.challenge` "
            "fetches them"
        )
        it.if_it_holds = ATTESTED
