"""A started bubblewrap: the descriptors that it is given, its output, its end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import tempfile
import threading
import time

from repro.base.errors import CouldNotRun
from repro.base.pace import time_factor
from repro.container.job import OnLine
from repro.engines.closed import LineSplitter

_END_TIMEOUT_S = 30.0
_POLL_S = 0.05
_FIRST_FD = 10  # below it, descriptors are the shell's: it can name only those with one digit


class Running:
    """A started bubblewrap: its output, and its end, which is the end of all that ran inside."""

    def __init__(self, process: subprocess.Popen[bytes], lifeline: Descriptor) -> None:
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
            limit_s = _END_TIMEOUT_S * time_factor()
            ended = poller.poll(limit_s * 1000)
            os.close(self._init_fd)
            self._init_fd = None
        if not ended:
            raise CouldNotRun(
                f"the sandbox's processes did not end within {limit_s:.0f} s of being killed",
                hint="one of them may hang in the kernel on a broken disk or network mount; see `ps -eo pid,stat,args`",
            )


class Descriptor:
    """A file descriptor that is closed once: its number may be another thread's a moment later."""

    def __init__(self, number: int, stack: contextlib.ExitStack) -> None:
        self.number = number
        self._open = True
        stack.callback(self.close)

    def close(self) -> None:
        """Close it, if it is open."""
        if self._open:
            self._open = False
            os.close(self.number)


def pipe(stack: contextlib.ExitStack) -> tuple[Descriptor, Descriptor]:
    """The reading and the writing end."""
    ends = []
    for low in os.pipe():
        ends.append(Descriptor(fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD), stack))
        os.close(low)
    return ends[0], ends[1]


def file_with(data: bytes, stack: contextlib.ExitStack) -> int:
    """A descriptor of an unnamed file that holds `data`, open at its start."""
    with tempfile.TemporaryFile() as stream:
        stream.write(data)
        stream.seek(0)
        return Descriptor(fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD), stack).number


def read_child_pid(descriptor: int, process: subprocess.Popen[bytes]) -> int | None:
    """The init's process id as bubblewrap reports it; None when bubblewrap ended before there was one.

    The descriptor's end alone does not tell: the shell that waits on the lifeline holds it too.
    """
    text = b""
    poller = select.poll()  # select() refuses a descriptor from 1024 on
    poller.register(descriptor, select.POLLIN)
    while True:
        ended = process.poll() is not None
        readable = poller.poll(_POLL_S * 1000)
        chunk = os.read(descriptor, 4096) if readable else b""
        if not chunk and (ended or readable):
            return None
        text += chunk
        with contextlib.suppress(ValueError):
            return int(json.loads(text)["child-pid"])
