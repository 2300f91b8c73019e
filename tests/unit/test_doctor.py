"""`invoke doctor`: each line's status, what it says to do, and whether a run is said to be possible."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.base import user_lock
from repro.base.errors import UsageError
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.cli import doctor
from repro.cli.doctor import DEVIATES, MISSING, OK, Line, System
from repro.container.job import Availability
from repro.locks import archives
from tests.simulators.ascend.host import AscendHost

ROOT = Path(__file__).resolve().parents[2]
FACTS = {
    "os": "Some Linux 1", "kernel": "6.1.0", "cpu": "A processor", "cores": 2, "memory_bytes": 8 * 1000**3,
    "page_size_bytes": 4096, "python": "3.11.2",
}  # fmt: skip
DOCKER = Availability("docker", True, facts={"version": "28.0.1"})
NO_DOCKER = Availability("docker", False, "no socket at /var/run/docker.sock", "start Docker, or use another engine")
SANDBOX = Availability("sandbox", True, facts={"version": "bubblewrap 0.8.0"})
NO_SANDBOX = Availability("sandbox", False, "the kernel forbids user namespaces", "sysctl …")


@pytest.fixture
def system(tmp_path: Path) -> System:
    """A machine whose root folder is empty."""
    root = tmp_path / "root"
    (root / "dev").mkdir(parents=True)
    return System(root, lambda: "amd64", lambda: FACTS, lambda path: 100 * 1000**3, search=(str(tmp_path / "bin"),))


@pytest.fixture
def checkout(tmp_path: Path) -> Paths:
    """A checkout without data, with the repository's conf and images and nothing built."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "conf", root / "conf")
    shutil.copytree(ROOT / "docker", root / "docker")
    (root / "data" / "demo").mkdir(parents=True)
    (root / "repro").symlink_to(ROOT / "repro")
    return Paths(root)


def line(lines: list[Line], what: str) -> Line:
    return next(item for item in lines if item.what == what)


def test_a_good_machine_is_ok_in_every_line_but_emulation(system: System):
    lines = doctor.machine_lines(system)
    assert {item.what for item in lines if item.status != OK} == {"emulation"}


def test_another_architecture_stops_a_run(system: System):
    def riscv() -> str:
        raise UsageError("this machine is riscv64", hint="use another")

    lines = doctor.machine_lines(replace(system, architecture=riscv))
    assert [(item.status, item.advice) for item in lines] == [(DEVIATES, "use another")]
    assert "cannot run" in doctor.conclusion(lines)


@pytest.mark.parametrize(
    ("fact", "value", "what"), [("memory_bytes", 2 * 1000**3, "memory"), ("page_size_bytes", 65536, "page size")]
)
def test_little_memory_and_large_pages_deviate_with_advice(system: System, fact: str, value: int, what: str):
    found = line(doctor.machine_lines(replace(system, facts=lambda: {**FACTS, fact: value})), what)
    assert found.status == DEVIATES
    assert found.advice
    assert not found.blocks


def test_registered_emulation_is_seen(system: System, tmp_path: Path):
    folder = system.root / "proc/sys/fs/binfmt_misc"
    folder.mkdir(parents=True)
    (folder / "qemu-aarch64").write_text("enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: OCF\n", encoding="utf-8")
    found = line(doctor.machine_lines(system), "emulation")
    assert (found.status, "arm64 programs run in every engine" in found.found) == (OK, True)


def test_without_an_emulator_doctor_says_what_to_install_and_what_for(system: System):
    found = line(doctor.machine_lines(system), "emulation")
    assert found.status == MISSING and not found.blocks
    assert "there is no qemu-aarch64-static" in found.found
    assert "compile a layer for arm64" in found.advice and "qemu-user-static" in found.advice


def test_the_engine_taken_is_the_first_usable_one():
    lines = doctor.engine_lines([NO_DOCKER, SANDBOX], "auto")
    assert line(lines, "engine docker").advice == NO_DOCKER.hint
    assert line(lines, "engine taken").found.startswith("sandbox")
    assert line(doctor.engine_lines([DOCKER, SANDBOX], "sandbox"), "engine taken").found.startswith("sandbox")


def test_an_engine_asked_for_that_does_not_work_stops_a_run():
    lines = doctor.engine_lines([NO_DOCKER, SANDBOX], "docker")
    assert line(lines, "engine taken").blocks
    assert doctor.conclusion(lines) == "`invoke reproduce` cannot run here yet: see engine taken above"


