"""The CANN that a host has installed, told by its files: where it is, and what it says of itself."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from repro.machine.npu import Host, version_info

ASCEND = "usr/local/Ascend"
"""Where the vendor installs CANN and the driver, below the root."""


@dataclass(frozen=True)
class Installed:
    """A CANN below /usr/local/Ascend.

    Attributes:
        folder: the host's /usr/local/Ascend, links resolved.
        toolkit: below it: 'ascend-toolkit/latest' up to 8.4, 'cann' or 'cann-VERSION' from 8.5 on.
        told: the fields of its ascend_toolkit_install.info.
    """

    folder: Path
    toolkit: str
    told: Mapping[str, str]

    @property
    def version(self) -> str:
        return self.told["version"]

    @property
    def identity(self) -> str:
        """What tells it from another CANN, as the stages read it too: its version and the vendor's own number."""
        return " ".join(self.told[name] for name in ("version", "innerversion") if name in self.told)


def find(host: Host) -> Installed | None:
    """The CANN of a host; None where there is none, or none that says its version."""
    for toolkit in _toolkits(host.path(ASCEND)):
        told = version_info(host, f"{ASCEND}/{toolkit}/{platform.machine()}-linux/ascend_toolkit_install.info")
        if told.get("version"):
            return Installed(host.path(ASCEND).resolve(), toolkit, told)
    return None


def _toolkits(folder: Path) -> Iterator[str]:
    """Where a toolkit may lie, in the order in which the stages look for one that has its environment script."""
    names = sorted((path.name for path in folder.glob("cann-*")), reverse=True)
    for script, toolkit in (("ascend-toolkit", "ascend-toolkit/latest"), ("cann", "cann"), *zip(names, names)):
        if (folder / script / "set_env.sh").is_file():
            yield toolkit
