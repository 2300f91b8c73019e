"""The images of a record: layers by their bytes, images from their layers, layers from their locks; Debian's key.

What a probe found in an image is held to the package databases in its layers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from repro.audit import packages
from repro.audit.claims import ATTESTED, IF_RERUN, REFUTED, Examination, Outcome
from repro.audit.evidence import Evidence, digest_below
from repro.audit.leaves import differences
from repro.base import typed_json
from repro.base.confined import open_below, read_below
from repro.base.errors import CouldNotVerify
from repro.base.files import sha256_bytes
from repro.container.image import Layer
from repro.fetching import Cache
from repro.graph.digests import FileDigest
from repro.images.definition import load_definition
from repro.images.layer_index import image_of
from repro.images.layer_tars import is_here, opened
from repro.images.pins import load_pins
from repro.images.recipes import LayerRecipe, recipes_of
from repro.locks.debian import verify_debian_chain
from repro.locks.model import DebLock
from repro.record.document import Record, RecordedLayer
from repro.record.stage_files import ProbeFile

_MOST_CONFIG_BYTES = 16 * 1024**2


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...]


class _Step(msgspec.Struct, frozen=True):
    created_by: str


class _Config(msgspec.Struct, frozen=True):
    """What is asked of an image's config here; the rest of it is in its digest."""

    rootfs: _RootFs
    history: tuple[_Step, ...]


def examine_images(outcome: Outcome, evidence: Evidence) -> None:
    """Every claim about images, layers and locks."""
    layers = _unique_layers(evidence.record)
    databases: dict[str, packages.Databases] = {}
    for name, layer in sorted(layers.items()):
        with outcome.examine(f"layer:{name}", f"layer {name}: its bytes have the digest that the record names") as it:
            _examine_layer(it, evidence, layer, databases)
    for name in evidence.record.images:
        with outcome.examine(f"image:{name}", f"image {name}: its ID is that of its layers and settings") as it:
            _examine_image(it, evidence, name)
    _examine_probes(outcome, evidence, databases)
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


def _unique_layers(record: Record) -> dict[str, RecordedLayer]:
    return {layer.name: layer for layers in record.image_layers.values() for layer in layers}


def _examine_layer(
    it: Examination, evidence: Evidence, layer: RecordedLayer, databases: dict[str, packages.Databases]
) -> None:
    """Of a layer that lies here unpacked alone, its tar is made again; what its databases say is kept on the way."""
    made = _layer(evidence, layer)
    if os.path.lexists(made.path):
        found = digest_below(evidence.blobs, layer.diff_id[7:])
    elif is_here(made):
        with opened(made) as tar:
            databases[layer.diff_id] = packages.read_layer(tar, f"layer {layer.name}")
            while tar.read(1 << 20):
                pass
            found = FileDigest(layer.diff_id[7:], tar.tell())
    else:
        arch = evidence.record.host.architecture
        it.missing.append(f"layer {layer.diff_id} is not here: `invoke images.build --arch {arch}` makes it")
        return
    if f"sha256:{found.sha256}" != layer.diff_id:
        it.wrong.append(f"the blob {layer.diff_id} has sha256 {found.sha256}")
    if found.size_bytes != layer.size_bytes:
        it.wrong.append(
            f"the blob {layer.diff_id[:19]} has {found.size_bytes} bytes, the record says {layer.size_bytes}"
        )
    it.evidence.append(f"{found.size_bytes} bytes hashed: sha256:{found.sha256}")
    it.read(f"layer {layer.name}", found.sha256)


def _examine_probes(outcome: Outcome, evidence: Evidence, known: dict[str, packages.Databases]) -> None:
    """A claim for each probe: versions by the package databases of the layers, whose claims come before."""
    sound = {claim.key for claim in outcome.claims if claim.status != REFUTED}
    for name, layers in evidence.record.image_layers.items():
        with outcome.examine(f"probe:{name}", f"image {name}: the probe found what its layers hold") as it:
            stage = evidence.stage(f"probe:{name}")
            probe = evidence.read(stage, "probe.json", ProbeFile)
            for layer in layers:
                if f"layer:{layer.name}" not in sound:
                    raise CouldNotVerify(f"layer {layer.name} is refuted: what it holds says nothing")
                if layer.diff_id not in known:
                    known[layer.diff_id] = _databases_of_blob(evidence, layer)
            found = packages.joined(known[layer.diff_id] for layer in layers)
            wrong, unknown = packages.contradictions(probe, found)
            it.wrong += wrong
            it.evidence.append(f"{len(probe.debs)} packages and {len(probe.wheels)} wheels, by the layers' databases")
            if unknown:
                it.kind = IF_RERUN
                it.open_to.append(f"versions that no database holds ({'; '.join(unknown)}): a rerun finds them")


def _databases_of_blob(evidence: Evidence, layer: RecordedLayer) -> packages.Databases:
    try:
        with open_below(evidence.blobs, layer.diff_id[7:], layer.size_bytes) as tar:
            return packages.read_layer(tar, f"layer {layer.name}")
    except FileNotFoundError:
        raise CouldNotVerify(f"layer {layer.name} is not here") from None


