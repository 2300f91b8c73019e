"""The embedded engine: bubblewrap from our own locked layer, over an image's unpacked layers. No daemon, no root.

The host's own bubblewrap and libraries are not used: the layer's dynamic loader starts the layer's program.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from repro.base.errors import BundleError, CouldNotRun, EngineUnavailable
from repro.container.image import Image
from repro.container.job import Availability, Job, Limits, OnLine, Outcome
from repro.engines.closed import (
    CLOSED,
    HOME,
    HOSTNAME,
    LineSplitter,
    check_job,
    command,
    device_paths,
    disarm,
    group,
    in_mount_order,
    passwd,
    tell_disarmed,
)
from repro.engines.spawner import on_a_lifeline, spawn
from repro.machine import cgroups
from repro.machine.emulation import emulation

# Not lib64/ld-linux-…: that is a link with an absolute target, which from outside the root leads into the host's files.
_LOADERS = {
    "x86_64": ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
    "aarch64": ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_BWRAP = "usr/bin/bwrap"
_PROBE_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 30.0
_CLOSED_ARGS = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
    *("--die-with-parent", "--clearenv"),
)
_FIRST_FD = 10  # below it, descriptors are the shell's: it can name only those with one digit

_PLAIN_DOCKER = (
    "inside Docker, start the outer container with `--security-opt seccomp=unconfined "
    "--security-opt systempaths=unconfined`, or run outside it"
)
_USE_AN_ENGINE = "or use `--engine docker` or `--engine podman`"


def explain_refusal(text: str, sysctl: Callable[[str], str]) -> tuple[str, str]:
    """Why the kernel did not let bubblewrap build a sandbox, and what to do about it.

    Args:
        text: what bubblewrap printed.
        sysctl: reads a file below /proc/sys by its name, '' when there is none.
    """
    last = text.strip().splitlines()[-1] if text.strip() else "it printed nothing"
    said = f"bubblewrap says: {last}"
    if sysctl("user/max_user_namespaces") == "0":
        return (
            f"user namespaces are switched off (user.max_user_namespaces is 0; {said})",
            f"as root: sysctl user.max_user_namespaces=10000; {_USE_AN_ENGINE}",
        )
    if sysctl("kernel/unprivileged_userns_clone") == "0":
        return (
            f"user namespaces are kept for root (kernel.unprivileged_userns_clone is 0; {said})",
            f"as root: sysctl kernel.unprivileged_userns_clone=1; {_USE_AN_ENGINE}",
        )
    if sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor keeps user namespaces from programs without a profile, as Ubuntu does from 23.10 on "
            f"(kernel.apparmor_restrict_unprivileged_userns is 1; {said})",
            f"as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0; {_USE_AN_ENGINE}",
        )
    if "mount proc" in text or "Can't mount" in text:
        return f"this is a container that forbids mounting /proc ({said})", _PLAIN_DOCKER
    if "o permissions to create" in text or "Creating new namespace failed" in text or "clone" in text:
        return f"this container or kernel forbids new namespaces ({said})", f"{_PLAIN_DOCKER}; {_USE_AN_ENGINE}"
    if "uid map" in text:
        return f"a security module forbids to map this user into a namespace ({said})", _USE_AN_ENGINE[3:]
    return said, _USE_AN_ENGINE[3:]


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""


class SandboxEngine:
    """Runs jobs with bubblewrap.

    Args:
        tools: gives the unpacked layer that holds usr/bin/bwrap and its loader; may raise BundleError.
        rootfs: gives an image's unpacked files.
    """

    name = "sandbox"

    def __init__(self, tools: Callable[[], Path], rootfs: Callable[[Image], Path]) -> None:
        self._tools = tools
        self._rootfs = rootfs
        self._parents = cgroups.find_parents()
        if isinstance(self._parents, cgroups.Parents):
            cgroups.remove_stale(self._parents)

    def probe(self) -> Availability:
        """Build a real sandbox and run a program in it."""
        if platform.machine() not in _LOADERS:
            return Availability(self.name, False, f"there is no sandbox for {platform.machine()}", _USE_AN_ENGINE[3:])
        try:
            tools = self._tools()
            outer, inner = _through_loader(tools), _through_loader(tools, seen_as="/tools")
        except BundleError as error:
            return Availability(self.name, False, f"its own layer is not there: {error.message}", error.hint)
        places = ["--tmpfs", "/", "--ro-bind", str(tools), "/tools", "--proc", "/proc", "--dev", "/dev"]
        try:
            done = subprocess.run(
                [*outer, *_CLOSED_ARGS, *_ids(), *places, *inner, "--version"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_PROBE_TIMEOUT_S,
                check=False,
            )
        except PermissionError as error:
            reason = f"programs in the artifacts folder may not be run: {error}"
            return Availability(self.name, False, reason, f"is it on a file system mounted noexec? {_USE_AN_ENGINE}")
        except (OSError, subprocess.TimeoutExpired) as error:
            return Availability(self.name, False, f"bubblewrap could not be started: {error}", _USE_AN_ENGINE[3:])
        text = done.stdout.decode("utf-8", "replace")
        if done.returncode != 0:
            return Availability(self.name, False, *explain_refusal(text, _sysctl))
        return Availability(self.name, True, facts={"version": text.strip(), **self._limit_facts()})

    def _limit_facts(self) -> dict[str, str]:
        if isinstance(self._parents, cgroups.Unlimited):
            reason = f"not enforced: {self._parents.reason}"
            return {"memory": reason, "pids": reason}
        return {"memory": "enforced", "pids": "enforced", "cgroup_version": str(self._parents.version)}

    def facts(self) -> dict[str, str]:
        """Version of bubblewrap, kernel, and which limits can be enforced."""
        return {**self.probe().facts, "kernel": platform.release()}

    def prepare(self, image: Image) -> None:
        """Unpack the image's layers. See `Engine.prepare`."""
        ours = _ARCHITECTURES.get(platform.machine(), platform.machine())
        if image.architecture != ours:
            emulated = emulation(image.architecture)
            if not emulated.works:
                raise EngineUnavailable(
                    f"image {image.name} is for {image.architecture} and this machine is {ours}: {emulated.how}",
                    hint=emulated.hint,
                )
        self._rootfs(image)

    def run(self, job: Job, on_line: OnLine) -> Outcome:
        """See `Engine.run`."""
        check_job(job)
        self.prepare(job.image)
        root = self._rootfs(job.image)
        _check_targets(job, root)
        with contextlib.ExitStack() as stack:
            control, limits = self._control_group(job.limits, stack)
            outcome = self._run(job, root, control, limits, on_line, stack)
        tell_disarmed(disarm(job.mounts), on_line)
        return outcome

    def _control_group(
        self, limits: Limits, stack: contextlib.ExitStack
    ) -> tuple[cgroups.Group | None, dict[str, str]]:
        said = {**CLOSED, "timeout": "enforced", "user_namespaces": "enforced"}
        if isinstance(self._parents, cgroups.Unlimited):
            reason = f"not enforced: {self._parents.reason}"
            return None, {**said, "memory": reason, "pids": reason}
        try:
            control = cgroups.Group.create(self._parents, limits)
        except OSError as error:
            reason = f"not enforced: the kernel refused a control group: {error}"
            return None, {**said, "memory": reason, "pids": reason}
        stack.callback(control.remove)
        return control, {**said, "memory": "enforced", "pids": "enforced"}

    def _run(
        self,
        job: Job,
        root: Path,
        control: cgroups.Group | None,
        limits: dict[str, str],
        on_line: OnLine,
        stack: contextlib.ExitStack,
    ) -> Outcome:
        passwd_fd = _pipe_with(passwd(os.getuid(), os.getgid()), stack)
        group_fd = _pipe_with(group(os.getgid()), stack)
        gate_read, gate_write = _pipe(stack)
        info_read, info_write = _pipe(stack)
        argv = [
            *emulation(job.image.architecture).enter,
            *_through_loader(self._tools()),
            *_closed_args(job),
            *_ids(),
            *("--hostname", HOSTNAME, "--block-fd", str(gate_read.number), "--info-fd", str(info_write.number)),
            *_places(job, root, passwd_fd, group_fd),
            *("--chdir", job.workdir, "--"),
            *command(job, watched=False),
        ]
        started_s = time.monotonic()
        lifeline_read, lifeline_write = _pipe(stack)
        process = spawn(
            on_a_lifeline(argv),
            pass_fds=(passwd_fd, group_fd, gate_read.number, info_write.number),
            stdin=lifeline_read.number,
        )
        running = _Running(process, lifeline_write)
        stack.callback(running.kill)
        info_write.close()
        init_pid = _read_child_pid(info_read.number)
        if init_pid is not None:
            running.watch(init_pid)
            if control is not None:
                try:
                    for pid in (process.pid, init_pid):
                        control.add(pid)
                except OSError as error:
                    reason = f"not enforced: a process could not be moved into its control group: {error}"
                    limits.update(memory=reason, pids=reason)
            os.write(gate_write.number, b"1")
        timed_out = running.pump(started_s + job.limits.timeout_s, on_line)
        exit_code = running.finish()
        wall_s = time.monotonic() - started_s
        if init_pid is None and not timed_out:
            raise EngineUnavailable(
                f"{job.name}: bubblewrap could not build the sandbox (its message is above)",
                hint="`invoke doctor` says whether the sandbox works here",
            )
        out_of_memory = control is not None and control.ran_out_of_memory()
        return Outcome(exit_code, timed_out, wall_s, limits, out_of_memory)


