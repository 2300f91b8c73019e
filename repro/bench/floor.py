"""make with the graph and the files of a finished run, for what it takes with nothing to do: the floor.

Each step copies the files that the run's stage made, from the store, as its command; its inputs are those of the stage.
So it looks after the same number of steps and the same files.
"""

from __future__ import annotations

import os
import subprocess
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


class Make:
    """make with the run's graph: a stamp per step, which depends on every file of the steps before it.

    Args:
        folder: where it is set up; does not exist yet.
        steps: each after its inputs.
    """

    def __init__(self, folder: Path, steps: list[Step]) -> None:
        self._folder = folder
        self._stamps: dict[Path, int] = {}
        folder.mkdir(parents=True)
        (folder / _SOURCE).write_text("what the last step reads\n")
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

    def run(self) -> bool:
        """Run it; returns whether it did anything: then a stamp is younger than after the run before.

        Raises:
            CouldNotVerify: it failed.
        """
        done = subprocess.run(
            ["make", "-s"], cwd=self._folder, stdin=subprocess.DEVNULL, text=True,  # noqa: S607 - the user's own
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise CouldNotVerify("make failed in the bench", detail=done.stdout[-2000:])
        before, self._stamps = self._stamps, {path: path.stat().st_mtime_ns for path in self._folder.glob("*.stamp")}
        return self._stamps != before

    def check(self) -> None:
        """Hold it to its work: with nothing changed it has nothing to do, and with one source changed it has.

        Raises:
            CouldNotVerify: it has not.
        """
        self.idle()
        just_after_ns = max(self._stamps.values()) + 1  # a clock's tick is longer than this program takes
        os.utime(self._folder / _SOURCE, ns=(just_after_ns, just_after_ns))
        if not self.run():
            raise CouldNotVerify("make does not notice that a source changed")
        self.idle()

    def idle(self) -> None:
        """Run it where nothing changed.

        Raises:
            CouldNotVerify: it did something.
        """
        if self.run():
            raise CouldNotVerify("make has something to do where nothing changed")


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
