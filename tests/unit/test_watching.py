"""The machine while something is measured: what is read, what is a disturbance, what it costs, what is recorded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from _graph_cases import Bench
from _record_cases import demo_record, document_of, published_record, record_of

from repro.guide.disturbance import while_measuring
from repro.guide.published import THROUGHPUT, load_published
from repro.guide.verdict import verdict
from repro.machine import npu, watching
from repro.machine.watching import Subject, Watch
from repro.record.measuring import LoadFile, MachineFile
from repro.report.text import terminal_summary
from repro.report.writer import render_html, render_markdown
from tests.simulators.ascend.host import AscendHost

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = load_published(ROOT / "conf/published.toml")
ARGV = ("/usr/bin/python3", "-m", "stages.measure_npu", "--bs", "8")
AT_WORK = "310p3-pro-at-work"


def watched(tmp_path, smi="one_chip", common=AT_WORK, meanwhile=lambda root: None):
    """What is read of a simulated host around a stage that does `meanwhile`; the chip is idle and healthy before."""
    AscendHost(common="310p3-pro-with-mcu").make(tmp_path)
    before = npu.examine(AscendHost(common="310p3-pro-with-mcu").make(tmp_path))
    (tmp_path / "proc").mkdir()
    host = npu.Host(tmp_path, search=(), run=npu.Host().run)
    watch = Watch(Subject(before, npu.choose_chips(before), host), ARGV, cores=64)
    with watch.running():
        AscendHost(smi=smi, common=common).make(tmp_path)
        meanwhile(tmp_path)
        watch._look()
    return watch, msgspec.convert(watch.document(), MachineFile)


def judged(machine, load=None):
    return while_measuring(machine, load, 100)


def test_an_undisturbed_chip_at_work_is_read_and_nothing_is_said(tmp_path):
    _, machine = watched(tmp_path)
    found = judged(machine)
    assert (found.disturbances, found.not_told) == ((), ())
    ranges = {series.kind: (series.chip, series.minimum, series.maximum) for series in found.series}
    assert ranges == {
        "temperature": (0, 44.0, 61.0), "power": (0, 14.2, 38.4), "clock": (0, 960.0, 1080.0),
        "utilisation": (0, 0.0, 96.0),
    }  # fmt: skip
    assert found.seen_by == "npu-smi 22.0.4"


def test_an_idle_chips_lower_clock_before_and_after_is_no_throttling(tmp_path):
    _, machine = watched(tmp_path)
    assert machine.readings[0].clock_mhz == 960.0
    assert judged(machine).disturbances == ()


@pytest.mark.parametrize(
    ("smi", "common", "said"),
    [
        ("one_chip", f"{AT_WORK}-throttled", "device 0 was throttled: its clock was 648 of 1080 MHz while it worked"),
        ("busy", AT_WORK, "another process was on device 0: python3 (pid 48213)"),
        ("unhealthy", AT_WORK, "device 0 was not healthy: Alarm"),
        ("one_chip", f"{AT_WORK}-nothing-available", "told neither clock nor power of device 0 (NA)"),
        ("one_chip", "", "told neither clock nor power of device 0 (NA)"),
        ("one_chip", "310p3-pro-with-mcu", "no reading was made while device 0 worked"),
    ],
)
def test_what_disturbs_a_measurement_is_named(tmp_path, smi, common, said):
    if "neither" in said:
        # From the first reading on, as a tool that does not tell does not begin to tell.
        before = npu.examine(AscendHost(smi=smi, common=common).make(tmp_path))
        watch = Watch(Subject(before, before.chips, npu.Host(tmp_path, search=(), run=npu.Host().run)), ARGV, cores=64)
        with watch.running():
            pass
        machine = msgspec.convert(watch.document(), MachineFile)
    else:
        _, machine = watched(tmp_path, smi, common)
    assert said in "\n".join(judged(machine).disturbances)


def test_power_that_is_not_available_is_named_and_is_no_number(tmp_path):
    before = npu.examine(AscendHost(common=f"{AT_WORK}-power-not-available").make(tmp_path))
    watch = Watch(Subject(before, before.chips, npu.Host(tmp_path, search=(), run=npu.Host().run)), ARGV, cores=64)
    with watch.running():
        watch._look()
    found = judged(msgspec.convert(watch.document(), MachineFile))
    assert "power of device 0 (NA)" in found.not_told
    assert "power" not in {series.kind for series in found.series}


@pytest.mark.parametrize("value", ["nan", "inf", "-1e300", "NA", "-", "", "1080 MHz"])
def test_a_figure_that_no_chip_has_is_none_and_ends_no_run(value):
    text = f"Chip ID : 0\nAicore curFreq(MHZ) : {value}\nTemperature(C) : 41\n"
    assert watching.parse_common(text) == {0: {"temperature_c": 41.0}}


def test_a_chip_that_worked_before_it_was_measured_is_disturbed(tmp_path):
    before = npu.examine(AscendHost(smi="working").make(tmp_path))
    watch = Watch(Subject(before, before.chips, npu.Host(tmp_path, search=(), run=npu.Host().run)), ARGV, cores=64)
    with watch.running():
        pass
    said = judged(msgspec.convert(watch.document(), MachineFile)).disturbances
    assert any("device 0 worked before it was measured: utilisation 87 %" in text for text in said)


def process_files(root, pid, parent, argv):
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True)
    (folder / "cmdline").write_bytes("\0".join(argv).encode())
    (folder / "status").write_text(f"Name:\tx\nPPid:\t{parent}\n")


def test_the_stages_own_process_is_told_from_others_by_the_command_line_above_it(tmp_path):
    def own(root):
        process_files(root, 48213, 777, ("python3", "-m", "ais_bench"))
        process_files(root, 777, 776, ("/bin/bash", "-c", "x"))
        process_files(root, 776, 1, ("/sbin/docker-init", "--", *ARGV))

    _, machine = watched(tmp_path, smi="busy", meanwhile=own)
    assert judged(machine).disturbances == ()


def test_a_process_of_the_same_tool_outside_the_stage_is_anothers(tmp_path):
    def other(root):
        process_files(root, 48213, 777, ("python3", "-m", "ais_bench"))
        process_files(root, 777, 1, ("/bin/bash",))

    _, machine = watched(tmp_path, smi="busy", meanwhile=other)
    assert "another process was on device 0" in judged(machine).disturbances[0]


def test_a_process_that_cannot_be_seen_is_anothers_once_it_is_seen_again_by_npu_smi(tmp_path):
    _, machine = watched(tmp_path, smi="busy")
    assert [bool(reading.held_by) for reading in machine.readings] == [False, False, True]


def test_npu_smi_that_fails_meanwhile_is_said_and_ends_nothing(tmp_path):
    def broken(root):
        (root / "usr/local/bin/npu-smi").write_text("#!/bin/sh\nexit 1\n")

    _, machine = watched(tmp_path, meanwhile=broken)
    found = judged(machine)
    assert "npu-smi 22.0.4: npu-smi info gave no table" in found.not_told
    assert found.disturbances


def test_the_next_reading_waits_until_the_last_one_costs_less_than_half_a_percent(tmp_path, monkeypatch):
    waits = []
    watch = Watch(Subject(), ARGV, cores=4, processor=tmp_path)
    monkeypatch.setattr(watch._over, "wait", lambda seconds: waits.append(seconds) or len(waits) > 2)
    monkeypatch.setattr(watch, "_look", lambda: 0.2)
    watch._go_on(0.01)
    assert waits == [watching.LEAST_PERIOD_S, 0.2 / (0.005 * 4), 0.2 / (0.005 * 4)]


def processor(root, clock, hot):
    for number in range(2):
        for name, value in (("cpufreq/scaling_cur_freq", clock), ("cpufreq/cpuinfo_max_freq", 3_000_000),
                            ("thermal_throttle/core_throttle_count", hot)):  # fmt: skip
            path = root / f"cpu{number}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")


def test_the_processors_clock_is_read_and_its_throttling_counted(tmp_path):
    processor(tmp_path, 2_500_000, 3)
    watch = Watch(Subject(), ARGV, cores=2, processor=tmp_path)
    with watch.running():
        processor(tmp_path, 1_500_000, 5)
    machine = msgspec.convert(watch.document(), MachineFile)
    assert [reading.clock_mhz for reading in machine.readings] == [2500.0, 1500.0]
    assert machine.throttle_events == 4
    found = judged(machine)
    assert found.disturbances == ("the processor was throttled 4 times because it was too hot",)
    assert [(series.kind, series.chip) for series in found.series] == [("clock", None)]


def test_a_machine_that_tells_no_clock_says_so(tmp_path):
    watch = Watch(Subject(), ARGV, cores=2, processor=tmp_path)
    with watch.running():
        pass
    found = judged(msgspec.convert(watch.document(), MachineFile))
    assert (found.series, found.disturbances, found.not_told) == ((), (), ("clock of the processor",))


QUIET = MachineFile(cost_share=0.0, problems=(), readings=(), seen_by="the kernel", throttle_events=None)


def load_of(*rows):
    names = ("executions", "wall_s", "own_s", "busy_s", "stolen_s")
    return msgspec.convert({"cores": 2, "readings": [dict(zip(names, row)) for row in rows]}, LoadFile)


@pytest.mark.parametrize(
    ("first_loop", "said"),
    [
        ((100, 10.0, 19.0, 19.9, 0.0), []),
        ((100, 10.0, 15.0, 16.2, 0.0), ["other work took 6 % of the cores' time in the first loop"]),
        (
            (100, 10.0, 15.0, 15.0, 4.0),
            ["other work took 20 % of the cores' time in the first loop (the hypervisor 20 %)"],
        ),
        ((100, 0.5, 0.0, 1.0, 0.0), []),  # too short for the kernel's clock
    ],
)  # fmt: skip
def test_other_load_than_the_stages_own_is_a_disturbance_of_the_first_loop(first_loop, said):
    load = load_of((0, 0.0, 0.0, 0.0, 0.0), first_loop, (200, 20.0, 20.0, 40.0, 0.0))
    assert list(judged(QUIET, load).disturbances) == said


def test_a_measured_stage_has_its_readings_among_its_observations_and_others_have_none(tmp_path):
    def behave(job, out, obs, on_line):
        (out / "x").write_bytes(b"1")
        return 0

    done = Bench(tmp_path, behave)
    made = done.runner().run(done.nodes(host_bound=True))
    first, second = made["first"].result, made["second"].result
    assert "machine.json" in first.observations["files"] and "machine.json" not in second.observations["files"]
    machine = msgspec.json.decode((first.obs / "machine.json").read_bytes(), type=MachineFile)
    assert machine.seen_by == "the kernel" and len(machine.readings) >= 2
    assert "machine.json" not in first.outputs


def with_disturbance(document, *reasons):
    for result in document["results"]:
        result["while_measuring"] = {
            "seen_by": "npu-smi 24.1.0", "cost_percent": 0.1, "not_told": ["power of device 0"],
            "disturbances": list(reasons),
            "series": [{"kind": "clock", "unit": "MHz", "chip": 0, "count": 3, "minimum": 648.0, "mean": 900.0,
                        "maximum": 1080.0, "points": [1080.0, 972.0, 648.0]}],
        }  # fmt: skip
        result["sustained"] = {
            "executions": 300, "timed_s": 12.5, "throughput_utterances_per_s": 42.5,
            "latency_ms": result["latency_ms"], "spread_percent": 1.25, "long_enough": True,
            "loops": [{"loop": 100, "throughput_utterances_per_s": speed} for speed in (42.0, 42.6, 42.5)],
        }  # fmt: skip
    found = record_of(document)
    return found.judged(verdict(found, PUBLISHED))


def test_a_disturbed_throughput_is_not_compared_and_its_error_rates_are():
    record = with_disturbance(published_record(), "device 0 was throttled")
    status = {check.metric: check.status for check in record.verdict.checks}
    assert status.pop(THROUGHPUT) == "not-comparable"
    assert set(status.values()) == {"reproduced"}
    assert record.verdict.outcome == "not-comparable"
    assert "throughput: batch size 8: device 0 was throttled" in record.verdict.reasons


def test_an_undisturbed_throughput_is_compared():
    assert with_disturbance(published_record()).verdict.outcome == "reproduced"


def test_every_report_tells_which_figure_is_which_and_what_was_observed():
    record = with_disturbance(published_record(), "device 0 was throttled")
    markdown = render_markdown(record).replace("\\", "")
    for text in (
        "the first loop: the table's condition", "all loops (3): to quote", "1.25 %", "clock of device 0, MHz",
        "device 0 was throttled, so that its throughput is not compared",
        "Not told by npu-smi 24.1.0: power of device 0",
    ):  # fmt: skip
        assert text in markdown
    assert "Readings while it was measured" in render_html(record)
    assert "device 0 was throttled" in terminal_summary(record)
    assert "While it was measured" not in render_markdown(record_with_verdict(demo_record()))


def record_with_verdict(document):
    found = record_of(document)
    return found.judged(verdict(found, PUBLISHED))


@pytest.mark.skipif(shutil.which("true") is None, reason="no programs")
def test_a_watch_costs_what_it_says(tmp_path):
    watch = Watch(Subject(), ARGV, cores=len(os.sched_getaffinity(0)))
    with watch.running():
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        time.sleep(0)
    assert 0.0 <= watch.document()["cost_share"] <= 1.0
    assert document_of(msgspec.convert(watch.document(), MachineFile)) == watch.document()
