"""Runs a graph of stages: what is stored is taken, the rest runs in its image, independent stages side by side."""

from __future__ import annotations

import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from repro.base.errors import BundleError, StageFailed
from repro.base.files import write_atomic
from repro.container.job import Engine, Job, Limits, Mount, Outcome
from repro.engines.npu_access import Access
from repro.graph.code import snapshot
from repro.graph.keys import STAGE_ENV, Keys
from repro.graph.log import StageLog
from repro.graph.pipeline import Node, Output, Source
from repro.graph.store import Result, Store, Workspace, fingerprint_of
from repro.machine.facts import Given

_PIDS = 1024
_SIGKILL_EXIT = 137


class Watcher(Protocol):
    """Is told what happens, to show it to a person. Called from several threads."""

    def started(self, key: str) -> None: ...

    def progress(self, key: str, done: int, total: int, what: str) -> None: ...

    def finished(self, key: str, seconds: float, cached: bool) -> None: ...

    def failed(self, key: str) -> None: ...


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


def cores_of(node: Node, given: Given) -> int:
    """The cores that a stage takes: all, or one."""
    return given.cores if node.stage.whole_machine else 1


def memory_of(node: Node, given: Given) -> int:
    """The stage's memory limit in bytes: what it declares, but never more than there is."""
    return min(node.stage.memory_bytes, given.memory_bytes)


def may_run_beside(running: Collection[Node], node: Node, given: Given) -> bool:
    """Whether the machine takes `node` beside `running`: a stage alone always may run, whatever it declares."""
    if not running:
        return True
    together = (*running, node)
    cores = sum(cores_of(other, given) for other in together)
    memory_bytes = sum(memory_of(other, given) for other in together)
    return cores <= given.cores and memory_bytes <= given.memory_bytes


