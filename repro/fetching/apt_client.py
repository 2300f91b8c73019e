"""What this machine's own apt knows: which mirrors of Debian it reads, and through which proxy."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repro.base import programs

_ALIASES = ("stable", "oldstable", "oldoldstable", "testing", "unstable", "sid")
_CODENAMES = ("buster", "bullseye", "bookworm", "trixie", "forky", "duke")
_DEBIAN_SUITE = re.compile(
    rf"({'|'.join(_ALIASES + _CODENAMES)})(-updates|-security|-proposed-updates|-backports|/updates)?"
)
_SECURITY_SUITE = re.compile(r".*(-security|/updates)")
_USABLE_SCHEMES = ("http://", "https://", "file:/", "copy:/")
_CONFIG_LINE = re.compile(r'([^\s"]+) "(.*)";')
_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class AptSource:
    """One (URI, suite) of apt's sources; `uri` has no final slash."""

    uri: str
    suite: str
    components: tuple[str, ...]


@dataclass(frozen=True)
class AptClient:
    """What apt's configuration says about Debian.

    Attributes:
        mirrors: URIs that serve the `debian` archive, in apt's order.
        security_mirrors: URIs that serve `debian-security`.
        proxies: 'http' and 'https' proxies, as requests takes them.
        ca: file of certificates to trust, empty for the default.
    """

    mirrors: tuple[str, ...] = ()
    security_mirrors: tuple[str, ...] = ()
    proxies: Mapping[str, str] = field(default_factory=dict)
    ca: str = ""


def parse_one_line(text: str) -> list[AptSource]:
    """Sources of a .list file: `deb [option=value …] URI SUITE COMPONENT…`; lines that are none are passed over."""
    found = []
    for line in text.splitlines():
        words = re.sub(r"\[[^\]]*\]", " ", line.partition("#")[0]).split()
        if len(words) >= 3 and words[0] == "deb":
            found.append(AptSource(words[1].rstrip("/"), words[2], tuple(words[3:])))
    return found


def parse_deb822(text: str) -> list[AptSource]:
    """Sources of a .sources file (deb822): every URI with every suite of each enabled stanza of type deb."""
    found: list[AptSource] = []
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in re.split(r"\n[ \t]*\n", kept):
        fields: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if line[:1] in (" ", "\t"):
                if key:
                    fields[key] += " " + line.strip()
            else:
                key = line.partition(":")[0].strip().lower()
                fields[key] = line.partition(":")[2].strip()
        if (
            fields.get("enabled", "yes").lower() in ("no", "false", "0", "off")
            or "deb" not in fields.get("types", "").split()
        ):
            continue
        components = tuple(fields.get("components", "").split())
        for uri in fields.get("uris", "").split():
            found.extend(AptSource(uri.rstrip("/"), suite, components) for suite in fields.get("suites", "").split())
    return found


def debian_mirrors(sources: Iterable[AptSource]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(mirrors of debian, mirrors of debian-security) among apt's sources, in order, each once.

    A third party's repository often names Debian's suites too; Debian's own has the component main.
    """
    main: dict[str, None] = {}
    security: dict[str, None] = {}
    for source in sources:
        if not _DEBIAN_SUITE.fullmatch(source.suite) or "main" not in source.components:
            continue
        if not source.uri.startswith(_USABLE_SCHEMES):
            continue
        uri = source.uri.replace("copy:/", "file:/", 1) if source.uri.startswith("copy:") else source.uri
        (security if _SECURITY_SUITE.fullmatch(source.suite) else main)[uri] = None
    return tuple(main), tuple(security)


def parse_config(dump: str) -> dict[str, str]:
    """`apt-config dump` as lower-case key -> value; a list's last value wins."""
    matches = (_CONFIG_LINE.fullmatch(line.strip()) for line in dump.splitlines())
    return {match.group(1).lower(): match.group(2) for match in matches if match}


def read_sources(parts: Path, single: Path) -> list[AptSource]:
    """The sources of a sources.list and a sources.list.d; unreadable files are passed over, as for a plain user."""
    found: list[AptSource] = []
    files = [single] if single.is_file() else []
    files += [*sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]  # none where there is no such folder
    for path in files:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found.extend(parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text))
    return found


def apt_client() -> AptClient:
    """Read this machine's apt configuration; an empty answer on a machine without apt."""
    tool = programs.find("apt-config")
    if tool is None:
        return AptClient()
    try:
        done = subprocess.run([str(tool), "dump"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return AptClient()
    config = parse_config(done.stdout)
    etc = Path("/") / config.get("dir::etc", "etc/apt")
    sources = read_sources(
        etc / config.get("dir::etc::sourceparts", "sources.list.d"),
        etc / config.get("dir::etc::sourcelist", "sources.list"),
    )
    mirrors, security = debian_mirrors(sources)
    proxies = {}
    for scheme in ("http", "https"):
        value = config.get(f"acquire::{scheme}::proxy", "")
        if value and value.upper() != "DIRECT":
            proxies[scheme] = value
    return AptClient(mirrors, security, proxies, config.get("acquire::https::cainfo", ""))
