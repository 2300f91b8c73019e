"""What is wanted: conf/intents/debs.toml and wheels.toml, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base.architecture import ARCHITECTURES
from repro.base.errors import UsageError
from repro.base.toml import read_toml

POCKETS = ("updates", "security")
_NAME = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class DebIntent:
    """A set of Debian packages: what is asked for by name in one suite and its pockets ('updates', 'security')."""

    name: str
    suite: str
    pockets: tuple[str, ...]
    extends: str
    packages: tuple[str, ...]
    architectures: tuple[str, ...]


@dataclass(frozen=True)
class WheelIntent:
    """A set of wheels: requirements, for one interpreter and one C library."""

    name: str
    python: str
    glibc: str
    extends: str
    packages: tuple[str, ...]
    architectures: tuple[str, ...]


def load_deb_intents(root: Path) -> dict[str, DebIntent]:
    """The sets of conf/intents/debs.toml by name, each after the set that it extends.

    Raises:
        UsageError: the file is missing or says something that is not an intent.
    """
    return {
        name: DebIntent(
            name, table["suite"], table["pockets"], table["extends"], table["packages"], table["architectures"]
        )
        for name, table in _load(root / "conf" / "intents" / "debs.toml", ("suite",), POCKETS).items()
    }


def load_wheel_intents(root: Path) -> dict[str, WheelIntent]:
    """The sets of conf/intents/wheels.toml by name, each after the set that it extends. Errors as above."""
    return {
        name: WheelIntent(
            name, table["python"], table["glibc"], table["extends"], table["packages"], table["architectures"]
        )
        for name, table in _load(root / "conf" / "intents" / "wheels.toml", ("python", "glibc"), ()).items()
    }


def _load(path: Path, keys: tuple[str, ...], pockets: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    content = read_toml(path)
    architectures = content.get("architectures", [])
    if not architectures or not set(architectures) <= set(ARCHITECTURES):
        raise UsageError(f"{path}: architectures must be some of {', '.join(ARCHITECTURES)}")
    sets = content.get("sets", {})
    ordered: dict[str, dict[str, Any]] = {}
    while len(ordered) < len(sets):
        ready = [n for n in sorted(sets) if n not in ordered and sets[n].get("extends", "") in ("", *ordered)]
        if not ready:
            raise UsageError(f"{path}: a set extends one that is missing, or itself")
        for name in ready:
            ordered[name] = _checked(path, name, sets[name], keys, pockets)
            ordered[name]["architectures"] = tuple(architectures)
    return ordered


def _checked(
    path: Path, name: str, table: Mapping[str, Any], keys: tuple[str, ...], pockets: tuple[str, ...]
) -> dict[str, Any]:
    unknown = set(table) - {*keys, "extends", "packages", *(("pockets",) if pockets else ())}
    if unknown or not _NAME.fullmatch(name):
        raise UsageError(f"{path}: set {name!r}: unknown {', '.join(sorted(unknown)) or 'spelling of its name'}")
    packages = table.get("packages", [])
    if not packages or not all(isinstance(item, str) and not item.startswith("-") for item in packages):
        raise UsageError(f"{path}: set {name!r}: packages must be a list of names")
    for key in keys:
        if not isinstance(table.get(key), str):
            raise UsageError(f"{path}: set {name!r} lacks {key}")
    chosen = tuple(table.get("pockets", pockets))
    if not set(chosen) <= set(pockets):
        raise UsageError(f"{path}: set {name!r}: pockets must be some of {', '.join(pockets)}")
    return {
        **{key: table[key] for key in keys},
        "extends": table.get("extends", ""),
        "packages": tuple(packages),
        "pockets": chosen,
    }
