"""What is wanted: conf/intents/debs.toml and wheels.toml, read and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar, Union

import msgspec
from msgspec import Meta

from repro.base.errors import UsageError
from repro.base.toml import read_toml
from repro.base.values import Strict

Pocket = Literal["updates", "security"]


class _Intent(Strict, frozen=True):
    """A set of packages by name; `extends` is a set whose packages are already there."""

    name: Annotated[str, Meta(pattern="^[a-z][a-z0-9-]*$")]
    packages: Annotated[tuple[Annotated[str, Meta(pattern="^[^-]")], ...], Meta(min_length=1)]
    architectures: Annotated[tuple[Literal["amd64", "arm64"], ...], Meta(min_length=1)]
    extends: str = ""


class DebIntent(_Intent, frozen=True, kw_only=True):
    """A set of Debian packages, of one suite and its pockets."""

    suite: str
    pockets: tuple[Pocket, ...] = ("updates", "security")


class WheelIntent(_Intent, frozen=True, kw_only=True):
    """A set of wheels: requirements, for one interpreter and one C library."""

    python: str
    glibc: str


T = TypeVar("T", bound=Union[DebIntent, WheelIntent])


def load_deb_intents(root: Path) -> dict[str, DebIntent]:
    """The sets of conf/intents/debs.toml by name, each after the set that it extends.

    Raises:
        UsageError: the file is missing or says something that is not an intent.
    """
    return _load(root / "conf" / "intents" / "debs.toml", DebIntent)


def load_wheel_intents(root: Path) -> dict[str, WheelIntent]:
    """The sets of conf/intents/wheels.toml by name, each after the set that it extends. Errors as above."""
    return _load(root / "conf" / "intents" / "wheels.toml", WheelIntent)


def _load(path: Path, kind: type[T]) -> dict[str, T]:
    content = read_toml(path)
    sets: dict[str, T] = {}
    for name, table in sorted(content.get("sets", {}).items()):
        try:
            stated = {**table, "name": name, "architectures": content.get("architectures", ())}
            sets[name] = msgspec.convert(stated, kind)
        except (msgspec.ValidationError, TypeError) as error:
            raise UsageError(f"{path}: set {name!r}: {error}") from error
    ordered: dict[str, T] = {}
    while len(ordered) < len(sets):
        ready = [name for name in sets if name not in ordered and sets[name].extends in ("", *ordered)]
        if not ready:
            raise UsageError(f"{path}: a set extends one that is missing, or itself")
        ordered.update((name, sets[name]) for name in ready)
    return ordered