def _examine_image(it: Examination, evidence: Evidence, name: str) -> None:
    record = evidence.record
    if name not in record.image_layers:
        it.wrong.append(f"image_layers says nothing of image {name}")
        return
    layers = record.image_layers[name]
    definition = load_definition(evidence.paths.docker, name)
    made = [_layer(evidence, entry) for entry in layers]
    image = image_of(definition, record.host.architecture, made)
    if image.config_digest == record.images[name]:
        manifest = record.image_manifests.get(name)
        if manifest != image.manifest_digest:
            it.wrong.append(f"image_manifests.{name} is {manifest}; recomputed: {image.manifest_digest}")
    elif _is_of_another_checkout(evidence, record.images[name], layers):
        it.missing.append(
            f"its config lists the record's layers, but this checkout would make {image.config_digest}: check out the "
            "commit that made the record"
        )
    else:
        it.wrong.append(f"images.{name} is {record.images[name]}; recomputed: {image.config_digest}")
    known = _unique_layers(record)
    for entry in layers:
        it.wrong += differences(entry, known[entry.name], f"image_layers.{name}: {entry.name}")
    it.read(f"image {name}", image.config_digest)
    it.evidence.append(f"{len(layers)} layers; config {image.config_digest}; manifest {image.manifest_digest}")


def _layer(evidence: Evidence, entry: RecordedLayer) -> Layer:
    return Layer(
        name=entry.name,
        kind=entry.kind,
        diff_id=entry.diff_id,
        size_bytes=entry.size_bytes,
        path=evidence.blobs / entry.diff_id[7:],
        made_from=entry.made_from,
        tree=evidence.trees / entry.diff_id[7:],
    )


def _is_of_another_checkout(evidence: Evidence, identity: str, layers: tuple[RecordedLayer, ...]) -> bool:
    """Whether a config with this digest is here and lists exactly these layers: then only the settings differ."""
    try:
        data = read_below(evidence.blobs, identity[7:], _MOST_CONFIG_BYTES)
    except OSError:
        return False
    if f"sha256:{sha256_bytes(data)}" != identity:
        return False
    config = typed_json.read(data, _Config, what=f"config {identity[:19]}")
    made = tuple(f"{entry.name} {entry.made_from}" for entry in layers)
    listed = tuple(entry.diff_id for entry in layers)
    return config.rootfs.diff_ids == listed and tuple(step.created_by for step in config.history) == made


def _recipes(outcome: Outcome, evidence: Evidence) -> dict[str, LayerRecipe]:
    """This checkout's recipe of each layer of the record's images, by the layer's name."""
    found: dict[str, LayerRecipe] = {}
    text = "the images are made of the layers that this checkout defines"
    with outcome.examine("definitions", text) as it:
        for name, entries in evidence.record.image_layers.items():
            recipes = recipes_of(evidence.paths, name, evidence.record.host.architecture)
            found.update({recipe.name: recipe for recipe in recipes})
            listed = [(entry.name, entry.kind) for entry in entries]
            defined = [(recipe.name, recipe.definition.kind) for recipe in recipes]
            if listed != defined:
                it.missing.append(
                    f"image {name} is made of {_names(listed)}; docker/{name}/image.toml here says {_names(defined)}: "
                    "check out the commit that made the record"
                )
            it.evidence.append(f"{name}: {_names(defined)}")
    return found


def _names(layers: Sequence[tuple[str, str]]) -> str:
    return ", ".join(name for name, _ in layers) or "nothing"


def _examine_lock(it: Examination, evidence: Evidence, layer: RecordedLayer, recipe: LayerRecipe | None) -> None:
    if recipe is None:
        it.missing.append("this checkout defines no such layer: check out the commit that made the record")
        return
    lock = f"sha256:{recipe.lock.digest}"
    if layer.made_from != lock:
        it.missing.append(
            f"the record says {layer.made_from[:23]}, this checkout's lock is {lock[:23]}: check out the commit "
            "that made the record"
        )
    pins = load_pins(evidence.paths)["layers"].get(evidence.record.host.architecture, {})
    pinned = pins.get(layer.name)
    if pinned is None:
        it.evidence.append("conf/locks/images.json pins no digest of it")
    elif pinned != layer.diff_id:
        it.missing.append(f"conf/locks/images.json here pins {pinned}, the record has {layer.diff_id}")
    else:
        it.evidence.append(f"conf/locks/images.json pins {pinned}")
    it.kind = ATTESTED
    it.evidence.append(f"lock digest {lock}; `invoke audit.challenge` builds the layer again and proves it")


def _examine_chain(it: Examination, root: Path, lock: DebLock) -> None:
    try:
        links = verify_debian_chain(root, lock, Cache(root).read)
        it.evidence += [f"{link.suite}: {link.debs} packages, signed by {', '.join(link.signers)}" for link in links]
    except CouldNotVerify as error:
        links = verify_debian_chain(root, lock, None)
        it.evidence += [f"{link.suite}: InRelease signed by {', '.join(link.signers)}" for link in links]
        it.evidence.append(
            f"that the signed indexes hold the lock's lines is not shown: {error.message}; `invoke audit.challenge` "
            "fetches them"
        )
        it.kind = ATTESTED
