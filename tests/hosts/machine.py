"""A host as a running machine under QEMU: spoken to by ssh over a virtio-serial port, always ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import CouldNotRun
from repro.base.programs import find
from repro.machine import facts
from tests.hosts.disk import USER, Disk
from tests.hosts.model import HERE, Host

START_LIMIT_S = 5400.0  # a start takes 60 s of processor time, of which a busy machine may give a hundredth
# A kernel that panics ends the machine, and takes no slow timer for a broken one. systemd by itself gives up after
# 90 s, and ends what does not answer within minutes.
_PATIENT = "panic=-1 no_timer_check systemd.default_timeout_start_sec=3600 systemd.service_watchdogs=0"
_PROBE_S = 20.0
# ssh's own exit code: the machine's sshd of the connection before had not ended yet, or the next had not begun.
_NO_CONNECTION, _ATTEMPTS, _PAUSE_S = 255, 60, 3
_ARCH = {
    "amd64": ("qemu-system-x86_64", ("-machine", "q35"), "ttyS0"),
    "arm64": ("qemu-system-aarch64", ("-machine", "virt"), "ttyAMA0"),
}


@dataclass(frozen=True)
class Place:
    """Where a machine's own files lie: `folder` is temporary, `carried` is what it sees read-only, `console` a log."""

    folder: Path
    carried: Path
    console: Path
    key: Path


@dataclass(frozen=True)
class Answer:
    """What a command in the machine ended with, and where all that it printed lies."""

    code: int
    log: Path

    def text(self) -> str:
        """What it printed."""
        return self.log.read_text("utf-8", errors="replace")


def accelerator(arch: str, kernel: Path) -> str:
    """'kvm' where a kernel really starts under it, else 'tcg' (emulated): a /dev/kvm alone says nothing."""
    if arch != facts.architecture() or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    program, machine, console = _ARCH[arch]
    command = [
        program, *machine, "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults", "-display", "none",
        "-no-reboot", "-serial", "stdio", "-kernel", str(kernel),
        "-append", f"console={console} earlyprintk=serial panic=-1",
    ]  # fmt: skip
    try:
        said = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, check=False
        ).stdout
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
    except OSError:
        said = b""
    return "kvm" if b"Linux version" in said else "tcg"


def command_line(host: Host, disk: Disk, place: Place, accel: str, *, network: bool) -> list[str]:
    """QEMU's."""
    program, machine, console = _ARCH[host.arch]
    return [
        program, *machine, "-accel", "kvm" if accel == "kvm" else "tcg,thread=multi",
        "-cpu", "host" if accel == "kvm" else host.processor, "-smp", str(host.cores), "-m", str(host.memory_mib),
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", str(disk.kernel), "-initrd", str(disk.initrd),
        "-append", f"root=/dev/vda rw console={console} {_PATIENT} {host.boot}".strip(),
        "-drive", f"file={place.folder / 'root.qcow2'},if=virtio,cache=unsafe",
        "-serial", f"file:{place.console}",
        "-chardev", f"socket,id=ssh,path={place.folder / 'ssh'},server=on,wait=off",
        "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=ssh,name=ssh",
        "-fsdev", f"local,id=carried,path={place.carried},security_model=none,readonly=on",
        "-device", "virtio-9p-pci,fsdev=carried,mount_tag=carried", "-device", "virtio-rng-pci",
        *(("-nic", "user,model=virtio-net-pci") if network else ("-nic", "none")),
    ]  # fmt: skip


