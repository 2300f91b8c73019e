"""docker/IMAGE/image.toml read into types: an image's layers, environment and the links that scripts would make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repro.base import versions
from repro.base.errors import UsageError
from repro.base.toml import read_toml

_KEYS = {"description", "python", "extends", "stages", "layers", "alternatives", "env", "optional", "site_packages",
         "largest_page_bytes", "versions"}  # fmt: skip
_LOCKED_KINDS = ("debs", "wheels")
_BUILT_KEYS = {"kind", "recipe", "sources", "toolchain"}
_BUILT_MAY = {"cpu_seconds", "architectures"}
_VERSIONED = re.compile(r"([a-z]+)-([0-9][0-9a-z.-]*)")
_VERSION = "{version}"


@dataclass(frozen=True)
class LayerDefinition:
    """One layer of an image: its kind and the name of its lock; for a built one, of its recipe.

    Attributes:
        sources: names in conf/sources.toml of what a built layer is compiled from.
        toolchain: the image that it is compiled in.
        cpu_seconds: what its recipe took of a processor natively, measured once; 0 where it never was. Only told to
            people: nothing depends on it.
        architectures: that have this layer; empty for all.
    """

    kind: str
    lock: str
    sources: tuple[str, ...] = ()
    toolchain: str = ""
    cpu_seconds: int = 0
    architectures: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.lock}"

    def is_for(self, architecture: str) -> bool:
        """Whether images of that architecture have this layer."""
        return not self.architectures or architecture in self.architectures

    def source_names(self, architecture: str) -> tuple[str, ...]:
        """`sources` for one architecture: '{architecture}' in a name stands for it."""
        sources = self.sources if self.is_for(architecture) else ()
        return tuple(name.replace("{architecture}", architecture) for name in sources)


@dataclass(frozen=True)
class ImageDefinition:
    """What image.toml says, with what `extends` brings already in front.

    Attributes:
        optional: why the image is left out where its sources are not given; '' for one that is always made.
        site_packages: where wheels go: by default where Debian's Python looks before its own packages.
        largest_page_bytes: by architecture, the largest memory pages that its libraries can be loaded with; nothing
            for any. No layer depends on it.
    """

    name: str
    description: str
    python: str
    layers: tuple[LayerDefinition, ...]
    stages: tuple[str, ...]
    alternatives: Mapping[str, Mapping[str, str]]
    env: Mapping[str, str] = field(default_factory=dict)
    optional: str = ""
    site_packages: str = ""
    largest_page_bytes: Mapping[str, int] = field(default_factory=dict)

    def of(self, architecture: str) -> ImageDefinition:
        """The same with the layers that images of one architecture have."""
        return replace(self, layers=tuple(layer for layer in self.layers if layer.is_for(architecture)))

    @property
    def built_layers(self) -> tuple[LayerDefinition, ...]:
        """Those of its layers that are compiled."""
        return tuple(layer for layer in self.layers if layer.kind == "built")


def _parse(docker: Path, name: str) -> dict[str, Any]:
    own = docker / name / "image.toml"
    path, version = (own, "") if own.exists() else _template(docker, name)
    if path is None:
        raise UsageError(f"there is no image {name!r}", hint=f"images: {', '.join(image_names(docker))}")
    document = read_toml(path)
    if version:
        document = {key: _for_version(value, version) for key, value in document.items() if key != "versions"}
    surplus = sorted(set(document) - _KEYS)
    if surplus:
        raise UsageError(f"docker/{path.parent.name}/image.toml has unknown keys: {', '.join(surplus)}")
    return document


def _template(docker: Path, name: str) -> tuple[Path | None, str]:
    """For an image of a version, such as 'cann-8.1.rc1': the definition that stands for such versions, and the version.

    A definition stands for versions where it has `versions`: the first of them, and the first that it is not for.
    """
    asked = _VERSIONED.fullmatch(name)
    version = versions.parse(asked[2]) if asked else None
    for path in sorted(docker.glob(f"{asked[1]}-*/image.toml")) if asked and version else []:
        bounds = read_toml(path).get("versions", [])
        first, end = (versions.parse(text) for text in bounds) if len(bounds) == 2 else (None, None)
        if bounds and version and (first is None or first <= version) and (end is None or version < end):
            return path, version.text
    return None, ""


def _for_version(value: Any, version: str) -> Any:
    """What a definition says, with its version in place of '{version}'."""
    if isinstance(value, dict):
        return {key: _for_version(item, version) for key, item in value.items()}
    if isinstance(value, list):
        return [_for_version(item, version) for item in value]
    return value.replace(_VERSION, version) if isinstance(value, str) else value


def load_definition(docker: Path, name: str) -> ImageDefinition:
    """Read one image's definition.

    Args:
        docker: the folder that holds one folder per image.
        name: the image's folder, or 'NAME-VERSION' for one that a folder with `versions` stands for.

    Raises:
        UsageError: no such image, or its image.toml is wrong.
    """
    document = _parse(docker, name)
    parent = load_definition(docker, document["extends"]) if "extends" in document else None
    layers = [_layer(name, item) for item in document.get("layers", [])]
    python = document.get("python", parent.python if parent else "")
    inherited = parent.site_packages if parent and parent.python == python else ""
    return ImageDefinition(
        name=name,
        description=document.get("description", ""),
        python=python,
        layers=(parent.layers if parent else ()) + tuple(layers),
        stages=tuple(document.get("stages", ())),
        alternatives={**(parent.alternatives if parent else {}), **document.get("alternatives", {})},
        env={**(parent.env if parent else {}), **document.get("env", {})},
        optional=document.get("optional", ""),
        largest_page_bytes={
            **(parent.largest_page_bytes if parent else {}),
            **document.get("largest_page_bytes", {}),
        },
        site_packages=document.get("site_packages") or inherited or f"usr/local/lib/python{python}/dist-packages",
    )


def _layer(image: str, item: Mapping[str, Any]) -> LayerDefinition:
    kind = item.get("kind")
    if kind in _LOCKED_KINDS and set(item) == {"kind", "lock"}:
        return LayerDefinition(str(kind), item["lock"])
    if kind == "built" and set(item) - _BUILT_MAY == _BUILT_KEYS:
        return LayerDefinition(
            kind="built",
            lock=item["recipe"],
            sources=tuple(item["sources"]),
            toolchain=item["toolchain"],
            cpu_seconds=int(item.get("cpu_seconds", 0)),
            architectures=tuple(item.get("architectures", ())),
        )
    raise UsageError(
        f"{image}/image.toml: a layer needs exactly kind ({', '.join(_LOCKED_KINDS)}) and lock, "
        f"or kind built and {', '.join(sorted(_BUILT_KEYS - {'kind'}))}"
    )


def image_names(docker: Path) -> list[str]:
    """Every image that has a definition of its own, sorted."""
    return sorted(path.parent.name for path in docker.glob("*/image.toml") if "versions" not in read_toml(path))