def test_no_engine_at_all_stops_a_run_unless_the_sandbox_is_only_not_fetched():
    assert line(doctor.engine_lines([NO_DOCKER, NO_SANDBOX], "auto"), "engine taken").blocks
    to_come = doctor.engine_lines([NO_DOCKER, NO_SANDBOX], "auto", to_come=True)
    assert not line(to_come, "engine taken").blocks
    assert "3 MB" in line(to_come, "engine sandbox").advice


def test_a_machine_without_npu_is_told_that_it_needs_none(system: System):
    (found,) = doctor.npu_lines(system, ROOT / "conf")
    assert found.status == MISSING
    assert "CPU" in found.advice


def npu_machine(system: System, host: AscendHost) -> list[Line]:
    host.make(system.root)
    return doctor.npu_lines(system, ROOT / "conf")


def test_the_guides_card_and_driver_are_ok(system: System):
    lines = npu_machine(system, AscendHost(tool_folder="usr/local/sbin"))
    assert [item.status for item in lines] == [OK] * 6
    assert "published table" in line(lines, "driver and CANN 6.3.RC1").found
    assert "usr/local/sbin/npu-smi (22.0.4)" in line(lines, "npu-smi").found
    assert line(lines, "NPU device 0").found.startswith("Ascend310P3, card 7 chip 0, OK")


def test_another_driver_deviates_and_names_the_cards_exception(system: System):
    found = line(npu_machine(system, AscendHost(driver="23.0.rc1", firmware="23.0.rc1")), "NPU driver")
    assert found.status == DEVIATES
    assert "driver 23.0.rc1" in found.found
    assert "Atlas 300I Duo" in found.advice


def test_a_duo_has_its_versions_by_cann(system: System):
    lines = npu_machine(system, AscendHost("duo", "23.0.rc1", "23.0.rc1", devices=(0, 1)))
    assert [item.status for item in lines] == [OK] * 7


def test_the_vendors_lists_answer_before_anything_is_fetched(system: System):
    lines = npu_machine(system, AscendHost(driver="25.0.rc1.1", firmware="25.0.rc1.1"))
    firmware, cann = line(lines, "driver and firmware"), line(lines, "driver and CANN 6.3.RC1")
    assert (firmware.status, cann.status) == (OK, DEVIATES)
    assert "compatible_version_fw=[6.4.0,6.4.99],[7.0.0,7.7.99] in /usr/local/Ascend/driver" in firmware.found
    assert cann.found.startswith(
        "no: the driver serves CANN 8.0.RC1 and later alone (compatible_version=[V100R001C17],"
    )
    assert not cann.blocks and "exclude this pair" in cann.advice
    unknown = line(npu_machine(system, AscendHost(driver="23.0.0", firmware="")), "driver and firmware")
    assert (unknown.status, unknown.found.startswith("not known: ")) == (MISSING, True)


def test_the_hosts_own_cann_is_named_and_held_to_its_driver(system: System):
    lines = npu_machine(system, AscendHost(driver="25.0.rc1.1", firmware="25.0.rc1.1", cann="8.5.0"))
    assert line(lines, "host's CANN").found == "8.5.0 in /usr/local/Ascend/cann: `--cann host`"
    assert line(lines, "driver and host's CANN").found.startswith("yes: CANN works with drivers of V100R001C21")


def test_device_nodes_half_there_are_named(system: System):
    found = line(npu_machine(system, AscendHost(control=("davinci_manager",))), "NPU devices")
    assert found.status == DEVIATES
    assert "/dev/devmm_svm, /dev/hisi_hdc" in found.found


def test_an_unhealthy_a_busy_and_a_silent_npu_are_told_apart(system: System):
    assert "Alarm" in line(npu_machine(system, AscendHost("unhealthy")), "NPU device 0").found
    assert "busy" in line(npu_machine(system, AscendHost("busy")), "NPU device 0").found
    silent = line(npu_machine(system, AscendHost("dcmi_8005")), "NPU chips")
    assert "dcmi cannot be initialised" in silent.found
    assert "restart the host" in silent.advice


def test_a_host_with_chips_of_another_kind_is_told_why_they_cannot_serve(system: System):
    lines = npu_machine(system, AscendHost("910b4-25.5.2", "25.5.2", "25.5.2"))
    assert "1 chip of the kind Ascend910B4" in line(lines, "NPU chips").found
    assert "Atlas 300I Duo" in line(lines, "NPU chips").advice
    assert "davinci-1" not in "".join(each.text() for each in lines)
    assert line(lines, "NPU device ?").found.startswith("Ascend910B4, card 5")


def input_lines(paths: Paths) -> tuple[Line, Line]:
    data, checkpoint = (doctor.looked("", look) for look in (
        lambda: [doctor._data_line(paths)], lambda: [doctor._checkpoint_line(paths)]
    ))  # fmt: skip
    return data[0], checkpoint[0]


