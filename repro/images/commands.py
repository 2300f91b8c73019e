"""What `invoke images…` and `invoke fetch` do: all images of one or both architectures at once."""

from __future__ import annotations

from pathlib import Path

from repro.base.architecture import ARCHITECTURES
from repro.base.errors import UsageError
from repro.base.files import atomic_writer
from repro.base.paths import Paths
from repro.fetching import fetch_files
from repro.images.build import Say, build_images, describe_missing, files_needed
from repro.images.compile import EngineFor, why_left_out
from repro.images.definition import image_names, load_definition
from repro.images.layer_index import known_images
from repro.images.oci import docker_archive_stream
from repro.images.pins import write_pins
from repro.machine import facts


def architectures(option: str) -> list[str]:
    """'' (this machine's), 'amd64', 'arm64', or both with a comma.

    Raises:
        UsageError: anything else.
    """
    names = [word.strip() for word in option.split(",")] if option else [facts.architecture()]
    for name in names:
        if name not in ARCHITECTURES:
            raise UsageError(f"--arch {name!r} is not known", hint="amd64, arm64, or amd64,arm64")
    return names


def obtainable(paths: Paths, architecture: str, say: Say) -> list[str]:
    """The images that can be made here: all but those that are neither built nor have what they are compiled from.

    Args:
        say: is told of each that is left out, and why.
    """
    names = []
    for name in image_names(paths.docker):
        definition = load_definition(paths.docker, name)
        if definition.optional and not definition.stages:
            continue  # compilers and the like: made when a layer needs them
        why = why_left_out(paths, definition, architecture)
        if not why or known_images(paths, [name], architecture):
            names.append(name)
        else:
            say(f"left out: image {name} ({architecture}): {why}")
    return names


def fetch_for_images(paths: Paths, arch: str, say: Say) -> None:
    """Bring every locked file that the images of these architectures are made from."""
    needed = {}
    for architecture in architectures(arch):
        needed.update(files_needed(paths, obtainable(paths, architecture, say), [architecture]))
    if not needed:
        say("nothing to fetch: every layer is built")
        return
    fetch_files(paths.root, needed.values())


def build_all(paths: Paths, arch: str, say: Say, engine_for: EngineFor) -> None:
    """Build every image of these architectures: layers into artifacts/rootfs/layers, the rest into artifacts/oci."""
    for architecture in architectures(arch):
        names = obtainable(paths, architecture, say)
        for name, image in build_images(paths, names, architecture, say, engine_for=engine_for).items():
            say(f"{name:<10} {architecture} {image.config_digest}")


def pin_all(paths: Paths, say: Say, engine_for: EngineFor) -> Path:
    """Build both architectures, and write what came out as what must come out.

    The pins of images that cannot be made here stay as they are.
    """
    built = {}
    for arch in ARCHITECTURES:
        names = obtainable(paths, arch, say)
        layers = [layer for name in names for layer in load_definition(paths.docker, name).of(arch).built_layers]
        compilers = {layer.toolchain for layer in layers}
        wanted = sorted({*names, *compilers})
        built[arch] = build_images(paths, wanted, arch, say, engine_for=engine_for, check_pins=False)
    return write_pins(paths, built)


def save_all(paths: Paths, arch: str, target: Path, say: Say, engine_for: EngineFor) -> None:
    """Write the images of one architecture as one archive that Docker, Podman and skopeo read."""
    chosen = architectures(arch)
    if len(chosen) != 1:
        raise UsageError("an archive holds one architecture", hint="give --arch amd64 or --arch arm64")
    names = obtainable(paths, chosen[0], say)
    images = build_images(paths, names, chosen[0], say, engine_for=engine_for)
    with atomic_writer(target) as stream:
        for chunk in docker_archive_stream(list(images.values())):
            stream.write(chunk)
    say(f"wrote {target}")


def describe_images(paths: Paths, arch: str) -> str:
    """A text that shows each image's layers, sizes, IDs and what they were made from."""
    lines = []
    names = image_names(paths.docker)
    for architecture in architectures(arch):
        known = known_images(paths, names, architecture)
        wanted = [name for name in obtainable(paths, architecture, lambda _: None) if name not in known]
        for name in names:
            definition = load_definition(paths.docker, name)
            lines.append(f"{name} ({architecture}): {definition.description}")
            if name not in known:
                why = "" if name in wanted else why_left_out(paths, definition, architecture)
                lines.append(f"  left out: {why}" if why else "  not built yet")
                continue
            image = known[name]
            lines.append(f"  image ID         {image.config_digest}")
            lines.append(f"  manifest digest  {image.manifest_digest}")
            lines.append("  stages           " + (", ".join(definition.stages) or "-"))
            for layer in image.layers:
                lines.append(f"  layer {layer.name:<16} {layer.size_bytes / 1e6:8.1f} MB  {layer.diff_id}")
                lines.append(f"        made from lock     {layer.made_from}")
        missing = describe_missing(paths, wanted, architecture)
        lines += [f"to build: {line}" for line in missing]
    return "\n".join(lines)
