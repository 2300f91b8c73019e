"""The NPU of a host: what npu-smi prints is read, the chip is chosen, and every failure is said with its remedy."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.base.errors import CouldNotRun
from repro.machine.npu import (
    DUO,
    Chip,
    Host,
    Npu,
    SmiTable,
    choose_chips,
    deviation,
    examine,
    facts,
    find_tool,
    parse_smi,
)
from repro.machine.npu_smi import explain_smi
from tests.simulators.ascend.host import AscendHost

SMI = Path(__file__).parent.parent / "data" / "ascend" / "info"
TABLE = {"required": "22.0.4", "for_duo": ("23.0.RC1", "6.3.RC1")}


def read(name: str) -> SmiTable:
    return parse_smi((SMI / f"{name}.txt").read_text())


def test_the_guides_card_is_read_with_its_power_not_available():
    table = read("one_chip")
    assert (table.tool_version, table.driver_version) == ("22.0.4", "22.0.4")
    assert table.chips == (
        Chip(7, 0, 0, "310P3", "OK", "0000:00:07.0", None, 28.0, 0.0, 1805, 21527),
    )  # fmt: skip
    assert table.chips[0].soc_version == "Ascend310P3"


def test_the_narrow_table_of_older_tools_and_two_cards_are_read():
    table = read("two_cards")
    assert (table.tool_version, table.driver_version) == ("22.0.0", "22.0.2")
    assert [(c.card, c.number, c.device, c.power_w, c.bus_id) for c in table.chips] == [
        (0, 0, 0, 15.8, "0000:82:00.0"),
        (1, 0, 1, 15.4, "0000:89:00.0"),
    ]


def test_two_chips_of_one_card_have_device_numbers_of_their_own():
    chips = read("duo").chips
    assert [(c.card, c.number, c.device, c.memory_mb) for c in chips] == [(2, 0, 0, 44280), (2, 1, 1, 43693)]
    assert chips[1].power_w is None


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(text):
    assert isinstance(parse_smi(text), SmiTable)


@given(
    cards=st.lists(st.integers(0, 99999), min_size=1, max_size=8, unique=True),
    power=st.sampled_from(["NA", "-", "16.3", "109"]),
    health=st.sampled_from(["OK", "Warning", "Alarm", "Critical", "UNKNOWN"]),
    used=st.integers(0, 99999),
)
def test_every_chip_of_any_number_of_cards_is_found(cards, power, health, used):
    lines = []
    for device, card in enumerate(cards):
        lines.append(f"| {card:<7} 310P3     | {health:<15} | {power:<12} 42      0    / 0   |")
        lines.append(f"| 0       {device:<9} | 0000:82:00.0    | 0            {used}/ 99999  |")
    chips = parse_smi("\n".join(lines)).chips
    assert [(c.card, c.device, c.health, c.memory_used_mb) for c in chips] == [
        (card, device, health, used) for device, card in enumerate(cards)
    ]


def test_npu_smi_is_found_in_sbin_too(tmp_path):
    npu = examine(AscendHost(tool_folder="usr/local/sbin").make(tmp_path))
    assert npu.tool == str(tmp_path / "usr/local/sbin/npu-smi")
    assert npu.problem == ""


def test_driver_firmware_card_and_simulator_are_told(tmp_path):
    npu = examine(AscendHost(product="Atlas 300I Pro").make(tmp_path))
    assert (npu.driver, npu.firmware, npu.release, npu.product) == ("22.0.4", "22.0.4", "22.0.4", "Atlas 300I Pro")
    assert npu.simulator
    assert facts(npu, npu.chips)["npu_simulator"].startswith("yes")


def test_a_driver_without_the_simulators_word_is_none(tmp_path):
    host = AscendHost().make(tmp_path)
    info = tmp_path / "usr/local/Ascend/driver/version.info"
    info.write_text("\n".join(line for line in info.read_text().splitlines() if "simulator" not in line))
    assert not examine(host).simulator


def test_firmware_that_does_not_tell_its_release_is_not_held_against_it(tmp_path):
    npu = examine(AscendHost(firmware="").make(tmp_path))
    assert (npu.firmware, npu.release) == ("", "22.0.4")
    assert deviation(npu, **TABLE) == ""


def test_a_card_with_two_chips_is_a_duo_where_its_board_gives_no_name(tmp_path):
    npu = examine(AscendHost(smi="duo", devices=(0, 1), driver="23.0.rc1", firmware="23.0.rc1").make(tmp_path))
    assert npu.product == DUO
    assert deviation(npu, **TABLE) == ""


def test_a_card_that_its_board_does_not_name_is_named_by_its_product(tmp_path):
    npu = examine(AscendHost(product_type="video-pro").make(tmp_path))
    assert npu.product == "Atlas 300V Pro"


@pytest.mark.parametrize("spelt", ["23.0.RC1", "23.0.rc1", "23.0.Rc1", "6.3.rc1"])
def test_a_duos_versions_are_accepted_however_they_are_spelt(spelt: str):
    chips = read("duo").chips
    assert deviation(Npu(driver=spelt, firmware=spelt.lower(), product=DUO, chips=chips), **TABLE) == ""
    assert Npu(driver=spelt, firmware=spelt.lower()).release == spelt


@pytest.mark.parametrize("version", ["23.0.rc2", "22.0.4", "99.0", "23.0", "24.1.rc1"])
def test_the_duos_footnote_excuses_no_other_version(version: str):
    npu = Npu(driver=version, firmware="23.0.rc1", product=DUO)
    assert deviation(npu, **TABLE).startswith(f"{DUO} has driver {version}; ")
    assert deviation(Npu(driver="23.0.rc1", firmware=version, product=DUO), **TABLE) != ""
    assert deviation(Npu(driver="23.0.rc1", firmware="23.0.rc1", product="Atlas 300I Pro"), **TABLE) != ""


def test_a_driver_of_unknown_version_is_never_the_firmwares():
    npu = Npu(tool="npu-smi", firmware="22.0.4", product="Atlas 300I Pro", chips=read("one_chip").chips)
    assert "a driver of unknown version" in deviation(npu, **TABLE)
    assert npu.release == "driver unknown, firmware 22.0.4"
    assert Npu(tool="npu-smi").release == "" and "driver" not in facts(Npu(tool="npu-smi"))


def test_a_folder_that_may_not_be_entered_is_passed_over(tmp_path, monkeypatch):
    host = AscendHost().make(tmp_path)
    closed = str(tmp_path / "closed")
    real = os.stat

    def stat(path, *args, **named):
        if str(path).startswith(closed):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **named)

    monkeypatch.setattr(os, "stat", stat)
    assert find_tool(replace(host, search=(closed,))) == str(tmp_path / "usr/local/bin/npu-smi")
    assert find_tool(Host(tmp_path / "none", search=(closed,))) == ""


@pytest.mark.parametrize(
    "row",
    [
        "| 7       0                     | 4242            | python3                  | 17000                     |",
        "| 7       0                     | 4242            |                          | 17000                     |",
        "| 7       0                     | 4242            | python3                  | NA                        |",
        "| 7       0                     | 4242            |                          |                           |",
        "| 7       0                     |                 |                          |                           |",
        "| 7       0                     | NA              | NA                       |",
        "|7 0|4242||1|",
    ],
)
def test_every_row_that_names_an_npu_and_a_chip_is_a_holder(row: str):
    lines = (SMI / "busy.txt").read_text().splitlines()
    lines[-2] = row
    (chip,) = parse_smi("\n".join(lines)).chips
    assert chip.busy and len(chip.processes) == 1
    with pytest.raises(CouldNotRun, match="busy"):
        choose_chips(Npu(tool="npu-smi", chips=(chip,), nodes=("davinci0",), driver="22.0.4"))


HEAD = """\
| npu-smi 24.1.1                   Version: 24.1.1                                               |
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
"""
OTHERS = {
    "910B, without Device": """\
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
| 0     910B4               | OK            | 88.2        30                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          26838/ 32768         |
""",
    "910 A3, with Phy-ID": """\
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
| 0     Ascend910           | OK            | 166.5       38                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 0           0    / 0          3131 / 65536         |
""",
    "310": """\