def with_demo(paths: Paths, content: bytes = b"weights") -> None:
    (paths.data / "demo" / "checkpoint.pth").write_bytes(content)
    (paths.conf / "demo.toml").write_text(f'[checkpoint]\nsha256 = "{sha256_bytes(b"weights")}"\n', encoding="utf-8")


def test_without_the_users_files_the_demo_stands_in_and_nothing_is_written(checkout: Paths):
    with_demo(checkout)
    data, checkpoint = input_lines(checkout)
    assert (data.status, checkpoint.status) == (MISSING, MISSING)
    assert "demo" in data.found
    assert "demo" in checkpoint.found
    assert not (checkout.data / "user.lock.json").exists()


def test_a_changed_demo_checkpoint_stops_a_run(checkout: Paths):
    with_demo(checkout, b"other weights")
    found = line(input_lines(checkout), "checkpoint")
    assert (found.status, found.blocks) == (DEVIATES, True)


def test_the_users_files_are_found_and_not_recorded(checkout: Paths):
    (checkout.data / "TIMIT").mkdir()
    (checkout.data / "ctc_best_model.pth").write_bytes(b"x")
    data, checkpoint = input_lines(checkout)
    assert (data.found, checkpoint.found) == ("data/TIMIT", "data/ctc_best_model.pth")
    assert not (checkout.data / "user.lock.json").exists()


def test_timit_beside_other_things_is_explained(checkout: Paths):
    (checkout.data / "TRAIN").mkdir()
    data, _ = input_lines(checkout)
    assert (data.status, data.blocks) == (DEVIATES, True)
    assert "data/TIMIT" in data.advice


def test_sources_of_the_pinned_toolchain_are_named_one_by_one_with_their_page(checkout: Paths):
    folder = checkout.data / "sources"
    folder.mkdir()
    (folder / "ais_bench-0.0.2-py3-none-any.whl").write_bytes(b"")
    lines = doctor.source_lines(checkout, "amd64")
    found = {item.found: item for item in lines}
    assert found["ais_bench 0.0.2: ais_bench-0.0.2-py3-none-any.whl"].status == OK
    assert found["CANN 6.3.RC1, toolkit for x86_64"].status == MISSING
    assert "hiascend.com" in found["CANN 6.3.RC1, toolkit for x86_64"].advice
    assert not any("aarch64" in text for text in found)
    assert line(lines, "licence").status == MISSING
    user_lock.accept(checkout, "CANN")
    assert line(doctor.source_lines(checkout, "amd64"), "licence").status == OK


def test_nothing_fetched_nothing_built_and_room_for_it(checkout: Paths, system: System):
    lines = doctor.image_lines(checkout, system)
    assert [item.status for item in lines] == [MISSING, MISSING, OK]
    assert "invoke fetch" in line(lines, "locked files").advice
    assert doctor.sandbox_to_come(checkout, system)


def test_a_full_disk_stops_a_run(checkout: Paths, system: System):
    found = line(doctor.image_lines(checkout, replace(system, free_bytes=lambda path: 10**9)), "disk space")
    assert (found.status, found.blocks) == (DEVIATES, True)


def test_advice_stands_below_its_line():
    assert Line(MISSING, "thing", "not here", "do this\nthen that").text().splitlines() == [
        "missing   thing                  not here",
        "          -> do this",
        "          -> then that",
    ]


def test_an_unknown_engine_is_wrong_use(checkout: Paths):
    with pytest.raises(UsageError, match="no engine 'lxc'"):
        doctor.examine(checkout, "lxc")


def table(checkout: Paths, monkeypatch: pytest.MonkeyPatch, system: System) -> list[str]:
    """What `invoke doctor` prints for a machine, without its engines."""
    monkeypatch.setattr(doctor, "System", lambda: system)
    monkeypatch.setattr("repro.cli.doctor.probe_all", lambda paths: [SANDBOX])
    return doctor.examine(checkout).splitlines()


def test_on_an_unsupported_architecture_the_table_is_whole(
    checkout: Paths, monkeypatch: pytest.MonkeyPatch, system: System
):
    def riscv() -> str:
        raise UsageError("this machine is riscv64", hint="use another")

    lines = table(checkout, monkeypatch, replace(system, architecture=riscv))
    assert any(line.startswith("deviates  architecture") for line in lines)
    for what in ("NPU", "data ", "checkpoint", "data/sources", "images"):
        assert any(line[10:].startswith(what) for line in lines), what
    assert "cannot run here yet" in lines[-1]


