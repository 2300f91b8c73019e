"""Where an engine's API is, whether that is this machine, and whether the engine there can be used."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import re
import stat
import tarfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import Mount as BindMount
from requests.exceptions import RequestException

import docker
from repro.base import pace
from repro.base.architecture import here, of_machine
from repro.base.errors import EngineUnavailable
from repro.base.files import canonical_json, sha256_bytes
from repro.base.temporary import clear_dead, temporary_folder

_USE_SANDBOX = "use `--engine sandbox`"
_FIRST_WITH_CLONE3 = (20, 10, 10)


@dataclass(frozen=True)
class Endpoint:
    """An API address: 'unix:///run/docker.sock', say."""

    url: str
    title: str

    def connect(self, timeout_s: int) -> docker.APIClient:
        """A new client: they are cheap, and sharing one between threads is not safe.

        Args:
            timeout_s: for an answer; longer where the machine is said to be slow.

        Raises:
            EngineUnavailable: nobody answers, with the reason.
        """
        self._check_socket()
        try:
            return docker.APIClient(base_url=self.url, version="auto", timeout=int(timeout_s * pace.time_factor()))
        except (DockerException, RequestException) as error:
            text = str(error)
            if "ConnectionRefused" in text or "Connection refused" in text:
                raise EngineUnavailable(
                    f"{self.title} is installed but not running: nobody answers at {self.url}",
                    hint=f"start its service, or {_USE_SANDBOX}",
                ) from error
            hint = f"{pace.HINT}; or {_USE_SANDBOX}" if "timed out" in text else _USE_SANDBOX
            raise EngineUnavailable(f"{self.title} does not answer at {self.url}: {text}", hint=hint) from error

    def _check_socket(self) -> None:
        scheme, _, rest = self.url.partition("://")
        if scheme != "unix":
            raise EngineUnavailable(
                f"{self.title} at {self.url} may be another machine, which cannot see this one's files",
                hint="unset DOCKER_HOST (or CONTAINER_HOST, or the docker context) for a local engine, or "
                f"{_USE_SANDBOX}",
            )
        path = Path(rest)
        try:
            is_socket = stat.S_ISSOCK(path.stat().st_mode)
        except FileNotFoundError:
            raise EngineUnavailable(
                f"{self.title} is not running, or not installed: there is no {path}",
                hint=f"install and start it, or {_USE_SANDBOX}",
            ) from None
        except OSError as error:
            raise EngineUnavailable(f"{self.title}'s socket cannot be reached: {error}", hint=_USE_SANDBOX) from error
        if not is_socket:
            raise EngineUnavailable(f"{path} is not a socket", hint=_USE_SANDBOX)
        if not os.access(path, os.R_OK | os.W_OK):
            raise EngineUnavailable(
                f"this user may not use {self.title}: no permission on {path}",
                hint=f"an administrator can add you to the socket's group (which amounts to root), or {_USE_SANDBOX}",
            )


def docker_endpoint(environ: Mapping[str, str], home: Path) -> Endpoint:
    """Where the docker command line would look: DOCKER_HOST, its current context, the usual sockets."""
    url = environ.get("DOCKER_HOST") or _context_url(environ, home)
    if not url:
        rootless = Path(environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}"), "docker.sock")
        usual = Path("/run/docker.sock")
        url = f"unix://{rootless if rootless.exists() and not usual.exists() else usual}"
    return Endpoint(url, "Docker")


def _context_url(environ: Mapping[str, str], home: Path) -> str:
    """The address in the docker command line's current context, '' for the default one.

    docker-py's own ContextAPI does not serve: it passes over DOCKER_CONTEXT, reads this process's HOME whatever it is
    told, and raises a bare Exception for a file that it cannot read.
    """
    folder = Path(environ.get("DOCKER_CONFIG") or home / ".docker")
    try:
        name = environ.get("DOCKER_CONTEXT") or json.loads((folder / "config.json").read_text()).get("currentContext")
        if not name or name == "default":
            return ""
        meta = folder / "contexts" / "meta" / sha256_bytes(name.encode()) / "meta.json"
        return str(json.loads(meta.read_text())["Endpoints"]["docker"]["Host"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.split(r"[^\d.]", version)[0].split(".")[:3] if number)


def check_engine(name: str, version: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Refuse an engine whose own description forbids using it as engine `name`.

    Raises:
        EngineUnavailable: says why, and what to do.
    """
    parts = " ".join(str(part.get("Name")) for part in version.get("Components") or [])
    if name == "docker" and "Podman" in parts:
        raise EngineUnavailable("Podman answers on Docker's socket", hint="use `--engine podman`")
    if name == "podman" and "Podman" not in parts:
        raise EngineUnavailable("what answers on Podman's socket is not Podman", hint="use `--engine docker`")
    if "Docker Desktop" in str(info.get("OperatingSystem")):
        raise EngineUnavailable(
            "Docker Desktop runs containers in a virtual machine, which sees this machine's files only in part",
            hint=f"use a Docker Engine on this machine (`docker context use default`), or {_USE_SANDBOX}",
        )
    if str(info.get("OSType", "linux")) != "linux":
        raise EngineUnavailable(f"this engine runs {info.get('OSType')} containers, not Linux ones", hint=_USE_SANDBOX)
    theirs = str(info.get("Architecture", platform.machine()))
    if of_machine(theirs) != of_machine(platform.machine()):
        raise EngineUnavailable(
            f"this engine runs on {theirs} and we run on {platform.machine()}: another machine", hint=_USE_SANDBOX
        )
    seccomp = any("name=seccomp" in str(option) for option in info.get("SecurityOptions") or [])
    if name == "docker" and seccomp and () < _numbers(str(version.get("Version"))) < _FIRST_WITH_CLONE3:
        raise EngineUnavailable(
            f"Docker {version.get('Version')} is older than 20.10.10: its seccomp profile answers clone3 with EPERM, "
            "so programs of Debian 12 cannot start threads in it",
            hint=f"upgrade Docker, or {_USE_SANDBOX}",
        )
    if name == "podman" and str(info.get("DefaultRuntime")).endswith("crun") and on_hybrid_host():
        raise EngineUnavailable(
            "Podman is set to use crun, which fails where control groups of version 1 and 2 are mixed, as here",
            hint='set `runtime = "runc"` under [engine] in containers.conf',
        )


