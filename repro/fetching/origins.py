"""Where a locked file may come from, in order: data/sources, the site file, the clients' own, Debian's snapshots."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import requests

from repro.fetching.simple_index import Link, file_url_path, folder_links, page_links, project_links
from repro.fetching.site import Whereabouts
from repro.locks.model import LockedFile

_BY_HASH = re.compile(r"/by-hash/SHA256/[0-9a-f]{64}$")
_TIMEOUT_S = (15.0, 60.0)


@dataclass(frozen=True)
class Location:
    """One place that may hold a file: a path on this machine, or an http(s) address."""

    path: Path | None = None
    url: str = ""

    def __str__(self) -> str:
        return str(self.path) if self.path is not None else redacted(self.url)


class NotOfferedError(Exception):
    """A source does not have a file; the text says why."""


class Source(Protocol):
    """Something that may know where a locked file is. Thread-safe."""

    label: str

    def locate(self, file: LockedFile) -> Sequence[Location]:
        """Places to try, best first.

        Raises:
            NotOfferedError: it has none, or cannot say.
        """


class FolderSource:
    """A folder that a person filled, nested as they like: files by their name, or named by their sha256.

    Args:
        folder: need not exist.
        label: for messages.
    """

    def __init__(self, folder: Path, label: str) -> None:
        self.label = label
        self._folder = folder
        self._lock = threading.Lock()
        self._by_name: dict[str, list[Path]] | None = None

    def locate(self, file: LockedFile) -> Sequence[Location]:
        found = self._names().get(file.sha256, []) + self._names().get(file.name, [])
        if not found:
            raise NotOfferedError("no file of this name or hash in it" if self._folder.is_dir() else "no such folder")
        return [Location(path=path) for path in found]

    def _names(self) -> dict[str, list[Path]]:
        with self._lock:
            if self._by_name is None:
                self._by_name = {}
                for path in sorted(self._folder.rglob("*")):
                    if path.is_file():
                        # apt's own cache spells ':' and '~' as %3a and %7e
                        self._by_name.setdefault(unquote(path.name), []).append(path)
            return self._by_name


class DebianSource:
    """One mirror of Debian's archives: `bases` maps 'debian' and 'debian-security' to their addresses."""

    def __init__(self, label: str, bases: dict[str, str]) -> None:
        self.label = label
        self._bases = bases

    def locate(self, file: LockedFile) -> Sequence[Location]:
        base = self._bases.get(file.archive)
        if not file.path or base is None:
            raise NotOfferedError(f"serves no {file.archive or file.kind}")
        return [_location(f"{base}/{quote(file.path, safe='/+~:')}")]


class SnapshotSource:
    """A Debian snapshot archive: BASE/ARCHIVE/DATE/PATH, at the date of the lock."""

    def __init__(self, base: str) -> None:
        self.label = f"the Debian snapshot archive {redacted(base)}"
        self._base = base

    def locate(self, file: LockedFile) -> Sequence[Location]:
        if not file.path or not file.snapshot:
            raise NotOfferedError(f"holds no {file.kind}")
        folder = f"{self._base}/{file.archive}/{file.snapshot}"
        paths = [file.path]
        if _BY_HASH.search(file.path):
            paths.append(_BY_HASH.sub("/Packages.xz", file.path))
        return [_location(f"{folder}/{quote(path, safe='/+~:')}") for path in paths]


