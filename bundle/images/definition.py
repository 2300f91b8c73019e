"""docker/IMAGE/image.toml read into types: an image's layers, environment and the links that scripts would make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundle.errors import UsageError
from bundle.toml import read_toml

_KEYS = {"description", "python", "extends", "stages", "layers", "alternatives", "env"}
_LAYER_KINDS = ("debs", "wheels")


@dataclass(frozen=True)
class LayerDefinition:
    """One layer of an image: its kind and the name of its lock."""

    kind: str
    lock: str


@dataclass(frozen=True)
class ImageDefinition:
    """What image.toml says, with what `extends` brings already in front."""

    name: str
    description: str
    python: str
    layers: tuple[LayerDefinition, ...]
    stages: tuple[str, ...]
    alternatives: Mapping[str, Mapping[str, str]]
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def site_packages(self) -> str:
        """Where wheels go: Debian's Python looks there before its own packages."""
        return f"usr/local/lib/python{self.python}/dist-packages"


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
        docker: the folder that holds a folder an image.
        name: the image's folder.

    Raises:
        UsageError: no such image, or its image.toml is wrong.
    """
    document = _parse(docker / name / "image.toml")
    parent = load_definition(docker, document["extends"]) if "extends" in document else None
    layers = []
    for item in document.get("layers", []):
        if item.get("kind") not in _LAYER_KINDS or set(item) != {"kind", "lock"}:
            raise UsageError(f"{name}/image.toml: a layer needs exactly kind ({', '.join(_LAYER_KINDS)}) and lock")
        layers.append(LayerDefinition(item["kind"], item["lock"]))
    return ImageDefinition(
        name=name,
        description=document.get("description", ""),
        python=document.get("python", parent.python if parent else ""),
        layers=(parent.layers if parent else ()) + tuple(layers),
        stages=tuple(document.get("stages", ())),
        alternatives={**(parent.alternatives if parent else {}), **document.get("alternatives", {})},
        env={**(parent.env if parent else {}), **document.get("env", {})},
    )


def image_names(docker: Path) -> list[str]:
    """Every image that has a definition, sorted."""
    return sorted(path.parent.name for path in docker.glob("*/image.toml"))
