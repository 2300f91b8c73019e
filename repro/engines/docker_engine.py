"""Docker Engine through its Python SDK. Podman's engine is this one with another socket and a few habits.

Nothing is ever pulled: an image is loaded from our own archive, checked against its digests, and started by the Id
that the engine reported. How a job ended is read from the engine's event stream, never from a clock.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import LogConfig, Ulimit
from docker.types import Mount as BindMount
from docker.utils.socket import frames_iter
from requests.exceptions import RequestException

import docker
from repro.base.architecture import here
from repro.base.errors import CouldNotRun, EngineUnavailable, VerificationFailed
from repro.base.files import write_atomic
from repro.container.image import Image
from repro.container.job import Availability, Job, Mount, OnLine, Outcome
from repro.engines import seccomp
from repro.engines.closed import (
    CLOSED,
    HOSTNAME,
    LineSplitter,
    check_job,
    command,
    device_paths,
    disarm,
    environment,
    group,
    in_mount_order,
    open_files_limit,
    passwd,
    tell_disarmed,
)
from repro.engines.endpoint import Endpoint, sees_our_files, why_not
from repro.engines.following import JOB_LABEL, Killer, Watch
from repro.machine.owner import OWNER_LABEL, Owner

ArchiveStream = Callable[[Sequence[Image]], Iterator[bytes]]

_REQUEST_TIMEOUT_S = 60


@dataclass(frozen=True)
class Habits:
    """In what an engine behind Docker's API differs from Docker.

    Attributes:
        extra_host_config: in the API's own spelling; the SDK refuses values that only Podman knows.
        takes_our_profile: its own seccomp profile is wider than ours, and it takes ours as a file.
    """

    name: str
    title: str
    extra_host_config: Mapping[str, Any]
    extra_ulimits: tuple[Ulimit, ...] = ()
    takes_our_profile: bool = False


DOCKER = Habits("docker", "Docker", {"UsernsMode": "host"})


class DockerEngine:
    """Runs jobs through an API socket on this machine.

    Args:
        endpoint: where the API is.
        archive: gives the bytes of an archive of some images.
        scratch: a folder of ours that the engine can see, for small files that are mounted.
    """

    def __init__(self, endpoint: Endpoint, archive: ArchiveStream, scratch: Path, habits: Habits = DOCKER) -> None:
        self.name = habits.name
        self._endpoint = endpoint
        self._archive = archive
        self._scratch = scratch
        self._habits = habits
        self._ids: dict[str, str] = {}
        self._tried = False
        self._lock = threading.RLock()  # trying the image out runs a job, which asks for its Id
        self._info: dict[str, Any] | None = None

    def probe(self) -> Availability:
        """Whether this engine answers, is on this machine, sees our files and can close a container."""
        try:
            with self._client() as api:
                version, info = api.version(), api.info()
                refusal = why_not(self._habits.name, version, info)
                if refusal is not None:
                    return Availability(self.name, False, refusal.reason, refusal.hint)
                self._info = info
                refusal = sees_our_files(api, self._scratch, self._habits.title)
                if refusal is not None:
                    return Availability(self.name, False, refusal.reason, refusal.hint)
        except EngineUnavailable as error:
            return Availability(self.name, False, error.message, error.hint)
        except (DockerException, RequestException) as error:
            return Availability(
                self.name, False, f"{self._habits.title} answers with an error: {error}", "see its daemon's log"
            )
        return Availability(self.name, True, facts=self.facts())

    def facts(self) -> dict[str, str]:
        """Version, storage driver, cgroup version, security options."""
        with self._client() as api:
            version, info = api.version(), api.info()
        return {
            "version": str(version.get("Version", "")),
            "api_version": str(version.get("ApiVersion", "")),
            "operating_system": str(info.get("OperatingSystem", "")),
            "storage_driver": str(info.get("Driver", "")),
            "cgroup_version": str(info.get("CgroupVersion", "")),
            "cgroup_driver": str(info.get("CgroupDriver", "")),
            "runtime": str(info.get("DefaultRuntime", "")),
            "runtimes": ", ".join(sorted(info.get("Runtimes") or {})),
            "security_options": ", ".join(sorted(info.get("SecurityOptions") or [])),
        }

    def reap(self) -> list[str]:
        """Remove containers of ours whose owner has ended without doing so.

        Returns:
            Their Ids, sorted.
        """
        removed = []
        with self._client() as api:
            for found in api.containers(all=True, filters={"label": OWNER_LABEL}):
                owner = Owner.from_labels(found.get("Labels") or {})
                if owner is not None and owner.is_gone():
                    remove_container(api, found["Id"])
                    removed.append(str(found["Id"]))
        return sorted(removed)

    def prepare(self, image: Image) -> None:
        """Load the image unless the engine has it, check it, and try it once. See `Engine.prepare`."""
        self._id_of(image)
        with self._lock:
            if self._tried:
                return
            self._try_out(image)
            self._tried = True

    def run(self, job: Job, on_line: OnLine) -> Outcome:
        """See `Engine.run`."""
        check_job(job)
        self.prepare(job.image)
        return self._run(job, on_line)

    def _client(self) -> contextlib.closing[docker.APIClient]:
        return contextlib.closing(self._endpoint.connect(_REQUEST_TIMEOUT_S))

    def _id_of(self, image: Image) -> str:
        with self._lock:
            known = self._ids.get(image.config_digest)
            if known is not None:
                return known
            with self._client() as api:
                found = _find(api, image)
                if found is None:
                    self._load(api, image)
                    found = _find(api, image)
            if found is None:
                raise VerificationFailed(
                    f"{self._habits.title} loaded image {image.name} and knows it neither as {image.config_digest} "
                    f"nor as {image.manifest_digest}",
                    hint="this engine rewrites images on loading; use `--engine sandbox`",
                )
            self._ids[image.config_digest] = found
            return found

    def _load(self, api: docker.APIClient, image: Image) -> None:
        api.timeout = None  # type: ignore[assignment]  # storing a layer of 1.5 GB answers nothing for minutes
        said = []
        try:
            for line in api.load_image(self._archive([image])):  # type: ignore[no-untyped-call]
                said.append(str(line.get("error") or line.get("stream") or "").strip())
        except (DockerException, RequestException) as error:
            raise CouldNotRun(
                f"{self._habits.title} could not load image {image.name}: {error}",
                hint="is its disk full? `docker system df` says what it holds",
            ) from error
        finally:
            api.timeout = _REQUEST_TIMEOUT_S
        if _find(api, image) is None and any(said):
            raise CouldNotRun(f"{self._habits.title} did not load image {image.name}", detail="\n".join(said))

    def _try_out(self, image: Image) -> None:
        """One small job: what it reads must be our bytes, and what it writes must be owned by us."""
        folder = self._scratch / f"try-{uuid.uuid4().hex}"
        given, made = folder / "in", folder / "out"
        for path in (given, made):
            path.mkdir(parents=True)
        try:
            token = uuid.uuid4().hex
            (given / "token").write_text(token)
            job = Job(
                image=image,
                argv=("/bin/sh", "-c", "cat /run/try/in/token > /run/try/out/token"),
                mounts=(mounted(given, "/run/try/in"), mounted(made, "/run/try/out", writable=True)),
                name="trying the engine",
            )
            said: list[str] = []
            outcome = self._run(job, lambda _stream, line: said.append(line))
            written = made / "token"
            if outcome.exit_code != 0 or not written.exists() or written.read_text() != token:
                raise EngineUnavailable(
                    f"{self._habits.title} started a container that could not copy one small file "
                    f"(exit code {outcome.exit_code})",
                    hint="use `--engine sandbox`",
                    detail="\n".join(said),
                )
            if written.stat().st_uid != os.getuid():
                raise EngineUnavailable(
                    f"files that a container of {self._habits.title} writes belong to user {written.stat().st_uid}, "
                    f"not to {os.getuid()}",
                    hint="this engine maps users in a way that is not known here; use `--engine sandbox`",
                )
        finally:
            for path in (made / "token", given / "token", made, given, folder):
                with contextlib.suppress(OSError):
                    path.rmdir() if path.is_dir() else path.unlink()

    def _run(self, job: Job, on_line: OnLine) -> Outcome:
        marker = uuid.uuid4().hex
        try:
            with self._client() as api, Watch(self._endpoint, marker) as watch:
                container = self._create(api, job, marker)
                try:
                    outcome = self._start_and_follow(api, container, job, watch, on_line)
                finally:
                    remove_container(api, container)
        except (APIError, RequestException) as error:
            raise CouldNotRun(
                f"{self._habits.title} failed on {job.name}: {getattr(error, 'explanation', None) or error}",
                hint="is the engine still running? `invoke doctor` says more",
            ) from error
        tell_disarmed(disarm(job.mounts), on_line)
        return outcome

    def _create(self, api: docker.APIClient, job: Job, marker: str) -> str:
        try:
            return self._create_from(api, job, marker, self._id_of(job.image))
        except ImageNotFound:  # somebody removed it since it was loaded
            with self._lock:
                self._ids.pop(job.image.config_digest, None)
            return self._create_from(api, job, marker, self._id_of(job.image))

    def _create_from(self, api: docker.APIClient, job: Job, marker: str, image_id: str) -> str:
        uid, gid = (0, 0) if self._rootless() else (os.getuid(), os.getgid())
        created = api.create_container(
            image_id,
            entrypoint=command(job, watched=True)[:1],
            command=command(job, watched=True)[1:],
            user=f"{uid}:{gid}",
            hostname=HOSTNAME,
            environment=environment(job),
            working_dir=job.workdir,
            stdin_open=True,
            labels={JOB_LABEL: marker, **Owner.this_process().labels()},
            host_config=self._host_config(api, job, uid, gid),
        )
        return str(created["Id"])

    def _host_config(self, api: docker.APIClient, job: Job, uid: int, gid: int) -> dict[str, Any]:
        memory = job.limits.memory_bytes
        tmpfs = f"rw,exec,nosuid,nodev,size={memory}"
        mounts = [
            mounted(self._identity_file("passwd", passwd(uid, gid)), "/etc/passwd"),
            mounted(self._identity_file("group", group(gid)), "/etc/group"),
            *in_mount_order(job.mounts),
        ]
        config: dict[str, Any] = api.create_host_config(
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=self._security_options(),
            init=True,
            auto_remove=True,
            mem_limit=memory,
            memswap_limit=memory,
            pids_limit=job.limits.pids,
            shm_size=memory,
            tmpfs={"/tmp": f"{tmpfs},mode=1777", "/run": f"{tmpfs},mode=0755"},  # noqa: S108 - in the container
            mounts=[
                BindMount(m.target, str(m.source.resolve()), type="bind", read_only=not m.writable) for m in mounts
            ],
            devices=[":".join([*device_paths(device), "rw"]) for device in sorted(job.devices)],
            group_add=list(job.groups) or None,
            ipc_mode="host" if job.shares_ipc else None,
            runtime=job.runtime or None,
            ulimits=[
                Ulimit(name="core", soft=0, hard=0),
                Ulimit(name="nofile", soft=open_files_limit(), hard=open_files_limit()),
                *self._habits.extra_ulimits,
            ],
            log_config=LogConfig(type="none"),  # a stage that prints without end must not fill the engine's disk
        )
        return {**config, **self._habits.extra_host_config}

    def _engine_info(self) -> dict[str, Any]:
        if self._info is None:
            with self._client() as api:
                self._info = api.info()
        return self._info

    def _has_option(self, name: str) -> bool:
        options = self._engine_info().get("SecurityOptions") or []
        return any(f"name={name}" in str(option).split(",") for option in options)

    def _rootless(self) -> bool:
        """Docker's rootless mode maps the caller to user 0 inside; Podman's keep-id mode to itself."""
        return self.name == "docker" and self._has_option("rootless")

    def _security_options(self) -> list[str]:
        selinux = ["label=disable"] if self._has_option("selinux") else []  # never relabel the user's data
        ours = [f"seccomp={self._profile()}"] if self._habits.takes_our_profile and self._has_option("seccomp") else []
        return ["no-new-privileges", *selinux, *ours]

    def _profile(self) -> Path:
        return self._small_file("seccomp.json", seccomp.oci_profile(here()))

    def _identity_file(self, name: str, content: bytes) -> Path:
        return self._small_file(f"{name}-{os.getuid()}-{os.getgid()}", content)

    def _small_file(self, name: str, content: bytes) -> Path:
        path = self._scratch / name
        if not path.exists() or path.read_bytes() != content:
            write_atomic(path, content)
        return path.resolve()

    def _limits(self) -> dict[str, str]:
        info, said = self._engine_info(), {**CLOSED, "timeout": "enforced"}
        for limit, key in (("memory", "MemoryLimit"), ("pids", "PidsLimit")):
            lacking = f"not enforced: {self._habits.title} says that it has no {limit} control group here"
            said[limit] = lacking if info.get(key) is False else "enforced"
        # A job that makes a user namespace could do in it what a kernel's fault allows; so it shall not make one.
        for limit in ("system_calls", "kernel_keys", "user_namespaces"):
            said[limit] = (
                "enforced" if self._filters_calls() else f"not enforced: {self._habits.title} has no seccomp here"
            )
        return said

    def _filters_calls(self) -> bool:
        options = self._engine_info().get("SecurityOptions") or []
        unconfined = any("profile=unconfined" in str(option) for option in options)
        return self._has_option("seccomp") and (self._habits.takes_our_profile or not unconfined)

    def _start_and_follow(
        self, api: docker.APIClient, container: str, job: Job, watch: Watch, on_line: OnLine
    ) -> Outcome:
        watch.wait_until_created()
        connection = api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        killer = Killer(self._endpoint, container, connection)
        splitters = {1: LineSplitter("stdout", on_line), 2: LineSplitter("stderr", on_line)}
        started_s = time.monotonic()
        api.start(container)
        timer = threading.Timer(job.limits.timeout_s, killer.fire)
        timer.daemon = True
        timer.start()
        try:
            for stream, data in frames_iter(connection, tty=False):  # type: ignore[no-untyped-call]
                splitters[stream].feed(data)
            exit_code = watch.exit_code(started_s + job.limits.timeout_s)
        finally:
            timer.cancel()
            timer.join()  # the events may tell of the end before the kill that caused it has returned
            connection.close()
        for splitter in splitters.values():
            splitter.close()
        wall_s = time.monotonic() - started_s
        return Outcome(exit_code, killer.fired, wall_s, self._limits(), watch.out_of_memory)


def mounted(source: Path, target: str, *, writable: bool = False) -> Mount:
    """A `Mount`, spelled short."""
    return Mount(source, target, writable)


def _find(api: docker.APIClient, image: Image) -> str | None:
    """The Id under which the engine holds exactly this image, or None.

    Raises:
        VerificationFailed: something else answers to one of the image's digests.
    """
    for digest in (image.config_digest, image.manifest_digest):
        try:
            found = api.inspect_image(digest)  # type: ignore[no-untyped-call]
        except ImageNotFound:
            continue
        reported = str(found["Id"])
        layers = list(found["RootFS"].get("Layers") or [])
        if _with_prefix(reported) not in (image.config_digest, image.manifest_digest) or layers != [
            layer.diff_id for layer in image.layers
        ]:
            raise VerificationFailed(
                f"the engine holds something else as {digest}: Id {reported}, layers {', '.join(layers)}",
                hint=f"remove it with `docker image rm {digest}` (or podman) and run again",
            )
        return reported
    return None


def _with_prefix(image_id: str) -> str:
    return image_id if image_id.startswith("sha256:") else "sha256:" + image_id


def remove_container(api: docker.APIClient, container: str) -> None:
    """Kill and remove; one that is already gone or going is as good."""
    try:
        api.remove_container(container, force=True, v=True)
    except APIError as error:
        if error.status_code not in (404, 409):
            raise