| Chip  Device              | Bus-Id        | AICore(%)   Memory-Usage(MB)                       |
| 0     310                 | OK            | 12.8        62                                     |
| 0     0                   | 0000:01:00.0  | 0           2457 / 8192                            |
""",
}


@pytest.mark.parametrize(
    ("table", "name", "memory_mb"),
    [("910B, without Device", "910B4", 32768), ("910 A3, with Phy-ID", "Ascend910", 65536), ("310", "310", 8192)],
)
def test_chips_of_other_kinds_are_named_with_why_they_cannot_serve(table: str, name: str, memory_mb: int):
    text = HEAD + OTHERS[table]
    read_table = parse_smi(text)
    assert [(chip.name, chip.memory_mb) for chip in read_table.chips] == [(name, memory_mb)]
    problem, hint = explain_smi(0, text, read_table)
    assert f"1 chip of the kind {read_table.chips[0].soc_version}" in problem and "310P" in problem
    assert "seating" not in hint and "Atlas 300I Duo" in hint and "--device cpu" in hint


@pytest.mark.parametrize(
    ("first", "second", "memory_mb"),
    [
        ("NA          49                NA / NA", "0           1448 / 21527", 21527),
        ("NA          NA                NA / NA", "NA          NA   / NA", 0),
        ("16.3        49                0    / 0", "NA          NA / 21527", 21527),
        ("-           -                 -    / -", "0           -    / -", 0),
    ],
)
def test_figures_that_are_not_available_hide_no_chip(first: str, second: str, memory_mb: int):
    text = f"{HEAD}| 0     310P3               | OK            | {first} |\n| 0     3   | 0000:01:00.0  | {second} |\n"
    (chip,) = parse_smi(text).chips
    assert (chip.name, chip.device, chip.memory_mb, chip.serves) == ("310P3", 3, memory_mb, True)
    assert explain_smi(0, text, parse_smi(text)) == ("", "")


def test_a_vnpu_is_refused_by_name(tmp_path):
    npu = examine(AscendHost(smi="310p3vir02-24.1.rc1-in-a-container").make(tmp_path))
    assert "a vNPU (Ascend310P3vir02)" in npu.problem and "destroy-vnpu" in npu.hint
    with pytest.raises(CouldNotRun, match="a vNPU"):
        choose_chips(npu)


def test_nodes_of_vnpus_alone_are_told_as_such(tmp_path):
    host = AscendHost(devices=()).make(tmp_path)
    (tmp_path / "dev" / "vdavinci100").symlink_to("/dev/null")
    npu = examine(host)
    assert npu.problem.endswith("those of vNPUs alone: /dev/vdavinci100") and "destroy-vnpu" in npu.hint


def test_beside_a_chip_of_another_kind_the_one_that_serves_is_taken():
    other = parse_smi(HEAD + OTHERS["910B, without Device"]).chips
    npu = Npu(tool="npu-smi", chips=(*other, *read("duo").chips), nodes=("davinci0", "davinci1"), driver="24.1.1")
    assert choose_chips(npu)[0].name == "310P3"
    assert facts(npu)["chip"] == "Ascend310P3"
    with pytest.raises(CouldNotRun, match="no NPU device 9 of the kind 310P"):
        choose_chips(npu, [9])


def test_the_record_names_the_chips_that_were_used_and_no_others():
    first, second = read("duo").chips
    npu = replace(examine_of("duo"), chips=(first, replace(second, name="310P1")))
    used = facts(npu, npu.chips[1:])
    assert (used["chip"], used["npu_devices_used"]) == ("Ascend310P1", "1")


def without_device(tmp_path: Path, mapping: str) -> Npu:
    """A host whose driver's table has no Device column."""
    host = AscendHost(smi="310p3-25.0.rc1.1-without-device", devices=(0, 1)).make(tmp_path)

    def run(argv):
        return (0, mapping) if list(argv[1:]) == ["info", "-m"] else host.run(argv)

    return examine(replace(host, run=run))


