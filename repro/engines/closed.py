"""What a container is given in every engine alike, so that a result cannot depend on the engine.

The same user database, environment, command and file checks serve Docker, Podman and the sandbox.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import resource
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from repro.base.errors import CouldNotRun
from repro.base.foreign import shown
from repro.container.job import Job, Mount

HOME = "/tmp/home"  # noqa: S108 - inside the container, on its private tmpfs
HOSTNAME = "stage"
USER = "stage"
ASCEND_USER, ASCEND_ID = "HwHiAiUser", 1000  # CANN's installer and libraries look the vendor's user up by name
MAX_LINE_BYTES = 64 * 1024  # a stage that prints without end of line must not fill our memory
MAX_OPEN_FILES = 65536
_NAMED = 10  # files in one note
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_DEFAULT_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
}
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_OURS = ("/", "/dev", "/etc", "/etc/group", "/etc/passwd", "/proc", "/run", "/sys", "/tmp", HOME)  # noqa: S108


def passwd(uid: int, gid: int) -> bytes:
    """An /etc/passwd in which `uid` is the user 'stage': first, so that its name is the same for root too."""
    lines = [f"{USER}:x:{uid}:{gid}:stage:{HOME}:/bin/sh"]
    lines += ["root:x:0:0:root:/root:/bin/sh"]
    lines += [] if uid == ASCEND_ID else [f"{ASCEND_USER}:x:{ASCEND_ID}:{ASCEND_ID}:Ascend:{HOME}:/bin/sh"]
    lines += [] if uid == 65534 else ["nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin"]
    return ("\n".join(lines) + "\n").encode()


def group(gid: int) -> bytes:
    """An /etc/group to go with `passwd`."""
    lines = [f"{USER}:x:{gid}:", "root:x:0:"] + ([] if gid == 65534 else ["nogroup:x:65534:"])
    lines += [] if gid == ASCEND_ID else [f"{ASCEND_USER}:x:{ASCEND_ID}:"]
    return ("\n".join(lines) + "\n").encode()


def environment(job: Job) -> dict[str, str]:
    """All that the command finds in its environment: defaults, then the image's, then the job's."""
    merged: dict[str, str] = {**_DEFAULT_ENV, **job.image.env, **job.env, "HOME": HOME, "HOSTNAME": HOSTNAME}
    return dict(sorted(merged.items()))


def open_files_limit() -> int:
    """The same for all engines, and never more than this host grants (engines refuse to start otherwise)."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)


def check_job(job: Job) -> None:
    """Refuse a job that no engine could run as asked, before anything is started.

    Raises:
        CouldNotRun: names the mount or variable and what is wrong with it.
    """
    if not job.argv:
        raise CouldNotRun(f"{job.name}: there is no command to run")
    for name, value in job.env.items():
        if not _ENV_NAME.match(name) or "\0" in value:
            raise CouldNotRun(f"{job.name}: {name!r} is not a name and value for an environment variable")
    if job.shares_ipc and not job.devices:
        raise CouldNotRun(f"{job.name}: only a job with devices may share the host's IPC namespace")
    for device in job.devices:
        if not Path(device_paths(device)[0]).exists():
            raise CouldNotRun(f"{job.name}: the device node {device_paths(device)[0]} is not there")
    seen: set[str] = set()
    for mount in job.mounts:
        target = mount.target
        if (
            not target.startswith("/")
            or target.startswith("//")
            or posixpath.normpath(target) != target
            or target in _OURS
        ):
            raise CouldNotRun(
                f"{job.name}: nothing can be mounted at {target!r}",
                hint="a mount's target is an absolute path below /run, or one that the image holds",
            )
        if target in seen:
            raise CouldNotRun(f"{job.name}: two things are mounted at {target}")
        seen.add(target)
        if not mount.source.exists():
            raise CouldNotRun(f"{job.name}: {mount.source} is to be mounted at {target} and does not exist")


def device_paths(device: str) -> tuple[str, str]:
    """(on the host, in the container) of an entry of `Job.devices`."""
    host, _, inside = device.partition(":")
    return host, inside or host


def in_mount_order(mounts: Sequence[Mount]) -> list[Mount]:
    """Outer targets before those inside them."""
    return sorted(mounts, key=lambda mount: mount.target)


