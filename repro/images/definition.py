"""docker/IMAGE/image.toml read into types: an image's layers, environment and the links that scripts would make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repro.base.errors import UsageError
from repro.base.toml import read_toml

_KEYS = {"description", "python", "extends", "stages", "layers", "alternatives", "env", "optional", "site_packages",
         "largest_page_bytes"}  # fmt: skip
_LOCKED_KINDS = ("debs", "wheels")
_BUILT_KEYS = {"kind", "recipe", "sources", "toolchain"}
_BUILT_MAY = {"cpu_seconds", "architectures"}


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


def _parse(path: Path) -> dict[str, Any]:
    if not path.exists():
        known = ", ".join(image_names(path.parent.parent))
        raise UsageError(f"there is no image {path.parent.name!r}", hint=f"images: {known}")
    document = read_toml(path)
    surplus = sorted(set(document) - _KEYS)
    if surplus:
        raise UsageError(f"{path.parent.name}/image.toml has unknown keys: {', '.join(surplus)}")
    return document


def load_definition(docker: Path, name: str) -> ImageDefinition:
    """Read one image's definition.

    Args:
        docker: the folder that holds one folder per image.
        name: the image's folder.

    Raises:
        UsageError: no such image, or its image.toml is wrong.
    """
    document = _parse(docker / name / "image.toml")
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
    """Every image that has a definition, sorted."""
    return sorted(path.parent.name for path in docker.glob("*/image.toml"))