def test_device_numbers_that_the_table_does_not_tell_come_from_the_mapping(tmp_path):
    npu = without_device(tmp_path, (SMI.parent / "mapping" / "two-pros.txt").read_text())
    assert [chip.device for chip in npu.chips] == [0, 1]
    assert [chip.card for chip in choose_chips(npu, [1])] == [1]


def test_a_chip_whose_device_nothing_tells_is_not_guessed(tmp_path):
    npu = without_device(tmp_path, "Error parameter of -m")
    with pytest.raises(CouldNotRun, match="does not tell which device chip 0 of NPU 0 is"):
        choose_chips(npu)


def test_no_serial_number_enters_the_facts(tmp_path):
    assert set(facts(examine(AscendHost().make(tmp_path)))) <= {
        "driver", "chip", "card", "npu_smi", "npu_chips", "npu_devices_used", "npu_simulator"
    }  # fmt: skip


def test_a_host_without_an_npu_is_said_to_be_one(tmp_path):
    npu = examine(Host(tmp_path, search=()))
    assert not npu.present
    assert "no npu-smi" in npu.problem
    assert "--device cpu" in npu.hint


def test_a_card_whose_driver_package_has_no_tool(tmp_path):
    host = AscendHost().make(tmp_path)
    (tmp_path / "usr/local/bin/npu-smi").unlink()
    npu = examine(host)
    assert npu.present
    assert "/usr/local/sbin" in npu.problem


