"""The embedded engine: bubblewrap from our own locked layer, over an image's unpacked layers. No daemon, no root.

The host's own bubblewrap and libraries are not used: the layer's dynamic loader starts the layer's program.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from repro.base.architecture import here, of_machine
from repro.base.errors import BundleError, EngineUnavailable
from repro.base.files import sha256_bytes
from repro.base.pace import time_factor
from repro.container.image import Image
from repro.container.job import Availability, Job, Limits, OnLine, Outcome
from repro.engines import seccomp
from repro.engines.bubblewrap import (
    CLOSED_ARGS,
    USE_AN_ENGINE,
    Program,
    check_targets,
    closed_args,
    explain_refusal,
    ids,
    places,
    sysctl,
    through_loader,
)
from repro.engines.closed import CLOSED, HOSTNAME, check_job, command, disarm, group, passwd, tell_disarmed
from repro.engines.running import Running, file_with, pipe, read_child_pid
from repro.engines.spawner import on_a_lifeline, spawn
from repro.machine import cgroups
from repro.machine.emulation import emulation

_PROBE_TIMEOUT_S = 30.0


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
        if of_machine(platform.machine()) is None:
            return Availability.refused(self.name, f"there is no sandbox for {platform.machine()}", USE_AN_ENGINE[3:])
        try:
            program = through_loader(self._tools())
        except BundleError as error:
            return Availability.refused(self.name, f"its own layer is not there: {error.message}", error.hint)
        try:
            with contextlib.ExitStack() as stack:
                done = _build_one(program, stack)
        except PermissionError as error:
            reason = f"programs in the artifacts folder may not be run: {error}"
            return Availability.refused(self.name, reason, f"is it on a file system mounted noexec? {USE_AN_ENGINE}")
        except (OSError, subprocess.TimeoutExpired) as error:
            return Availability.refused(self.name, f"bubblewrap could not be started: {error}", USE_AN_ENGINE[3:])
        text = done.stdout.decode("utf-8", "replace")
        if done.returncode != 0:
            return Availability.refused(self.name, *explain_refusal(text, sysctl, program.loader.absolute()))
        return Availability(self.name, usable=True, facts={"version": text.strip(), **self._limit_facts()})

    def _limit_facts(self) -> dict[str, str]:
        said = dict(_system_call_limits())
        if seccomp.supported():
            said["system_call_filter"] = f"sha256:{sha256_bytes(seccomp.program(here()))}"
        if isinstance(self._parents, cgroups.Unlimited):
            reason = f"not enforced: {self._parents.reason}"
            return {**said, "memory": reason, "pids": reason}
        return {**said, "memory": "enforced", "pids": "enforced", "cgroup_version": str(self._parents.version)}

    def facts(self) -> dict[str, str]:
        """Version of bubblewrap, kernel, the system call filter's digest, and which limits can be enforced."""
        return {**self.probe().facts, "kernel": platform.release()}

    def prepare(self, image: Image) -> None:
        """Unpack the image's layers. See `Engine.prepare`."""
        ours = here().name
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
        check_targets(job, root)
        with contextlib.ExitStack() as stack:
            control, limits = self._control_group(job.limits, stack)
            outcome = self._run(job, root, control, limits, on_line, stack)
        tell_disarmed(disarm(job.mounts), on_line)
        return outcome

    def _control_group(
        self, limits: Limits, stack: contextlib.ExitStack
    ) -> tuple[cgroups.Group | None, dict[str, str]]:
        said = {**CLOSED, **_system_call_limits(), "timeout": "enforced", "user_namespaces": "enforced"}
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
        program = through_loader(self._tools())
        gate_read, gate_write = pipe(stack)
        info_read, info_write = pipe(stack)
        lifeline_read, lifeline_write = pipe(stack)
        options, descriptors = _options(job, root, stack)
        options += ["--block-fd", str(gate_read.number), "--info-fd", str(info_write.number)]
        options_fd = file_with(b"".join(os.fsencode(word) + b"\0" for word in options), stack)
        argv = [*emulation(job.image.architecture).enter, *program.argv, "--args", str(options_fd), "--"]
        started_s = time.monotonic()
        process = spawn(
            on_a_lifeline([*argv, *command(job, watched=False)]),
            pass_fds=(*descriptors, options_fd, gate_read.number, info_write.number),
            stdin=lifeline_read.number,
            folder=program.folder,
        )
        running = Running(process, lifeline_write)
        stack.callback(running.kill)
        info_write.close()
        init_pid = read_child_pid(info_read.number, process)
        if init_pid is not None:
            running.watch(init_pid)
            limits.update(_limited(control, (process.pid, init_pid)))
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


def _build_one(program: Program, stack: contextlib.ExitStack) -> subprocess.CompletedProcess[bytes]:
    """Run bubblewrap's own `--version` in a sandbox that holds nothing but its layer."""
    inside = ["--tmpfs", "/", "--ro-bind", str(program.folder), "/tools", "--proc", "/proc", "--dev", "/dev"]
    system_calls, descriptors = _system_calls(stack)
    return subprocess.run(
        [*program.argv, *CLOSED_ARGS, *ids(), *system_calls, *inside, *program.seen_as("/tools"), "--version"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_PROBE_TIMEOUT_S * time_factor(),
        check=False,
        cwd=program.folder,
        pass_fds=descriptors,
    )


def _options(job: Job, root: Path, stack: contextlib.ExitStack) -> tuple[list[str], tuple[int, ...]]:
    """All of bubblewrap's options but the two that tie it to us, and the descriptors that they name."""
    passwd_fd = file_with(passwd(os.getuid(), os.getgid()), stack)
    group_fd = file_with(group(os.getgid()), stack)
    system_calls, descriptors = _system_calls(stack)
    options = [*closed_args(job), *ids(), "--hostname", HOSTNAME, *system_calls]
    options += [*places(job, root, passwd_fd, group_fd), "--chdir", job.workdir]
    return options, (passwd_fd, group_fd, *descriptors)


def _system_calls(stack: contextlib.ExitStack) -> tuple[list[str], tuple[int, ...]]:
    """The options that install the system call filter, and their descriptor; nothing where the kernel has no such."""
    if not seccomp.supported():
        return [], ()
    # This machine's, whatever the image's architecture is: an emulator makes this machine's system calls.
    descriptor = file_with(seccomp.program(here()), stack)
    return ["--seccomp", str(descriptor)], (descriptor,)


def _system_call_limits() -> dict[str, str]:
    enforced = seccomp.supported()
    said = "enforced" if enforced else "not enforced: this kernel was built without system call filters"
    return {"system_calls": said, "kernel_keys": said}


def _limited(control: cgroups.Group | None, pids: tuple[int, ...]) -> dict[str, str]:
    """Move the sandbox's first processes into their control group; gives what must be said where that failed."""
    if control is None:
        return {}
    try:
        for pid in pids:
            control.add(pid)
    except OSError as error:
        reason = f"not enforced: a process could not be moved into its control group: {error}"
        return {"memory": reason, "pids": reason}
    return {}
