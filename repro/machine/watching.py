"""What a machine is like while something is measured on it: clock, temperature, power, utilisation, other processes.

It is read on the host, not in the container: npu-smi in a container does not show processes of other containers, and
the kernel's files of the processor's clock are not in a sandbox. What the processor's cores do beside the stage only
the stage can tell, which knows its own share (stages/shared/load.py).

Reading has to cost less than 0.5 % of what is measured. npu-smi takes a core while it answers, so that the next reading
waits until the last answer's time is no more than that of all cores; the kernel's files are read once a second.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.base.foreign import shown
from repro.machine.npu import HEALTHY, Chip, Host, Npu, parse_smi

MOST_COST = 0.005
"""The largest part of the cores' time that reading may take."""

LEAST_PERIOD_S = 1.0
_MOST_READINGS = 20_000
_CORES_READ = 8  # a clock's file asks its core, and a server has hundreds
_CPU = Path("/sys/devices/system/cpu")
_HOLDER = re.compile(r"\(pid (\d+)\)$")
_NAMES = {
    "temperature_c": "Temperature(C)",
    "power_w": "NPU Real-time Power(W)",
    "clock_mhz": "Aicore curFreq(MHZ)",
    "rated_clock_mhz": "Aicore Freq(MHZ)",
    "utilisation_percent": "Aicore Usage Rate(%)",
}


@dataclass(frozen=True)
class Reading:
    """One look at a chip, or at the processor (`chip` None). None stands for what is not told, as npu-smi's NA.

    Attributes:
        at_s: seconds after the stage was started; below 0 before that.
        health: 'OK' or what npu-smi says instead; '' where nothing is said.
        held_by: processes on the chip that are not the stage's.
    """

    at_s: float
    chip: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    clock_mhz: float | None = None
    rated_clock_mhz: float | None = None
    utilisation_percent: float | None = None
    health: str = ""
    held_by: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Subject:
    """What is measured: on these chips, by a container with this command line; on the processor without chips."""

    npu: Npu = field(default_factory=Npu)
    chips: tuple[Chip, ...] = ()
    host: Host = field(default_factory=Host)


def parse_common(text: str) -> dict[int, dict[str, float]]:
    """`npu-smi info -t common`: what each chip of a card tells, by its number; NA is left out.

    Args:
        text: all that it printed. A chip's lines follow its 'Chip ID'; some releases print none for the only chip. The
            card's controller (MCU) comes last. It is no chip, but tells the power of the card where its chips do not.
    """
    chips: dict[int, dict[str, float]] = {}
    card: dict[str, float] = {}
    here = None
    for line in text.splitlines():
        name, separator, value = (part.strip() for part in line.partition(":"))
        if not separator:
            continue
        if name == "Chip ID" and value.isdigit():
            here = chips.setdefault(int(value), {})
        elif name == "Chip Name" and value.lower() == "mcu":
            here = card
        for ours, theirs in _NAMES.items():
            number = _plausible(value)
            if name == theirs and number is not None:
                (chips.setdefault(0, {}) if here is None else here)[ours] = number
    if "power_w" in card:
        for chip in chips.values():
            chip.setdefault("power_w", card["power_w"])
    return chips


