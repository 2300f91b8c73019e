"""What was observed while a speed was measured: files of the stage's obs/, and what a record holds of them."""

from __future__ import annotations

from typing import Annotated, Literal, Optional

from msgspec import Meta

from repro.base.values import Amount, Count, Positive, Real, Strict

Kind = Literal["temperature", "power", "clock", "utilisation", "load of others"]
Percent = Annotated[float, Meta(ge=0, le=1e6)]
LEAST_EXECUTIONS = 100  # of a figure: as many as the published table's are averaged over
LEAST_DURATION_S = 10.0  # timed; a tenth of it is the worst that one interruption of a second can add
_MOST = 100_000


class Latency(Strict, frozen=True):
    """Execution time of one batch, in ms; the 90th percentile is null where the tool does not tell it."""

    mean: Amount
    median: Amount
    min: Amount
    max: Amount
    p50: Amount
    p90: Optional[Amount]
    p99: Amount


class Reading(Strict, frozen=True):
    """One look at a chip (its device number), or at the processor (null); null where a value is not told."""

    at_s: Real
    chip: Optional[Count]
    temperature_c: Optional[Real]
    power_w: Optional[Real]
    clock_mhz: Optional[Real]
    rated_clock_mhz: Optional[Real]
    utilisation_percent: Optional[Real]
    health: str
    held_by: tuple[str, ...]


class MachineFile(Strict, frozen=True):
    """The host's machine.json: see repro.machine.watching."""

    cost_share: Amount
    problems: tuple[str, ...]
    readings: Annotated[tuple[Reading, ...], Meta(max_length=_MOST)]
    seen_by: str
    throttle_events: Optional[int]


class LoadReading(Strict, frozen=True):
    """Seconds since the first reading, of the clock and of all of the stage's cores together."""

    executions: Count
    wall_s: Amount
    own_s: Amount
    busy_s: Amount
    stolen_s: Amount


class LoadFile(Strict, frozen=True):
    """measure's load.json."""

    cores: Positive
    readings: Annotated[tuple[LoadReading, ...], Meta(max_length=_MOST)]


class LoopFigure(Strict, frozen=True):
    """One loop's executions, and its throughput in utterances/s."""

    loop: Positive
    throughput_utterances_per_s: Amount


class Sustained(Strict, frozen=True):
    """All loops together: the figure to quote. The table's condition is the first loop.

    `spread_percent` is the largest loop's throughput less the smallest's, in per cent of the whole; null for one loop.
    """

    executions: Positive
    timed_s: Amount
    throughput_utterances_per_s: Amount
    latency_ms: Latency
    loops: tuple[LoopFigure, ...]
    spread_percent: Optional[Percent]
    long_enough: bool


class Series(Strict, frozen=True):
    """What was read of one thing: `chip` as in a reading, at most 60 of the values as `points`, in order."""

    kind: Kind
    unit: str
    chip: Optional[Count]
    count: Positive
    minimum: Real
    mean: Real
    maximum: Real
    points: tuple[Real, ...]


class WhileMeasuring(Strict, frozen=True):
    """What was read while a speed was measured.

    Attributes:
        cost_percent: of the cores' time that reading took.
        not_told: what could not be read, in words.
        disturbances: why the throughput is not compared, in words.
    """

    seen_by: str
    cost_percent: Percent
    series: tuple[Series, ...]
    not_told: tuple[str, ...]
    disturbances: tuple[str, ...]
