"""`invoke audit.challenge`: every layer built again from locked sources, and every digest held to what is claimed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from repro.audit.claims import Outcome, Rebuild
from repro.audit.evidence import Evidence
from repro.audit.explain.kept import Kept
from repro.audit.statements import rebuilds_of
from repro.base.errors import BundleError, CouldNotVerify
from repro.base.paths import Paths
from repro.base.temporary import temporary_folder
from repro.container.image import Image
from repro.fetching import Cache, fetch_files
from repro.images.build import Say, build_images, files_needed
from repro.images.compile import why_left_out
from repro.images.definition import image_names, load_definition
from repro.images.pins import PINS, load_pins
from repro.images.recipes import recipes_of
from repro.locks.debian import verify_debian_chain
from repro.locks.model import DebLock
from repro.run.engine_choice import compiling_engine


@dataclass(frozen=True)
class ScratchPaths(Paths):
    """The checkout's folders, with an artifacts/ of its own: nothing that was built before is seen."""

    scratch: Path = Path()

    @property
    def artifacts(self) -> Path:
        return self.scratch


@dataclass(frozen=True)
class Challenge:
    """What is built again.

    Attributes:
        paths: the checkout.
        architectures: 'amd64', 'arm64'; a built layer of another architecture needs that to run here.
        names: images; none for those of the record, or else all that can be made here.
        evidence: a run whose record the digests are also held to.
        fetch: bring locked files that are missing (network); each is verified by its hash.
        say: is told of each layer.
        kept: where both sides of a difference are kept.
    """

    paths: Paths
    architectures: Sequence[str]
    names: Sequence[str]
    evidence: Optional[Evidence]
    fetch: bool
    say: Say
    kept: Kept


def challenge(outcome: Outcome, asked: Challenge) -> None:
    """Build every layer of some images again in an empty folder, from locked files, and compare digests."""
    paths = asked.paths
    wanted = {
        architecture: list(asked.names) or _images(paths, architecture, asked.evidence)
        for architecture in asked.architectures
    }
    for architecture, found in wanted.items():
        outcome.fact(f"images ({architecture})", ", ".join(found))
        _examine_debian(outcome, asked, found, architecture)
    with temporary_folder(paths.temporary, "challenge") as folder:
        scratch = ScratchPaths(paths.root, folder, scratch=folder)
        for architecture in asked.architectures:
            for name in wanted[architecture]:
                _challenge_image(outcome, asked, scratch, architecture, name)
    outcome.subjects.update({item.name: item.claimed for item in outcome.rebuilt})


def _deb_locks(paths: Paths, names: Sequence[str], architecture: str) -> dict[str, DebLock]:
    """The locks of Debian packages that some images are made of, those of their compilers' images included."""
    found: dict[str, DebLock] = {}
    for name in names:
        for recipe in recipes_of(paths, name, architecture):
            if isinstance(recipe.lock, DebLock):
                found[recipe.lock.label] = recipe.lock
            elif recipe.definition.kind == "built":
                found.update(_deb_locks(paths, [recipe.definition.toolchain], architecture))
    return found


def _examine_debian(outcome: Outcome, asked: Challenge, names: Sequence[str], architecture: str) -> None:
    """A claim for each lock: from Debian's key over its signed indexes down to every package's hash."""
    paths = asked.paths
    cache = Cache(paths.root)

    for lock in sorted(_deb_locks(paths, names, architecture).values(), key=lambda lock: (lock.suite, lock.label)):
        text = f"lock {lock.label}: Debian's own key vouches for the hash of every package"
        with outcome.examine(f"debian:{lock.name}:{architecture}", text) as it:
            missing = [file for file in lock.index_files if cache.path(file.sha256) is None]
            if missing and asked.fetch:
                fetch_files(paths.root, missing)
            for link in verify_debian_chain(paths.root, lock, cache.read):
                it.evidence.append(f"{link.suite}: {link.debs} packages, signed by {', '.join(link.signers)}")


def _images(paths: Paths, architecture: str, evidence: Optional[Evidence]) -> list[str]:
    """The record's images; else what is always made, and what is pinned and can be compiled from the archives here."""
    if evidence is not None:
        return sorted(evidence.record.images)
    pinned = load_pins(paths)["images"].get(architecture, {})
    found = []
    for name in image_names(paths.docker):
        definition = load_definition(paths.docker, name)
        compiled = name in pinned and definition.built_layers and not why_left_out(paths, definition, architecture)
        if not definition.optional or compiled:
            found.append(name)
    return found


