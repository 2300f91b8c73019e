"""Recipes: all that a layer's bytes depend on, and the key that says so."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Union

from repro.base.architecture import by_name
from repro.base.errors import UsageError
from repro.base.files import canonical_json, sha256_bytes
from repro.base.imports import Modules, digest_of_closure
from repro.base.paths import Paths
from repro.images.definition import ImageDefinition, LayerDefinition, load_definition
from repro.locks.archives import known_source, load_sources, settled
from repro.locks.built import BuiltLock
from repro.locks.model import DebLock, LockedFile, WheelLock, load_deb_lock, load_wheel_lock

INTERPRETER = "/usr/bin/python3"
BASE_ENV = {
    "HOME": "/tmp/home",  # noqa: S108 - inside the container, fresh and private
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "TZ": "UTC",
}

Lock = Union[DebLock, WheelLock, BuiltLock]


@functools.cache
def _builder_digest(kind: str) -> str:
    """Digest of our own code that makes the bytes of a layer of this kind."""
    return digest_of_closure(_own_modules().closure(f"repro.images.layers.{kind}"))


@functools.cache
def _own_modules() -> Modules:
    return Modules(Path(__file__).parents[2])


@functools.cache
def _installer() -> str:
    """The version of what puts wheels into a layer."""
    return version("installer")


@dataclass(frozen=True)
class LayerRecipe:
    """All that a layer's bytes depend on."""

    definition: LayerDefinition
    image: ImageDefinition
    architecture: str
    lock: Lock

    @property
    def name(self) -> str:
        return self.definition.name

    def key(self) -> str:
        """Digest of everything that the layer's bytes depend on, the builder's own code included."""
        return sha256_bytes(
            canonical_json(
                {
                    "kind": self.definition.kind,
                    "name": self.name,
                    "architecture": self.architecture,
                    "lock": self.lock.digest,
                    "python": self.image.python if self.definition.kind == "wheels" else "",
                    "alternatives": self.alternatives(),
                    "builder": _builder_digest(self.definition.kind),
                    "installer": _installer() if self.definition.kind == "wheels" else "",
                    **self._placement(),
                }
            )
        )

    def alternatives(self) -> dict[str, dict[str, str]]:
        """The links for packages of this layer; '{triplet}' in a path is the architecture's library folder."""
        packages = {file.project for file in self.lock.files}
        triplet = by_name(self.architecture).triplet
        return {
            package: {path.replace("{triplet}", triplet): target for path, target in links.items()}
            for package, links in self.image.alternatives.items()
            if package in packages
        }

    def _placement(self) -> dict[str, str]:
        """Where wheels go, for an image that says so."""
        usual = self.image.site_packages == f"usr/local/lib/python{self.image.python}/dist-packages"
        return {} if usual or self.definition.kind != "wheels" else {"site_packages": self.image.site_packages}

    @property
    def status_file(self) -> str:
        """The first layer holds dpkg's status; a later one cannot append to it and has a file of its own."""
        first = self.image.layers[0] == self.definition
        return "var/lib/dpkg/status" if first else f"var/lib/dpkg/status.d/{self.definition.lock}"

    @property
    def files(self) -> Sequence[LockedFile]:
        """The locked files that it is made from."""
        return self.lock.files

    @property
    def package_bytes(self) -> int:
        """Their size together, which goes about with the time that building takes."""
        return sum(file.size_bytes for file in self.lock.files)


def recipes_of(paths: Paths, name: str, architecture: str) -> list[LayerRecipe]:
    """The layers of one image, lowest first, each with its lock and all else that its bytes depend on."""
    image = load_definition(paths.docker, name).of(architecture)
    return [LayerRecipe(layer, image, architecture, _lock(paths, layer, architecture)) for layer in image.layers]


def _lock(paths: Paths, layer: LayerDefinition, architecture: str) -> Lock:
    if layer.kind == "built":
        return _built_lock(paths, layer, architecture)
    if layer.kind == "debs":
        return load_deb_lock(paths.root, layer.lock, architecture)
    return load_wheel_lock(paths.root, layer.lock, architecture)


def _built_lock(paths: Paths, layer: LayerDefinition, architecture: str) -> BuiltLock:
    """A compiled layer's recipe, archives and compilers. The compilers' image stands in by the locks of its layers, so
    that this digest is known before that image is built, and is the same whatever packages the host has."""
    toolchain = recipes_of(paths, layer.toolchain, architecture)
    known = load_sources(paths.conf)
    script = paths.docker / layer.lock / "build.sh"
    try:
        content = script.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"docker/{layer.lock} has no build.sh, which a built layer is made by") from None
    return BuiltLock(
        name=layer.lock,
        architecture=architecture,
        script=content,
        sources=tuple(settled(paths, known_source(known, name)) for name in layer.source_names(architecture)),
        toolchain=sha256_bytes(canonical_json([[recipe.name, recipe.lock.digest] for recipe in toolchain])),
    )