class Machine:
    """A running machine."""

    def __init__(self, process: subprocess.Popen[bytes], place: Place) -> None:
        self._process = process
        self._place = place

    def run(
        self, script: str, log: Path, limit_s: float, user: str = USER, env: Mapping[str, str] | None = None
    ) -> Answer:
        """Run a shell script in the machine.

        Args:
            script: for `sh -s`, in the user's home.
            log: what it prints is appended to this file.
            limit_s: after which it is given up.
            env: set before it.

        Raises:
            CouldNotRun: the machine ended, or the limit passed.
        """
        words = "".join(f"export {name}='{value}'\n" for name, value in (env or {}).items())
        start = time.monotonic()
        for _ in range(_ATTEMPTS):
            try:
                code, silent = self._once((words + script).encode(), log, limit_s, user)
            except subprocess.TimeoutExpired:
                raise CouldNotRun(
                    f"the machine did not finish within {limit_s / 60:.0f} minutes", hint=f"its output: {log}"
                ) from None
            if code != _NO_CONNECTION or not silent or self._process.poll() is not None:
                break
            time.sleep(_PAUSE_S)
        else:
            raise CouldNotRun("the machine lets nobody in", hint=f"its console: {self._place.console}")
        if self._process.poll() is not None:
            raise CouldNotRun(
                f"the machine ended after {time.monotonic() - start:.0f} s", hint=f"its console: {self._place.console}"
            )
        return Answer(code, log)

    def _once(self, script: bytes, log: Path, limit_s: float, user: str) -> tuple[int, bool]:
        """One connection: what it ended with, and whether nothing was printed."""
        with open(log, "ab") as stream:
            before = stream.tell()
            command = [*self._ssh(user), "sh", "-s"]
            done = subprocess.run(command, input=script, stdout=stream, stderr=stream, timeout=limit_s, check=False)
            return done.returncode, os.fstat(stream.fileno()).st_size == before

    def fetch(self, path: str, to: Path, limit_s: float = 300.0) -> bool:
        """Bring one file of the user's home here; False where there is none."""
        command = [*self._ssh(USER), "cat", "--", path]
        for _ in range(_ATTEMPTS):
            with open(to, "wb") as stream:
                done = subprocess.run(command, stdout=stream, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                                      timeout=limit_s, check=False)  # fmt: skip
            if done.returncode != _NO_CONNECTION:
                break
            time.sleep(_PAUSE_S)
        if done.returncode:
            to.unlink()
        return done.returncode == 0

    def wait(self, limit_s: float) -> float:
        """Wait until it lets us in; returns the seconds that it took.

        Raises:
            CouldNotRun: it ended, or the limit passed.
        """
        start = time.monotonic()
        while (passed := time.monotonic() - start) < limit_s:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                command = [*self._ssh("root"), "true"]
                if (
                    subprocess.run(
                        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=90, check=False
                    ).returncode
                    == 0
                ):
                    return time.monotonic() - start
            time.sleep(2)
        raise CouldNotRun(
            f"the machine did not start within {passed:.0f} s", hint=f"its console: {self._place.console}"
        )

    def _ssh(self, user: str) -> list[str]:
        pipe = f"{sys.executable} -I {HERE / 'pipe.py'} {self._place.folder / 'ssh'}"
        known = ("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={self._place.folder / 'known'}")
        return [
            "ssh", "-F", "none", "-q", "-i", str(self._place.key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
            *known, "-o", "ConnectTimeout=60", "-o", f"ProxyCommand={pipe}", f"{user}@host",
        ]  # fmt: skip


@contextlib.contextmanager
def started(host: Host, disk: Disk, place: Place, accel: str, *, network: bool) -> Iterator[Machine]:
    """A machine on a copy of the disk; ended at the end, and when this process is killed.

    Raises:
        CouldNotRun: QEMU is missing, or the machine does not start.
    """
    command = command_line(host, disk, place, accel, network=network)
    if find(command[0]) is None:
        raise CouldNotRun(f"{command[0]} is not here", hint="Debian: apt install qemu-system-x86 qemu-system-arm")
    overlay = place.folder / "root.qcow2"
    if not overlay.exists():
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(disk.image), str(overlay)], check=True
        )
    (place.folder / "ssh").unlink(missing_ok=True)
    with open(place.console.with_suffix(".qemu"), "wb") as said:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "nice", "-n", "10", *command],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        )  # fmt: skip
    try:
        machine = Machine(process, place)
        machine.wait(START_LIMIT_S)
        yield machine
        _shut_down(machine, process, place)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _shut_down(machine: Machine, process: subprocess.Popen[bytes], place: Place) -> None:
    """As its administrator would, so that what it wrote is whole when it starts again."""
    with contextlib.suppress(CouldNotRun, subprocess.TimeoutExpired):
        machine.run("systemctl poweroff", place.console.with_suffix(".end"), 60, user="root")
        process.wait(120)
