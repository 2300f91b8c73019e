"""What the layers of an image hold by their own package databases, to hold a probe against without running it."""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from repro.base.errors import VerificationFailed
from repro.base.foreign import shown
from repro.record.stage_files import ProbeFile

_STATUS = "var/lib/dpkg/status"
_MOST_STATUS_BYTES = 64 * 1024**2
_MOST_MEMBERS = 2_000_000
_WHEEL = re.compile(r"(?:.*/)?(?:site|dist)-packages/(?P<name>[^/-]+)-(?P<version>[^/]+)\.dist-info")
_PYTHON = "usr/bin/python3"


@dataclass
class Databases:
    """What the databases of one or more layers say.

    Attributes:
        status: dpkg's databases by path.
        wheels: (name, version) of the installed wheels.
        python: what /usr/bin/python3 is a link to, such as 'python3.11'.
    """

    status: dict[str, str] = field(default_factory=dict)
    wheels: set[tuple[str, str]] = field(default_factory=set)
    python: str = ""

    def debs(self) -> dict[str, str]:
        """Debian packages with their versions."""
        found: dict[str, str] = {}
        for path in sorted(self.status):
            name = ""
            for line in self.status[path].splitlines():
                field_name, _, value = line.partition(": ")
                if field_name == "Package":
                    name = value.strip()
                elif field_name == "Version":
                    found[name] = value.strip()
        return found


def read_layer(tar: BinaryIO, what: str) -> Databases:
    """The databases in one layer, by its tar: one that cannot be rewound is read once from its start to its end.

    Raises:
        VerificationFailed: it is not a tar, or its database is not text or too large.
    """
    found = Databases()
    try:
        with tarfile.open(fileobj=tar, mode="r:" if tar.seekable() else "r|") as archive:
            for number, member in enumerate(archive):
                if number >= _MOST_MEMBERS:
                    raise VerificationFailed(f"{what} holds more than {_MOST_MEMBERS} members")
                _note(found, archive, member, what)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise VerificationFailed(f"{what} is not a tar: {shown(error, 100)}") from error
    return found


def _note(found: Databases, archive: tarfile.TarFile, member: tarfile.TarInfo, what: str) -> None:
    name = member.name.rstrip("/")
    if member.isreg() and (name == _STATUS or posixpath.dirname(name) == f"{_STATUS}.d"):
        stream = archive.extractfile(member)
        if stream is None or member.size > _MOST_STATUS_BYTES:
            raise VerificationFailed(f"{what}: {shown(name)} is no database of packages")
        found.status[name] = stream.read().decode("utf-8")
    elif name == _PYTHON and member.issym():
        found.python = posixpath.basename(member.linkname)
    elif member.isdir() and (wheel := _WHEEL.fullmatch(name)):
        found.wheels.add((wheel["name"].lower().replace("_", "-"), wheel["version"]))


def joined(layers: Iterable[Databases]) -> Databases:
    """The databases of an image: a file of an upper layer takes the place of a lower one's."""
    whole = Databases()
    for layer in layers:
        whole.status.update(layer.status)
        whole.wheels |= layer.wheels
        whole.python = layer.python or whole.python
    return whole


def contradictions(probe: ProbeFile, found: Databases) -> tuple[list[str], list[str]]:
    """What a probe says that the databases deny; and what of it they cannot say, which only a rerun finds."""
    wrong, unknown = _of_packages(probe, found), []
    debs = found.debs()
    for what, claimed, packages in (
        ("python", probe.python, (found.python, f"{found.python}-minimal")),
        ("glibc", probe.glibc, ("libc6",)),
    ):
        versions = [debs[name].partition(":")[2] or debs[name] for name in packages if name in debs]
        if not versions:
            unknown.append(f"{what} {claimed}: no package of the image holds it")
        elif not any(version.partition("-")[0] == claimed for version in versions):
            wrong.append(f"the probe says {what} {claimed}; the image's packages have {', '.join(versions)}")
    unknown += [f"{name}: {version}" for name, version in sorted(probe.found.items())]
    return wrong, unknown


def _of_packages(probe: ProbeFile, found: Databases) -> list[str]:
    debs = found.debs()
    wrong = [
        f"the probe says package {name} {probe.debs.get(name, 'absent')}; the layers' database has "
        f"{debs.get(name, 'none')}"
        for name in sorted({*probe.debs, *debs})
        if probe.debs.get(name) != debs.get(name)
    ]
    installed: dict[str, Sequence[str]] = {}
    for name, version in sorted(found.wheels):
        installed[name] = (*installed.get(name, ()), version)
    return wrong + [
        f"the probe says wheel {name} {version}; the layers hold {', '.join(installed.get(name, ())) or 'none'}"
        for name, version in sorted(probe.wheels.items())
        if version not in installed.get(name, ())
    ]