def command(job: Job, *, watched: bool) -> list[str]:
    """The command line inside the container: `sh` sets limits and environment, then becomes the job's command.

    Args:
        watched: standard input is a connection to our process. When it closes, because we ended however
            suddenly, the job is killed; as it is the init's only child, the container ends with it.
    """
    lines = [f"ulimit -c 0 && ulimit -n {open_files_limit()} || exit 126"]
    if watched:
        lines.append("exec 3<&0 </dev/null")
        lines.append("{ read -r never <&3; kill -KILL $$; } >/dev/null 2>&1 &")
        lines.append("exec 3<&-")
    lines.append(f"mkdir -p -m 0700 {HOME} || exit 126")
    lines.append('exec env -i "$@"')
    assignments = [f"{name}={value}" for name, value in environment(job).items()]
    return ["/bin/sh", "-c", "\n".join(lines), "stage", *assignments, *job.argv]


def disarm(mounts: Sequence[Mount]) -> list[str]:
    """Take set-user-ID and set-group-ID bits, which no engine forbids on one's own file, off what a job wrote.

    Nothing is followed, and no path is as long as a stage may make one: the walk goes from folder to folder.

    Returns:
        The names of the files that had such a bit, sorted.
    """
    found: list[str] = []
    for mount in mounts:
        if mount.writable:
            found += _disarm_below(mount.source)
    return sorted(found)


def _disarm_below(root: Path) -> list[str]:
    found: list[str] = []
    if not stat.S_ISDIR(os.lstat(root).st_mode):
        with contextlib.suppress(OSError):
            descriptor = os.open(root.parent, _FOLDER)
            try:
                found += [root.name] * _disarm_file(descriptor, root.name)
            finally:
                os.close(descriptor)
        return found
    folder = os.open(root, _FOLDER)
    pending = [_listed(folder, found)]
    try:
        while pending:
            if not pending[-1]:
                pending.pop()
                if pending:
                    folder = _moved(folder, "..")
                continue
            try:
                folder = _moved(folder, pending[-1].pop())
            except OSError:
                continue
            pending.append(_listed(folder, found))
    finally:
        os.close(folder)
    return found


def _moved(folder: int, name: str) -> int:
    """Open a folder from another one, which is closed; nothing else moves folders now that the job has ended.

    A folder of ours that its mode closes to us is opened first: the same mode may leave it open to others.
    """
    handle = os.open(name, _FOLDER | os.O_PATH, dir_fd=folder)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{handle}", mode | stat.S_IRWXU)
        there = os.open(name, _FOLDER, dir_fd=folder)
    finally:
        os.close(handle)
    os.close(folder)
    return there


def _listed(folder: int, found: list[str]) -> list[str]:
    """Disarm an open folder's files, and give its folders."""
    inner = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inner.append(entry.name)
            elif entry.is_file(follow_symlinks=False) and _disarm_file(folder, entry.name):
                found.append(entry.name)
    return inner


def _disarm_file(folder: int, name: str) -> bool:
    mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    if not stat.S_ISREG(mode) or not mode & (stat.S_ISUID | stat.S_ISGID):
        return False
    os.chmod(name, stat.S_IMODE(mode) & ~(stat.S_ISUID | stat.S_ISGID), dir_fd=folder)
    return True


class LineSplitter:
    """Turns chunks of bytes into lines for `on_line`; a line without end is handed on in pieces."""

    def __init__(self, stream: str, on_line: Callable[[str, str], None]) -> None:
        self._stream = stream
        self._on_line = on_line
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Hand on every whole line."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._emit(line)
        while len(self._rest) >= MAX_LINE_BYTES:
            self._emit(self._rest[:MAX_LINE_BYTES])
            self._rest = self._rest[MAX_LINE_BYTES:]

    def close(self) -> None:
        """Hand on a last line that had no newline."""
        if self._rest:
            self._emit(self._rest)
            self._rest = b""

    def _emit(self, line: bytes) -> None:
        self._on_line(self._stream, line.decode("utf-8", "backslashreplace").rstrip("\r"))


def tell_disarmed(names: Sequence[str], on_line: Callable[[str, str], None]) -> None:
    """Say on the job's stderr what `disarm` found: a few by name."""
    for name in names[:_NAMED]:
        on_line("stderr", f"note: took the set-user-ID or set-group-ID bit off {shown(name)}")
    if len(names) > _NAMED:
        on_line("stderr", f"note: and off {len(names) - _NAMED} more files")


CLOSED: Mapping[str, str] = {"network": "enforced", "read_only_root": "enforced", "capabilities": "enforced"}
"""What holds in every engine that passes its probe."""
