"""One execution of a stage in a container: the same mounts, environment and log whoever asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repro.container.image import Image
from repro.container.job import Engine, Job, Limits, Mount, Outcome
from repro.engines.npu_access import Access
from repro.graph.log import OnProgress, Said, StageLog

STAGE_ENV: Mapping[str, str] = {"PYTHONPATH": "/run/code"}
PIDS = 1024


@dataclass(frozen=True)
class StageJob:
    """What a stage is given.

    Attributes:
        name: for the engine and its messages.
        code: a snapshot, mounted as /run/code.
        inputs: host path by option name, mounted read-only as /run/in/NAME.
        work: holds out/ and obs/, mounted as /run/out and /run/obs; the only things that the stage can write.
        state: host folder by name, writable as /run/NAME (a training's; stages of the graph have none).
        lent: what the host lends to its image.
        access: what it is given of an NPU.
    """

    name: str
    image: Image
    argv: tuple[str, ...]
    code: Path
    inputs: Mapping[str, Path]
    work: Path
    limits: Limits
    state: Mapping[str, Path] = field(default_factory=dict)
    lent: tuple[Mount, ...] = ()
    access: Access = field(default_factory=Access)

    def job(self) -> Job:
        """The container."""
        mounts = [Mount(self.code, "/run/code")]
        mounts += [Mount(path, f"/run/in/{name}") for name, path in sorted(self.inputs.items())]
        writable = {**{name: self.work / name for name in ("out", "obs")}, **self.state}
        mounts += [Mount(path, f"/run/{name}", writable=True) for name, path in writable.items()]
        return Job(
            image=self.image,
            argv=self.argv,
            mounts=(*mounts, *self.lent, *self.access.mounts),
            env={**STAGE_ENV, **self.access.env},
            devices=self.access.devices,
            groups=self.access.groups,
            shares_ipc=self.access.shares_ipc,
            runtime=self.access.runtime,
            limits=self.limits,
            name=self.name,
        )


def run_job(engine: Engine, stage: StageJob, log: Path, on_progress: OnProgress) -> tuple[Outcome, Said]:
    """Run it to its end.

    Args:
        engine: whose image is ready.
        stage: what to run.
        log: a new file that keeps what the stage prints, where the stage cannot reach it.
        on_progress: as StageLog's.
    """
    with StageLog(log, on_progress) as kept:
        outcome = engine.run(stage.job(), kept.line)
    return outcome, kept.said