def on_hybrid_host(cgroup: Path = Path("/sys/fs/cgroup")) -> bool:
    """Whether version 2 of control groups is mounted beside version 1."""
    return (cgroup / "unified" / "cgroup.procs").exists()


def check_files(api: docker.APIClient, scratch: Path, title: str) -> None:
    """Mount a folder with a random token into a container that is never started, and read the token back.

    Raises:
        EngineUnavailable: the engine sees other files than this process.
    """
    token = uuid.uuid4().hex
    clear_dead(scratch)
    with temporary_folder(scratch, "probe") as folder:
        (folder / "token").write_text(token)
        try:
            seen = _seen_through(api, folder, title)
        except APIError as error:
            said = str(error.explanation or error)
            if "catatonit" in said or "init binary" in said:
                raise EngineUnavailable(f"{title} finds no init program: {said}", hint="install catatonit") from error
            raise EngineUnavailable(
                f"{title} cannot see this machine's files: a folder made for a test could not be mounted ({said})",
                hint=f"is it another machine, or are we in a container that was given its socket? {_USE_SANDBOX}",
            ) from error
    if seen != token:
        raise EngineUnavailable(f"{title} sees other files than we do at {folder}", hint=_USE_SANDBOX)


def _seen_through(api: docker.APIClient, folder: Path, title: str) -> str:
    """What the file `token` of a folder holds for a container that mounts it."""
    container = _container(api, folder, title)
    try:
        stream, _ = api.get_archive(container, "/probe/token")
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
            member = tar.extractfile(tar.getmembers()[0])
            return member.read().decode() if member is not None else ""
    finally:
        with contextlib.suppress(APIError):
            api.remove_container(container, force=True)


def _container(api: docker.APIClient, folder: Path, title: str) -> str:
    """The Id of a container of an empty image that mounts a folder.

    The image stays: while one is removed, Podman answers another process that asks about any image with an error.

    Raises:
        EngineUnavailable: the engine does not hold the image that it was given.
    """
    archive, names = _empty_image()
    host_config = api.create_host_config(
        network_mode="none",
        init=True,
        mounts=[BindMount("/probe", str(folder.resolve()), type="bind", read_only=True)],
    )

    def created() -> str:
        for name in names:
            with contextlib.suppress(ImageNotFound):
                return str(api.create_container(name, command=["/never"], host_config=host_config)["Id"])
        return ""

    if known := created():
        return known
    said = [str(line.get("error") or line) for line in api.load_image(archive)]  # type: ignore[no-untyped-call]
    if loaded := created():
        return loaded
    raise EngineUnavailable(
        f"{title} does not hold an image that it was given to load: {' '.join(said) or 'it said nothing'}",
        hint=f"is its disk full? its log says more, or {_USE_SANDBOX}",
    )


def _empty_image() -> tuple[bytes, tuple[str, str]]:
    """An archive of an image with one empty folder; its config digest and its tag (the containerd store's name)."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        entry = tarfile.TarInfo("probe")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
    config = canonical_json(
        {
            "architecture": here().name,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha256_bytes(layer.getvalue())]},
        }
    )
    digest = sha256_bytes(config)
    tag = f"lstm-ctc-bundle/probe:{digest[:12]}"
    manifest = [{"Config": f"{digest}.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in (
            (f"{digest}.json", config),
            ("layer.tar", layer.getvalue()),
            ("manifest.json", canonical_json(manifest)),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return archive.getvalue(), ("sha256:" + digest, tag)
