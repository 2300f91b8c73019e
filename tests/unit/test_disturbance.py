"""What was read while a speed was measured, judged to the last digit: figures, what is not told, each disturbance."""

from __future__ import annotations

import pytest

from repro.guide.disturbance import while_measuring
from repro.record.measuring import LoadFile, LoadReading, MachineFile, Reading, Series


def reading(chip=0, **told):
    known = {"at_s": 0.0, "temperature_c": 50.0, "power_w": 60.0, "clock_mhz": 1000.0, "rated_clock_mhz": 1000.0,
             "utilisation_percent": 80.0, "health": "", "held_by": ()}  # fmt: skip
    return Reading(chip=chip, **{**known, **told})


IDLE = {"utilisation_percent": 0.0}
NOTHING = dict.fromkeys(("temperature_c", "power_w", "clock_mhz", "rated_clock_mhz", "utilisation_percent"))


def machine(*readings, problems=(), events=None, cost=0.0):
    return MachineFile(cost, problems, readings, "npu-smi 24.1.0", events)


def said(*readings):
    return list(while_measuring(machine(*readings), None, 100).disturbances)


def load(*rows, cores=4):
    return LoadFile(cores, tuple(LoadReading(*row) for row in rows))


def test_two_chips_are_summed_up_apart_and_everything_is_in_its_unit():
    found = while_measuring(
        machine(
            reading(0, **IDLE),
            reading(1, temperature_c=None, power_w=None, **IDLE),
            reading(0, temperature_c=52.0, power_w=70.0, clock_mhz=990.0),
            reading(1, temperature_c=None, power_w=None),
            cost=0.0125,
            problems=("no table",),
        ),
        None,
        100,
    )
    assert found.cost_percent == 1.25 and found.seen_by == "npu-smi 24.1.0" and found.disturbances == ()
    assert found.not_told == ("npu-smi 24.1.0: no table", "temperature of device 1 (NA)", "power of device 1 (NA)")
    assert found.series == (
        Series("temperature", "°C", 0, 2, 50.0, 51.0, 52.0, (50.0, 52.0)),
        Series("power", "W", 0, 2, 60.0, 65.0, 70.0, (60.0, 70.0)),
        Series("clock", "MHz", 0, 2, 990.0, 995.0, 1000.0, (1000.0, 990.0)),
        Series("utilisation", "%", 0, 2, 0.0, 40.0, 80.0, (0.0, 80.0)),
        Series("clock", "MHz", 1, 2, 1000.0, 1000.0, 1000.0, (1000.0, 1000.0)),
        Series("utilisation", "%", 1, 2, 0.0, 40.0, 80.0, (0.0, 80.0)),
    )


