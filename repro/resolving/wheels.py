"""Resolving a set of wheels with uv, and choosing the one file of each that fits the image."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import requests
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from repro.base import programs
from repro.base.architecture import by_name
from repro.base.errors import CouldNotRun
from repro.fetching.simple_index import Link, project_links
from repro.fetching.site import Whereabouts
from repro.locks.model import Wheel, WheelLock
from repro.resolving.intents import WheelIntent

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_TIMEOUT_S = 600.0
_LEGACY = ((17, "manylinux2014"), (12, "manylinux2010"), (5, "manylinux1"))


def platform_tags(glibc: str, architecture: str) -> list[str]:
    """Platform tags that an image with this C library takes, best first (PEP 600 and its older aliases)."""
    minor = int(glibc.partition(".")[2])
    machine = by_name(architecture).machine
    tags = []
    for version in range(minor, 4, -1):
        tags.append(f"manylinux_2_{version}_{machine}")
        tags.extend(f"{alias}_{machine}" for at, alias in _LEGACY if at == version)
    return [*tags, f"linux_{machine}"]


def supported_tags(python: str, glibc: str, architecture: str) -> list[Tag]:
    """All wheel tags that CPython `python` ('3.11') takes in the image, best first."""
    major, minor = (int(part) for part in python.split("."))
    platforms = platform_tags(glibc, architecture)
    interpreter = f"cp{major}{minor}"
    abi = interpreter + ("m" if (major, minor) < (3, 8) else "")
    return [
        *cpython_tags((major, minor), [abi], platforms),
        *compatible_tags((major, minor), interpreter, platforms),
    ]


def choose(links: Sequence[Link], version: str, hashes: frozenset[str], tags: Sequence[Tag]) -> Link | None:
    """The wheel of `version` whose best tag comes first in `tags`; among equals the higher build, then the name.

    Only files whose hash the resolver has seen are taken.
    """
    rank = {tag: position for position, tag in enumerate(tags)}
    candidates = []
    for link in links:
        try:
            _, found, build, wheel_tags = parse_wheel_filename(link.filename)
        except InvalidWheelFilename:
            continue
        best = min((rank[tag] for tag in wheel_tags if tag in rank), default=None)
        if str(found) == version and link.sha256 in hashes and best is not None:
            candidates.append(((best, tuple(-n for n in build[:1] if isinstance(n, int)), link.filename), link))
    return min(candidates, key=lambda item: item[0])[1] if candidates else None


def resolve_wheels(
    intent: WheelIntent,
    architecture: str,
    base: WheelLock | None,
    where: Whereabouts,
    session: requests.Session,
) -> WheelLock:
    """Resolve one set for one architecture.

    Args:
        intent: what is wanted.
        architecture: 'amd64' or 'arm64'.
        base: the lock that this set extends; its versions bind, and its wheels are left out.
        where: the indexes.
        session: to ask them.

    Raises:
        CouldNotRun: uv is missing, the requirements contradict each other, or a project has no fitting wheel.
    """
    held = {wheel.project: wheel.version for wheel in base.wheels} if base else {}
    pins = _compile(intent, architecture, held, where)
    wheels = []
    for project, (version, hashes) in sorted(pins.items()):
        if held.get(project) != version:
            wheels.append(_wheel(intent, architecture, project, version, hashes, where, session))
    return WheelLock(intent.name, architecture, intent.python, intent.glibc, intent.extends, tuple(wheels))


def parse_compiled(text: str) -> dict[str, tuple[str, frozenset[str]]]:
    """`uv pip compile --generate-hashes` as project -> (version, hashes)."""
    pins: dict[str, tuple[str, set[str]]] = {}
    hashes: set[str] = set()
    for line in text.splitlines():
        match = _PIN.match(line)
        if match:
            hashes = set()
            pins[canonicalize_name(match.group(1))] = (match.group(2), hashes)
        hashes.update(_HASH.findall(line))
    return {project: (version, frozenset(found)) for project, (version, found) in pins.items()}


def _wheel(
    intent: WheelIntent,
    architecture: str,
    project: str,
    version: str,
    hashes: frozenset[str],
    where: Whereabouts,
    session: requests.Session,
) -> Wheel:
    tags = supported_tags(intent.python, intent.glibc, architecture)
    for index in index_urls(where):
        try:
            link = choose(project_links(session, index, project), version, hashes, tags)
            size = link and (link.size_bytes or _ask_size(session, link.url))
        except (requests.RequestException, OSError, ValueError) as error:
            raise CouldNotRun(f"wheels/{intent.name}.{architecture}: {project}: the index failed: {error}") from error
        if link and link.sha256 and size:
            found = sorted(str(tag) for tag in parse_wheel_filename(link.filename)[3])
            return Wheel(project, version, link.filename, link.sha256, size, tuple(found))
    raise CouldNotRun(
        f"wheels/{intent.name}.{architecture}: {project} {version} has no wheel for Python {intent.python} "
        f"and glibc {intent.glibc} on {by_name(architecture).machine}",
        hint="ask for another version in conf/intents/wheels.toml",
    )


def _ask_size(session: requests.Session, url: str) -> int:
    response = session.head(url, timeout=60, allow_redirects=True, headers={"Accept-Encoding": "identity"})
    response.raise_for_status()
    return int(response.headers["Content-Length"])


def index_urls(where: Whereabouts) -> tuple[str, ...]:
    """The indexes that resolve: the site's, else pip's first; extra indexes hold what other machines lack."""
    return where.site.index_urls or where.pip.index_urls[:1]


def _compile(
    intent: WheelIntent, architecture: str, held: Mapping[str, str], where: Whereabouts
) -> dict[str, tuple[str, frozenset[str]]]:
    options = ["--generate-hashes", "--no-header", "--no-annotate", "--only-binary", ":all:", "--no-sources"]
    options += ["--python-version", intent.python]
    options += ["--python-platform", f"{by_name(architecture).machine}-manylinux_2_{intent.glibc.partition('.')[2]}"]
    requirements = [*intent.packages, *(f"{name}=={version}" for name, version in sorted(held.items()))]
    text = uv_compile(options, "\n".join(requirements) + "\n", f"wheels/{intent.name}.{architecture}", where)
    return parse_compiled(text)


def uv_compile(
    options: Sequence[str], requirements: str, label: str, where: Whereabouts, cwd: Path | None = None
) -> str:
    """`uv pip compile` against the machine's own indexes.

    Args:
        options: beside those that name indexes.
        requirements: text of a requirements file, given on stdin.
        label: what is compiled, for messages.
        where: indexes, proxy, certificates.
        cwd: folder that relative `-r` lines start from.

    Returns:
        A requirements file with no address in it.

    Raises:
        CouldNotRun: no uv, no index, or no resolution.
    """
    tool = programs.find("uv", (*programs.search_path(), str(Path(sys.executable).parent)))
    if tool is None:
        raise CouldNotRun("locks of wheels are resolved by uv, which is missing", hint="./bootstrap test installs it")
    indexes = index_urls(where)
    if not indexes:
        raise CouldNotRun("no Python package index is known", hint="name one in conf/site.toml, [python] index_urls")
    command = [str(tool), "pip", "compile", "--quiet", "--no-config", "--no-emit-index-url", *options]
    command += ["--default-index", indexes[0], *(word for url in indexes[1:] for word in ("--index", url)), "-"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("UV_")}
    certificates, proxy = where.site.ca or where.pip.ca, where.site.proxy or where.pip.proxy
    environment.update({"SSL_CERT_FILE": certificates} if certificates else {})
    environment.update({"ALL_PROXY": proxy} if proxy else {})
    done = subprocess.run(
        command,
        input=requirements,
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise CouldNotRun(f"{label}: uv found no resolution", detail=done.stderr[-4000:])
    return done.stdout
