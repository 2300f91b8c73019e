"""Which layers, blobs and unpacked roots belong to images of this checkout: the roots of `invoke images.gc`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from repro.base.architecture import ARCHITECTURES
from repro.base.errors import BundleError
from repro.base.files import sha256_file
from repro.base.paths import Paths
from repro.images.definition import image_names, load_definition
from repro.images.layer_index import entry_path
from repro.images.layer_trees import sound
from repro.images.recipes import recipes_of
from repro.images.rootfs import chain_of
from repro.images.unpacked import MANIFEST


@dataclass(frozen=True)
class Published:
    """An image in the OCI layout: names of its blobs, and of its unpacked root."""

    blobs: frozenset[str]
    chain: str


def published_images(paths: Paths) -> list[Published]:
    """The images that the layout's index lists: the newest of each name and architecture."""
    index = paths.oci / "index.json"
    listed = json.loads(index.read_bytes())["manifests"] if index.exists() else []
    images = []
    for digest in (str(entry["digest"])[7:] for entry in listed):
        manifest = json.loads((paths.blobs / digest).read_bytes())
        layers = [str(layer["digest"]) for layer in manifest["layers"]]
        names = {digest, str(manifest["config"]["digest"])[7:], *(layer[7:] for layer in layers)}
        images.append(Published(frozenset(names), chain_of(layers)))
    return images


def surplus_blobs(paths: Paths, entries: Iterable[Path]) -> list[Path]:
    """Tars that a build's unpacked layer gives back, such as those made for a cluster.

    Args:
        entries: of the layers that are kept. One that came as a tar, in a bundle, keeps it: its entry has no manifest.
    """
    found = []
    for document in (json.loads(entry.read_bytes()) for entry in entries):
        name = str(document["diff_id"])[7:]
        blob, manifest = paths.blobs / name, paths.layer_trees / name / MANIFEST
        held = document.get("manifest") and manifest.is_file() and sha256_file(manifest) == document["manifest"]
        if held and blob.is_file() and sound(manifest.parent) is not None:
            found.append(blob)
    return sorted(set(found))


def current_layers(paths: Paths) -> tuple[set[Path], set[str]]:
    """Entries of layers that this checkout's images are made of, and names of their blobs.

    Where a layer's recipe cannot be known, since the sources that it is compiled from are not there, whatever was built
    under its name stays: it may have taken hours.
    """
    entries, unknown = set(), set()
    for architecture in ARCHITECTURES:
        for name in image_names(paths.docker):
            try:
                entries |= {entry_path(paths, recipe) for recipe in recipes_of(paths, name, architecture)}
            except BundleError:
                layers = load_definition(paths.docker, name).of(architecture).layers
                unknown |= {(f"{layer.kind}:{layer.lock}", architecture) for layer in layers}
    kept, blobs = set(), set()
    for path in paths.layer_index.glob("*.json"):
        entry = json.loads(path.read_bytes())
        if path in entries or (entry["name"], entry["architecture"]) in unknown:
            kept.add(path)
            blobs.add(str(entry["diff_id"])[7:])
    return kept, blobs
