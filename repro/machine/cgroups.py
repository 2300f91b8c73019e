"""Memory and process limits for the sandbox, where the kernel lets us make a control group of our own.

Version 2 needs a group delegated to us (systemd does that for a user's services), version 1 needs root. Where neither
is given, the sandbox runs without these limits and says so.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path

from repro.container.job import Limits
from repro.machine.owner import Owner

_PREFIX = "lstm-ctc-"
_counter = itertools.count()


@dataclass(frozen=True)
class Parents:
    """Folders in which a group can be made, each with the controllers it has there."""

    version: int
    folders: dict[str, Path]


@dataclass(frozen=True)
class Unlimited:
    """Why there is no group."""

    reason: str


def _mounts(mountinfo: str) -> list[tuple[str, str, str, set[str]]]:
    """(type, root within the hierarchy, mount point, options) of every cgroup mount."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), [*right.split(), "", "", ""][:3]
        if kind in ("cgroup", "cgroup2"):
            found.append((kind, fields[3], fields[4], set(options.split(","))))
    return found


def _own(mount_root: str, mount_point: str, path: str) -> Path:
    """Where our group `path` lies under a mount that shows the hierarchy from `mount_root` on."""
    if mount_root != "/" and (path + "/").startswith(mount_root + "/"):
        path = path[len(mount_root) :]
    return Path(mount_point + "/" + path.strip("/"))


def find_parents(proc: Path = Path("/proc/self")) -> Parents | Unlimited:
    """Where this process may make control groups with both a memory and a process limit."""
    try:
        mounts = _mounts((proc / "mountinfo").read_text())
        lines = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
    except OSError as error:
        return Unlimited(f"cannot read this process's control group: {error}")
    v1: dict[str, Path] = {}
    for _, names, path in lines:
        for controller in {"memory", "pids"} & set(names.split(",")):
            for kind, root, point, options in mounts:
                if kind == "cgroup" and controller in options:
                    v1[controller] = _own(root, point, path)
    if len(v1) == 2:
        closed = sorted(str(folder) for folder in v1.values() if not os.access(folder, os.W_OK))
        return Unlimited(f"control groups (version 1) need root here: {closed[0]}") if closed else Parents(1, v1)
    for _, names, path in lines:
        for kind, root, point, _ in mounts:
            if kind == "cgroup2" and names == "":
                return _find_v2(_own(root, point, path), Path(point))
    return Unlimited("this machine mounts no control groups with memory and pids")


def _find_v2(own: Path, top: Path) -> Parents | Unlimited:
    """Our group or the one above it: whichever is delegated and hands memory and pids down."""
    for folder in (own, own.parent):
        if folder != top.parent and os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK):
            with contextlib.suppress(OSError):
                if {"memory", "pids"} <= set((folder / "cgroup.subtree_control").read_text().split()):
                    return Parents(2, {"memory": folder, "pids": folder})
    return Unlimited(
        f"no control group with memory and pids is delegated to this process ({own}); "
        "`systemd-run --user --scope -p Delegate=yes` gives one"
    )


def memory_given(proc: Path = Path("/proc/self")) -> int | None:
    """The least memory limit, in bytes, of the control groups that this process is in; None where there is none."""
    try:
        mounts = _mounts((proc / "mountinfo").read_text())
        lines = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
    except OSError:
        return None
    limits = []
    for _, names, path in lines:
        for kind, root, point, options in mounts:
            unified = kind == "cgroup2" and names == ""
            if not unified and not (kind == "cgroup" and "memory" in options and "memory" in names.split(",")):
                continue
            folder = _own(root, point, path)
            while folder.is_relative_to(point):
                with contextlib.suppress(OSError, ValueError):  # 'max', or a folder of the host's that is not shown
                    limits.append(int((folder / ("memory.max" if unified else "memory.limit_in_bytes")).read_text()))
                folder = folder.parent
    return min(limits, default=None)


class Group:
    """One job's control group. Make it with `create`; `remove` it when all in it has ended."""

    def __init__(self, version: int, folders: dict[str, Path]) -> None:
        self._version = version
        self._folders = folders

    @classmethod
    def create(cls, parents: Parents, limits: Limits) -> Group:
        """Make the folders and set the limits.

        Raises:
            OSError: the kernel refuses; nothing is left behind.
        """
        name = f"{_PREFIX}{Owner.this_process().as_name()}-{next(_counter)}"
        group = cls(parents.version, {key: folder / name for key, folder in parents.folders.items()})
        try:
            for folder in group._unique():
                folder.mkdir()
            if parents.version == 2:
                group._write("memory", "memory.max", limits.memory_bytes)
                group._write_if_there("memory", "memory.swap.max", 0)
            else:
                group._write("memory", "memory.limit_in_bytes", limits.memory_bytes)
                group._write_if_there("memory", "memory.memsw.limit_in_bytes", limits.memory_bytes)
            group._write("pids", "pids.max", limits.pids)
        except OSError:
            group.remove()
            raise
        return group

    def _unique(self) -> list[Path]:
        return sorted(set(self._folders.values()))

    def _write(self, controller: str, name: str, value: int) -> None:
        (self._folders[controller] / name).write_text(str(value))

    def _write_if_there(self, controller: str, name: str, value: int) -> None:
        if (self._folders[controller] / name).exists():
            self._write(controller, name, value)

    def add(self, pid: int) -> None:
        """Move a process, and so all that it will start, into the group."""
        for folder in self._unique():
            (folder / "cgroup.procs").write_text(str(pid))

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed something in the group for want of memory."""
        name = "memory.events" if self._version == 2 else "memory.oom_control"
        try:
            fields = dict(line.split() for line in (self._folders["memory"] / name).read_text().splitlines())
        except OSError:
            return False
        return int(fields.get("oom_kill", "0")) > 0

    def remove(self) -> None:
        """Remove the folders; a killed process may still hold them for a moment."""
        for folder in self._unique():
            for _ in range(100):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)
                else:
                    break


def remove_stale(parents: Parents) -> None:
    """Remove the empty groups of owners that ended without doing so."""
    for folder in sorted(set(parents.folders.values())):
        for group in folder.glob(_PREFIX + "*"):
            owner = Owner.from_name(group.name[len(_PREFIX) :].rpartition("-")[0])
            if owner is not None and owner.is_gone():
                with contextlib.suppress(OSError):  # not empty after all: not ours to touch
                    group.rmdir()
