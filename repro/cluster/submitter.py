"""What both of the cluster's executors have: where jobs find what they need, and what the jobs of a run came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from repro.cluster.resources import Cluster
from repro.cluster.slurm import Slurm
from repro.cluster.task_file import Ended
from repro.container.image import Image
from repro.container.job import Availability
from repro.graph import pipeline
from repro.graph.executor import Task
from repro.graph.keys import Keys
from repro.graph.making import Done, Preparation, Surroundings
from repro.graph.store import Result, Store


@dataclass(frozen=True)
class Place:
    """Where jobs find what they need.

    Attributes:
        python: the interpreter on the nodes.
        root: the checkout.
        folder: of tasks; RESULTS/cluster.
        engine: that runs the stages, by name.
        sandbox: the image that the embedded engine comes from.
        accelerator: chip, driver and firmware of the NPU, '' on the CPU.
        run: names this run in the queue.
        leave: a person who interrupts leaves the jobs running.
    """

    python: str
    root: Path
    folder: Path
    engine: str
    sandbox: Image
    accelerator: str
    run: str
    leave: bool


@dataclass(eq=False)
class Submitter:
    """The part of `repro.graph.executor.Executor` that does not depend on how files reach the nodes.

    Attributes:
        slurm: its commands.
        cluster: the part of it that jobs may use.
        place: where jobs find what they need.
        keys: of the nodes, as the nodes of the cluster have them.
        store: of results.
        around: what the run has around it.
        say: is told lines that stay.
        preparations: see `Executor`.
    """

    slurm: Slurm
    cluster: Cluster
    place: Place
    keys: Keys
    store: Store
    around: Surroundings
    say: Callable[[str], None]
    preparations: list[Preparation] = field(init=False, default_factory=list)
    _engine: Availability | None = field(init=False, default=None)

    def engine_used(self) -> Availability | None:
        """The engine that the jobs used; None where all results were stored."""
        return self._engine

    def look_ahead(self, waiting: Collection[pipeline.Node]) -> None:
        """See `Executor`: the nodes unpack images themselves."""

    def _done(self, task: Task, result: Result, ended: Ended | None) -> Done:
        """The result of a job, as the runner is told it; `ended` is None where no job of this run made it."""
        seconds = ended.seconds if ended is not None else 0.0
        began_s = max(time.monotonic() - seconds - self.around.began_s, 0.0)
        if ended is not None and ended.engine is not None:
            self._engine = Availability(ended.engine.name, usable=True, facts=ended.engine.facts)
            if ended.prepared_s:
                image, before_s = task.node.stage.image, max(began_s - ended.prepared_s, 0.0)
                self.preparations.append(Preparation(image, before_s, ended.prepared_s))
        cached = ended is None or ended.outcome == "stored"
        return Done(task.node, result, cached=cached, started_s=began_s, seconds=0.0 if cached else seconds)
