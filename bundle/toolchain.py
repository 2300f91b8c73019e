"""The compatibility table held against what probes found: component by component, required / found / status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle.errors import UsageError
from bundle.toml import read_toml

SAME = "same"
DEVIATES = "deviates"
ABSENT = "absent"
_UNPINNED = "not pinned by the guide"


@dataclass(frozen=True)
class Component:
    """One row of conf/compatibility.toml."""

    name: str
    required: str
    image: str
    source: str
    purpose: str
    substitute: str = ""


def load_components(conf: Path) -> tuple[Component, ...]:
    """The rows of conf/compatibility.toml.

    Raises:
        UsageError: the file is not valid.
    """
    try:
        return tuple(Component(**row) for row in read_toml(conf / "compatibility.toml")["component"])
    except (KeyError, TypeError) as error:
        raise UsageError(f"conf/compatibility.toml is not a list of components: {error}") from error


def _look_up(component: Component, probe: Mapping[str, Any]) -> str:
    kind, _, name = component.source.partition(":")
    if kind == "python":
        return str(probe.get("python", ""))
    table = {"wheel": "wheels", "deb": "debs", "host": "host"}[kind]
    return str(probe.get(table, {}).get(name, ""))


def compare(
    components: tuple[Component, ...], probes: Mapping[str, Mapping[str, Any]], host: Mapping[str, str]
) -> list[dict[str, str]]:
    """Hold every component against what was found.

    Args:
        components: the rows required.
        probes: by image, what stage `probe` wrote there; an image that was not used has none.
        host: facts such as 'driver' and 'chip', only those found.

    Returns:
        Rows with component, required, found, status ('same', 'deviates' or 'absent'), probe and purpose.
    """
    rows = []
    for component in components:
        nothing: Mapping[str, Any] = {}
        probe = {"host": host} if component.image == "host" else probes.get(component.image, nothing)
        version = _look_up(component, probe)
        if not version:
            found, status = "", ABSENT
        elif component.substitute:
            found, status = f"{component.substitute} {version}", DEVIATES
        elif component.required == _UNPINNED:
            found, status = version, SAME
        else:
            plain = version.split("+")[0]  # a wheel's local label, as in 1.8.0+cpu, is not another version
            found, status = version, SAME if plain == component.required else DEVIATES
        where = "this host" if component.image == "host" else f"image {component.image}"
        rows.append(
            {
                "component": component.name,
                "required": component.required,
                "found": found,
                "status": status,
                "probe": f"{component.source} in {where}",
                "purpose": component.purpose,
            }
        )
    return rows
