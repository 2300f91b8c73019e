"""Which upstream archives the compiled layers of images are made from."""

from __future__ import annotations

from collections.abc import Iterable

from repro.base.paths import Paths
from repro.images.definition import load_definition
from repro.locks.archives import SourceArchive, known_source, load_sources, settled


def sources_of(paths: Paths, images: Iterable[str], architecture: str) -> tuple[SourceArchive, ...]:
    """The archives that the compiled layers of these images are made from, settled, by name."""
    known = load_sources(paths.conf)
    return tuple(settled(paths, known_source(known, name)) for name in source_names(paths, images, architecture))


def source_names(paths: Paths, images: Iterable[str], architecture: str) -> list[str]:
    """The names of those archives, sorted."""
    layers = [layer for image in images for layer in load_definition(paths.docker, image).built_layers]
    return sorted({name for layer in layers for name in layer.source_names(architecture)})
