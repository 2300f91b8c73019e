"""Where this machine fetches from: conf/site.toml over the clients' own configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.base.errors import UsageError
from repro.base.toml import read_toml
from repro.fetching.apt_client import AptClient, apt_client
from repro.fetching.pip_client import PipClient, pip_client

_KEYS = {
    "debian": {"mirrors", "security_mirrors", "snapshot"},
    "python": {"index_urls", "find_links"},
    "http": {"proxy", "ca", "headers"},
}
_ELSEWHERE = {"slurm"}  # repro.cluster.settings
_LISTS = {"mirrors", "security_mirrors", "index_urls", "find_links"}


@dataclass(frozen=True)
class Site:
    """What conf/site.toml says; empty where it says nothing.

    Attributes:
        mirrors, security_mirrors: of `debian` and `debian-security`, asked before apt's own.
        snapshot: base address of a Debian snapshot archive in place of the public one.
        index_urls, find_links: simple indexes and folders of wheels, asked before pip's own.
        proxy, ca, headers: for every request.
    """

    mirrors: tuple[str, ...] = ()
    security_mirrors: tuple[str, ...] = ()
    snapshot: str = ""
    index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    proxy: str = ""
    ca: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Whereabouts:
    """All that this machine says about where bytes come from."""

    site: Site
    apt: AptClient
    pip: PipClient
    snapshot: str


def load_site(path: Path) -> Site:
    """Read a site file; an empty site where there is none.

    Raises:
        UsageError: it is not TOML, or says something that this file cannot say.
    """
    if not path.exists():
        return Site()
    content = read_toml(path)
    values: dict[str, Any] = {}
    for section, table in content.items():
        if section in _ELSEWHERE:
            continue
        if section not in _KEYS or not isinstance(table, dict):
            raise UsageError(f"{path}: unknown section [{section}]", hint="see conf/site.example.toml")
        for key, value in table.items():
            if key not in _KEYS[section]:
                raise UsageError(f"{path}: unknown {key!r} in [{section}]", hint="see conf/site.example.toml")
            values[key] = _checked(path, key, value)
    return Site(**values)


def whereabouts(root: Path) -> Whereabouts:
    """Ask the site file, apt, pip and conf/snapshot.toml of the repository `root`."""
    site = load_site(root / "conf" / "site.toml")
    public = read_toml(root / "conf" / "snapshot.toml").get("snapshot", "")
    return Whereabouts(site, apt_client(), pip_client(), (site.snapshot or public).rstrip("/"))


def _checked(path: Path, key: str, value: Any) -> Any:
    if key in _LISTS:
        if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
            return tuple(item.rstrip("/") for item in value)
        raise UsageError(f"{path}: {key} must be a list of addresses")
    if key == "headers":
        if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
            return {name: os.path.expandvars(item) for name, item in value.items()}
        raise UsageError(f"{path}: headers must be a table of texts")
    if not isinstance(value, str):
        raise UsageError(f"{path}: {key} must be a text")
    return value
