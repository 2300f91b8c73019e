"""Which CANN a run takes: the table's, another one from data/sources, or the host's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repro.base import versions
from repro.base.errors import CouldNotRun, UsageError
from repro.base.paths import Paths
from repro.graph.cann_images import CANN_IMAGE, HOST, cann_image
from repro.machine import cann as machine_cann
from repro.machine.npu import Host
from repro.run.host_fits import table_cann


@dataclass(frozen=True)
class Cann:
    """A CANN to run with.

    Attributes:
        request: as a request has it: '' for the table's.
        image: that it is in, or that it is lent to.
        version: '' for the table's.
        told: the fields of its ascend_toolkit_install.info, where it is the host's.
        folder: that the host lends; None where the CANN is the image's own.
    """

    request: str = ""
    image: str = CANN_IMAGE
    version: str = ""
    told: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


def choose_cann(paths: Paths, asked: str, host: Host) -> Cann:
    """The CANN that `--cann` asks for.

    Raises:
        UsageError: what is asked for is no version.
        CouldNotRun: the host has none, or not where it can be lent from.
    """
    if asked == HOST:
        found = machine_cann.find(host)
        if found is None:
            raise CouldNotRun(
                "--cann host: this host has no CANN in /usr/local/Ascend",
                hint="install it there, as root and without --install-path; or leave --cann out: the image has its own",
            )
        request = f"{HOST} {found.identity}"
        return Cann(request, cann_image(request), found.version, found.told, found.folder)
    if not asked or versions.same(asked, table_cann(paths.conf)):
        return Cann()
    if versions.parse(asked) is None:
        raise UsageError(
            f"--cann {asked} is no version of CANN", hint="such as 8.1.RC1, or host; left out: the table's"
        )
    return Cann(asked, cann_image(asked), asked)