def _plausible(value: object) -> float | None:
    """A figure that such a tool may print; None for NA and for what no chip has."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if -273.0 <= number <= 1e6 else None  # NaN is neither


class Watch:
    """Readings while a stage runs, in a thread of its own.

    Args:
        subject: what is measured.
        argv: of the stage's container: by it the stage's own processes are told from others.
        cores: of this machine, for the cost.
        processor: the kernel's folder of the processor.
    """

    def __init__(self, subject: Subject, argv: Sequence[str], cores: int, processor: Path = _CPU) -> None:
        self._subject = subject
        self._argv = "\0".join(argv)
        self._cores = max(1, cores)
        self._processor = processor
        self._readings: list[Reading] = []
        self._problems: dict[str, None] = {}
        self._own: set[int] = set()
        self._unseen: set[int] = set()
        self._spent_s = 0.0
        self._began_s = self._ended_s = time.monotonic()
        self._throttled: list[int | None] = []
        self._over = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Read before what follows, in between, and after it."""
        first_s = self._look()
        self._began_s = time.monotonic()
        thread = threading.Thread(target=self._go_on, args=(first_s,), name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            self._ended_s = time.monotonic()
            self._look()

    def _go_on(self, spent_s: float) -> None:
        while not self._over.wait(max(LEAST_PERIOD_S, spent_s / (MOST_COST * self._cores))):
            spent_s = self._look()
            self._spent_s += spent_s

    def _look(self) -> float:
        """Take one reading; seconds that it took."""
        started_s = time.monotonic()
        try:
            found = self._chips(started_s) if self._subject.chips else [self._processor_now(started_s)]
            if len(self._readings) < _MOST_READINGS:
                self._readings += found
        except Exception as error:  # noqa: BLE001 - watching never ends a measurement: it is said instead
            self._problems[f"a reading failed: {shown(str(error))}"] = None
        return time.monotonic() - started_s

    def _chips(self, now_s: float) -> list[Reading]:
        npu, host = self._subject.npu, self._subject.host
        code, text = host.run([npu.tool, "info"])
        table = {(chip.card, chip.number): chip for chip in parse_smi(text).chips}
        if code != 0 or not table:
            self._problems["npu-smi info gave no table"] = None
        common: dict[int, Mapping[int, Mapping[str, float]]] = {}
        for card in sorted({chip.card for chip in self._subject.chips}):
            code, text = host.run([npu.tool, "info", "-t", "common", "-i", str(card)])
            common[card] = parse_common(text) if code == 0 else {}
        return [
            self._chip(now_s, chip.device, table.get((chip.card, chip.number)), common[chip.card].get(chip.number, {}))
            for chip in self._subject.chips
        ]

    def _chip(self, now_s: float, device: int, shown_chip: Chip | None, told: Mapping[str, float]) -> Reading:
        values: dict[str, float | None] = {name: told.get(name) for name in _NAMES}
        if shown_chip is None:
            return Reading(now_s - self._began_s, device, **values)  # type: ignore[arg-type]
        for name in ("temperature_c", "power_w"):
            values[name] = _plausible(getattr(shown_chip, name)) if values[name] is None else values[name]
        if values["utilisation_percent"] is None:
            values["utilisation_percent"] = _plausible(shown_chip.aicore_percent)
        health = "" if shown_chip.health == HEALTHY else shown_chip.health
        held_by = tuple(holder for holder in shown_chip.processes if not self._is_own(holder))
        return Reading(now_s - self._began_s, device, **values, health=health, held_by=held_by)

    def _is_own(self, holder: str) -> bool:
        """Whether a process belongs to the stage: it or one above it has the stage's command line.

        One that cannot be seen may have ended since npu-smi looked; seen by npu-smi again, it is another's.
        """
        found = _HOLDER.search(holder)
        if found is None or not self._readings:
            return False  # nothing of the stage runs before the first reading
        pid = int(found[1])
        proc = self._subject.host.path("proc")
        if pid in self._own or (proc.exists() and not (proc / str(pid)).exists() and pid not in self._unseen):
            self._unseen.add(pid)
            return True
        above, seen = pid, set()
        while above > 1 and above not in seen:
            seen.add(above)
            try:
                if self._argv.encode() in (proc / str(above) / "cmdline").read_bytes():
                    self._own.add(pid)
                    return True
                status = (proc / str(above) / "status").read_text("utf-8", "replace")
            except OSError:
                return False
            above = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:")), 0)
        return False

    def _processor_now(self, now_s: float) -> Reading:
        cores = sorted(self._processor.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))[:_CORES_READ]
        clocks = [value / 1000.0 for value in map(_number_in, cores) if value is not None]
        rated = [
            value / 1000.0 for value in (_number_in(path.with_name("cpuinfo_max_freq")) for path in cores) if value
        ]
        counters = sorted(self._processor.glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))
        counts = [value for value in map(_number_in, counters) if value is not None]
        self._throttled.append(sum(counts) if counts else None)
        return Reading(
            now_s - self._began_s,
            clock_mhz=sum(clocks) / len(clocks) if clocks else None,
            rated_clock_mhz=max(rated) if rated else None,
        )

    def document(self) -> dict[str, Any]:
        """What obs/machine.json holds."""
        told = [count for count in self._throttled if count is not None]
        wall_s = max(self._ended_s - self._began_s, 1e-9)
        return {
            "cost_share": min(1.0, self._spent_s / (wall_s * self._cores)),
            "problems": list(self._problems),
            "readings": [reading.document() for reading in self._readings],
            "seen_by": f"npu-smi {self._subject.npu.tool_version}".strip() if self._subject.chips else "the kernel",
            "throttle_events": told[-1] - told[0] if told else None,
        }


def _number_in(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None
