"""Whether and how this machine runs programs of the other architecture: QEMU's user mode, by the kernel's binfmt_misc.

Either the host has it registered, for every process; or the sandbox registers it for its own processes alone, which
needs no root and leaves the host as it was, but Linux 6.7.
"""

from __future__ import annotations

import functools
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from repro.base.architecture import by_name
from repro.base.programs import find
from repro.machine import facts

BINFMT = Path("/proc/sys/fs/binfmt_misc")
_ENTER = Path(__file__).with_name("private_binfmt.py")
_PROBE_TIMEOUT_S = 30.0
_PT_INTERP = 3
# ELF, 64 bits, little-endian, executable or shared object, of that machine (e_machine 183 and 62), whatever the ABI.
_MAGIC = r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00{machine}\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
# P: the program is told the name that it was started by. F: the kernel holds the emulator open, so that it works where
# the root is an image's, which does not have it.
_FLAGS = "PF"

INSTALL = (
    "install QEMU's user mode (Debian, Ubuntu: qemu-user-static; Fedora: qemu-user-static-aarch64 or -x86), "
    "or do it on a machine of that architecture"
)


@dataclass(frozen=True)
class Emulation:
    """How programs of one architecture run here.

    Attributes:
        works: whether they do.
        how: for people: which emulator by which handler; where it does not work, why not.
        hint: what to do where it does not.
        enter: the start of a command line under which it works; empty where it works everywhere on this machine.
        native: no emulator is needed.
    """

    works: bool
    how: str
    hint: str = ""
    enter: tuple[str, ...] = ()
    native: bool = False

    @property
    def everywhere(self) -> bool:
        """Whether containers have it too: native, or registered in the host's kernel."""
        return self.works and not self.enter


def emulation(architecture: str) -> Emulation:
    """How this machine runs programs of 'amd64' or 'arm64'; asked of the kernel once per process."""
    if architecture == facts.architecture():
        return Emulation(works=True, how="native", native=True)
    return foreign(architecture)


@functools.lru_cache(maxsize=8)
def foreign(architecture: str, binfmt: Path = BINFMT, search: tuple[str, ...] | None = None) -> Emulation:
    """How this machine runs programs of an architecture that is not its own.

    Args:
        architecture: 'amd64' or 'arm64'.
        binfmt: where the kernel shows what is registered.
        search: folders, in place of PATH's.
    """
    name = by_name(architecture).qemu
    if registered(architecture, binfmt):
        return Emulation(works=True, how=f"{name}, which the host's kernel starts by itself")
    found = [path for path in (find(each, search) for each in (f"{name}-static", name)) if path]
    static = next((str(path) for path in found if is_static(path)), None)
    if static is None:
        lacking = f"{found[0]} needs libraries that no image has" if found else f"there is no {name}-static"
        return Emulation(works=False, how=f"no emulator for {architecture} programs: {lacking}", hint=INSTALL)
    enter = (sys.executable, "-I", "-S", str(_ENTER), rule(architecture, static))
    refused = _refused([*enter, static, "--version"])
    if refused:
        return Emulation(
            works=False,
            how=f"{static} is not registered with the kernel, and here only root can do that ({refused})",
            hint=f"as root: systemctl restart systemd-binfmt, or update-binfmts --enable {name}; from Linux 6.7 on, "
            "where users may make namespaces, it is not needed",
        )
    return Emulation(works=True, how=f"{static}, registered for the sandbox's own processes", enter=enter)


def registered(architecture: str, binfmt: Path) -> bool:
    """Whether the kernel gives that architecture's programs to an emulator that it holds open (flag F)."""
    try:
        lines = (binfmt / by_name(architecture).qemu).read_text().splitlines()
    except OSError:
        return False
    return "enabled" in lines and any(line.startswith("flags:") and "F" in line for line in lines)


def rule(architecture: str, emulator: str) -> str:
    """The line that registers an emulator."""
    known = by_name(architecture)
    magic = _MAGIC.replace("{machine}", f"\\x{known.elf_machine:02x}")
    return f":{known.qemu}:M::{magic}:{_MASK}:{emulator}:{_FLAGS}"


def is_static(program: Path) -> bool:
    """Whether an ELF program of 64 bits, little-endian, asks for no dynamic loader (it has no PT_INTERP header)."""
    try:
        with open(program, "rb") as stream:
            header = stream.read(64)
            if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
                return False
            (offset,) = struct.unpack_from("<Q", header, 32)
            size, count = struct.unpack_from("<HH", header, 54)
            stream.seek(offset)
            table = stream.read(size * count)
    except OSError:
        return False
    kinds = [struct.unpack_from("<I", table, size * index)[0] for index in range(count)]
    return _PT_INTERP not in kinds


def _refused(argv: list[str]) -> str:
    """Why that command line does not work; '' where it does."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].partition("emulated: ")[2] or lines[-1] if lines else f"exit code {done.returncode}"
