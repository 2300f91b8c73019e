"""The one interface that Docker, Podman and the embedded sandbox implement.

A container is closed in all three: no network, read-only root, no capability, no-new-privileges, the caller's uid
and gid, an init, a timeout, inputs mounted read-only and the named outputs writable; /tmp, /run and HOME
(/tmp/home) are fresh and private. What an engine cannot enforce it says in `Outcome.limits`, and never pretends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from repro.container.image import Image

OnLine = Callable[[str, str], None]
"""Called with (stream, line): stream is 'stdout' or 'stderr', line has no newline."""


@dataclass(frozen=True)
class Mount:
    """A host path made visible in the container. Read-only unless `writable`."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Limits:
    """Bounds on one container. `timeout_s` is wall time; memory counts everything in the container."""

    timeout_s: float = 3600.0
    memory_bytes: int = 8 * 1024**3
    pids: int = 512


@dataclass(frozen=True)
class Job:
    """One command in one image.

    Attributes:
        devices: 'PATH' of a device node, or 'HOST_PATH:PATH'; the only ones beside null, zero and their like.
        groups: supplementary group numbers, for nodes that only a group may open. The sandbox keeps the caller's own.
        shares_ipc: it sees the host's IPC namespace; only a job with devices may.
        runtime: the OCI runtime that Docker or Podman start it with; '' for their usual one.
    """

    image: Image
    argv: tuple[str, ...]
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/tmp"  # noqa: S108 - the container's own private tmpfs
    limits: Limits = field(default_factory=Limits)
    devices: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    shares_ipc: bool = False
    runtime: str = ""
    name: str = "job"


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    `exit_code` is the command's own (128+N when signal N killed it). `limits` says per limit
    ('memory', 'pids', 'timeout', 'network', ...) either 'enforced' or 'not enforced: REASON'.
    """

    exit_code: int
    timed_out: bool
    wall_s: float
    limits: Mapping[str, str]
    out_of_memory: bool = False


@dataclass(frozen=True)
class Availability:
    """Whether an engine can be used here: `usable`, else the reason and what to do about it."""

    name: str
    usable: bool
    reason: str = ""
    hint: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def refused(cls, name: str, reason: str, hint: str) -> Availability:
        """It cannot be used."""
        return cls(name, usable=False, reason=reason, hint=hint)


class Engine(Protocol):
    """Runs jobs. Obtain one from `repro.run.engine_choice.choose`."""

    @property
    def name(self) -> str:
        """'docker', 'podman' or 'sandbox'."""

    def prepare(self, image: Image) -> None:
        """Make the image ready to start (load it, or unpack its layers). Never pulls. Idempotent.

        Raises:
            VerificationFailed: what the engine holds afterwards is not this image (Id or diff IDs differ).
            CouldNotRun: disk full, engine gone.
        """

    def run(self, job: Job, on_line: OnLine) -> Outcome:
        """Run one job to its end, streaming its output line by line; kill everything in it on timeout.

        A job that ends with an error is an Outcome, not an exception. Thread-safe.
        """

    def facts(self) -> dict[str, str]:
        """Version, storage driver, cgroup version, security options: what the record keeps about the engine."""