@pytest.mark.parametrize(("count", "points"), [(1, 1), (60, 60), (61, 31), (120, 60), (121, 41), (600, 60)])
def test_a_series_holds_at_most_sixty_points_at_equal_steps(count, points):
    readings = [reading(at_s=float(n), clock_mhz=float(n)) for n in range(count)]
    (clock,) = [s for s in while_measuring(machine(*readings), None, 100).series if s.kind == "clock"]
    assert clock.count == count and len(clock.points) == points
    assert clock.points == tuple(float(n) for n in range(0, count, -(-count // 60)))


def test_of_a_processor_only_the_clock_is_looked_for():
    silent = while_measuring(machine(reading(None, **NOTHING)), None, 100)
    assert silent.not_told == ("clock of the processor",) and silent.disturbances == () and silent.series == ()
    assert while_measuring(machine(reading(None)), None, 100).not_told == ()
    nothing = while_measuring(machine(), None, 100)
    assert nothing.not_told == ("anything: no reading was made",)


@pytest.mark.parametrize(("events", "expected"), [(None, 0), (0, 0), (1, 1), (7, 1)])
def test_a_processor_that_was_throttled_is_said(events, expected):
    found = while_measuring(machine(reading(None), events=events), None, 100).disturbances
    assert found == (f"the processor was throttled {events} times because it was too hot",) * expected


def test_a_clock_below_the_bound_at_work_is_a_throttled_chip():
    assert said(reading(**IDLE), reading(clock_mhz=950.0), reading(clock_mhz=100.0, **IDLE)) == []
    slow = [reading(**IDLE), reading(clock_mhz=949.0), reading(clock_mhz=700.4), reading(), reading(**IDLE)]
    assert said(*slow) == ["device 0 was throttled: its clock was 700 of 1000 MHz while it worked, in 2 of 3 readings"]
    assert said(reading(**IDLE), reading(clock_mhz=100.0, rated_clock_mhz=None)) == []
    assert said(reading(**IDLE), reading(clock_mhz=100.0, rated_clock_mhz=0.0)) == []


def test_where_the_utilisation_is_not_told_all_but_the_first_and_the_last_reading_are_of_work():
    dim = {"utilisation_percent": None, "clock_mhz": 500.0}
    assert said(reading(**dim), reading(utilisation_percent=None), reading(**dim)) == []
    assert len(said(reading(), reading(**dim), reading(utilisation_percent=None))) == 2  # worked before, throttled
    assert said(reading(**dim), reading(**dim), reading(**dim)) == [
        "device 0 was throttled: its clock was 500 of 1000 MHz while it worked, in 1 of 1 readings"
    ]


def test_throttling_that_nothing_tells_is_said():
    unseen = "so that it may have been throttled unseen"
    silent = {"clock_mhz": None, "power_w": None}
    assert said(reading(**IDLE, **silent), reading(**silent)) == [
        f"npu-smi told neither clock nor power of device 0 (NA), {unseen}"
    ]
    for one in silent:
        assert said(reading(**{**IDLE, one: None}), reading(**{one: None}), reading(**{**IDLE, one: None})) == []
    assert said(reading(**IDLE), reading(**IDLE)) == [f"no reading was made while device 0 worked, {unseen}"]
    assert said(reading(**IDLE), reading(**silent)) == [f"no reading was made while device 0 worked, {unseen}"]


def test_other_processes_work_before_and_bad_health_are_said_once_each():
    assert said(reading(1, **IDLE, held_by=("a", "b")), reading(1, held_by=("b", "c"), health="Warning")) == [
        "another process was on device 1: a, b, c",
        "device 1 was not healthy: Warning",
    ]
    assert said(reading(), reading(health="Alarm"), reading(health="Alarm"), reading(health="Critical")) == [
        "device 0 worked before it was measured: utilisation 80 %",
        "device 0 was not healthy: Alarm",
        "device 0 was not healthy: Critical",
    ]
    assert said(reading(utilisation_percent=None), reading()) == []
    assert said(reading(utilisation_percent=1.0), reading()) != []


def test_each_chip_is_judged_by_its_own_readings():
    assert said(reading(0, **IDLE), reading(1, **IDLE), reading(0), reading(1, clock_mhz=600.0)) == [
        "device 1 was throttled: its clock was 600 of 1000 MHz while it worked, in 1 of 1 readings"
    ]


def test_the_load_of_others_is_all_work_less_the_stages_own_of_all_cores_time():
    # (executions, wall, own, busy, stolen), in s; between the readings 10, 0.9 and 1 s pass
    found = while_measuring(
        machine(reading(None)),
        load(
            (0, 1.0, 0.5, 1.0, 0.25),
            (50, 11.0, 30.5, 33.0, 0.75),
            (60, 11.9, 31.0, 40.0, 9.0),
            (100, 12.9, 33.0, 41.0, 9.0),
        ),
        100,
    )
    clock, utilisation, series = (each for each in found.series if each.kind not in ("temperature", "power"))
    assert (clock.kind, utilisation.kind, series.kind) == ("clock", "utilisation", "load of others")
    assert (series.unit, series.chip, series.count) == ("%", None, 2)
    assert series.points == (6.25, 0.0), "(2 of others and 0.5 stolen) of 40 s, then nothing"
    assert found.disturbances == ("other work took 34 % of the cores' time in the first loop (the hypervisor 18 %)",)


@pytest.mark.parametrize(
    ("busy", "stolen", "expected"),
    [
        (22.0, 0.0, []),
        (22.04, 0.0, ["other work took 5 % of the cores' time in the first loop"]),
        (24.0, 0.36, ["other work took 11 % of the cores' time in the first loop"]),
        (24.0, 0.41, ["other work took 11 % of the cores' time in the first loop (the hypervisor 1 %)"]),
        (24.0, 0.5, ["other work took 11 % of the cores' time in the first loop (the hypervisor 1 %)"]),
        (10.0, -1.0, []),
    ],
)
def test_more_than_five_per_cent_of_others_is_a_disturbance(busy, stolen, expected):
    document = load((0, 0.0, 0.0, 0.0, 1.0), (99, 5.0, 0.0, 39.0, 1.0), (100, 10.0, 20.0, busy, 1.0 + stolen))
    assert list(while_measuring(machine(reading(None)), document, 100).disturbances) == expected


def test_only_the_first_loop_counts_and_only_where_the_kernel_can_tell_it():
    quiet, noisy = (0, 0.0, 0.0, 0.0, 0.0), (100, 1.0, 0.0, 4.0, 0.0)
    assert while_measuring(machine(reading(None)), load(quiet, noisy), 100).disturbances != ()
    assert while_measuring(machine(reading(None)), load(quiet, noisy), 101).disturbances == ()
    assert while_measuring(machine(reading(None)), load(quiet, (100, 0.99, 0.0, 4.0, 0.0)), 100).disturbances == ()
    only = while_measuring(machine(reading(None)), load(quiet), 100)
    assert [each.kind for each in only.series if each.kind == "load of others"] == []