class _Running:
    """A started bubblewrap: its output, and its end, which is the end of all that ran inside."""

    def __init__(self, process: subprocess.Popen[bytes], lifeline: _Descriptor) -> None:
        self._process = process
        self._lifeline = lifeline
        self._init_fd: int | None = None
        self._lock = threading.Lock()

    def watch(self, init_pid: int) -> None:
        """Remember the init of the process namespace: when it is gone, the kernel has killed all others."""
        with contextlib.suppress(OSError, AttributeError):  # before Linux 5.3 only the outer process tells
            self._init_fd = os.pidfd_open(init_pid)

    def pump(self, deadline_s: float, on_line: OnLine) -> bool:
        """Hand on output until both streams end or the deadline passes; then kill.

        Returns:
            Whether time ran out.
        """
        assert self._process.stdout is not None and self._process.stderr is not None
        splitters = {
            self._process.stdout.fileno(): LineSplitter("stdout", on_line),
            self._process.stderr.fileno(): LineSplitter("stderr", on_line),
        }
        poller = select.poll()
        for descriptor in splitters:
            poller.register(descriptor, select.POLLIN)
        open_descriptors = set(splitters)
        timed_out = False
        while open_descriptors:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                timed_out = True
                break
            for descriptor, _ in poller.poll(min(left_s, 3600.0) * 1000):
                data = os.read(descriptor, 1 << 16)
                if data:
                    splitters[descriptor].feed(data)
                else:
                    poller.unregister(descriptor)
                    open_descriptors.discard(descriptor)
        if not timed_out:  # a job that closed its streams may still be running
            try:
                self._process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                timed_out = True
        for splitter in splitters.values():
            splitter.close()
        return timed_out

    def finish(self) -> int:
        """Kill what is left, wait until it is gone, and give the job's exit code."""
        self.kill()
        code = self._process.returncode
        return 128 - code if code < 0 else code

    def kill(self) -> None:
        """End everything in the sandbox: its process group holds the namespace's init. Idempotent."""
        with self._lock:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._lifeline.close()
            for stream in (self._process.stdout, self._process.stderr):
                if stream is not None:
                    stream.close()
            if self._init_fd is None:
                return
            poller = select.poll()
            poller.register(self._init_fd, select.POLLIN)
            ended = poller.poll(_END_TIMEOUT_S * 1000)
            os.close(self._init_fd)
            self._init_fd = None
        if not ended:
            raise CouldNotRun(
                f"the sandbox's processes did not end within {_END_TIMEOUT_S:.0f} s of being killed",
                hint="one of them may hang in the kernel on a broken disk or network mount; see `ps -eo pid,stat,args`",
            )


