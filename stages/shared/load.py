"""The processor's load beside this process: how much of its cores' time others took, or the hypervisor.

/proc/stat is the whole machine's in a container too; this process's own time only this process can tell. So what others
took on the cores that this process may use is what was busy there, less its own. The kernel counts in hundredths of a
second: over a second or more that is exact enough.
"""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

LEAST_S = 1.0  # between two readings
_STAT = "/proc/stat"
_FIELDS = 8  # user, nice, system, idle, iowait, irq, softirq, steal; what guests take is in user


class Reading(NamedTuple):
    """Seconds since some start, of the clock and of all cores together: own, busy (own included), stolen."""

    executions: int
    wall_s: float
    own_s: float
    busy_s: float
    stolen_s: float


def busy_seconds(text: str, cores: set[int], ticks_per_s: float) -> tuple[float, float] | None:
    """Of /proc/stat's text, (busy, stolen) seconds of some cores; None where it does not tell each of them."""
    busy = stolen = 0.0
    seen = set()
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        fields = rest.split()
        number = name[3:]
        if not name.startswith("cpu") or not number.isdigit() or int(number) not in cores or len(fields) < _FIELDS:
            continue
        user, nice, system, _, _, irq, softirq, steal = (float(field) for field in fields[:_FIELDS])
        busy += (user + nice + system + irq + softirq) / ticks_per_s
        stolen += steal / ticks_per_s
        seen.add(int(number))
    return (busy, stolen) if seen == cores else None


class Load:
    """Readings while something is timed, at most one per second; none where the kernel does not tell."""

    def __init__(self) -> None:
        self._cores = os.sched_getaffinity(0)
        self._readings: list[Reading] = []
        self.note(0)

    def note(self, executions: int) -> None:
        """Take a reading, after so many executions."""
        try:
            with open(_STAT) as stream:
                found = busy_seconds(stream.read(), self._cores, float(os.sysconf("SC_CLK_TCK")))
        except OSError:
            found = None
        if found is not None:
            own = os.times()
            own_s = own.user + own.system + own.children_user + own.children_system
            self._readings.append(Reading(executions, time.monotonic(), own_s, *found))

    def note_now_and_then(self, executions: int) -> None:
        """Take a reading where the last one is a second old."""
        if self._readings and time.monotonic() - self._readings[-1].wall_s >= LEAST_S:
            self.note(executions)

    def document(self) -> dict[str, Any]:
        """What obs/load.json holds: seconds since the first reading."""
        first = self._readings[0] if self._readings else None
        return {
            "cores": len(self._cores),
            "readings": [
                {
                    "executions": each.executions,
                    "wall_s": each.wall_s - first.wall_s,
                    "own_s": max(0.0, each.own_s - first.own_s),
                    "busy_s": max(0.0, each.busy_s - first.busy_s),
                    "stolen_s": max(0.0, each.stolen_s - first.stolen_s),
                }
                for each in self._readings
                if first is not None
            ],
        }
