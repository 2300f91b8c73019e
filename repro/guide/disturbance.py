"""What was observed while a speed was measured, judged: throttling, other processes, other load, or nothing to tell.

A throughput beside any of these is not compared. On an NPU it is not compared either where nothing tells throttling:
neither the clock nor the power.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from repro.record.measuring import Kind, LoadFile, LoadReading, MachineFile, Reading, Series, WhileMeasuring

OTHER_LOAD_PERCENT = 5.0
"""Of the cores' time: the tolerance of the published throughput."""

LOWEST_CLOCK = 0.95
"""Of the rated clock, while the chip works: the same tolerance."""

_POINTS = 60
_LEAST_LOAD_S = 1.0  # the kernel counts hundredths of a second
_KINDS: Sequence[tuple[Kind, str, Callable[[Reading], float | None]]] = (
    ("temperature", "°C", lambda reading: reading.temperature_c),
    ("power", "W", lambda reading: reading.power_w),
    ("clock", "MHz", lambda reading: reading.clock_mhz),
    ("utilisation", "%", lambda reading: reading.utilisation_percent),
)


def while_measuring(machine: MachineFile, load: LoadFile | None, loop: int) -> WhileMeasuring:
    """What a record holds of the readings.

    Args:
        machine: what the host read.
        load: what the stage read of its cores; None on an NPU.
        loop: executions of the loop that is compared with the table.
    """
    chips = list(dict.fromkeys(reading.chip for reading in machine.readings))
    series = [found for chip in chips for found in _series(machine, chip)]
    disturbances, not_told = [], [f"{machine.seen_by}: {problem}" for problem in machine.problems]
    for chip in chips:
        readings = [reading for reading in machine.readings if reading.chip == chip]
        told = {found.kind for found in series if found.chip == chip}
        absent = [kind for kind, *_ in _KINDS if kind not in told and _expected(kind, chip)]
        not_told += [f"{kind} of {_name(chip)}" + (" (NA)" if chip is not None else "") for kind in absent]
        if chip is not None:
            disturbances += _of_a_chip(readings, told)
    if not machine.readings:
        not_told.append("anything: no reading was made")
    if machine.throttle_events:
        disturbances.append(f"the processor was throttled {machine.throttle_events} times because it was too hot")
    if load is not None:
        others = _others(load)
        series += [_summary("load of others", "%", None, others)] if others else []
        disturbances += _of_the_load(load, loop)
    return WhileMeasuring(
        seen_by=machine.seen_by,
        cost_percent=100.0 * machine.cost_share,
        series=tuple(series),
        not_told=tuple(not_told),
        disturbances=tuple(dict.fromkeys(disturbances)),
    )


def _expected(kind: Kind, chip: int | None) -> bool:
    """Whether somebody would look for it: of a processor only the clock is read."""
    return chip is not None or kind == "clock"


def _name(chip: int | None) -> str:
    return "the processor" if chip is None else f"device {chip}"


def _series(machine: MachineFile, chip: int | None) -> list[Series]:
    found = []
    for kind, unit, value_of in _KINDS:
        values = [value_of(reading) for reading in machine.readings if reading.chip == chip]
        told = [value for value in values if value is not None]
        if told:
            found.append(_summary(kind, unit, chip, told))
    return found


def _summary(kind: Kind, unit: str, chip: int | None, values: Sequence[float]) -> Series:
    step = max(1, math.ceil(len(values) / _POINTS))
    return Series(
        kind=kind,
        unit=unit,
        chip=chip,
        count=len(values),
        minimum=min(values),
        mean=math.fsum(values) / len(values),
        maximum=max(values),
        points=tuple(values[::step]),
    )


def _of_a_chip(readings: Sequence[Reading], told: set[Kind]) -> list[str]:
    """Why a throughput of this chip is not compared."""
    name, said = _name(readings[0].chip), []
    at_work = _at_work(readings)
    slow = [reading for reading in at_work if _is_slow(reading)]
    if slow:
        lowest = min(slow, key=lambda reading: reading.clock_mhz or 0.0)
        said.append(
            f"{name} was throttled: its clock was {lowest.clock_mhz:.0f} of {lowest.rated_clock_mhz:.0f} MHz while it "
            f"worked, in {len(slow)} of {len(at_work)} readings"
        )
    if "clock" not in told and "power" not in told:
        said.append(f"npu-smi told neither clock nor power of {name} (NA), so that it may have been throttled unseen")
    elif not at_work:
        said.append(f"no reading was made while {name} worked, so that it may have been throttled unseen")
    holders = dict.fromkeys(holder for reading in readings for holder in reading.held_by)
    if holders:
        said.append(f"another process was on {name}: {', '.join(holders)}")
    elif (readings[0].utilisation_percent or 0.0) > 0:
        said.append(f"{name} worked before it was measured: utilisation {readings[0].utilisation_percent:.0f} %")
    health = dict.fromkeys(reading.health for reading in readings if reading.health)
    said += [f"{name} was not healthy: {word}" for word in health]
    return said


def _at_work(readings: Sequence[Reading]) -> list[Reading]:
    """Readings that tell clock or power of a chip at work: by its utilisation, else all but the first and the last."""
    between = [reading for reading in readings[1:-1] if reading.utilisation_percent is None]
    working = [reading for reading in readings if reading.utilisation_percent] + between
    return [reading for reading in working if reading.clock_mhz is not None or reading.power_w is not None]


def _is_slow(reading: Reading) -> bool:
    """Whether the clock is lower than it should be, of a chip at work: an idle one lowers it by itself."""
    if reading.clock_mhz is None or not reading.rated_clock_mhz:
        return False
    return reading.clock_mhz < LOWEST_CLOCK * reading.rated_clock_mhz


def _share_percent(before: LoadReading, after: LoadReading, cores: int) -> tuple[float, float]:
    """What others took of the cores' time between two readings, and what the hypervisor took of it."""
    whole_s = (after.wall_s - before.wall_s) * cores
    stolen_s = after.stolen_s - before.stolen_s
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return 100.0 * max(0.0, others_s + stolen_s) / whole_s, 100.0 * max(0.0, stolen_s) / whole_s


def _others(load: LoadFile) -> list[float]:
    pairs = zip(load.readings, load.readings[1:])
    return [
        _share_percent(before, after, load.cores)[0]
        for before, after in pairs
        if after.wall_s - before.wall_s >= _LEAST_LOAD_S
    ]


def _of_the_load(load: LoadFile, loop: int) -> list[str]:
    """Whether others worked on the stage's cores during the first loop, the one that is compared."""
    end = next((reading for reading in load.readings if reading.executions >= loop), None)
    if end is None or end.wall_s < _LEAST_LOAD_S:
        return []
    others, stolen = _share_percent(load.readings[0], end, load.cores)
    if others <= OTHER_LOAD_PERCENT:
        return []
    by_host = f" (the hypervisor {stolen:.0f} %)" if stolen >= 1.0 else ""
    return [f"other work took {others:.0f} % of the cores' time in the first loop{by_host}"]
