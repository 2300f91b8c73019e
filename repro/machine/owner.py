"""Who started a container: enough to tell, later and from another process, that its owner is gone for good.

A process id alone is no name: it is used again after its process has ended, after a reboot, and in other namespaces.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_LABEL = "org.lstm-ctc-bundle.owner."
_PROC = Path("/proc")


def _start_ticks(proc: Path, pid: int) -> str | None:
    """Field 22 of /proc/PID/stat: when the process started, in clock ticks since boot; None when it is gone."""
    try:
        text = (proc / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
    return None if fields[0] in ("Z", "X") else fields[19]


@dataclass(frozen=True)
class Owner:
    """A process, named so that no other one ever has the same name."""

    pid: str
    start_ticks: str
    boot: str
    pid_namespace: str
    uid: str

    @classmethod
    def this_process(cls, proc: Path = _PROC) -> Owner:
        """The calling process."""
        pid = os.getpid()
        return cls(
            pid=str(pid),
            start_ticks=_start_ticks(proc, pid) or "0",
            boot=(proc / "sys/kernel/random/boot_id").read_text().strip(),
            pid_namespace=os.readlink(proc / "self/ns/pid").strip("pid:[]"),
            uid=str(os.getuid()),
        )

    def labels(self) -> dict[str, str]:
        """As container labels."""
        return {_LABEL + name: value for name, value in sorted(vars(self).items())}

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> Owner | None:
        """Read back what `labels` wrote; None for a container that is not ours."""
        try:
            return cls(**{name: labels[_LABEL + name] for name in cls.__dataclass_fields__})
        except KeyError:
            return None

    def as_name(self) -> str:
        """As part of a file name."""
        return f"{self.pid}.{self.start_ticks}.{self.boot}.{self.pid_namespace}.{self.uid}"

    @classmethod
    def from_name(cls, name: str) -> Owner | None:
        """Read back what `as_name` wrote; None for another name."""
        parts = name.split(".")
        return cls(*parts) if len(parts) == 5 else None

    def is_gone(self, proc: Path = _PROC) -> bool:
        """True only when it is certain: same user (others' processes may be hidden), this boot and namespace.

        A container outlives no reboot, so one of another boot is without an owner too.
        """
        here = Owner.this_process(proc)
        if self.uid != here.uid:
            return False
        if self.boot != here.boot:
            return True
        if self.pid_namespace != here.pid_namespace:
            return False
        return _start_ticks(proc, int(self.pid)) != self.start_ticks


OWNER_LABEL = _LABEL + "pid"
"""A label that every container of ours carries: what a list is filtered by."""
