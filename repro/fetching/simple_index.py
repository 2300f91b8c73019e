"""Simple indexes of wheels (PEP 503 HTML, PEP 691 JSON; http, https, file) and folders of wheels."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional
from urllib.parse import unquote, urlsplit

import requests
from packaging.utils import canonicalize_name
from pypi_simple import ACCEPT_ANY, ProjectPage

_TIMEOUT_S = (15.0, 60.0)
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Link:
    """A file that an index offers.

    Attributes:
        filename, url: its name, and where it is (http, https or file).
        sha256: as the index says; None where it says nothing.
        size_bytes: as the index says; None where it says nothing.
    """

    filename: str
    url: str
    sha256: Optional[str]
    size_bytes: Optional[int]


def project_links(session: requests.Session, index_url: str, project: str) -> list[Link]:
    """The files that an index offers for a project; none where it does not know the project.

    Args:
        session: for http and https.
        index_url: root of a simple index, without final slash.
        project: in any spelling.

    Raises:
        requests.RequestException: the index did not answer, or with an error other than 404.
        OSError, ValueError: a file index cannot be read, or a page is no index page.
    """
    name = canonicalize_name(project)
    if index_url.startswith("file:"):
        folder = Path(file_url_path(index_url)) / name
        page_file = folder / "index.html"
        if not page_file.is_file():
            return []
        page = ProjectPage.from_html(name, page_file.read_text("utf-8"), base_url=folder.resolve().as_uri() + "/")
    else:
        response = session.get(f"{index_url}/{name}/", headers={"Accept": ACCEPT_ANY}, timeout=_TIMEOUT_S)
        if response.status_code == 404:
            return []
        response.raise_for_status()
        page = ProjectPage.from_response(response, name)
    return _links(page)


def page_links(response: requests.Response, project: str) -> list[Link]:
    """The files that any page of links names.

    Raises:
        ValueError: it is no page of links.
    """
    return _links(ProjectPage.from_response(response, project))


def _links(page: ProjectPage) -> list[Link]:
    links = []
    for package in page.packages:
        sha256 = package.digests.get("sha256", "")
        links.append(
            Link(
                filename=package.filename,
                url=package.url.partition("#")[0],
                sha256=sha256 if _HASH.fullmatch(sha256) else None,
                size_bytes=package.size,
            )
        )
    return links


def folder_links(location: str, project: str) -> list[Link]:
    """The wheels of a project in a find-links folder, given as a path or a file: address; none where it is no folder.

    Raises:
        OSError: the folder cannot be listed.
    """
    folder = Path(file_url_path(location) if location.startswith("file:") else os.path.expanduser(location))
    if not folder.is_dir():
        return []
    name = canonicalize_name(project)
    found = []
    for path in sorted(folder.glob("*.whl")):
        if canonicalize_name(path.name.partition("-")[0]) == name:
            found.append(Link(path.name, path.resolve().as_uri(), None, path.stat().st_size))
    return found


def file_url_path(url: str) -> str:
    """The path of a file: address ('file:/a', 'file:///a')."""
    return unquote(urlsplit(url).path)
