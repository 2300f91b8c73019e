"""Compiling a built layer: its archives verified, its recipe run in the toolchain image on this machine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from repro.base.paths import Paths
from repro.base.temporary import temporary_folder
from repro.base.user_lock import LICENCES, accepted
from repro.container.image import Image
from repro.container.job import Engine
from repro.images.definition import ImageDefinition
from repro.images.layers.built import add_built, run_recipe
from repro.images.layers.tree import Tree
from repro.locks.archives import copy_verified, how_to_get, known_source, load_sources, missing_sources
from repro.locks.built import BuiltLock
from repro.machine.emulation import emulation

EngineFor = Callable[[Image], Engine]
"""Chooses what runs an image's compilers, whose architecture may be another one: `repro.run.engine_choice` has one."""


def why_left_out(paths: Paths, definition: ImageDefinition, architecture: str) -> str:
    """Why an image cannot be built here, for a person; '' when it can.

    Args:
        paths: of the checkout, whose data/sources is looked into.
        definition: of the image.
        architecture: that it shall be built for.
    """
    definition = definition.of(architecture)
    if not definition.built_layers:
        return definition.optional
    names = tuple(name for layer in definition.built_layers for name in layer.source_names(architecture))
    lacking = missing_sources(paths, names)
    if lacking:
        return "; ".join([definition.optional, *(how_to_get(source) for source in lacking)])
    known = load_sources(paths.conf)
    licences = {known_source(known, name).accept for name in names} - {""}
    for licence in sorted(licences):
        if not accepted(paths, licence):
            return f"{definition.optional}: `invoke accept-cann-licence` says that you accept {LICENCES[licence]}"
    emulated = emulation(architecture)
    if not emulated.works:
        return f"its compilers are {architecture} programs: {emulated.how}; {emulated.hint}"
    return ""


def compile_layer(
    paths: Paths,
    lock: BuiltLock,
    fetched: Mapping[str, Path],
    toolchain: Image,
    tree: Tree,
    say: Callable[[str], None],
    engine_for: EngineFor,
) -> None:
    """Fill `tree` with what the recipe makes.

    Args:
        paths: of the checkout.
        lock: recipe and archives.
        fetched: by name, the archives of `lock.files`, whose digests the caller has verified.
        toolchain: the image to compile in.
        tree: the layer to be.
        say: told what is being done.
        engine_for: chooses the engine.

    Raises:
        CouldNotRun: an archive, an engine or the architecture is missing, or the recipe failed.
        VerificationFailed: an archive is not the one that conf/sources.toml names.
    """
    with temporary_folder(paths.temporary, "compile") as work:
        archives = {}
        for source in lock.sources:
            archives[source.name] = work / source.name
            if source.locked is None:
                copy_verified(paths, source, archives[source.name])
            else:
                shutil.copyfile(fetched[source.name], archives[source.name])
        out = work / "out"
        out.mkdir()
        log = paths.logs / f"build-{lock.name}.{lock.architecture}.log"
        engine = engine_for(toolchain)
        say(f"compiling layer built:{lock.name} ({lock.architecture}) with {engine.name}; its log: {log}")
        began_s = time.monotonic()
        engine.prepare(toolchain)
        run_recipe(engine, toolchain, lock, archives, out, log)
        say(f"compiled layer built:{lock.name} in {time.monotonic() - began_s:.0f} s")
        add_built(tree, out)
