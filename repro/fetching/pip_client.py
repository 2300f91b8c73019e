"""What this machine's own pip knows: index, extra indexes, folders of wheels, proxy, certificates."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

_TIMEOUT_S = 60.0
_SECTIONS = ("global", "install", "download", ":env:")
"""From weakest to strongest, as pip merges them for `pip download`."""

_ASK_DEFAULT = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"


@dataclass(frozen=True)
class PipClient:
    """What pip's configuration says.

    Attributes:
        index_urls: the index first, then the extra ones; simple-index roots without final slash.
        find_links: folders, pages or archives of wheels.
        proxy: for http and https; empty for none.
        ca: file of certificates to trust; empty for the default.
    """

    index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    proxy: str = ""
    ca: str = ""


def parse_config_list(text: str) -> dict[str, str]:
    """`pip config list` merged over its sections: option -> value (several values are split by whitespace)."""
    by_section: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        section, dot, option = key.strip().rpartition(".")
        if not separator or not dot or section not in by_section:
            continue
        try:
            parsed = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            continue
        if isinstance(parsed, str):
            by_section[section][option.replace("_", "-").lower()] = parsed
    merged: dict[str, str] = {}
    for section in _SECTIONS:
        merged.update(by_section[section])
    return merged


def pip_client_from(config: Mapping[str, str], default_index: str) -> PipClient:
    """The client that a merged configuration describes; `default_index` stands in where it names no index."""
    indexes: list[str] = []
    if config.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        indexes = [config.get("index-url") or default_index, *config.get("extra-index-url", "").split()]
    return PipClient(
        index_urls=tuple(dict.fromkeys(url.rstrip("/") for url in indexes if url)),
        find_links=tuple(dict.fromkeys(config.get("find-links", "").split())),
        proxy=config.get("proxy", ""),
        ca=config.get("cert", ""),
    )


def pip_client() -> PipClient:
    """Ask this interpreter's pip; an empty answer where it has none.

    The default index is asked from pip itself, so that no index's address stands in this repository.
    """
    listed = _python("-m", "pip", "config", "list")
    if listed is None:
        return PipClient()
    config = parse_config_list(listed)
    default = "" if config.get("index-url") else (_python("-c", _ASK_DEFAULT) or "").strip()
    return pip_client_from(config, default)


def _python(*argv: str) -> str | None:
    try:
        done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
