"""What a container is given of an NPU: just the device nodes and driver files that a 310P needs, and nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro.base.errors import CouldNotRun
from repro.container.job import Mount
from repro.machine.npu import CONTROL_NODES, Chip, Host, Npu

RUNTIME = "ascend"
_DRIVER = "usr/local/Ascend/driver"
_OTHERS_MAY = stat.S_IROTH | stat.S_IWOTH
# Host path (below /) and the path in the container; the image holds each as a mount point.
_MOUNTS = (
    "usr/local/dcmi",
    f"{_DRIVER}/lib64",
    f"{_DRIVER}/version.info",
    "etc/ascend_install.info",
)


@dataclass(frozen=True)
class Access:
    """Additions to a job that uses the NPU.

    Attributes:
        devices: 'HOST_PATH:PATH' of each node.
        groups: numbers of the groups that own nodes which others may not open.
        shares_ipc: the vendor's runtime passes memory to the driver through the host's IPC namespace.
        runtime: the engine's OCI runtime, '' for its usual one.
    """

    devices: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    shares_ipc: bool = False
    runtime: str = ""


def access_for(npu: Npu, chips: Sequence[Chip], host: Host, engine: str, facts: Mapping[str, str]) -> Access:
    """How an engine's containers get at these chips.

    The Ascend Docker Runtime does it where Docker has it (it knows the chips by number); else nodes and driver are
    passed on one by one. In the container the runtime numbers the chips from 0, in the order of their nodes.

    Args:
        npu: as examined.
        chips: those chosen.
        host: where the nodes are.
        engine: 'docker', 'podman' or 'sandbox'.
        facts: the engine's; `runtimes` lists what it can start containers with.

    Raises:
        CouldNotRun: a node is gone, or this user may not open one and no engine can change that.
    """
    if RUNTIME in facts.get("runtimes", "").split(", ") and not npu.simulator:
        visible = ",".join(str(chip.device) for chip in chips)
        return Access(env={"ASCEND_VISIBLE_DEVICES": visible}, runtime=RUNTIME)
    names = [f"davinci{chip.device}" for chip in chips] + list(CONTROL_NODES)
    absent = [f"/dev/{name}" for name in names if not host.path(f"dev/{name}").exists()]
    if absent:
        raise CouldNotRun(
            f"{', '.join(absent)} is not there any more",
            hint="`npu-smi info` and `dmesg` say why; install the driver again, or start the machine anew",
        )
    groups = _groups(host, names)
    if engine != "docker":
        _require_open(host, names)
    mounts = [Mount(host.path(name), f"/{name}") for name in _MOUNTS if host.path(name).exists()]
    if npu.tool:
        mounts.append(Mount(Path(npu.tool), "/usr/local/bin/npu-smi"))
    return Access(
        devices=tuple(f"{host.path(f'dev/{name}')}:/dev/{name}" for name in names),
        groups=groups,
        mounts=tuple(mounts),
        shares_ipc=True,
    )


def _groups(host: Host, names: Sequence[str]) -> tuple[int, ...]:
    """Owners of nodes that only their group may open: the caller's user need not be a member where Docker runs."""
    found = [host.path(f"dev/{name}").stat() for name in names]
    return tuple(sorted({node.st_gid for node in found if node.st_mode & _OTHERS_MAY != _OTHERS_MAY}))


def _require_open(host: Host, names: Sequence[str]) -> None:
    closed = [f"/dev/{name}" for name in names if not os.access(host.path(f"dev/{name}"), os.R_OK | os.W_OK)]
    if closed:
        raise CouldNotRun(
            f"this user may not open {', '.join(closed)}",
            hint="join the group that owns them (usually HwHiAiUser) and log in again, or use `--engine docker`",
        )
