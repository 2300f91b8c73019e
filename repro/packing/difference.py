"""`bundle.diff`: what changes if one bundle is installed over another.

Read from both lists and from the files that describe the contents, each held to its digest; other bytes are not read.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from repro.base import typed_json
from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.base.files import sha256_bytes
from repro.base.foreign import shown
from repro.base.toml import parse_toml
from repro.packing.installer.archive import Archive
from repro.packing.installer.folder import installed_path, read_kept, read_plain
from repro.packing.installer.listing import INSTALLED, Listing, Refused
from repro.packing.installer.statements import ATTESTATIONS, Beside, Statement, check_statements, read_beside
from repro.packing.verify import is_installed, translated

_MOST_BYTES = 256 * 1024**2
_SHOWN = 30  # lines of one section; the number of the others is given
_NOT_CODE = ("conf/locks/", "data/", "docs/")
_TABLES = (
    "conf/published.toml",
    "conf/compatibility.toml",
)  # the published values with their tolerances, the toolchain
Section = tuple[str, Sequence[str]]


@dataclass(frozen=True)
class Side:
    """One of two bundles. `content` gives a listed file's bytes, None where the bundle does not carry it."""

    listing: Listing
    content: Callable[[str], bytes | None]
    statements: tuple[Statement, ...]

    def read(self, path: str) -> bytes:
        """A listed file, held to its digest; b'' where there is none.

        Raises:
            VerificationFailed: its bytes are others.
            CouldNotVerify: an earlier bundle carries it.
        """
        entry = next((entry for entry in self.listing.entries if entry.path == path), None)
        if entry is None:
            return b""
        data = self.content(path)
        if data is None:
            raise CouldNotVerify(f"{path} is not in this bundle", hint="name the folder that it was installed into")
        if sha256_bytes(data) != entry.sha256:
            raise VerificationFailed(f"{path} is not as the list says", hint="`invoke bundle.verify` names each")
        return data


def open_side(path: Path) -> tuple[Side, Callable[[], None]]:
    """A bundle's file, or a folder that was installed from one; and what gives its files back.

    Raises:
        VerificationFailed: its list is malformed, or its signature does not hold.
        CouldNotVerify: it is not there.
    """
    try:
        if is_installed(path):
            listing = read_kept(path)
            if listing is None:
                raise CouldNotVerify(f"{path} was not installed from a bundle", hint="name a bundle's file")
            entries = {entry.path: entry for entry in listing.entries}

            def read(name: str) -> bytes | None:
                return read_plain(path, installed_path(entries[name]), _MOST_BYTES) if name in entries else None

            return Side(listing, read, _statements(listing, read, None)), lambda: None
        archive = Archive(path)
        found = _statements(archive.listing, archive.content, archive.beside())
        return Side(archive.listing, archive.content, found), archive.close
    except Refused as error:
        raise translated(error) from error


def _statements(listing: Listing, read: Callable[[str], bytes | None], beside: Path | None) -> tuple[Statement, ...]:
    more = read_beside(listing, beside, {}) if beside is not None else Beside()
    return check_statements(listing, read, more, {}).statements


def differences(old: Side, new: Side) -> Iterator[Section]:
    """(heading, lines) of everything in which two bundles differ; nothing where they are the same.

    Raises:
        VerificationFailed: a file that describes one of them is malformed, or not as listed.
        CouldNotVerify: it is not here.
    """
    yield "bundle", _changes(_about(old), _about(new))
    packages = [_packages(_document(side, "sbom.cdx.json", _Inventory)) for side in (old, new)]
    yield "packages", _changes(*({name: item.versions for name, item in side.items()} for side in packages))
    yield "licences", _changes(
        *({name: item.licences for name, item in side.items() if name in other}
          for side, other in (packages, reversed(packages)))
    )  # fmt: skip
    yield "images", _changes(_images(old), _images(new))
    yield "tolerances and toolchain", _changes(_tables(old), _tables(new))
    yield "locks, data and documents", _changes(_files(old, code=False), _files(new, code=False))
    yield "code", _changes(_files(old, code=True), _files(new, code=True))
    yield "statements", _changes(_said(old), _said(new))


def describe(path_old: Path, path_new: Path) -> str:
    """The differences as text, a section for each kind of thing. Errors as `differences`."""
    with contextlib.ExitStack() as opened:
        sides = []
        for path in (path_old, path_new):
            side, close = open_side(path)
            opened.callback(close)
            sides.append(side)
        sections = [(heading, lines) for heading, lines in differences(*sides) if lines]
    if not sections:
        return "nothing changes: both lists name the same files"
    text = []
    for heading, lines in sections:
        text.append(f"{heading}: {len(lines)} changed")
        text += [f"  {shown(line, 300)}" for line in lines[:_SHOWN]]
        if len(lines) > _SHOWN:
            text.append(f"  and {len(lines) - _SHOWN} more")
    return "\n".join(text)


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    lines = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before is None:
            lines.append(f"+ {name} {after}".rstrip())
        elif after is None:
            lines.append(f"- {name} {before}".rstrip())
        elif before != after:
            lines.append(f"{name}: {before} -> {after}")
    return lines


