"""What a container is given by an engine behind Docker's API: everything by name, nothing by the engine's default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.types import LogConfig, Ulimit
from docker.types import Mount as BindMount

from repro.base.architecture import here
from repro.base.files import write_atomic
from repro.container.job import Job, Mount
from repro.engines import seccomp
from repro.engines.closed import CLOSED, device_paths, group, in_mount_order, open_files_limit, passwd


@dataclass(frozen=True)
class Habits:
    """In what an engine behind Docker's API differs from Docker.

    Attributes:
        extra_host_config: in the API's own spelling; the SDK refuses values that only Podman knows.
        takes_our_profile: its own seccomp profile is wider than ours, and it takes ours as a file.
    """

    name: str
    title: str
    extra_host_config: Mapping[str, Any]
    extra_ulimits: tuple[Ulimit, ...] = ()
    takes_our_profile: bool = False


DOCKER = Habits("docker", "Docker", {"UsernsMode": "host"})


class ContainerConfig:
    """Turns jobs into what the API takes.

    Args:
        habits: the engine's.
        info: what the engine says of itself (`/info`).
        scratch: a folder of ours that the engine can see, for small files that are mounted.
    """

    def __init__(self, habits: Habits, info: Mapping[str, Any], scratch: Path) -> None:
        self._habits = habits
        self._info = info
        self._scratch = scratch

    def user(self) -> tuple[int, int]:
        """The job's user and group inside. Docker's rootless mode maps the caller to 0; Podman's keep-id to itself."""
        rootless = self._habits.name == "docker" and self._has_option("rootless")
        return (0, 0) if rootless else (os.getuid(), os.getgid())

    def host_options(self, job: Job) -> dict[str, Any]:
        """The arguments of the SDK's `create_host_config`."""
        memory = job.limits.memory_bytes
        tmpfs = f"rw,exec,nosuid,nodev,size={memory}"
        return {
            "network_mode": "none",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": self._security_options(),
            "init": True,
            "auto_remove": True,
            "mem_limit": memory,
            "memswap_limit": memory,
            "pids_limit": job.limits.pids,
            "shm_size": memory,
            "tmpfs": {"/tmp": f"{tmpfs},mode=1777", "/run": f"{tmpfs},mode=0755"},  # noqa: S108 - in the container
            "mounts": [
                BindMount(mount.target, str(mount.source.resolve()), type="bind", read_only=not mount.writable)
                for mount in self._mounts(job)
            ],
            "devices": [":".join([*device_paths(device), "rw"]) for device in sorted(job.devices)],
            "group_add": list(job.groups) or None,
            "ipc_mode": "host" if job.shares_ipc else "private",
            "runtime": job.runtime or None,
            "ulimits": [
                Ulimit(name="core", soft=0, hard=0),
                Ulimit(name="nofile", soft=open_files_limit(), hard=open_files_limit()),
                *self._habits.extra_ulimits,
            ],
            "log_config": LogConfig(type="none"),  # a stage that prints without end must not fill the engine's disk
        }

    def extra_host_config(self) -> Mapping[str, Any]:
        """What the SDK cannot say, in the API's own spelling."""
        return self._habits.extra_host_config

    def limits(self) -> dict[str, str]:
        """Per limit 'enforced' or 'not enforced: REASON', as far as the engine says so itself."""
        said = {**CLOSED, "timeout": "enforced"}
        for limit, key in (("memory", "MemoryLimit"), ("pids", "PidsLimit")):
            lacking = f"not enforced: {self._habits.title} says that it has no {limit} control group here"
            said[limit] = lacking if self._info.get(key) is False else "enforced"
        # A job that makes a user namespace could do in it what a kernel's fault allows; so it shall not make one.
        none = f"not enforced: {self._habits.title} has no seccomp profile here"
        for limit in ("system_calls", "kernel_keys", "user_namespaces"):
            said[limit] = "enforced" if self._filters_calls() else none
        return said

    def _mounts(self, job: Job) -> list[Mount]:
        uid, gid = self.user()
        return [
            Mount(self._small_file(f"passwd-{os.getuid()}-{os.getgid()}", passwd(uid, gid)), "/etc/passwd"),
            Mount(self._small_file(f"group-{os.getuid()}-{os.getgid()}", group(gid)), "/etc/group"),
            *in_mount_order(job.mounts),
        ]

    def _security_options(self) -> list[str]:
        # Never relabel the user's data. Asked for everywhere: Podman 4 does not say that the machine has SELinux, and
        # where there is none it means nothing.
        options = ["no-new-privileges", "label=disable"]
        if self._habits.takes_our_profile and self._has_option("seccomp"):
            options.append(f"seccomp={self._small_file('seccomp.json', seccomp.oci_profile(here()))}")
        return options

    def _options(self) -> list[str]:
        return [str(option) for option in self._info.get("SecurityOptions") or []]

    def _has_option(self, name: str) -> bool:
        return any(f"name={name}" in option.split(",") for option in self._options())

    def _filters_calls(self) -> bool:
        unconfined = any("profile=unconfined" in option for option in self._options())
        return self._has_option("seccomp") and (self._habits.takes_our_profile or not unconfined)

    def _small_file(self, name: str, content: bytes) -> Path:
        path = self._scratch / name
        if not path.exists() or path.read_bytes() != content:
            write_atomic(path, content)
        return path.resolve()