@pytest.mark.parametrize("error", [zlib.error("invalid block type"), KeyError("x"), PermissionError(13, "no", "/x")])
def test_whatever_fails_in_one_look_the_others_are_made(
    checkout: Paths, monkeypatch: pytest.MonkeyPatch, system: System, error: Exception
):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(doctor, "source_lines", fail)
    lines = table(checkout, monkeypatch, system)
    assert any(line.startswith("deviates  data/sources") for line in lines)
    assert any(line[10:].startswith("disk space") for line in lines)
    assert lines[-1].startswith("`invoke reproduce` cannot run here yet")


def test_damaged_and_closed_files_among_the_sources_are_passed_over(checkout: Paths):
    folder = checkout.data / "sources"
    folder.mkdir()
    (folder / "some.tar.gz").write_bytes(gzip.compress(bytes(range(256)) * 99)[:40] + bytes(60))
    (folder / "some.tar.xz").write_bytes(b"\xfd7zXZ\x00 cut")
    (folder / "some.tar.bz2").write_bytes(b"BZh9 cut")
    (folder / "zlib.gz").write_bytes(b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 50)
    os.mkfifo(folder / "a pipe")
    assert {item.status for item in doctor.source_lines(checkout, "amd64")} == {MISSING}


def test_each_candidate_is_hashed_once_for_all_archives(checkout: Paths, monkeypatch: pytest.MonkeyPatch):
    folder = checkout.data / "sources"
    folder.mkdir()
    (folder / "renamed.bin").write_bytes(b"x" * 1000)
    opened: list[str] = []
    for name in ("sha256_file", "content_digest"):
        real = getattr(archives, name)
        monkeypatch.setattr(archives, name, lambda path, name=name, real=real: opened.append(name) or real(path))
    doctor.source_lines(checkout, "amd64")
    doctor.source_lines(checkout, "amd64")
    assert sorted(opened) == ["content_digest", "sha256_file"]


def test_an_image_that_large_memory_pages_forbid_has_a_line_that_blocks(monkeypatch):
    from repro.base.paths import Paths
    from repro.cli.doctor import _cannot_run

    root = Path(__file__).resolve().parents[2]
    large = System(facts=lambda: {"page_size_bytes": 65536})
    found = _cannot_run(Paths(root), large, ["base", "exporter"], "arm64")
    assert [name for name, _ in found] == ["exporter"]
    assert _cannot_run(Paths(root), large, ["base", "exporter"], "amd64") == []


# a cluster


SEES = {"token": "t", "clock_s": 0.0, "namespaces": "", "local": "", "free_bytes": 9 * 1000**3, "python": "3.11.2"}


def looked_at(tmp_path: Path, monkeypatch, **other: object) -> list[Line]:
    """Doctor's lines of one node that says this of itself; its clock is `apart_s` away."""
    from repro.cli import doctor_cluster
    from repro.cluster.settings import Settings
    from repro.cluster.slurm import Node

    said = {**SEES, "clock_s": time.time() + other.pop("apart_s", 0.0), "architecture": os.uname().machine, **other}
    monkeypatch.setattr(doctor_cluster, "ask_node", lambda *_: json.dumps(said).encode())
    site = SimpleNamespace(slurm=None, settings=Settings(shared="/srv"))
    return doctor_cluster.node_lines(site, Node("node1", 2, 1, "", "idle", None), tmp_path / "token", "t")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"token": None}, "does not see the shared folder /srv"),
        ({"token": "another folder's"}, "does not see the shared folder /srv"),
        ({"apart_s": 60.0}, "clock is 60 s away"),
        ({"apart_s": -60.0}, "clock is 60 s away"),
        ({"namespaces": "Operation not permitted"}, "no user namespaces: Operation not permitted"),
        ({"free_bytes": 10**9}, "1.0 GB free"),
        ({"local": "x is not this user's own folder"}, "not this user's own"),
        ({"architecture": "riscv64"}, "a riscv64 machine"),
    ],
)
def test_what_a_node_of_a_cluster_lacks_is_named(tmp_path: Path, monkeypatch, other: dict[str, object], said: str):
    [found] = looked_at(tmp_path, monkeypatch, **other)
    assert said in found.found and found.status != OK and found.advice
    assert found.blocks == ("token" in other)


def test_a_node_of_a_cluster_that_has_everything_is_ok(tmp_path: Path, monkeypatch):
    [found] = looked_at(tmp_path, monkeypatch)
    assert (found.status, found.what) == (OK, "node node1")


def test_a_node_looks_at_itself(tmp_path: Path):
    from repro.cluster.look import look

    (tmp_path / "token").write_text("abc")
    found = look(tmp_path / "token", tmp_path / "own")
    assert (found.token, found.local) == ("abc", "") and found.free_bytes > 0
    assert look(tmp_path / "none", tmp_path / "own").token is None
