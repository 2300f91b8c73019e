"""The wheels of requirements/host.txt for every Python and machine that a bundle may be installed on.

requirements/host.txt locks hashes of all files of a release; requirements/host.wheels.json says which of them are
carried: for CPython 3.9 to 3.13 on both architectures the file that fits the oldest C library.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import requests
from packaging.requirements import Requirement

from repro.base.architecture import ARCHITECTURES, by_name
from repro.base.errors import CouldNotRun, UsageError
from repro.base.files import pretty_json, write_atomic
from repro.locks.model import LockedFile

PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
_GLIBCS = ("2.17", "2.28")  # manylinux2014 where there is one, else what Debian 10, RHEL 8 and openEuler 20.03 have
_LOCK = "requirements/host.wheels.json"
_FORMAT = 1


def _requirements(path: Path) -> list[tuple[Requirement, frozenset[str]]]:
    """The entries of a compiled requirements file with their hashes."""
    found = []
    for entry in path.read_text("utf-8").replace("\\\n", " ").splitlines():
        words = entry.split(" --hash=sha256:")
        if entry.strip() and not entry.startswith("#"):
            found.append((Requirement(words[0].strip()), frozenset(word.strip() for word in words[1:])))
    return found


def _environments(architecture: str) -> list[dict[str, str]]:
    """The first and a late patch release of each Python: markers draw their lines between those."""
    return [
        {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": by_name(architecture).machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{python}.{patch}",
            "python_version": python,
            "sys_platform": "linux",
            "extra": "",
        }
        for python in PYTHONS
        for patch in (0, 99)
    ]


def write_host_wheels(root: Path, say: Callable[[str], None]) -> None:
    """Choose the wheels by asking the machine's index, and write requirements/host.wheels.json.

    Raises:
        CouldNotRun: the index fails, or a release has no wheel for one of the Pythons.
    """
    from repro.fetching.session import http_session  # noqa: PLC0415 - requests: 0.2 s
    from repro.fetching.simple_index import Link, project_links  # noqa: PLC0415 - requests: 0.2 s
    from repro.fetching.site import whereabouts  # noqa: PLC0415 - requests: 0.2 s
    from repro.resolving.wheels import choose, index_urls, supported_tags  # noqa: PLC0415 - requests: 0.2 s

    where = whereabouts(root)
    links: dict[str, list[Link]] = {}
    chosen: dict[str, dict[str, Any]] = {}
    with http_session(where) as session:
        for requirement, hashes in _requirements(root / "requirements" / "host.txt"):
            version = next(iter(requirement.specifier)).version
            for architecture in ARCHITECTURES:
                for environment in _environments(architecture):
                    if requirement.marker is not None and not requirement.marker.evaluate(environment):
                        continue
                    if requirement.name not in links:
                        links[requirement.name] = _links(session, index_urls(where), requirement.name, project_links)
                    python = environment["python_version"]
                    candidates = (
                        choose(links[requirement.name], version, hashes, supported_tags(python, glibc, architecture))
                        for glibc in _GLIBCS
                    )
                    link = next((found for found in candidates if found), None)
                    if link is None or link.sha256 is None:
                        raise CouldNotRun(
                            f"{requirement.name} {version} has no wheel for Python {python} on {architecture}",
                            hint="ask for another version in requirements/host.in",
                        )
                    size = link.size_bytes or _size(session, link.url)
                    wheel = chosen.setdefault(
                        link.filename,
                        {"filename": link.filename, "sha256": link.sha256, "size_bytes": size,
                         "project": requirement.name, "version": version, "architectures": []},
                    )  # fmt: skip
                    wheel["architectures"] = sorted({*wheel["architectures"], architecture})
    wheels = [chosen[name] for name in sorted(chosen)]
    write_atomic(root / _LOCK, pretty_json({"format": _FORMAT, "pythons": list(PYTHONS), "wheels": wheels}))
    say(f"{_LOCK}: {len(wheels)} wheels, {sum(wheel['size_bytes'] for wheel in wheels) / 1e6:.1f} MB")


def _links(session: requests.Session, indexes: Sequence[str], project: str, project_links: Any) -> list[Any]:
    for index in indexes:
        try:
            found = project_links(session, index, project)
        except (requests.RequestException, OSError, ValueError) as error:
            raise CouldNotRun(f"requirements/host: {project}: the index failed: {error}") from error
        if found:
            return list(found)
    return []


def _size(session: requests.Session, url: str) -> int:
    response = session.head(url, timeout=60, allow_redirects=True, headers={"Accept-Encoding": "identity"})
    response.raise_for_status()
    return int(response.headers["Content-Length"])


def load_host_wheels(root: Path, architectures: Sequence[str]) -> list[LockedFile]:
    """The wheels to carry for some architectures, sorted by file name.

    Raises:
        UsageError: requirements/host.wheels.json is missing, damaged, or older than requirements/host.txt.
    """
    try:
        document = json.loads((root / _LOCK).read_bytes())
        wheels = [
            LockedFile(
                name=item["filename"],
                kind="wheel",
                sha256=item["sha256"],
                size_bytes=item["size_bytes"],
                entry=f"{_LOCK}: {item['project']} {item['version']}",
                project=item["project"],
                version=item["version"],
            )
            for item in document["wheels"]
            if set(item["architectures"]) & set(architectures)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{_LOCK} cannot be used: {error}", hint="restore it, or write it with `invoke lock`"
        ) from error
    locked: set[str] = set()
    pins = set()
    for requirement, hashes in _requirements(root / "requirements" / "host.txt"):
        locked |= hashes
        if requirement.marker is None or any(
            requirement.marker.evaluate(e) for a in architectures for e in _environments(a)
        ):
            pins.add((requirement.name, next(iter(requirement.specifier)).version))
    missing = pins - {(wheel.project, wheel.version) for wheel in wheels}
    if missing or any(wheel.sha256 not in locked for wheel in wheels):
        raise UsageError(f"{_LOCK} does not fit requirements/host.txt", hint="write both with `invoke lock`")
    return wheels