class IndexSource:
    """A simple index of Python projects."""

    def __init__(self, label: str, url: str, session: requests.Session) -> None:
        self.label = label
        self._url = url
        self._session = session
        self._lock = threading.Lock()
        self._pages: dict[str, list[Link]] = {}
        self._gone = ""

    def locate(self, file: LockedFile) -> Sequence[Location]:
        if file.kind != "wheel":
            raise NotOfferedError(f"holds no {file.kind}")
        links = self._page(file.project)
        named = [link for link in links if link.filename == file.name]
        if not named:
            raise NotOfferedError(f"does not list {file.name}" if links else f"does not know {file.project}")
        right = [link for link in named if link.sha256 in (None, file.sha256)]
        if not right:
            raise NotOfferedError(f"lists {file.name} with another hash, {named[0].sha256}")
        return [_location(link.url) for link in right]

    def _page(self, project: str) -> list[Link]:
        with self._lock:
            if self._gone:  # a host that does not answer would cost its timeout for each project
                raise NotOfferedError(self._gone)
            if project not in self._pages:
                try:
                    self._pages[project] = self._read(project)
                except (requests.RequestException, OSError, ValueError) as error:
                    reason = f"did not answer: {redacted(str(error))}"
                    self._gone = reason if isinstance(error, requests.ConnectionError) else ""
                    raise NotOfferedError(reason) from error
            return self._pages[project]

    def _read(self, project: str) -> list[Link]:
        return project_links(self._session, self._url, project)


class FindLinksSource(IndexSource):
    """A find-links location of pip: a folder of wheels, or a page of links, or a wheel's own address."""

    def _read(self, project: str) -> list[Link]:
        if not self._url.startswith(("http://", "https://")):
            return folder_links(self._url, project)
        if self._url.endswith(".whl"):
            return [Link(unquote(self._url.rpartition("/")[2]), self._url, None, None)]
        response = self._session.get(self._url, timeout=_TIMEOUT_S)
        response.raise_for_status()
        return page_links(response, project)


def sources_of(root: Path, where: Whereabouts, session: requests.Session) -> list[Source]:
    """Every source of this machine, in the order that they are asked; the cache comes before them all."""
    site, apt, pip = where.site, where.apt, where.pip
    found: list[Source] = [FolderSource(root / "data" / "sources", "data/sources")]
    found += _mirrors("conf/site.toml", site.mirrors, site.security_mirrors)
    found += [FindLinksSource(f"conf/site.toml: {redacted(url)}", url, session) for url in site.find_links]
    found += [IndexSource(f"conf/site.toml: {redacted(url)}", url, session) for url in site.index_urls]
    found += _mirrors("apt", apt.mirrors, apt.security_mirrors)
    found += [FindLinksSource(f"pip: {redacted(url)}", url, session) for url in pip.find_links]
    found += [IndexSource(f"pip: {redacted(url)}", url, session) for url in pip.index_urls]
    if where.snapshot:
        found.append(SnapshotSource(where.snapshot))
    return found


def mirror_sources(where: Whereabouts) -> list[Source]:
    """The mirrors of Debian alone, without the snapshot archive."""
    site, apt = where.site, where.apt
    return _mirrors("conf/site.toml", site.mirrors, site.security_mirrors) + _mirrors(
        "apt", apt.mirrors, apt.security_mirrors
    )


def is_there(location: Location, session: requests.Session) -> bool:
    """Whether a place has a file, as far as it says without sending it."""
    if location.path is not None:
        return location.path.is_file()
    try:
        return session.head(location.url, timeout=_TIMEOUT_S, allow_redirects=True).status_code not in (404, 410)
    except requests.RequestException:
        return False


def redacted(text: str) -> str:
    """A text without the user names and passwords of the addresses in it."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


def _mirrors(owner: str, mirrors: Sequence[str], security: Sequence[str]) -> list[Source]:
    found: list[Source] = [DebianSource(f"{owner}: {redacted(base)}", {"debian": base}) for base in mirrors]
    found += [DebianSource(f"{owner}: {redacted(base)}", {"debian-security": base}) for base in security]
    return found


def _location(url: str) -> Location:
    """An address as a location; file: addresses are paths."""
    if url.startswith("file:"):
        return Location(path=Path(file_url_path(url)))
    parts = urlsplit(url)
    return Location(url=urlunsplit((parts.scheme, parts.netloc, parts.path, parts.query, "")))
