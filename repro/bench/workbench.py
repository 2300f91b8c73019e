"""What every area of the bench measures with: stages in their images, interleaved timing, a scratch folder."""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import CouldNotRun, StageFailed
from repro.base.files import remove_tree
from repro.base.paths import Paths
from repro.container.image import Image
from repro.container.job import Engine, Limits
from repro.engines.sandbox import SandboxEngine
from repro.fetching import fetch_files
from repro.graph.cache import StatCache
from repro.graph.code import read_code, snapshot
from repro.graph.leavings import read_document
from repro.graph.stage_job import PIDS, StageJob, run_job
from repro.images.build import build_images, files_needed
from repro.images.rootfs import SANDBOX_IMAGE, Roots
from repro.machine import facts
from repro.run.engine_choice import compiling_engine

_ACCOUNT = "account.json"


@dataclass(frozen=True)
class Sample:
    """The seconds of one candidate, over all rounds."""

    times: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def low(self) -> float:
        return min(self.times)

    @property
    def high(self) -> float:
        return max(self.times)


@dataclass(frozen=True)
class StageRun:
    """One stage as the bench ran it.

    Attributes:
        wall_s: from starting the container to its end.
        work_s: the stage's own time, from its first line of Python to its last; the rest is the container's.
        cpu_s: processor time of the stage and its children.
        peak_bytes: the largest resident set of one of its processes.
    """

    out: Path
    obs: Path
    wall_s: float
    work_s: float
    cpu_s: float
    peak_bytes: int


Candidate = Callable[[], "float | None"]


class Workbench:
    """Given to `measure` of every area.

    Attributes:
        quick: two to ten minutes for all areas together; else full.
        scratch: a folder of this run's own, removed when it ends.
        say: shows a person a line of progress, or that a peer is absent here.
    """

    def __init__(self, paths: Paths, *, quick: bool, scratch: Path, say: Callable[[str], None]) -> None:
        self.paths = paths
        self.quick = quick
        self.scratch = scratch
        self.say = say
        self._images: dict[str, Image] = {}
        self._prepared: set[str] = set()
        self._numbers = itertools.count()

    @functools.cached_property
    def engine(self) -> Engine:
        """The embedded sandbox: the engine that is the same on every machine."""
        self.images([SANDBOX_IMAGE])
        roots = Roots(self.paths)
        engine = SandboxEngine(roots.tools, roots.of)
        availability = engine.probe()
        if not availability.usable:
            raise CouldNotRun(f"the sandbox cannot be used here: {availability.reason}", hint=availability.hint)
        return engine

    def images(self, names: Sequence[str]) -> dict[str, Image]:
        """Images by name, fetched and built as far as they are missing."""
        missing = [name for name in names if name not in self._images]
        if missing:
            needed = files_needed(self.paths, missing, [facts.architecture()])
            if needed:
                fetch_files(self.paths.root, needed.values())
            engine_for = compiling_engine(self.paths)
            built = build_images(self.paths, missing, facts.architecture(), self.say, engine_for=engine_for)
            self._images.update(built)
        return {name: self._images[name] for name in names}

    def folder(self, name: str) -> Path:
        """A new, empty folder in the scratch folder."""
        path = self.scratch / f"{next(self._numbers):04d}-{name}"
        path.mkdir(parents=True)
        return path

    def stage(
        self,
        image: str,
        module: str,
        arguments: Sequence[str],
        inputs: Mapping[str, Path] | None = None,
        cores: int | None = None,
        first: int = 0,
    ) -> StageRun:
        """Run `python3 -m stages.MODULE ARGUMENTS --out … --obs …` in an image, in the sandbox.

        Args:
            module: a module of stages/ without that prefix: 'features'.
            inputs: option name without dashes -> host path, mounted read-only and given as `--NAME /run/in/NAME`.
            cores: run on that many of this process's cores; None for all.
            first: the first of them.

        Raises:
            StageFailed: it ended badly; the log's last lines are in the message.
        """
        spec = self.images([image])[image]
        if image not in self._prepared:
            self.engine.prepare(spec)
            self._prepared.add(image)
        folder = self.folder(module)
        out, obs = folder / "out", folder / "obs"
        out.mkdir()
        obs.mkdir()
        words = [word for name in sorted(inputs or {}) for word in (f"--{name}", f"/run/in/{name}")]
        everywhere = ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[first:][:cores])
        stage = StageJob(
            name=f"bench-{module}",
            image=spec,
            argv=("/usr/bin/python3", "-m", "stages.bench.account", f"stages.{module}", everywhere, *words, *arguments,
                  "--out", "/run/out", "--obs", "/run/obs"),
            code=_with_account(self.paths.root, module, self.scratch / "code"),
            inputs={name: path.resolve() for name, path in (inputs or {}).items()},
            work=folder,
            limits=Limits(timeout_s=3600.0, memory_bytes=16 * 1024**3, pids=PIDS),
        )  # fmt: skip
        outcome, said = run_job(self.engine, stage, folder / "stage.log", _unshown)
        if outcome.exit_code != 0:
            raise StageFailed(
                f"{module} ended with exit code {outcome.exit_code} in the bench: {said.error or 'see its last lines'}",
                detail="\n".join(said.tail),
            )
        account = read_document(obs, _ACCOUNT, f"{module}: {_ACCOUNT}")
        return StageRun(out, obs, outcome.wall_s, account["work_s"], account["cpu_s"], account["peak_bytes"])

    def invoke(self, *words: str, results: Path | None = None) -> tuple[float, subprocess.CompletedProcess[str]]:
        """Run `tasks.py WORDS` with this Python, its results in `results`: its seconds, and how it ended."""
        env = dict(os.environ)
        if results is not None:
            env["BUNDLE_RESULTS"] = str(results)
        argv = [sys.executable, str(self.paths.root / "tasks.py"), *words]
        began_s = time.perf_counter()
        done = subprocess.run(argv, cwd=self.paths.root, env=env, capture_output=True, text=True, check=False)
        return time.perf_counter() - began_s, done

    def interleaved(self, candidates: Mapping[str, Candidate], rounds: int) -> dict[str, Sample]:
        """Time candidates in turn, `rounds` times: a slow second of the machine meets all of them alike.

        A candidate that returns a number has timed itself in seconds; else its call is timed. Every second round
        goes backwards, so that none always comes after the same other one.
        """
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for number in range(rounds):
            order = list(candidates) if number % 2 == 0 else list(candidates)[::-1]
            for name in order:
                began_s = time.perf_counter()
                own_s = candidates[name]()
                times[name].append(time.perf_counter() - began_s if own_s is None else own_s)
        return {name: Sample(tuple(values)) for name, values in times.items()}

    def remove(self, folder: Path) -> None:
        """Give the disk back before the run ends."""
        remove_tree(folder)


def _unshown(_done: int, _total: int, _what: str) -> None:
    """A stage's progress is not drawn while it is timed."""


def _with_account(root: Path, module: str, folder: Path) -> Path:
    """The stage's code and the module that accounts for it, in one folder."""
    code = read_code(root, module)
    account = read_code(root, "bench.account")
    files = {**account.files, **code.files}
    return snapshot(type(code)(files, code.digest), folder, StatCache(None))
