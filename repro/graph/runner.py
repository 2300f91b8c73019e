"""Runs a graph of stages: what is stored is taken, the rest is handed to an executor as it becomes ready."""

from __future__ import annotations

import queue
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from repro.graph.executor import Ended, Executor, Task
from repro.graph.keys import Keys
from repro.graph.making import Done, Preparation, Surroundings
from repro.graph.pipeline import Node, Output
from repro.graph.store import Store


@dataclass
class _Progress:
    """Where a run of the graph is."""

    force: Collection[str]
    waiting: dict[str, Node]
    done: dict[str, Done] = field(default_factory=dict)
    running: dict[str, Node] = field(default_factory=dict)
    ended: queue.Queue[tuple[str, Ended]] = field(default_factory=queue.Queue)


class Runner:
    """Runs the nodes of one graph.

    Args:
        executor: makes what is not stored.
        keys: of the nodes.
        store: of their results.
        around: what the run has around it.
    """

    def __init__(self, executor: Executor, keys: Keys, store: Store, around: Surroundings) -> None:
        self._executor = executor
        self._keys = keys
        self._store = store
        self._around = around

    @property
    def preparations(self) -> list[Preparation]:
        """Of the images that this runner's stages ran in."""
        return self._executor.preparations

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
        interrupted = False
        try:
            return self._run(nodes, force)
        except KeyboardInterrupt:
            interrupted = True
            raise
        finally:
            self._executor.close(interrupted=interrupted)

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
        """Take stored results, and start what is ready as far as the executor takes it; again while one was taken."""
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
        task = Task(node, self._keys.key(node, results), results, forced=node.key in now.force)
        stored = None if task.forced else self._store.load(task.fingerprint)
        if stored is not None:
            now.done[node.key] = Done(
                node, stored, cached=True, started_s=time.monotonic() - self._around.began_s, seconds=0.0
            )
            del now.waiting[node.key]
            self._around.watcher.finished(node.key, 0.0, cached=True)
            return True
        if self._executor.admits(node, now.running.values()):
            del now.waiting[node.key]
            now.running[node.key] = node
            self._executor.start(task, lambda outcome: now.ended.put((node.key, outcome)))
            self._executor.look_ahead(list(now.waiting.values()))
        return False
