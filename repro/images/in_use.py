"""Which layers, blobs and unpacked roots belong to images of this checkout: the roots of `invoke images.gc`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import msgspec

from repro.base import typed_json
from repro.base.architecture import ARCHITECTURES
from repro.base.errors import BundleError, VerificationFailed
from repro.base.files import sha256_file
from repro.base.paths import Paths
from repro.base.values import Digest
from repro.images.definition import image_names, load_definition
from repro.images.layer_index import entry_path
from repro.images.layer_trees import sound
from repro.images.oci import listed
from repro.images.recipes import recipes_of
from repro.images.rootfs import chain_of
from repro.images.unpacked import MANIFEST


class _Blob(msgspec.Struct, frozen=True):
    digest: Digest


class _Manifest(msgspec.Struct, frozen=True):
    config: _Blob
    layers: tuple[_Blob, ...]


class _Entry(msgspec.Struct, frozen=True):
    name: str
    architecture: str
    diff_id: Digest
    manifest: Optional[str] = None


@dataclass(frozen=True)
class Published:
    """An image in the OCI layout: names of its blobs, and of its unpacked root."""

    blobs: frozenset[str]
    chain: str


def published_images(paths: Paths) -> list[Published]:
    """The images that the layout's index lists: the newest of each name and architecture.

    Raises:
        VerificationFailed: the index or a manifest is damaged.
    """
    images = []
    for digest in (str(entry["digest"])[7:] for entry in listed(paths)):
        place = paths.blobs / digest
        manifest = typed_json.read(place.read_bytes(), _Manifest, what=str(place))
        layers = [layer.digest for layer in manifest.layers]
        names = {digest, manifest.config.digest[7:], *(layer[7:] for layer in layers)}
        images.append(Published(frozenset(names), chain_of(layers)))
    return images


def surplus_blobs(paths: Paths, entries: Iterable[Path]) -> list[Path]:
    """Tars that a build's unpacked layer gives back, such as those made for a cluster.

    Args:
        entries: of the layers that are kept. One that came as a tar, in a bundle, keeps it: its entry has no manifest.
    """
    found = []
    for entry in filter(None, map(_entry, entries)):
        name = entry.diff_id[7:]
        blob, manifest = paths.blobs / name, paths.layer_trees / name / MANIFEST
        held = entry.manifest and manifest.is_file() and sha256_file(manifest) == entry.manifest
        if held and blob.is_file() and sound(manifest.parent) is not None:
            found.append(blob)
    return sorted(set(found))


def _entry(path: Path) -> _Entry | None:
    try:
        return typed_json.read(path.read_bytes(), _Entry, what=path.name)
    except VerificationFailed:
        return None


def current_layers(paths: Paths) -> tuple[set[Path], set[str]]:
    """Entries of layers that this checkout's images are made of, and names of their blobs.

    Where a layer's recipe cannot be known, since the sources that it is compiled from are not there, whatever was built
    under its name stays: it may have taken hours. A damaged entry is of no layer.
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
        entry = _entry(path)
        if entry is not None and (path in entries or (entry.name, entry.architecture) in unknown):
            kept.add(path)
            blobs.add(entry.diff_id[7:])
    return kept, blobs
