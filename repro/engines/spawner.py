"""Starts child processes from one thread that never ends before this process does.

A parent-death signal is sent when the *thread* that started the child ends, not its process. Jobs are run from
short-lived threads, so the children are all started by this one. A session keyring is a thread's own too: this one
takes a new, empty one for each child, so that none inherits the caller's keys.
"""

from __future__ import annotations

import ctypes
import os
import platform
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from repro.base.architecture import of_machine
from repro.engines import seccomp

_JOIN_SESSION_KEYRING = 1
# The shell becomes the program; its child waits until the pipe on standard input is closed, by this process or by its
# end, and then kills the process group. A death signal alone is lost on a process that asks for it too late.
_LIFELINE = """exec 3<&0 </dev/null
{ read -r never <&3; kill -KILL 0; } >/dev/null 2>&1 &
exec "$@" 3<&-"""


def on_a_lifeline(argv: Sequence[str]) -> list[str]:
    """A command line that runs `argv` and ends its whole process group when its standard input, a pipe, closes.

    Give `spawn` the reading end as `stdin`, and keep the writing end for as long as the program is to live.
    """
    return ["/bin/sh", "-c", _LIFELINE, "lifeline", *argv]


class _Spawner:
    def __init__(self) -> None:
        self._pid = os.getpid()
        self._requests: queue.SimpleQueue[tuple[Future[subprocess.Popen[bytes]], list[str], dict[str, Any]]]
        self._requests = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="spawner", daemon=True).start()

    def belongs_here(self) -> bool:
        """Threads do not survive a fork, so a forked process needs a spawner of its own."""
        return self._pid == os.getpid()

    def start(self, argv: list[str], options: dict[str, Any]) -> subprocess.Popen[bytes]:
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._requests.put((answer, argv, options))
        return answer.result()

    def _serve(self) -> None:
        while True:
            answer, argv, options = self._requests.get()
            try:
                _leave_session_keyring()
                answer.set_result(subprocess.Popen(argv, **options))
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                answer.set_exception(error)


def _leave_session_keyring() -> None:
    """Give the calling thread a new session keyring. Without kernel keys, or where a container forbids this call,
    there is nothing to leave: a child is forbidden the same."""
    architecture = of_machine(platform.machine())
    call = seccomp.number("keyctl", architecture) if architecture else None
    if call is not None:
        ctypes.CDLL(None).syscall(call, _JOIN_SESSION_KEYRING, None)


_lock = threading.Lock()
_spawner: _Spawner | None = None


def spawn(
    argv: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process with no input, no terminal and pipes for its output; it may ask to die with this process.

    It leads a session and process group of its own.

    Args:
        argv: the command line.
        pass_fds: descriptors that it inherits beside its three streams.
        env: its whole environment; empty by default.
        stdin: a descriptor for its standard input; nothing by default.
        folder: that it starts in; this process's own by default.

    Raises:
        OSError: it cannot be started.
    """
    global _spawner
    with _lock:
        if _spawner is None or not _spawner.belongs_here():
            _spawner = _Spawner()
        spawner = _spawner
    options: dict[str, Any] = {
        "stdin": stdin,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "pass_fds": tuple(pass_fds),
        "env": dict(env or {}),
        "start_new_session": True,
        "cwd": folder,
    }
    return spawner.start(list(argv), options)
