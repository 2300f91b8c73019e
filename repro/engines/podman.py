"""Podman through its own API socket, or through a private one that we start and end.

The private service listens in a folder of ours and dies with this process; containers are ended by their watchdog.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import pwd
import re
import resource
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from docker.types import Ulimit

from repro.base.errors import EngineUnavailable
from repro.base.pace import time_factor
from repro.base.programs import find, search_path
from repro.base.temporary import clear_dead, temporary_folder
from repro.engines.container_config import Habits
from repro.engines.docker_engine import DockerEngine
from repro.engines.endpoint import Endpoint, on_hybrid_host
from repro.engines.held_images import ArchiveStream
from repro.engines.spawner import on_a_lifeline, spawn

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 1.0
_HINT = "install Podman 4 or later, or use `--engine sandbox`"


def usual_sockets(environ: Mapping[str, str]) -> list[Path]:
    """Where Podman's own service listens, if the user or the system runs one."""
    if os.getuid() == 0:
        return [Path("/run/podman/podman.sock")]
    return [Path(environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}"), "podman/podman.sock")]


def _own_folder() -> Path:
    """A folder for sockets, whose paths have 107 bytes at most: not in artifacts/. Nobody else can lock or fill it.

    Raises:
        EngineUnavailable: another user made it.
    """
    folder = Path(tempfile.gettempdir(), f"lstm-ctc-podman-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EngineUnavailable(f"{folder} is not this user's own folder", hint="remove it, or set TMPDIR to another")
    return folder


class Service:
    """`podman system service` on a private socket."""

    def __init__(self, podman: str, environ: Mapping[str, str]) -> None:
        parent = _own_folder()
        clear_dead(parent)
        self._temporary = temporary_folder(parent, "service")
        self._folder = self._temporary.path
        self.url = f"unix://{self._folder}/podman.sock"
        runtime = ["--runtime", "runc"] if on_hybrid_host() and find("runc") else []
        argv = [podman, *runtime, "system", "service", "--time=0", self.url]
        reading, self._lifeline = os.pipe()
        try:
            # Its conmon leaves a file `oom` in the folder that it was started in, where a container used up its memory.
            self._process = spawn(on_a_lifeline(argv), env=dict(environ), stdin=reading, folder=self._folder)
        finally:
            os.close(reading)
        self._said: list[bytes] = []
        streams = (self._process.stdout, self._process.stderr)
        self._drains = [threading.Thread(target=self._drain, args=(stream,), daemon=True) for stream in streams]
        for drain in self._drains:
            drain.start()
        atexit.register(self.stop)

    def _drain(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._said = [*self._said[-9:], line]

    def wait_until_listening(self) -> None:
        """Raises: EngineUnavailable with what podman said, when it ends or does not listen in time."""
        give_up_s = time.monotonic() + _START_TIMEOUT_S * time_factor()
        while not (self._folder / "podman.sock").exists():
            if self._process.poll() is not None or time.monotonic() > give_up_s:
                self.stop()
                said = b"".join(self._said).decode("utf-8", "replace").strip()
                raise EngineUnavailable(
                    f"`podman system service` did not start: {said or 'it said nothing'}", hint=_HINT
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """End the service and remove its folder. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:  # it waits for connections that nobody uses any more
                os.killpg(self._process.pid, signal.SIGKILL)  # without root podman runs as a child of itself
                self._process.wait()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        for drain in self._drains:
            drain.join(_STOP_TIMEOUT_S)  # its last words; a process of its own that outlives it may hold the pipe
        self._temporary.close()
        atexit.unregister(self.stop)


def podman_habits() -> Habits:
    """Without root, Podman maps the caller to itself only when asked.

    Its default limit of processes can exceed what this host grants, and then no container starts. Podman lowers its
    own to kernel.pid_max, so that or our own limit is named instead: it bounds nothing that was not bounded before.
    """
    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
    own = resource.getrlimit(resource.RLIMIT_NPROC)
    soft, hard = (pid_max if limit == resource.RLIM_INFINITY else min(limit, pid_max) for limit in own)
    return Habits(
        "podman",
        "Podman",
        {} if os.getuid() == 0 else {"UsernsMode": "keep-id"},
        (Ulimit(name="nproc", soft=soft, hard=hard),),
        takes_our_profile=True,
    )


def lacks_subordinate_ids(etc: Path, uid: int, user: str) -> str:
    """Which of subuid and subgid has no range for a user, '' when both have.

    Without root Podman maps the caller to itself in a user namespace, which takes a range of subordinate IDs; a
    service started without one answers, and then starts no container. Where a directory service gives the ranges
    (a `subid` line in nsswitch.conf), files say nothing.

    Args:
        etc: the folder, /etc.
        uid: the caller's.
        user: the caller's name.
    """
    with contextlib.suppress(OSError):
        lines = (etc / "nsswitch.conf").read_text(encoding="utf-8").splitlines()
        if any(line.split() and line.split()[0] == "subid:" and line.split()[1:] != ["files"] for line in lines):
            return ""
    for name in ("subuid", "subgid"):
        try:
            owners = {line.partition(":")[0] for line in (etc / name).read_text(encoding="utf-8").splitlines()}
        except OSError:
            owners = set()
        if not owners & {user, str(uid)}:
            return name
    return ""


def unknown_mount_label(root: Path, knows: Callable[[Path, str], bool]) -> str:
    """The SELinux context that Podman mounts with, where the policy in force has no such type; '' where it has.

    Podman takes it from the policy's lxc_contexts (opencontainers/selinux, `PrivContainerMountLabel`) for /dev/shm and
    others, and does so too where labels are switched off for a container. Where the policy does not know it, as Debian
    12's does not, mount answers EINVAL: no container starts.

    Args:
        root: of the file system.
        knows: whether the policy, in selinuxfs at this place, knows a context; see `policy_knows`.
    """
    kernel = root / "sys/fs/selinux"
    if not kernel.is_dir():
        return ""
    try:
        config = (root / "etc/selinux/config").read_text(encoding="utf-8")
        policy = dict(re.findall(r"^(SELINUXTYPE) *= *([\w.-]+) *$", config, re.MULTILINE))["SELINUXTYPE"]
        contexts = (root / "etc/selinux" / policy / "contexts/lxc_contexts").read_text(encoding="utf-8")
    except (OSError, ValueError, KeyError):
        return ""
    label = re.search(r'^file *= *"?([^"\s]+)"? *$', contexts, re.MULTILINE)
    return label[1] if label and not knows(kernel, label[1]) else ""


def policy_knows(kernel: Path, context: str) -> bool:
    """Whether the SELinux policy in force knows a context; true where the kernel does not let this process ask."""
    try:
        asking = os.open(kernel / "context", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        os.write(asking, context.encode() + b"\0")
    except OSError as error:
        return error.errno != errno.EINVAL
    finally:
        os.close(asking)
    return True


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


class PodmanEngine(DockerEngine):
    """See `DockerEngine`; starts a service when none answers."""

    def __init__(
        self,
        archive: ArchiveStream,
        scratch: Path,
        environ: Mapping[str, str],
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._service: Service | None = None
        super().__init__(self._find_endpoint(environ), archive, scratch, podman_habits(), say)

    def _find_endpoint(self, environ: Mapping[str, str]) -> Endpoint:
        given = environ.get("CONTAINER_HOST")
        if given:
            return Endpoint(given, "Podman")
        podman = find("podman", search_path(environ))
        sockets = usual_sockets(environ)
        there = podman is not None or any(path.exists() for path in sockets)
        label = unknown_mount_label(Path("/"), policy_knows) if there else ""
        if label:
            raise EngineUnavailable(
                f"Podman mounts with the SELinux context {label}, which this machine's policy does not know: "
                "none of its containers can start",
                hint="as root: load the policy's modules for containers (Debian 13: semodule -i "
                "/usr/share/selinux/default/container.pp.bz2 /usr/share/selinux/default/podman.pp.bz2; Fedora and its "
                "kin: package container-selinux); or use `--engine sandbox`",
            )
        for path in sockets:
            endpoint = Endpoint(f"unix://{path}", "Podman")
            with contextlib.suppress(EngineUnavailable), contextlib.closing(endpoint.connect(10)) as api:
                crun = str(api.info().get("DefaultRuntime")).endswith("crun")
                if podman is None or not (crun and on_hybrid_host()):
                    return endpoint
        if podman is None:
            raise EngineUnavailable("Podman is not installed, and no socket of it answers", hint=_HINT)
        lacking = "" if os.getuid() == 0 else lacks_subordinate_ids(Path("/etc"), os.getuid(), _user_name())
        if lacking:
            raise EngineUnavailable(
                f"without root Podman needs a range of subordinate IDs, and {_user_name()} has none in /etc/{lacking}",
                hint=f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {_user_name()}; "
                "or use `--engine sandbox`",
            )
        self._service = Service(str(podman), environ)
        self._service.wait_until_listening()
        return Endpoint(self._service.url, "Podman")

    def close(self) -> None:
        """End the service, if we started one."""
        if self._service is not None:
            self._service.stop()
