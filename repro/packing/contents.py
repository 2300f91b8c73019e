"""What goes into a bundle: the repository, images, wheels, locked sources, and what was asked for by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.base.errors import CouldNotRun, UsageError
from repro.base.files import pretty_json
from repro.base.paths import Paths
from repro.container.image import Image
from repro.fetching import Cache
from repro.images.archives import sources_of
from repro.images.definition import ImageDefinition, load_definition
from repro.images.oci import layout_files
from repro.images.recipes import recipes_of
from repro.images.rootfs import SANDBOX_IMAGE
from repro.locks.archives import find_source, known_source, load_sources
from repro.locks.model import LockedFile, load_deb_lock, load_wheel_lock
from repro.packing.adopt import IMAGES_FILE
from repro.packing.repository import CommittedFile
from repro.packing.writer import Item
from repro.run.inputs import users_checkpoint

INCLUDABLE = ("checkpoint", "cann")
LICENCE_NOTES = {
    "checkpoint": "the model's weights: they were trained on TIMIT and may be passed on only as far as their owner "
    "and TIMIT's licence (LDC User Agreement) allow",
    "cann": "Ascend CANN: the vendor's end user licence, accepted by whoever downloaded it, limits passing it on",
}

Images = Mapping[str, Mapping[str, Image]]  # architecture -> name -> image


def images_to_pack(paths: Paths, names: Sequence[str], architecture: str, include: Sequence[str]) -> list[str]:
    """Which images go in: those that run stages and the sandbox's own; what holds a vendor's licensed packages only
    when asked for by name. Compilers' images never: with the sources they can be made again."""
    chosen = []
    for name in names:
        definition = load_definition(paths.docker, name)
        runs = bool(definition.stages) or name == SANDBOX_IMAGE
        licensed = bool(_licensed_sources(paths, definition, architecture))
        if runs and (not licensed or "cann" in include):
            chosen.append(name)
    return chosen


def _licensed_sources(paths: Paths, definition: ImageDefinition, architecture: str) -> list[str]:
    """The archives in an image that come with a licence to be accepted."""
    known = load_sources(paths.conf)
    names = (name for layer in definition.layers for name in layer.source_names(architecture))
    return [name for name in names if known_source(known, name).accept]


def repository_items(files: Sequence[CommittedFile]) -> list[Item]:
    """The repository at a commit."""
    return [Item.of_bytes(f"tree/{file.path}", file.data, executable=file.executable) for file in files]


def describe_images(images: Images) -> bytes:
    """images.json: each image's ID, manifest digest and layers, for the installation and for people."""
    return pretty_json(
        {
            architecture: {
                name: {
                    "image_id": image.config_digest,
                    "manifest_digest": image.manifest_digest,
                    "layers": [
                        {
                            "name": layer.name,
                            "diff_id": layer.diff_id,
                            "size_bytes": layer.size_bytes,
                            "made_from": layer.made_from,
                        }
                        for layer in image.layers
                    ],
                }
                for name, image in named.items()
            }
            for architecture, named in images.items()
        }
    )


def image_items(images: Images) -> list[Item]:
    """The images of all architectures as one OCI layout, each layer once, and the list of them."""
    every = [image for named in images.values() for image in named.values()]
    blobs: dict[str, Item] = {}
    for image in every:
        for digest, data in ((image.config_digest, image.config), (image.manifest_digest, image.manifest)):
            blobs[digest] = Item.of_bytes(_blob(digest), data)
        for layer in image.layers:
            blobs[layer.diff_id] = Item.of_layer(_blob(layer.diff_id), layer)
    small = [Item.of_bytes(f"tree/artifacts/oci/{name}", data) for name, data in layout_files(every).items()]
    return [Item.of_bytes(IMAGES_FILE, describe_images(images)), *small, *blobs.values()]


def _blob(digest: str) -> str:
    return f"tree/artifacts/oci/blobs/sha256/{digest[7:]}"


def wheel_items(paths: Paths, wheels: Sequence[LockedFile]) -> list[Item]:
    """The host's wheels, from the cache."""
    return [
        Item.of_file(f"tree/artifacts/wheels/{wheel.name}", _cached(paths, wheel), wheel.sha256) for wheel in wheels
    ]


def _with_compilers(paths: Paths, names: Iterable[str], architecture: str) -> list[str]:
    """The images, and those that layers of them are compiled in, and so on."""
    known: dict[str, None] = {}
    pending = list(names)
    while pending:
        name = pending.pop(0)
        if name not in known:
            known[name] = None
            definition = load_definition(paths.docker, name).of(architecture)
            pending += [layer.toolchain for layer in definition.built_layers]
    return list(known)


