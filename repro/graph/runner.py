"""Runs a graph of stages: what is stored is taken, the rest runs in its image, independent stages side by side."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from repro.container.job import Engine
from repro.graph.keys import Keys
from repro.graph.making import Done, Maker, Preparation, Surroundings, memory_of
from repro.graph.pipeline import Node, Output
from repro.graph.store import Result, Store, fingerprint_of
from repro.machine.facts import Given

Ended = Union[Done, BaseException]


def cores_of(node: Node, given: Given) -> int:
    """The cores that a stage takes: all, or one."""
    return given.cores if node.stage.whole_machine else 1


def may_run_beside(running: Collection[Node], node: Node, given: Given) -> bool:
    """Whether the machine takes `node` beside `running`: a stage alone always may run, whatever it declares."""
    if not running:
        return True
    together = (*running, node)
    cores = sum(cores_of(other, given) for other in together)
    memory_bytes = sum(memory_of(other, given) for other in together)
    return cores <= given.cores and memory_bytes <= given.memory_bytes


@dataclass
class _Progress:
    """Where a run of the graph is."""

    force: Collection[str]
    waiting: dict[str, Node]
    done: dict[str, Done] = field(default_factory=dict)
    running: dict[str, Node] = field(default_factory=dict)
    ended: queue.Queue[tuple[str, Ended]] = field(default_factory=queue.Queue)


class Runner:
    """Runs the nodes of one graph on one engine.

    Args:
        engine: asked for only when a node really runs.
        keys: of the nodes.
        store: of their results.
        around: what the run has around it.
    """

    def __init__(self, engine: Engine, keys: Keys, store: Store, around: Surroundings) -> None:
        self._keys = keys
        self._store = store
        self._around = around
        self._maker = Maker(engine, keys, store, around)
        self._ahead: threading.Thread | None = None
        self._over = threading.Event()

    @property
    def preparations(self) -> list[Preparation]:
        """Of the images that this runner's stages ran in."""
        return self._maker.preparations

    def run(self, nodes: Mapping[str, Node], force: Collection[str] = ()) -> dict[str, Done]:
        """Bring every node to a result.

        Args:
            nodes: each after its inputs, as `build_graph` gives them.
            force: keys of nodes that run though a result is stored; the two must then agree.

        Raises:
            StageFailed: a stage ended badly; the others that were running were let finish, and their results kept.
            NonDeterministicResult: a stage gave other bytes than before.
        """
        self._keys.codes.read({node.stage.name for node in nodes.values()})
        try:
            return self._run(nodes, force)
        except KeyboardInterrupt:
            self._ahead = None  # an interrupted process ends at once
            raise
        finally:
            if self._ahead is not None:  # no image is left half unpacked
                self._over.set()
                self._ahead.join()

    def _run(self, nodes: Mapping[str, Node], force: Collection[str]) -> dict[str, Done]:
        now = _Progress(force, dict(nodes))
        failure: BaseException | None = None
        while now.waiting or now.running:
            if failure is None:
                self._start_ready(now)
            if not now.running:
                if failure is not None:
                    raise failure
                continue
            key, outcome = now.ended.get()
            del now.running[key]
            if isinstance(outcome, Done):
                now.done[key] = outcome
                self._around.watcher.finished(key, outcome.seconds, cached=outcome.cached)
            else:
                self._around.watcher.failed(key)
                failure = failure or outcome
        if failure is not None:
            raise failure
        return {key: now.done[key] for key in nodes}

    def _start_ready(self, now: _Progress) -> None:
        """Take stored results, and start what is ready as far as cores and memory go; again while one was taken."""
        taken = True
        while taken:
            taken = False
            for node in list(now.waiting.values()):
                taken = self._taken_or_started(node, now) or taken

    def _taken_or_started(self, node: Node, now: _Progress) -> bool:
        """Whether a stored result was taken, which may have made other nodes ready."""
        if any(isinstance(source, Output) and source.node not in now.done for source in node.inputs.values()):
            return False
        results = {name: item.result for name, item in now.done.items()}
        key = self._keys.key(node, results)
        stored = None if node.key in now.force else self._store.load(fingerprint_of(key))
        if stored is not None:
            now.done[node.key] = Done(
                node, stored, cached=True, started_s=time.monotonic() - self._around.began_s, seconds=0.0
            )
            del now.waiting[node.key]
            self._around.watcher.finished(node.key, 0.0, cached=True)
            return True
        if may_run_beside(now.running.values(), node, self._around.given):
            self._start(node, key, results, now)
        return False

    def _start(self, node: Node, key: dict[str, Any], results: Mapping[str, Result], now: _Progress) -> None:
        if node.stage.host_bound and self._ahead is not None:
            self._ahead.join()  # its speed is measured: nothing else may be at work
        del now.waiting[node.key]
        now.running[node.key] = node

        def work() -> None:
            try:
                now.ended.put((node.key, self._maker.make(node, key, results, forced=node.key in now.force)))
            except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
                now.ended.put((node.key, error))

        # Daemon threads: an interrupted process ends at once, and its containers with it.
        threading.Thread(target=work, daemon=True).start()
        if self._ahead is None and not any(other.stage.host_bound for other in now.running.values()):
            self._prepare_ahead(list(now.waiting.values()))

    def _prepare_ahead(self, waiting: Collection[Node]) -> None:
        """Make images ready while the first stages run: those of steps that this store has never seen a result of."""
        names = {node.stage.image: None for node in waiting if self._store.last_of(node.key) is None}

        def prepare() -> None:
            for name in names:
                if self._over.is_set():
                    return
                try:
                    self._maker.prepare(name)
                except BaseException:  # noqa: BLE001, S112 - the stage that needs it meets the same error, and tells it
                    continue

        self._ahead = threading.Thread(target=prepare, name="prepare-ahead", daemon=True)
        self._ahead.start()
