"""Makes one node's result: its image ready, its container run, what it left taken in and published."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from repro.base.errors import CouldNotRun
from repro.base.files import make_shared_folder, pretty_json, write_atomic
from repro.container.job import Engine, Limits, Mount
from repro.engines.npu_access import Access
from repro.graph.alone import machine
from repro.graph.code import snapshot
from repro.graph.failure import failure_of
from repro.graph.keys import Keys
from repro.graph.leavings import HOST_WATCH, take_in
from repro.graph.made_on import MadeOn
from repro.graph.pipeline import Node, Source
from repro.graph.stage_job import PIDS, StageJob, run_job
from repro.graph.store import Result, Store, Workspace, fingerprint_of
from repro.images.coming import ComingImages
from repro.machine.facts import Given
from repro.machine.watching import Subject, Watch

_WAITING = "waiting for other runs on this machine"


class Watcher(Protocol):
    """Is told what happens, to show it to a person. Called from several threads."""

    def started(self, key: str) -> None: ...

    def moved(self, key: str, where: str) -> None: ...

    def progress(self, key: str, done: int, total: int, what: str) -> None: ...

    def finished(self, key: str, seconds: float, *, cached: bool) -> None: ...

    def failed(self, key: str, why: str) -> None: ...


@dataclass(frozen=True)
class Done:
    """A node's result, and whether it was there before."""

    node: Node
    result: Result
    cached: bool
    started_s: float
    seconds: float


@dataclass(frozen=True)
class Preparation:
    """When an image was made ready to start, and how long that took: it was unpacked, or loaded into the engine."""

    image: str
    started_s: float
    seconds: float


@dataclass(frozen=True)
class Surroundings:
    """What a run has around it.

    Attributes:
        code: holds the snapshots of the stages' code.
        logs: keeps the logs of stages that failed.
        given: how much stages may use at once.
        access: gives what stages that run on the NPU are given of it; asked only when one runs.
        subject: what is measured by stages that are: the NPU's chips, or the processor.
        mounts: what the host lends to every container of an image, by the image's name.
        machine_lock: held by every stage, see `repro.graph.alone`; None for none.
        made_on: this machine, where results of several machines come together.
        images: where some of them may still be on their way; None where all are ready.
        began_s: of the monotonic clock: all times are counted from then.
    """

    code: Path
    logs: Path
    watcher: Watcher
    given: Given
    access: Callable[[], Access] = Access
    subject: Subject = field(default_factory=Subject)
    mounts: Mapping[str, tuple[Mount, ...]] = field(default_factory=dict)
    machine_lock: Path | None = None
    made_on: MadeOn | None = None
    images: ComingImages | None = None
    began_s: float = field(default_factory=time.monotonic)


def memory_of(node: Node, given: Given) -> int:
    """The stage's memory limit in bytes: what it declares, but never more than there is."""
    return min(node.stage.memory_bytes, given.memory_bytes)


