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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from docker.errors import APIError, DockerException, ImageNotFound
from docker.utils.socket import frames_iter
from requests.exceptions import RequestException, Timeout

import docker
from repro.base import pace
from repro.base.confined import read_below
from repro.base.errors import CouldNotRun, EngineUnavailable
from repro.base.temporary import clear_dead, temporary_folder
from repro.container.image import Image
from repro.container.job import Availability, Job, Mount, OnLine, Outcome
from repro.engines.closed import (
    HOSTNAME,
    LineSplitter,
    check_job,
    command,
    disarm,
    environment,
    tell_disarmed,
)
from repro.engines.container_config import DOCKER, ContainerConfig, Habits
from repro.engines.endpoint import Endpoint, check_engine, check_files
from repro.engines.following import JOB_LABEL, Killer, Watch, end_response
from repro.engines.held_images import ArchiveStream, HeldImages
from repro.machine.owner import OWNER_LABEL, Owner

_REQUEST_TIMEOUT_S = 60


class DockerEngine:
    """Runs jobs through an API socket on this machine.

    Args:
        endpoint: where the API is.
        archive: gives the bytes of an archive of some images.
        scratch: a folder of ours that the engine can see, for small files that are mounted.
        habits: in what it differs from Docker.
        say: is told before an image is loaded.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        archive: ArchiveStream,
        scratch: Path,
        habits: Habits = DOCKER,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name = habits.name
        self._endpoint = endpoint
        self._scratch = scratch
        self._habits = habits
        self._images = HeldImages(habits.title, archive, say)
        self._tried = False
        self._lock = threading.RLock()  # trying the image out runs a job, which asks for its Id
        self._info: dict[str, Any] | None = None

    def probe(self) -> Availability:
        """Whether this engine answers, is on this machine, sees our files and can close a container."""
        try:
            with self._client() as api:
                version, info = api.version(), api.info()
                check_engine(self._habits.name, version, info)
                self._info = info
                check_files(api, self._scratch, self._habits.title)
        except EngineUnavailable as error:
            return Availability.refused(self.name, error.message, error.hint)
        except (DockerException, RequestException) as error:
            return Availability.refused(
                self.name, f"{self._habits.title} answers with an error: {error}", "see its daemon's log"
            )
        return Availability(self.name, usable=True, facts=self.facts())

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
        with self._told("what killed runs left in it"), self._client() as api:
            for found in api.containers(all=True, filters={"label": OWNER_LABEL}):
                owner = Owner.from_labels(found.get("Labels") or {})
                if owner is not None and owner.is_gone():
                    with contextlib.suppress(APIError):  # another run is removing it, or the next one will
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
        with self._client() as api, self._told(image.name):
            return self._images.id_of(api, image)

    def _try_out(self, image: Image) -> None:
        """One small job: what it reads must be our bytes, and what it writes must be owned by us."""
        clear_dead(self._scratch)
        with temporary_folder(self._scratch, "try") as folder:
            given, made = folder / "in", folder / "out"
            given.mkdir()
            made.mkdir()
            token = uuid.uuid4().hex
            (given / "token").write_text(token)
            job = Job(
                image=image,
                argv=("/bin/sh", "-c", "cat /run/try/in/token > /run/try/out/token"),
                mounts=(Mount(given, "/run/try/in"), Mount(made, "/run/try/out", writable=True)),
                name="trying the engine",
            )
            said: list[str] = []
            outcome = self._run(job, lambda _stream, line: said.append(line))
            written = made / "token"
            if outcome.exit_code != 0 or not written.exists() or read_below(made, "token", 64) != token.encode():
                raise EngineUnavailable(
                    f"{self._habits.title} started a container that could not copy one small file "
                    f"(exit code {outcome.exit_code})",
                    hint="use `--engine sandbox`",
                    detail="\n".join(said),
                )
            owner = written.lstat().st_uid
            if owner != os.getuid():
                raise EngineUnavailable(
                    f"files that a container of {self._habits.title} writes belong to user {owner}, "
                    f"not to {os.getuid()}",
                    hint="this engine maps users in a way that is not known here; use `--engine sandbox`",
                )

    def _run(self, job: Job, on_line: OnLine) -> Outcome:
        marker = uuid.uuid4().hex
        with self._told(job.name), self._client() as api, Watch(self._endpoint, marker) as watch:
            container = self._create(api, job, marker)
            try:
                outcome = self._start_and_follow(api, container, job, watch, on_line)
            finally:
                remove_container(api, container)
        tell_disarmed(disarm(job.mounts), on_line)
        return outcome

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Raises: CouldNotRun for what the engine answers with an error, or not at all."""
        try:
            yield
        except (APIError, RequestException) as error:
            running = "is the engine still running? `invoke doctor` says more"
            raise CouldNotRun(
                f"{self._habits.title} failed on {what}: {getattr(error, 'explanation', None) or error}",
                hint=pace.HINT if isinstance(error, Timeout) else running,
            ) from error

    def _create(self, api: docker.APIClient, job: Job, marker: str) -> str:
        try:
            return self._create_from(api, job, marker)
        except ImageNotFound:  # somebody removed it since it was loaded
            self._images.forget(job.image)
            return self._create_from(api, job, marker)

    def _create_from(self, api: docker.APIClient, job: Job, marker: str) -> str:
        config = self._config()
        uid, gid = config.user()
        host_config = {**api.create_host_config(**config.host_options(job)), **config.extra_host_config()}
        created = api.create_container(
            self._images.id_of(api, job.image),
            entrypoint=command(job, watched=True)[:1],
            command=command(job, watched=True)[1:],
            user=f"{uid}:{gid}",
            hostname=HOSTNAME,
            environment=environment(job),
            working_dir=job.workdir,
            stdin_open=True,
            labels={JOB_LABEL: marker, **Owner.this_process().labels()},
            host_config=host_config,
        )
        return str(created["Id"])

    def _config(self) -> ContainerConfig:
        if self._info is None:
            with self._client() as api:
                self._info = api.info()
        return ContainerConfig(self._habits, self._info, self._scratch)

    def _start_and_follow(
        self, api: docker.APIClient, container: str, job: Job, watch: Watch, on_line: OnLine
    ) -> Outcome:
        watch.wait_until_created()
        connection = api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        with contextlib.ExitStack() as at_end:
            at_end.callback(end_response, connection)
            killer = Killer(self._endpoint, container, connection)
            splitters = {1: LineSplitter("stdout", on_line), 2: LineSplitter("stderr", on_line)}
            started_s = time.monotonic()
            api.start(container)
            timer = threading.Timer(job.limits.timeout_s, killer.fire)
            timer.daemon = True
            timer.start()
            at_end.callback(timer.join)  # the events may tell of the end before the kill that caused it has returned
            at_end.callback(timer.cancel)
            for stream, data in frames_iter(connection, tty=False):  # type: ignore[no-untyped-call]
                splitters[stream].feed(data)
            exit_code = watch.exit_code(started_s + job.limits.timeout_s)
        for splitter in splitters.values():
            splitter.close()
        wall_s = time.monotonic() - started_s
        return Outcome(exit_code, killer.fired, wall_s, self._config().limits(), watch.out_of_memory)


def remove_container(api: docker.APIClient, container: str) -> None:
    """Kill and remove; one that is already gone or going is as good."""
    try:
        api.remove_container(container, force=True, v=True)
    except APIError as error:
        if error.status_code not in (404, 409):
            raise