@pytest.mark.parametrize(
    ("smi", "what", "remedy"),
    [
        ("dcmi_8005", "dcmi cannot be initialised", "restart the host"),
        ("dcmi_8020", "in use by another container", "stop the container"),
        ("no_chip", "shows no chip", "dmesg"),
    ],
)
def test_failures_of_npu_smi_say_what_they_are_and_what_to_do(tmp_path, smi, what, remedy):
    npu = examine(AscendHost(smi=smi).make(tmp_path))
    assert what in npu.problem
    assert remedy in npu.hint
    with pytest.raises(CouldNotRun, match="the NPU cannot be used") as caught:
        choose_chips(npu)
    assert remedy in caught.value.hint


def test_another_failure_of_npu_smi_keeps_its_last_line():
    problem, hint = explain_smi(139, "Segmentation fault\n", SmiTable("", "", ()))
    assert "139" in problem
    assert "Segmentation fault" in problem
    assert hint


@pytest.mark.parametrize("missing", ["davinci_manager", "devmm_svm", "hisi_hdc"])
def test_a_missing_control_node_is_named(tmp_path, missing):
    control = [name for name in AscendHost().control if name != missing]
    npu = examine(AscendHost(control=control).make(tmp_path))
    assert f"/dev/{missing} is not there" in npu.problem


def test_the_first_idle_chip_is_taken():
    chips = {name: read(name).chips for name in ("duo", "first_busy", "first_unhealthy")}
    npu = replace(examine_of("duo"), nodes=("davinci0", "davinci1"))
    assert [c.device for c in choose_chips(replace(npu, chips=chips["duo"]))] == [0]
    assert [c.device for c in choose_chips(replace(npu, chips=chips["first_busy"]))] == [1]
    assert [c.device for c in choose_chips(replace(npu, chips=chips["first_unhealthy"]))] == [1]


def examine_of(smi: str):
    return Npu(tool="npu-smi", chips=read(smi).chips, nodes=("davinci0",), driver="22.0.4")


def test_an_unhealthy_chip_is_refused_with_its_state():
    with pytest.raises(CouldNotRun, match="is not healthy: Alarm") as caught:
        choose_chips(examine_of("unhealthy"))
    assert "-t health -i 7 -c 0" in caught.value.hint


@pytest.mark.parametrize(("smi", "by"), [("busy", r"python3 \(pid 48213\)"), ("working", "AI cores at 87 %")])
def test_a_busy_chip_is_refused_with_what_holds_it(smi, by):
    with pytest.raises(CouldNotRun, match=by) as caught:
        choose_chips(examine_of(smi))
    assert "wait until" in caught.value.hint
    with pytest.raises(CouldNotRun, match=by):
        choose_chips(examine_of(smi), [0])


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(CouldNotRun, match="no NPU device 3") as caught:
        choose_chips(examine_of("one_chip"), [3])
    assert "devices 0" in caught.value.hint


def test_a_chip_without_its_node_is_refused():
    with pytest.raises(CouldNotRun, match="/dev/davinci1 is not there"):
        choose_chips(replace(examine_of("duo"), nodes=("davinci0",)), [0, 1])


def test_chips_of_two_kinds_are_refused_together():
    first, second = read("duo").chips
    npu = replace(examine_of("duo"), chips=(first, replace(second, name="310P1")), nodes=("davinci0", "davinci1"))
    with pytest.raises(CouldNotRun, match="chips of different kinds"):
        choose_chips(npu, [0, 1])


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (AscendHost(driver="23.0.0"), "has driver 23.0.0; the compatibility table requires 22.0.4"),
        (AscendHost(firmware="21.0.4"), "has firmware 21.0.4; the compatibility table requires 22.0.4"),
        (AscendHost(smi="duo", devices=(0, 1)), "requires 23.0.RC1 or 6.3.RC1 (its footnote"),
        (AscendHost(driver="23.0.rc1", firmware="23.0.rc1"), "has driver 23.0.rc1 and firmware 23.0.rc1"),
    ],
)
def test_driver_or_firmware_other_than_the_cards_entry_is_said(tmp_path, host, said):
    assert said in deviation(examine(host.make(tmp_path)), **TABLE)
