"""Which layers, blobs and unpacked roots belong to images of this checkout: the roots of `invoke images.gc`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from repro.base.architecture import ARCHITECTURES
from repro.base.errors import BundleError
from repro.base.paths import Paths
from repro.images.definition import image_names, load_definition
from repro.images.layer_index import entry_path
from repro.images.recipes import recipes_of
from repro.images.rootfs import chain_of


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