class Maker:
    """Makes results; thread-safe.

    Attributes:
        preparations: of the images that were needed.
    """

    def __init__(self, engine: Engine, keys: Keys, store: Store, around: Surroundings) -> None:
        self._engine = engine
        self._keys = keys
        self._store = store
        self._around = around
        self._preparing: dict[str, threading.Lock] = {}
        self._prepared: set[str] = set()
        self.preparations: list[Preparation] = []

    def make(self, node: Node, key: Mapping[str, Any], results: Mapping[str, Result], *, forced: bool) -> Done:
        """Run the node, unless another process made its result meanwhile.

        Args:
            node: what to make.
            key: its key.
            results: of the nodes before it.
            forced: run it though a result is stored.

        Raises:
            StageFailed: it ended badly.
            VerificationFailed: it left what is not taken in.
        """
        fingerprint = fingerprint_of(key)
        asked_s = time.monotonic()
        with self._store.making(fingerprint):
            stored = None if forced else self._store.load_making(fingerprint)
            if stored is not None:  # another process made it while this one waited
                seconds = time.monotonic() - asked_s
                return Done(node, stored, cached=True, started_s=asked_s - self._around.began_s, seconds=seconds)
            self.prepare(node.stage.image)
            started_s = time.monotonic()
            self._around.watcher.started(node.key)
            work = self._store.workspace()
            try:
                result = self._executed(node, key, work, results, forced=forced)
            finally:
                work.close()
        self._store.remember_last(node.key, fingerprint)
        seconds = time.monotonic() - started_s
        return Done(node, result, cached=False, started_s=started_s - self._around.began_s, seconds=seconds)

    def prepare(self, image_name: str) -> None:
        """Make an image ready to start, once."""
        with self._preparing.setdefault(image_name, threading.Lock()):
            if image_name not in self._prepared:
                with machine(self._around.machine_lock, alone=False, waiting=_nobody):
                    started_s = time.monotonic()
                    self._engine.prepare(self._keys.images[image_name])
                    seconds = time.monotonic() - started_s
                self._prepared.add(image_name)
                self.preparations.append(Preparation(image_name, started_s - self._around.began_s, seconds))

    def _executed(
        self, node: Node, key: Mapping[str, Any], work: Workspace, results: Mapping[str, Result], *, forced: bool
    ) -> Result:
        watcher, limits = self._around.watcher, self._limits(node)
        stage = StageJob(
            name=node.key.replace("@", "-bs"),
            image=self._keys.images[node.stage.image],
            argv=node.argv(),
            code=snapshot(self._keys.code(node.stage.name), self._around.code, self._keys.cache),
            inputs={
                name: source.path.resolve() if isinstance(source, Source) else results[source.node].out
                for name, source in node.inputs.items()
            },
            work=work.result,
            limits=limits,
            lent=self._around.mounts.get(node.stage.image, ()),
            access=self._around.access() if node.stage.accelerator else Access(),
        )
        with machine(
            self._around.machine_lock,
            alone=node.stage.host_bound,
            waiting=lambda: watcher.progress(node.key, 0, 1, _WAITING),
        ):
            watch = self._watch(node)
            with watch.running() if watch is not None else nullcontext():
                outcome, said = run_job(
                    self._engine, stage, work.log, lambda *progress: watcher.progress(node.key, *progress)
                )
        if outcome.exit_code != 0 or outcome.timed_out:
            kept = self._keep_log(node, work.log)
            raise failure_of(f"stage {node.key}", limits.timeout_s, limits.memory_bytes, outcome, said, kept)
        given = [work.log]
        if watch is not None:
            given.append(work.log.with_name(HOST_WATCH))
            write_atomic(given[-1], pretty_json(watch.document()))
        leavings = take_in(node.key, work.result, given, node.stage.leaves, self._keys.cache)
        observations = {
            "engine": self._engine.name,
            "wall_s": round(outcome.wall_s, 3),
            "limits": dict(outcome.limits),
            **({} if self._around.made_on is None else {"made_on": msgspec.to_builtins(self._around.made_on)}),
            **({} if leavings.commands is None else {"commands": msgspec.to_builtins(leavings.commands)}),
        }
        return self._store.publish(key, work, leavings, observations, replace=forced)

    def _watch(self, node: Node) -> Watch | None:
        """What is read of the machine while a speed is measured; None for a stage that measures none."""
        if not node.stage.host_bound:
            return None
        subject = self._around.subject if node.stage.accelerator else Subject()
        return Watch(subject, node.argv(), self._around.given.cores)

    def _limits(self, node: Node) -> Limits:
        memory_bytes = memory_of(node, self._around.given)
        return Limits(timeout_s=node.stage.timeout_s, memory_bytes=memory_bytes, pids=PIDS)

    def _keep_log(self, node: Node, log: Path) -> str:
        """Keep the log of a stage that failed; the failure itself says more than a disk that is too full for it."""
        kept = self._around.logs / f"{node.key}.log"
        try:
            make_shared_folder(self._around.logs)
            shutil.copyfile(log, kept)
        except (OSError, CouldNotRun) as error:
            return f"it could not be kept: {error}"
        return str(kept)


def _nobody() -> None:
    """Who prepares an image is not shown waiting: its step has not started."""