def _challenge_image(outcome: Outcome, asked: Challenge, scratch: ScratchPaths, architecture: str, name: str) -> None:
    images: dict[str, Image] = {}
    text = f"image {name} ({architecture}): every layer can be built from its locked sources"
    with outcome.examine(f"build:{name}:{architecture}", text) as it:
        needed = files_needed(scratch, [name], [architecture])
        if needed and asked.fetch:
            fetch_files(scratch.root, needed.values())
        engine_for = compiling_engine(scratch)
        images = build_images(scratch, [name], architecture, asked.say, engine_for=engine_for, check_pins=False)
        it.evidence.append(f"{len(recipes_of(scratch, name, architecture))} layers, {len(needed)} locked files")
    if name in images:
        _hold_image(outcome, asked, architecture, images[name])
    else:
        done = {item.name for item in outcome.rebuilt}
        failed = _not_rebuilt(asked, scratch, architecture, name)
        outcome.rebuilt += [item for item in failed if item.name not in done]


def _not_rebuilt(asked: Challenge, scratch: ScratchPaths, architecture: str, name: str) -> Iterator[Rebuild]:
    """That an image and its layers could not be built says nothing for or against their digests."""
    known = _known(asked, architecture)
    with contextlib.suppress(BundleError):
        for recipe in recipes_of(scratch, name, architecture):
            claims = [claimed.layers.get(recipe.name) for claimed in known.values()]
            yield from rebuilds_of(f"layer {recipe.name} ({architecture})", "", claims, {})
    yield from rebuilds_of(f"image {name} ({architecture})", "", [said.images.get(name) for said in known.values()], {})


def _hold_image(outcome: Outcome, asked: Challenge, architecture: str, image: Image) -> None:
    claims, name = _known(asked, architecture), image.name
    examined = {claim.key for claim in outcome.claims}
    for layer in image.layers:
        key = f"layer:{layer.name}:{architecture}"
        if key not in examined:
            text = f"layer {layer.name} ({architecture}): built again, it has the same digest"
            with outcome.examine(key, text) as it:
                known = {where: claimed.layers.get(layer.name) for where, claimed in claims.items()}
                sources = {f"lock of {layer.name}": layer.made_from}
                text = f"layer {layer.name} ({architecture})"
                outcome.rebuilt += rebuilds_of(text, layer.diff_id, [*known.values()], sources)
                _hold(it.wrong, it.evidence, layer.diff_id, known)
                for other in _others(layer.diff_id, known):
                    it.wrong += asked.kept.layer(layer, other)
    with outcome.examine(f"image:{name}:{architecture}", f"image {name} ({architecture}): it has the same ID") as it:
        known = {where: claimed.images.get(name) for where, claimed in claims.items()}
        layers = {f"layer {layer.name}": layer.diff_id for layer in image.layers}
        outcome.rebuilt += rebuilds_of(f"image {name} ({architecture})", image.config_digest, [*known.values()], layers)
        _hold(it.wrong, it.evidence, image.config_digest, known)
        for other in _others(image.config_digest, known):
            it.wrong += asked.kept.image(image, other)


def _others(found: str, known: Mapping[str, Optional[str]]) -> list[str]:
    """What is claimed in place of the digest that came out, each once."""
    return sorted({digest for digest in known.values() if digest is not None and digest != found})


@dataclass(frozen=True)
class _Claimed:
    layers: Mapping[str, str]
    images: Mapping[str, str]


def _known(asked: Challenge, architecture: str) -> dict[str, _Claimed]:
    """Who claims digests of this architecture's layers and images."""
    pins = load_pins(asked.paths)
    known = {PINS: _Claimed(pins["layers"].get(architecture, {}), pins["images"].get(architecture, {}))}
    if asked.evidence is not None and asked.evidence.record.host.architecture == architecture:
        record = asked.evidence.record
        layers = {layer.name: layer.diff_id for listed in record.image_layers.values() for layer in listed}
        known["the record"] = _Claimed(layers, record.images)
    return known


def _hold(wrong: list[str], evidence: list[str], found: str, known: Mapping[str, Optional[str]]) -> None:
    claims = {where: digest for where, digest in known.items() if digest is not None}
    if not claims:
        raise CouldNotVerify(f"built again: {found}; nobody claims a digest of it")
    for where, digest in claims.items():
        if digest == found:
            evidence.append(f"{where}: {digest}")
        else:
            wrong.append(f"built again: {found}; {where} says {digest}")