def _about(side: Side) -> dict[str, str]:
    about = side.listing.about
    return {
        "signed by": side.listing.fingerprint or "nobody",
        "commit": str(about["commit"]),
        "architectures": ", ".join(map(str, about.get("architectures", ()))),
        "runs": ", ".join(sorted(str(run["name"]) for run in about.get("runs", ()))),
        **{f"licence note of {name}": str(text) for name, text in about["contents"]["licence_notes"].items()},
    }


T = TypeVar("T")


def _document(side: Side, path: str, kind: type[T]) -> T:
    return typed_json.read(side.read(path) or b"{}", kind, what=path, max_bytes=_MOST_BYTES)


class _Licence(msgspec.Struct, frozen=True):
    id: str = ""
    name: str = ""


class _Choice(msgspec.Struct, frozen=True):
    expression: str = ""
    license: _Licence = _Licence()


class _Component(msgspec.Struct, frozen=True):
    type: str = ""
    name: str = ""
    version: str = ""
    purl: str = ""
    ref: str = msgspec.field(default="", name="bom-ref")
    licenses: tuple[_Choice, ...] = ()


class _Inventory(msgspec.Struct, frozen=True):
    components: tuple[_Component, ...] = ()


class _Layer(msgspec.Struct, frozen=True):
    name: str
    diff_id: str


class _Image(msgspec.Struct, frozen=True):
    image_id: str
    layers: tuple[_Layer, ...]


@dataclass(frozen=True)
class _Package:
    versions: str
    licences: str


def _packages(inventory: _Inventory) -> dict[str, _Package]:
    """What the inventory lists, by kind, name and architecture; images that hold two versions of one name have both."""
    versions: dict[str, set[str]] = {}
    licences: dict[str, set[str]] = {}
    for item in inventory.components:
        kind = item.purl[4:].partition("/")[0] if item.purl.startswith("pkg:") else item.type
        architecture = item.purl.partition("arch=")[2].partition("&")[0]
        if item.ref.startswith("image:"):
            continue  # compared by their IDs
        name = f"{kind} {item.name}" + (f" ({architecture})" if architecture else "")
        versions.setdefault(name, set()).add(item.version)
        for choice in item.licenses:
            licences.setdefault(name, set()).add(choice.expression or choice.license.id or choice.license.name)
    return {
        name: _Package(", ".join(sorted(found)), ", ".join(sorted(licences.get(name, ()))))
        for name, found in versions.items()
    }


def _images(side: Side) -> dict[str, str]:
    found = {}
    for architecture, named in _document(side, "images.json", dict[str, dict[str, _Image]]).items():
        for name, image in named.items():
            found[f"image {name} ({architecture})"] = image.image_id[:19]
            for layer in image.layers:
                found[f"layer {layer.name} ({architecture})"] = layer.diff_id[:19]
    return found


def _tables(side: Side) -> dict[str, str]:
    found = {}
    for table in _TABLES:
        data = side.read(INSTALLED + table)
        try:
            values = parse_toml(data.decode(), table)
        except (UsageError, UnicodeDecodeError, RecursionError) as error:
            raise VerificationFailed(f"{table} in a bundle is not TOML: {shown(error, 200)}") from error
        found.update({f"{table.rpartition('/')[2]} {place}": value for place, value in _leaves(values, "")})
    return found


def _leaves(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inside in value.items():
            yield from _leaves(inside, f"{place}.{key}" if place else key)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, inside in enumerate(value):
            yield from _leaves(inside, f"{place}[{number}]")
    else:
        yield place, json.dumps(value, ensure_ascii=False, default=str)


def _files(side: Side, *, code: bool) -> dict[str, str]:
    """The installed files beside images, layers and results, by digest: code, or locks, data and documents."""
    installed = {
        entry.path[len(INSTALLED) :]: entry for entry in side.listing.entries if entry.path.startswith(INSTALLED)
    }
    return {
        path: entry.sha256[:12] + (" (executable)" if entry.executable else "")
        for path, entry in installed.items()
        if not path.startswith("artifacts/") and path.startswith(_NOT_CODE) != code
    }


def _said(side: Side) -> dict[str, str]:
    names = {entry.path for entry in side.listing.entries}
    found = {}
    for statement in side.statements:
        place = "" if f"{ATTESTATIONS}{statement.name}.dsse.json" in names else " (beside the bundle)"
        result = f"{statement.result()}, " if statement.result() else ""
        found[statement.name + place] = (
            f"{result}signed by {statement.signer[:12] or 'nobody'}: {statement.sha256[:12]}"
        )
    return found