def locked_files(paths: Paths, images: Images) -> list[LockedFile]:
    """The packages that the images hold, each once: the inventories give digests of their bytes."""
    found = {
        file.sha256: file
        for architecture, named in images.items()
        for name in named
        for recipe in recipes_of(paths, name, architecture)
        if recipe.definition.kind in ("debs", "wheels")
        for file in recipe.files
    }
    return [found[sha256] for sha256 in sorted(found)]


def locked_sources(paths: Paths, images: Images) -> list[LockedFile]:
    """Every locked file that the images and their compilers are made of, and the package indexes that prove the .debs,
    each once."""
    found: dict[str, LockedFile] = {}
    for architecture, named in images.items():
        for name in _with_compilers(paths, named, architecture):
            definition = load_definition(paths.docker, name)
            for layer in definition.layers:
                if layer.kind == "debs":
                    lock = load_deb_lock(paths.root, layer.lock, architecture)
                    found.update({file.sha256: file for file in (*lock.files, *lock.index_files)})
                elif layer.kind == "wheels":
                    wheels = load_wheel_lock(paths.root, layer.lock, architecture)
                    found.update({file.sha256: file for file in wheels.files})
        for source in sources_of(paths, named, architecture):
            if source.locked is not None:
                found[source.sha256] = source.locked
    return [found[sha256] for sha256 in sorted(found)]


def source_items(paths: Paths, images: Images, locked: Sequence[LockedFile]) -> list[Item]:
    """What the images can be rebuilt from: locked files into the cache's places, source archives beside them."""
    items = [
        Item.of_file(f"tree/artifacts/cache/sha256/{file.sha256[:2]}/{file.sha256}", _cached(paths, file), file.sha256)
        for file in locked
    ]
    known = load_sources(paths.conf)
    wanted = {
        source
        for architecture, named in images.items()
        for name in _with_compilers(paths, named, architecture)
        for layer in load_definition(paths.docker, name).layers
        for source in layer.source_names(architecture)
    }
    for name in sorted(wanted):
        source = known_source(known, name)
        if source.locked is not None:
            continue  # among the locked files
        path = find_source(paths, source)
        if path is None:
            raise CouldNotRun(f"{source.title} is not in data/sources", hint=f"get {source.file} from {source.page}")
        items.append(Item.of_file(f"tree/data/sources/{path.name}", path))
    return items


def included_items(paths: Paths, include: Sequence[str]) -> list[Item]:
    """What is licensed to the user and goes in only when asked for by name.

    Raises:
        UsageError: a name that is not known, or of what is not there.
    """
    items: list[Item] = []
    for name in include:
        if name not in INCLUDABLE:
            raise UsageError(f"--include {name!r} is not known", hint=", ".join(INCLUDABLE))
        found = _checkpoint(paths) if name == "checkpoint" else _cann(paths)
        if not found:
            raise UsageError(f"--include {name}: it is not in data/", hint="see data/README.md for its place")
        items += [Item.of_file(f"tree/{path.relative_to(paths.root).as_posix()}", path) for path in found]
    return items


def _checkpoint(paths: Paths) -> list[Path]:
    path = users_checkpoint(paths)
    return [path] if path else []


def _cann(paths: Paths) -> list[Path]:
    licensed = [source for source in load_sources(paths.conf).values() if source.accept]
    found = (find_source(paths, source) for source in licensed)
    return sorted({path for path in found if path is not None})


def _cached(paths: Paths, file: LockedFile) -> Path:
    path = Cache(paths.root).path(file.sha256)
    if path is None:
        raise CouldNotRun(f"{file.entry} is not fetched", hint="pack where there is a network, or `invoke fetch` first")
    return path


def unpacked_bytes(images: Images, wheels: Sequence[LockedFile]) -> int:
    """About how much disk an installation takes beside its files: unpacked images, and the Python environment."""
    most = max(
        (
            sum({layer.diff_id: layer.size_bytes for image in named.values() for layer in image.layers}.values())
            for named in images.values()
        ),
        default=0,
    )
    return most + 3 * sum(wheel.size_bytes for wheel in wheels)


def summary(images: Images, include: Sequence[str], *, with_sources: bool) -> dict[str, Any]:
    """What the list says of the contents, for people and for whoever decides whether to pass the file on."""
    return {
        "images": {architecture: sorted(named) for architecture, named in images.items()},
        "with_sources": with_sources,
        "licence_notes": {name: LICENCE_NOTES[name] for name in include},
    }
