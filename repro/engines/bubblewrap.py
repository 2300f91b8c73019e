"""The command line of bubblewrap: what a sandbox is closed by, and what lies where in it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repro.base.architecture import here
from repro.base.errors import CouldNotRun
from repro.container.job import Job
from repro.engines.closed import HOME, device_paths, in_mount_order

_BWRAP = "usr/bin/bwrap"
_PROFILE = "lstm-ctc-sandbox"
CLOSED_ARGS = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
    *("--die-with-parent", "--clearenv"),
)

_PLAIN_DOCKER = (
    "inside Docker, start the outer container with `--security-opt seccomp=unconfined "
    "--security-opt systempaths=unconfined`, or run outside it"
)
USE_AN_ENGINE = "or use `--engine docker` or `--engine podman`"


def apparmor_grant(loader: Path) -> str:
    """The command by which root lets one program, and no other, make user namespaces under AppArmor.

    Args:
        loader: the program that the kernel starts, since bubblewrap is started through it.
    """
    place = re.sub(r'([][{}*?^\\"])', r"\\\1", str(loader))
    lines = ["abi <abi/4.0>,", f'profile {_PROFILE} "{place}" flags=(unconfined) {{ userns, }}']
    file = f"/etc/apparmor.d/{_PROFILE}"
    return f"printf '%s\\n' {shlex.join(lines)} >{file} && apparmor_parser -r {file}"


def explain_refusal(text: str, sysctl: Callable[[str], str], loader: Path) -> tuple[str, str]:
    """Why the kernel did not let bubblewrap build a sandbox, and what to do about it.

    Args:
        text: what bubblewrap printed.
        sysctl: reads a file below /proc/sys by its name, '' when there is none.
        loader: the program that was started.
    """
    last = text.strip().splitlines()[-1] if text.strip() else "it printed nothing"
    said = f"bubblewrap says: {last}"
    if sysctl("user/max_user_namespaces") == "0":
        return (
            f"user namespaces are switched off (user.max_user_namespaces is 0; {said})",
            f"as root: sysctl user.max_user_namespaces=10000; {USE_AN_ENGINE}",
        )
    if sysctl("kernel/unprivileged_userns_clone") == "0":
        return (
            f"user namespaces are kept for root (kernel.unprivileged_userns_clone is 0; {said})",
            f"as root: sysctl kernel.unprivileged_userns_clone=1; {USE_AN_ENGINE}",
        )
    if sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor keeps user namespaces from programs without a profile, as Ubuntu does from 23.10 on "
            f"(kernel.apparmor_restrict_unprivileged_userns is 1; {said})",
            f"as root, for this program alone: {apparmor_grant(loader)}\n"
            f"or, for every program: sysctl kernel.apparmor_restrict_unprivileged_userns=0; {USE_AN_ENGINE}",
        )
    if "mount proc" in text or "Can't mount" in text:
        return f"this is a container that forbids mounting /proc ({said})", _PLAIN_DOCKER
    if "o permissions to create" in text or "Creating new namespace failed" in text or "clone" in text:
        return f"this container or kernel forbids new namespaces ({said})", f"{_PLAIN_DOCKER}; {USE_AN_ENGINE}"
    if "uid map" in text:
        return f"a security module forbids to map this user into a namespace ({said})", USE_AN_ENGINE[3:]
    return said, USE_AN_ENGINE[3:]


def sysctl(name: str) -> str:
    """A file below /proc/sys, '' when there is none."""
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Program:
    """How the layer's bubblewrap is started: through its own loader, by paths below the folder that it lies in.

    The host's paths stay out of the command line, which a job can read as /proc/1/cmdline.

    Attributes:
        folder: to start it in.
        argv: the start of the command line.
    """

    folder: Path
    argv: tuple[str, ...]

    @property
    def loader(self) -> Path:
        """The program that the kernel starts."""
        return self.folder / self.argv[0]

    def seen_as(self, folder: str) -> list[str]:
        """The same where that folder is mounted in a sandbox."""
        loader, option, libraries, program = self.argv
        below = ":".join(f"{folder}/{each}" for each in libraries.split(":"))
        return [f"{folder}/{loader}", option, below, f"{folder}/{program}"]


def through_loader(tools: Path) -> Program:
    """How to start the bubblewrap of the unpacked layer at `tools`.

    Raises:
        CouldNotRun: the layer does not hold what it must.
    """
    architecture = here()
    # Not lib64/ld-linux-…: a link with an absolute target, which outside of a sandbox leads into the host's files.
    folders = [f"{folder}/{architecture.triplet}" for folder in ("usr/lib", "lib")]
    holding = [folder for folder in folders if (tools / folder / architecture.loader).exists()]
    if not holding or not (tools / _BWRAP).exists():
        raise CouldNotRun(
            f"the sandbox's layer at {tools} is not complete: it lacks {_BWRAP} or {architecture.loader}",
            hint="remove that folder and run again: it is unpacked anew",
        )
    return Program(tools, (f"{holding[0]}/{architecture.loader}", "--library-path", ":".join(folders), _BWRAP))


def closed_args(job: Job) -> list[str]:
    """What every sandbox is closed by; a job that shares the host's IPC namespace has all others of its own."""
    if not job.shares_ipc:
        return list(CLOSED_ARGS)
    each = ("--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
    return [*each, *(word for word in CLOSED_ARGS if word != "--unshare-all")]


def ids() -> list[str]:
    """The caller's own user and group."""
    return ["--uid", str(os.getuid()), "--gid", str(os.getgid())]


def places(job: Job, root: Path, passwd_fd: int, group_fd: int) -> list[str]:
    """What is where. Later entries lie on top of earlier ones."""
    size = str(job.limits.memory_bytes)
    found = ["--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev"]
    found += _proc_covered()
    for folder, mode in (("/tmp", "1777"), ("/run", "0755"), ("/sys", "0755")):  # noqa: S108
        found += ["--perms", mode, "--size", size, "--tmpfs", folder]
    # ONNX Runtime and PyTorch count processors here; the rest of /sys stays hidden.
    for folder in ("/sys/devices", "/sys/devices/system"):
        found += ["--perms", "0755", "--dir", folder]
    found += ["--ro-bind", "/sys/devices/system", "/sys/devices/system", "--remount-ro", "/sys"]
    found += ["--perms", "0700", "--dir", HOME]
    found += ["--ro-bind-data", str(passwd_fd), "/etc/passwd", "--ro-bind-data", str(group_fd), "/etc/group"]
    for mount in in_mount_order(job.mounts):
        found += ["--bind" if mount.writable else "--ro-bind", str(mount.source.resolve()), mount.target]
    for device in sorted(job.devices):
        found += ["--dev-bind", *device_paths(device)]
    found += ["--perms", "1777", "--size", size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108 - inside
    return found


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


def check_targets(job: Job, root: Path) -> None:
    """The root is read-only, so bubblewrap can make no mount point in it.

    Raises:
        CouldNotRun: the image lacks one.
    """
    for mount in job.mounts:
        inside_ours = mount.target.startswith(("/run/", "/tmp/"))  # noqa: S108 - inside the container
        if not inside_ours and not (root / mount.target.lstrip("/")).exists():
            raise CouldNotRun(
                f"{job.name}: image {job.image.name} has no {mount.target} to mount on",
                hint="mount below /run, or let the image hold the folder",
            )
