"""A small image made of this host's own Python, shell and libraries, and engines to run it in.

The containment tests need some image, not ours: so they run before anything is fetched, on every host with glibc.
Each process of tests has a trial image with a name of its own, so that one that ends takes away nobody else's.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

import pytest
from docker.errors import APIError

from repro.base.errors import BundleError, EngineUnavailable
from repro.base.files import sha256_file
from repro.base.paths import Paths
from repro.container.image import Image, Layer
from repro.container.job import Availability
from repro.engines.docker_engine import DockerEngine
from repro.engines.endpoint import docker_endpoint
from repro.engines.podman import PodmanEngine
from repro.engines.sandbox import SandboxEngine
from repro.images.oci import compute_image, docker_archive_stream
from repro.images.rootfs import ensure_sandbox_tools
from tests.open_descriptors import KEPT, open_descriptors

PYTHON = "/usr/local/bin/python3"
_PROGRAMS = ("sh", "env", "mkdir", "cat", "id", "sleep", "true")
_LEFT_OUT = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "ensurepip"}
_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
_OWNER = "TRIAL_IMAGE_OF"  # the process of tests, for the clients that it starts
_OWNERS_TAG = re.compile(r"lstm-ctc-bundle/trial-([0-9]+):")


def _libraries(program: Path) -> set[Path]:
    """The shared libraries and the loader that `ldd` finds, by the paths that it names."""
    text = subprocess.run(["ldd", str(program)], stdout=subprocess.PIPE, check=False).stdout.decode()
    words = (word for line in text.splitlines() for word in line.split() if word.startswith("/"))
    return {Path(word.rstrip(":")) for word in words if os.path.exists(word)}


def _copy(source: Path, root: Path, at: str) -> None:
    target = root / at.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy(source.resolve(), target)


def build_root(root: Path) -> None:
    """Fill a folder with what the trials run."""
    for folder in ("proc", "sys", "dev", "tmp", "run", "etc"):
        (root / folder).mkdir(parents=True)
    for name in ("passwd", "group"):
        (root / "etc" / name).touch()
    programs = {f"/bin/{name}": Path(shutil.which(name) or "") for name in _PROGRAMS}
    python = Path(sys.executable).resolve()
    standard = Path(sysconfig.get_paths()["stdlib"])
    binaries = [*programs.values(), python, *standard.glob("lib-dynload/*.so")]
    for at, source in programs.items():
        _copy(source, root, at)
    _copy(python, root, str(python))
    for library in sorted(set().union(*map(_libraries, binaries))):
        _copy(library, root, str(library))
    ignored = shutil.ignore_patterns(*_LEFT_OUT, "config-*", "*.a")
    shutil.copytree(standard, root / str(standard).lstrip("/"), ignore=ignored, dirs_exist_ok=True)
    (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
    (root / PYTHON.lstrip("/")).write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    (root / PYTHON.lstrip("/")).chmod(0o755)
    if not (root / "usr/bin/python3").exists():  # what the graph starts stages by
        _copy(root / PYTHON.lstrip("/"), root, "/usr/bin/python3")


def build_tools(tools: Path) -> None:
    """The sandbox's own layer where it is built, else the host's bubblewrap in the same shape."""
    try:
        shutil.copytree(ensure_sandbox_tools(Paths.of_checkout()), tools, symlinks=True)
        return
    except BundleError as error:
        program = shutil.which("bwrap")
        if program is None:
            pytest.skip(f"no sandbox layer ({error.message}), and no bubblewrap on this host")
    triplet = f"usr/lib/{os.uname().machine}-linux-gnu"
    _copy(Path(program), tools, "usr/bin/bwrap")
    for library in _libraries(Path(program)):
        _copy(library, tools, f"{triplet}/{library.name}")


@functools.lru_cache(maxsize=1)
def place() -> Path:
    """One folder for a test session, readable by other users: pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="lstm-ctc-trial-"))
    folder.chmod(0o755)
    return folder


@functools.lru_cache(maxsize=1)
def root() -> Path:
    build_root(place() / "root")
    return place() / "root"


@functools.lru_cache(maxsize=1)
def tools() -> Path:
    build_tools(place() / "tools")
    return place() / "tools"


@functools.lru_cache(maxsize=1)
def image() -> Image:
    """The image as engines load it."""
    tar = place() / "layer.tar"

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(tar, "w") as archive:
        for path in sorted(root().iterdir()):  # no entry for the top itself: our own layers have none
            archive.add(path, path.name, filter=plain)
    layer = Layer("files:trial", "files", "sha256:" + sha256_file(tar), tar.stat().st_size, tar, "the host")
    owner = os.environ.setdefault(_OWNER, str(os.getpid()))
    return compute_image(f"trial-{owner}", _ARCHITECTURE, [layer], {}, "3", "for the containment tests")


def sandbox() -> SandboxEngine:
    return SandboxEngine(tools, lambda _image: root())


def docker() -> DockerEngine:
    return DockerEngine(docker_endpoint(os.environ, Path.home()), docker_archive_stream, place() / "scratch")


def podman() -> PodmanEngine:
    return PodmanEngine(docker_archive_stream, place() / "scratch", os.environ)


MAKERS = {"docker": docker, "podman": podman, "sandbox": sandbox}


_MADE: dict[str, tuple[object, Availability]] = {}


def engine(name: str):
    """The engine, or a skipped test that says why there is none."""
    if name not in _MADE:
        before = set(open_descriptors().values())
        try:
            made = MAKERS[name]()
            _MADE[name] = (made, made.probe())
        except EngineUnavailable as error:
            _MADE[name] = (None, Availability(name, False, error.message, error.hint))
        KEPT.update(set(open_descriptors().values()) - before)  # it stays for all tests of this process
    made, availability = _MADE[name]
    if not availability.usable:
        pytest.skip(f"{name}: {availability.reason}")
    return made


def _is_ours_or_nobodys(tag: str) -> bool:
    """Whether a tag is that of this process's trial image, or of a process that ended without removing it."""
    found = _OWNERS_TAG.search(tag)
    return found is not None and (found[1] == os.environ.get(_OWNER) or not Path("/proc", found[1]).exists())


def clean_up() -> None:
    """Remove the trial's folder, its image from the engines, and a service that was started."""
    for made, availability in _MADE.values():
        if availability.usable and isinstance(made, DockerEngine):
            # Another process removes its own meanwhile, or ours; what stays is removed when tests next end.
            with made._client() as api, contextlib.suppress(APIError):
                for found in api.images(all=True):
                    if any(map(_is_ours_or_nobodys, found.get("RepoTags") or [])):
                        with contextlib.suppress(APIError):
                            api.remove_image(found["Id"], force=True)
        if isinstance(made, PodmanEngine):
            made.close()
    _MADE.clear()
    os.environ.pop(_OWNER, None)
    for cached in (image, root, tools):
        cached.cache_clear()
    shutil.rmtree(place(), ignore_errors=True)
    place.cache_clear()
