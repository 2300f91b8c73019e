"""Which engine to use: the one asked for, or the first that works of Docker, Podman and the sandbox."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import CouldNotRun, EngineUnavailable
from repro.base.paths import Paths
from repro.container.image import Image
from repro.container.job import Availability, Engine
from repro.engines.docker_engine import DockerEngine
from repro.engines.endpoint import docker_endpoint
from repro.engines.podman import PodmanEngine
from repro.engines.sandbox import SandboxEngine
from repro.images.oci import docker_archive_stream
from repro.images.rootfs import Roots
from repro.machine import executable_memory
from repro.machine.emulation import emulation
from repro.run.engine_when_needed import AUTO as AUTO
from repro.run.engine_when_needed import NAMES as NAMES
from repro.run.engine_when_needed import Choice as Choice
from repro.run.engine_when_needed import check_name as check_name


@dataclass(frozen=True)
class Candidate:
    """An engine with what its probe said; `engine` is None when it could not even be made."""

    availability: Availability
    engine: Engine | None


Maker = Callable[[], Candidate]
Say = Callable[[str], None]


def makers(paths: Paths, environ: Mapping[str, str], say: Say = lambda _: None) -> dict[str, Maker]:
    """How to make and probe each engine, in the order of preference; see `choose`."""
    scratch = paths.temporary / "engines"
    return {
        "docker": functools.partial(_docker, scratch, environ, say),
        "podman": functools.partial(_podman, scratch, environ, say)
        if environ.get("CONTAINER_HOST")  # another machine's, as far as is known
        else functools.partial(_of_this_user, "podman", functools.partial(_podman, scratch, environ, say)),
        "sandbox": functools.partial(_of_this_user, "sandbox", functools.partial(_sandbox, Roots(paths, say))),
    }


def _docker(scratch: Path, environ: Mapping[str, str], say: Say) -> Candidate:
    engine = DockerEngine(docker_endpoint(environ, Path.home()), docker_archive_stream, scratch, say=say)
    return _probed(engine)


def _of_this_user(name: str, maker: Maker) -> Candidate:
    """An engine whose stages are programs of this user: refused where those cannot do what they must."""
    if executable_memory.allowed():
        return maker()
    return Candidate(Availability.refused(name, executable_memory.WHY, executable_memory.HINT), None)


def _podman(scratch: Path, environ: Mapping[str, str], say: Say) -> Candidate:
    try:
        engine = PodmanEngine(docker_archive_stream, scratch, environ, say)
    except EngineUnavailable as error:
        return Candidate(Availability.refused("podman", error.message, error.hint), None)
    candidate = _probed(engine)
    if not candidate.availability.usable:
        engine.close()
    return candidate


def _probed(engine: DockerEngine) -> Candidate:
    """Probe it, and if it works remove what killed processes left in it."""
    availability = engine.probe()
    if availability.usable:
        engine.reap()
    return Candidate(availability, engine)


def _sandbox(roots: Roots) -> Candidate:
    engine = SandboxEngine(roots.tools, roots.of)
    return Candidate(engine.probe(), engine)


def choose_from(name: str, candidates: Mapping[str, Maker]) -> Choice:
    """Make and probe engines until one fits.

    Raises:
        EngineUnavailable: the engine asked for, or every one, cannot be used; says why for each.
    """
    passed_over: list[Availability] = []
    for key in candidates if name == AUTO else (name,):
        candidate = candidates[key]()
        if candidate.availability.usable and candidate.engine is not None:
            return Choice(candidate.engine, candidate.availability, tuple(passed_over))
        passed_over.append(candidate.availability)
    if name != AUTO:
        refused = passed_over[0]
        raise EngineUnavailable(f"engine {name} cannot be used: {refused.reason}", hint=refused.hint)
    raise EngineUnavailable(
        "no engine can be used on this machine",
        detail="\n".join(f"{other.name}: {other.reason}" for other in passed_over),
        hint="\n".join(f"{other.name}: {other.hint}" for other in passed_over if other.hint),
    )


def choose(
    name: str,
    paths: Paths,
    environ: Mapping[str, str] | None = None,
    *,
    say: Say = lambda _: None,
) -> Choice:
    """The engine called `name`, or by 'auto' the first that works. See `check_name` and `choose_from`.

    Args:
        name: 'docker', 'podman', 'sandbox' or 'auto'.
        paths: of the checkout.
        environ: this process's by default.
        say: is told before an image is unpacked or loaded, which can take minutes.
    """
    check_name(name)
    return choose_from(name, makers(paths, os.environ if environ is None else environ, say))


def compiling_engine(paths: Paths) -> Callable[[Image], Engine]:
    """Chooses what runs an image's compilers: the sandbox, which every machine has and which brings its own emulation;
    else the first engine that works.

    What is returned raises CouldNotRun where the compilers are of an architecture that nothing here runs.
    """

    def engine_for(toolchain: Image) -> Engine:
        emulated = emulation(toolchain.architecture)
        if not emulated.works:
            raise CouldNotRun(
                f"the compilers are {toolchain.architecture} programs, which this machine cannot run: {emulated.how}",
                hint=emulated.hint,
            )
        try:
            return choose("sandbox", paths).engine
        except EngineUnavailable:
            if not emulated.everywhere:
                raise
        return choose(AUTO, paths).engine

    return engine_for


def probe_all(paths: Paths) -> list[Availability]:
    """What each engine's probe says, in the order of preference; for `invoke doctor`."""
    found = []
    for make in makers(paths, os.environ).values():
        candidate = make()
        found.append(candidate.availability)
        if isinstance(candidate.engine, PodmanEngine):
            candidate.engine.close()
    return found
