"""Programs of another architecture: who runs them here, told by what the kernel shows; and really run, by QEMU."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from repro.machine import emulation, facts
from repro.machine.emulation import foreign, is_static, registered, rule

OTHER = {"amd64": "arm64", "arm64": "amd64"}[facts.architecture()]
NAME = {"arm64": "qemu-aarch64", "amd64": "qemu-x86_64"}[OTHER]
MACHINE = {"arm64": 183, "amd64": 62}


def elf(path: Path, machine: int, code: bytes = b"", *, interpreter: bool = False, abi: int = 0) -> Path:
    """A program of one segment that starts at its first byte of code, as the ELF specification lays it out."""
    base, size = 0x400000, 64 + 56 * (1 + interpreter)
    ident = b"\x7fELF\x02\x01\x01" + bytes([abi]) + bytes(8)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", 2, machine, 1, base + size, 64, 0, 0, 64, 56, 1 + interpreter, 0, 0, 0
    )
    length = size + len(code)
    table = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, length, length, 0x1000)
    if interpreter:
        table += struct.pack("<IIQQQQQQ", 3, 4, 0, base, base, 1, 1, 1)
    path.write_bytes(header + table + code)
    path.chmod(0o755)
    return path


def test_this_machine_s_own_programs_need_no_emulator():
    found = emulation.emulation(facts.architecture())
    assert found.works and found.everywhere and found.enter == ()


@pytest.mark.parametrize(
    ("shown", "works"),
    [
        ("enabled\ninterpreter /usr/bin/qemu\nflags: POCF\noffset 0\n", True),
        ("disabled\ninterpreter /usr/bin/qemu\nflags: POCF\n", False),
        ("enabled\ninterpreter /usr/bin/qemu\nflags: OC\n", False),  # not held open: no image has it
    ],
)
def test_a_registration_counts_only_where_it_works_in_an_image_s_root(tmp_path, shown, works):
    (tmp_path / NAME).write_text(shown)
    assert registered(OTHER, tmp_path) is works
    assert foreign(OTHER, tmp_path, (str(tmp_path / "none"),)).works is works


def test_without_an_emulator_the_reason_names_it_and_the_package(tmp_path):
    found = foreign(OTHER, tmp_path, (str(tmp_path),))
    assert not found.works
    assert f"there is no {NAME}-static" in found.how and "qemu-user-static" in found.hint


def test_an_emulator_that_needs_the_host_s_libraries_is_not_taken(tmp_path):
    elf(tmp_path / NAME, MACHINE[facts.architecture()], interpreter=True)
    found = foreign(OTHER, tmp_path / "binfmt_misc", (str(tmp_path),))
    assert not found.works and "needs libraries that no image has" in found.how


def test_where_the_kernel_lets_only_root_register_it_says_how(tmp_path, monkeypatch):
    elf(tmp_path / f"{NAME}-static", MACHINE[facts.architecture()])
    said = "cannot have programs of another architecture emulated: [Errno 1] making a user namespace: not permitted"
    refused = subprocess.CompletedProcess([], 125, stdout=said.encode())
    monkeypatch.setattr(emulation.subprocess, "run", lambda *_, **__: refused)
    found = foreign(OTHER, tmp_path, (str(tmp_path),))
    assert not found.works
    assert "only root can do that ([Errno 1] making a user namespace: not permitted)" in found.how
    assert "update-binfmts" in found.hint and "Linux 6.7" in found.hint


def test_static_programs_are_told_by_their_headers(tmp_path):
    assert is_static(elf(tmp_path / "static", 62))
    assert not is_static(elf(tmp_path / "dynamic", 62, interpreter=True))
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert not is_static(tmp_path / "script")
    assert not is_static(tmp_path / "absent")


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_the_rule_s_magic_matches_programs_of_that_architecture_and_no_other(tmp_path, architecture):
    _, name, kind, offset, magic, mask, emulator, flags = rule(architecture, "/usr/bin/qemu").split(":")
    magic, mask = (bytes.fromhex(text.replace("\\x", "")) for text in (magic, mask))
    assert (kind, offset, emulator, "F" in flags) == ("M", "", "/usr/bin/qemu", True)
    assert name.startswith("qemu-") and len(magic) == len(mask) == 20

    def matches(machine: int, abi: int = 0) -> bool:
        start = elf(tmp_path / "program", machine, abi=abi).read_bytes()[:20]
        return all((byte & bits) == (wanted & bits) for byte, wanted, bits in zip(start, magic, mask))

    assert matches(MACHINE[architecture]) and matches(MACHINE[architecture], abi=3)
    assert not matches(MACHINE[{"amd64": "arm64", "arm64": "amd64"}[architecture]])


# exit(42), as each architecture's kernel is asked for it.
_EXIT_42 = {
    "arm64": struct.pack("<III", 0xD2800540, 0xD2800BA8, 0xD4000001),  # mov x0, 42; mov x8, 93; svc 0
    "amd64": b"\xbf\x2a\x00\x00\x00\xb8\x3c\x00\x00\x00\x0f\x05",  # mov edi, 42; mov eax, 60; syscall
}


def test_a_program_of_the_other_architecture_really_runs_and_the_host_stays_as_it_was(tmp_path):
    found = emulation.emulation(OTHER)
    if not found.works:
        pytest.skip(f"{found.how}; {found.hint}")
    before = sorted(path.name for path in emulation.BINFMT.glob("*"))
    program = elf(tmp_path / "program", MACHINE[OTHER], _EXIT_42[OTHER])
    started = [*found.enter, "/bin/sh", "-c", f"{program}"]  # by a shell: what is started emulates what it starts
    assert subprocess.run(started, check=False, timeout=60).returncode == 42
    assert sorted(path.name for path in emulation.BINFMT.glob("*")) == before
    if not found.everywhere:
        with pytest.raises(OSError, match="format"):
            subprocess.run([str(program)], check=False, timeout=60)


@pytest.mark.skipif(os.getuid() != 0, reason="every test here runs as an ordinary user already")
def test_an_ordinary_user_needs_no_right_for_it():
    found, python = emulation.emulation(OTHER), Path("/usr/bin/python3")
    if not found.enter or not python.exists():
        pytest.skip(found.how if not found.enter else f"{python} is not there")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        script = Path(shutil.copy(found.enter[3], folder))
        script.chmod(0o644)
        program = elf(Path(folder, "program"), MACHINE[OTHER], _EXIT_42[OTHER])
        started = [str(python), "-I", "-S", str(script), found.enter[4], "/bin/sh", "-c", str(program)]
        done = subprocess.run(started, user=65534, group=65534, extra_groups=[], check=False, timeout=60)
    assert done.returncode == 42


def test_a_rule_that_the_kernel_refuses_is_said_and_nothing_is_started(tmp_path):
    script = Path(emulation.__file__).with_name("private_binfmt.py")
    marker = tmp_path / "started"
    done = subprocess.run(
        [emulation.sys.executable, "-I", "-S", str(script), ":no rule", "/bin/sh", "-c", f"touch {marker}"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, marker.exists()) == (125, False)
    assert done.stderr.startswith("cannot have programs of another architecture emulated: ")