class Runner:
    """Runs the nodes of one graph on one engine.

    Args:
        engine: asked for only when a node really runs.
        given: how much stages may use at once.
        access: gives what stages that run on the NPU are given of it; asked only when one runs.
        began_s: of the monotonic clock: from when all times are counted; None for now.

    Attributes:
        preparations: of the images that this runner's stages ran in.
    """

    def __init__(
        self,
        engine: Engine,
        keys: Keys,
        store: Store,
        code_folder: Path,
        log_folder: Path,
        watcher: Watcher,
        given: Given,
        access: Callable[[], Access] = Access,
        began_s: float | None = None,
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._store = store
        self._code_folder = code_folder
        self._log_folder = log_folder
        self._watcher = watcher
        self._given = given
        self._access = access
        self._preparing: dict[str, threading.Lock] = {}
        self._prepared: set[str] = set()
        self._ahead: threading.Thread | None = None
        self._ended = threading.Event()
        self._began_s = time.monotonic() if began_s is None else began_s
        self.preparations: list[Preparation] = []

    def run(self, nodes: Mapping[str, Node], force: Collection[str] = ()) -> dict[str, Done]:
        """Bring every node to a result.

        Args:
            nodes: each after its inputs, as `build_graph` gives them.
            force: keys of nodes that run though a result is stored; the two must then agree.

        Raises:
            StageFailed: a stage ended badly; the others that were running were let finish, and their results kept.
            NonDeterministicResult: a stage gave other bytes than before.
        """
        try:
            return self._run(nodes, force)
        except KeyboardInterrupt:
            self._ahead = None  # an interrupted process ends at once
            raise
        finally:
            if self._ahead is not None:  # no image is left half unpacked
                self._ended.set()
                self._ahead.join()

    def _run(self, nodes: Mapping[str, Node], force: Collection[str]) -> dict[str, Done]:
        done: dict[str, Done] = {}
        waiting = dict(nodes)
        running: dict[str, Node] = {}
        finished: queue.Queue[tuple[str, Done | BaseException]] = queue.Queue()
        failure: BaseException | None = None
        while waiting or running:
            if failure is None:
                self._start_ready(waiting, running, done, force, finished)
            if not running:
                if failure is not None:
                    raise failure
                continue
            key, outcome = finished.get()
            del running[key]
            if isinstance(outcome, Done):
                done[key] = outcome
                self._watcher.finished(key, outcome.seconds, outcome.cached)
            else:
                self._watcher.failed(key)
                failure = failure or outcome
        if failure is not None:
            raise failure
        return {key: done[key] for key in nodes}

    def _start_ready(
        self,
        waiting: dict[str, Node],
        running: dict[str, Node],
        done: dict[str, Done],
        force: Collection[str],
        finished: queue.Queue[tuple[str, Done | BaseException]],
    ) -> None:
        """Take stored results, and start what is ready as far as cores and memory go."""
        again = True
        while again:
            again = False
            for key, node in list(waiting.items()):
                if any(isinstance(s, Output) and s.node not in done for s in node.inputs.values()):
                    continue
                results = {name: item.result for name, item in done.items()}
                fingerprint_key = self._keys.key(node, results)
                stored = None if key in force else self._store.load(fingerprint_of(fingerprint_key))
                if stored is not None:
                    done[key] = Done(node, stored, True, time.monotonic() - self._began_s, 0.0)
                    del waiting[key]
                    self._watcher.finished(key, 0.0, True)
                    again = True
                    continue
                if not may_run_beside(running.values(), node, self._given):
                    continue
                if node.stage.host_bound and self._ahead is not None:
                    self._ahead.join()  # its speed is measured: nothing else may be at work
                del waiting[key]
                running[key] = node
                # Daemon threads: an interrupted process ends at once, and its containers with it.
                threading.Thread(
                    target=self._work, args=(node, fingerprint_key, results, key in force, finished), daemon=True
                ).start()
                if self._ahead is None:
                    self._prepare_ahead(list(waiting.values()))

    def _work(
        self,
        node: Node,
        key: dict[str, Any],
        results: Mapping[str, Result],
        forced: bool,
        finished: queue.Queue[tuple[str, Done | BaseException]],
    ) -> None:
        try:
            finished.put((node.key, self._make(node, key, results, forced)))
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            finished.put((node.key, error))

    def _make(self, node: Node, key: dict[str, Any], results: Mapping[str, Result], forced: bool) -> Done:
        fingerprint = fingerprint_of(key)
        asked_s = time.monotonic()
        with self._store.making(fingerprint):
            stored = None if forced else self._store.load(fingerprint)
            if stored is not None:  # another process made it while this one waited
                return Done(node, stored, True, asked_s - self._began_s, time.monotonic() - asked_s)
            self._prepare(node.stage.image)
            started_s = time.monotonic()
            self._watcher.started(node.key)
            work = self._store.workspace()
            try:
                observations = self._execute(node, work, results)
                result = self._store.publish(fingerprint, key, work, observations, replace=forced)
            finally:
                work.close()
        write_atomic(self._store.folder / "last" / f"{node.key}.json", fingerprint.encode())
        return Done(node, result, False, started_s - self._began_s, time.monotonic() - started_s)

    def _prepare(self, image_name: str) -> None:
        with self._preparing.setdefault(image_name, threading.Lock()):
            if image_name not in self._prepared:
                started_s = time.monotonic()
                self._engine.prepare(self._keys.images[image_name])
                self._prepared.add(image_name)
                seconds = time.monotonic() - started_s
                self.preparations.append(Preparation(image_name, started_s - self._began_s, seconds))

    def _prepare_ahead(self, waiting: Collection[Node]) -> None:
        """Make images ready while the first stages run: those of steps that this store has never seen a result of."""
        last = self._store.folder / "last"
        names = {node.stage.image: None for node in waiting if not (last / f"{node.key}.json").exists()}

        def prepare() -> None:
            for name in names:
                if self._ended.is_set():
                    return
                try:
                    self._prepare(name)
                except BaseException:  # noqa: BLE001, S112 - the stage that needs it meets the same error, and tells it
                    continue

        self._ahead = threading.Thread(target=prepare, name="prepare-ahead", daemon=True)
        self._ahead.start()

    def _execute(self, node: Node, work: Workspace, results: Mapping[str, Result]) -> dict[str, Any]:
        code = snapshot(self._keys.code(node.stage.name), self._code_folder)
        mounts = [Mount(code, "/run/code")]
        for name, source in sorted(node.inputs.items()):
            path = source.path.resolve() if isinstance(source, Source) else results[source.node].out
            mounts.append(Mount(path, f"/run/in/{name}"))
        mounts += [
            Mount(work.result / "out", "/run/out", writable=True),
            Mount(work.result / "obs", "/run/obs", writable=True),
        ]
        access = self._access() if node.stage.accelerator else Access()
        job = Job(
            image=self._keys.images[node.stage.image],
            argv=node.argv(),
            mounts=(*mounts, *access.mounts),
            env={**STAGE_ENV, **access.env},
            devices=access.devices,
            groups=access.groups,
            shares_ipc=access.shares_ipc,
            runtime=access.runtime,
            limits=Limits(timeout_s=node.stage.timeout_s, memory_bytes=memory_of(node, self._given), pids=_PIDS),
            name=node.key.replace("@", "-bs"),
        )
        log_path = work.folder / "stage.log"
        with StageLog(log_path, lambda done, total, what: self._watcher.progress(node.key, done, total, what)) as log:
            outcome = self._engine.run(job, log.line)
        if outcome.exit_code != 0 or outcome.timed_out:
            self._log_folder.mkdir(parents=True, exist_ok=True)
            kept = self._log_folder / f"{node.key}.log"
            shutil.copyfile(log_path, kept)
            raise _failure(node, memory_of(node, self._given), outcome, log, kept)
        shutil.copyfile(log_path, work.result / "obs" / "stage.log")
        return {
            "engine": self._engine.name,
            "wall_s": round(outcome.wall_s, 3),
            "limits": dict(outcome.limits),
            **_commands(work.result / "obs" / "commands.json"),
        }


def _commands(path: Path) -> dict[str, Any]:
    """The vendor's tools that the stage ran, argument for argument, where it says so."""
    return {"commands": json.loads(path.read_bytes())["commands"]} if path.exists() else {}


def _failure(node: Node, memory_bytes: int, outcome: Outcome, log: StageLog, kept: Path) -> BundleError:
    detail = f"the whole log: {kept}"
    if outcome.timed_out:
        return StageFailed(
            f"stage {node.key} ran longer than its limit of {node.stage.timeout_s:.0f} s and was ended", detail=detail
        )
    if outcome.out_of_memory or (outcome.exit_code == _SIGKILL_EXIT and not log.error):
        return StageFailed(
            f"stage {node.key} was killed, most likely for memory (limit {memory_bytes / 1e9:.1f} GB)",
            detail=detail,
            hint="free memory on this machine, or use a smaller --bs",
        )
    if log.error:
        return StageFailed(f"stage {node.key}: {log.error}", detail=detail, hint="\n".join(log.hints))
    return StageFailed(
        f"stage {node.key} ended with exit code {outcome.exit_code}",
        detail="\n".join([*log.tail(), detail]),
        hint="this is a defect of the stage or its image: please report it with the log",
    )