def _through_loader(tools: Path, seen_as: str | None = None) -> list[str]:
    """The start of a command line that runs the layer's bubblewrap, at `tools` or where that folder is mounted."""
    triplet, loader = _LOADERS[platform.machine()]
    folders = [f"{folder}/{triplet}" for folder in ("usr/lib", "lib")]
    holding = [folder for folder in folders if (tools / folder / loader).exists()]
    if not holding or not (tools / _BWRAP).exists():
        raise CouldNotRun(
            f"the sandbox's layer at {tools} is not complete: it lacks {_BWRAP} or {loader}",
            hint="remove that folder and run again: it is unpacked anew",
        )
    at = seen_as or str(tools)
    libraries = ":".join(f"{at}/{folder}" for folder in folders)
    return [f"{at}/{holding[0]}/{loader}", "--library-path", libraries, f"{at}/{_BWRAP}"]


def _closed_args(job: Job) -> list[str]:
    """What every sandbox is closed by; a job that shares the host's IPC namespace has all others of its own."""
    if not job.shares_ipc:
        return list(_CLOSED_ARGS)
    each = ("--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
    return [*each, *(word for word in _CLOSED_ARGS if word != "--unshare-all")]


def _ids() -> list[str]:
    return ["--uid", str(os.getuid()), "--gid", str(os.getgid())]


def _places(job: Job, root: Path, passwd_fd: int, group_fd: int) -> list[str]:
    """What is where. Later entries lie on top of earlier ones."""
    size = str(job.limits.memory_bytes)
    places = ["--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev"]
    places += _proc_covered()
    for folder, mode in (("/tmp", "1777"), ("/run", "0755"), ("/sys", "0755")):  # noqa: S108
        places += ["--perms", mode, "--size", size, "--tmpfs", folder]
    # ONNX Runtime and PyTorch count processors here; the rest of /sys stays hidden.
    for folder in ("/sys/devices", "/sys/devices/system"):
        places += ["--perms", "0755", "--dir", folder]
    places += ["--ro-bind", "/sys/devices/system", "/sys/devices/system", "--remount-ro", "/sys"]
    places += ["--perms", "0700", "--dir", HOME]
    places += ["--ro-bind-data", str(passwd_fd), "/etc/passwd", "--ro-bind-data", str(group_fd), "/etc/group"]
    for mount in in_mount_order(job.mounts):
        places += ["--bind" if mount.writable else "--ro-bind", str(mount.source.resolve()), mount.target]
    for device in sorted(job.devices):
        places += ["--dev-bind", *device_paths(device)]
    return places


def _proc_covered() -> list[str]:
    """Read-only and masked parts of /proc, as Docker has them.

    They belong to the real user 0, so when we are root the permission check alone would let a job write them,
    /proc/sys/kernel/core_pattern among them: no capability is needed for that.
    """
    places: list[str] = []
    for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"):
        places += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    for name in ("acpi", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats"):
        path = f"/proc/{name}"
        if os.path.isdir(path):
            places += ["--perms", "0555", "--tmpfs", path, "--remount-ro", path]
        elif os.path.exists(path):
            places += ["--ro-bind", "/dev/null", path]
    return places


def _check_targets(job: Job, root: Path) -> None:
    """The root is read-only, so bubblewrap can make no mount point in it."""
    for mount in job.mounts:
        inside_ours = mount.target.startswith(("/run/", "/tmp/"))  # noqa: S108 - inside the container
        if not inside_ours and not (root / mount.target.lstrip("/")).exists():
            raise CouldNotRun(
                f"{job.name}: image {job.image.name} has no {mount.target} to mount on",
                hint="mount below /run, or let the image hold the folder",
            )


class _Descriptor:
    """A file descriptor that is closed once: its number may be another thread's a moment later."""

    def __init__(self, number: int, stack: contextlib.ExitStack) -> None:
        self.number = number
        self._open = True
        stack.callback(self.close)

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self.number)


def _pipe(stack: contextlib.ExitStack) -> tuple[_Descriptor, _Descriptor]:
    ends = []
    for low in os.pipe():
        ends.append(_Descriptor(fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD), stack))
        os.close(low)
    return ends[0], ends[1]


def _pipe_with(data: bytes, stack: contextlib.ExitStack) -> int:
    """A pipe that already holds `data` (far less than a pipe takes) and then ends."""
    read_end, write_end = _pipe(stack)
    os.write(write_end.number, data)
    write_end.close()
    return read_end.number


def _read_child_pid(descriptor: int) -> int | None:
    """The init's process id as bubblewrap reports it; None when bubblewrap ended before there was one."""
    text = b""
    while chunk := os.read(descriptor, 4096):
        text += chunk
        with contextlib.suppress(ValueError):
            return int(json.loads(text)["child-pid"])
    return None
