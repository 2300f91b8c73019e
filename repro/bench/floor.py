"""make with the graph and the files of a finished run, for what it takes with nothing to do: the floor.

Each step copies the files that the run's stage made, from the store, as its command; its inputs are those of the stage.
So it looks after the same number of steps and the same files.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import CouldNotVerify
from repro.graph.store import Store
from repro.record import Record

_WORK, _SOURCE = "work", "source"


@dataclass(frozen=True)
class Step:
    """A stage of the run: its folder of files, and the folders that it reads."""

    name: str
    inputs: tuple[str, ...]
    stored: Path


@dataclass(frozen=True)
class Peer:
    """A workflow tool with the run's graph, all of it made.

    Attributes:
        argv: does what is to do, which is nothing.
        idle: whether what it printed says that nothing was to do.
    """

    name: str
    folder: Path
    argv: tuple[str, ...]
    idle: Callable[[str], bool]

    def run(self) -> str:
        """Run it; returns what it printed.

        Raises:
            CouldNotVerify: it failed.
        """
        done = subprocess.run(
            self.argv, cwd=self.folder, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise CouldNotVerify(f"{self.name} failed in the bench", detail=done.stdout[-2000:])
        return done.stdout

    def check(self) -> None:
        """Hold it to its work: with nothing changed it has nothing to do, and with one source changed it has.

        Raises:
            CouldNotVerify: it has not.
        """
        if not self.idle(self.run()):
            raise CouldNotVerify(f"{self.name} has something to do where nothing changed")
        source = self.folder / _SOURCE
        text = source.read_text()
        source.write_text(text + ".")
        if self.idle(self.run()):
            raise CouldNotVerify(f"{self.name} does not notice that a source changed")
        if not self.idle(self.run()):
            raise CouldNotVerify(f"{self.name} did not finish what a change asked of it")


def steps_of(record: Record, store: Store) -> list[Step]:
    """The run's stages, each after its inputs."""
    keys = [stage.key for stage in record.stages]
    return [
        Step(
            _word(stage.key),
            tuple(_word(source.origin) for _, source in sorted(stage.inputs.items()) if source.origin in keys),
            store.path(stage.fingerprint) / "out",
        )
        for stage in record.stages
    ]


def _word(key: str) -> str:
    return key.replace("@", "_").replace(":", "_")


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / _SOURCE).write_text("what the last step reads\n")
    return folder


def make(folder: Path, steps: list[Step]) -> Peer | None:
    """make: a stamp a step, which depends on every file of the steps before it. None where there is no make."""
    program = shutil.which("make")
    if program is None:
        return None
    _new(folder)
    rules = ["all: " + " ".join(f"{step.name}.stamp" for step in steps)]
    files = {
        step.name: [
            f"{_WORK}/{step.name}/{path.relative_to(step.stored)}"
            for path in sorted(step.stored.rglob("*"))
            if path.is_file()
        ]
        for step in steps
    }
    for step in steps:
        before = [f"{name}.stamp" for name in step.inputs] + [path for name in step.inputs for path in files[name]]
        before += [_SOURCE] if step is steps[-1] else []
        rules.append(f"{step.name}.stamp: {' '.join(dict.fromkeys(before))}")
        rules.append(f"\trm -rf {_WORK}/{step.name}; mkdir -p {_WORK}; cp -r {step.stored} {_WORK}/{step.name}")
        rules.append("\ttouch $@")
        if files[step.name]:
            rules.append(f"{' '.join(files[step.name])}: ;")
    (folder / "Makefile").write_text("\n".join(rules) + "\n")
    return Peer("make", folder, (program, "-s"), _make_is_idle(folder))


def _make_is_idle(folder: Path) -> Callable[[str], bool]:
    """make -s says nothing either way: a stamp that is younger than the last look tells that something was done."""
    seen: dict[Path, int] = {}

    def idle(_text: str) -> bool:
        stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*.stamp")}
        same = stamps == seen
        seen.clear()
        seen.update(stamps)
        return same

    return idle
