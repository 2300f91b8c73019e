"""Runs a graph of stages: what is stored is taken, the rest is handed to an executor as it becomes ready."""

from __future__ import annotations

import queue
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from repro.base.errors import BundleError
from repro.base.pace import time_factor
from repro.graph.executor import Ended, Executor, Task
from repro.graph.keys import Keys
from repro.graph.making import Done, Preparation, Surroundings
from repro.graph.pipeline import Node, Output
from repro.graph.store import Store


@dataclass
class _Progress:
    """Where a run of the graph is.

    Attributes:
        failed: by step, what it failed of, or what a step that it needs failed of.
        goes_on: a failed step ends only those that need it.
        to_make: of nodes that are ready, and whose results are not stored.
        ended: of each node that was running, its key and how it ended; None where images became ready.
    """

    force: Collection[str]
    waiting: dict[str, Node]
    goes_on: bool = False
    failed: dict[str, BaseException] = field(default_factory=dict)
    to_make: dict[str, Task] = field(default_factory=dict)
    done: dict[str, Done] = field(default_factory=dict)
    running: dict[str, Node] = field(default_factory=dict)
    ended: queue.Queue[tuple[str, Ended] | None] = field(default_factory=queue.Queue)


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
        now = self._ended(_Progress(force, _at_this_pace(nodes)))
        return {key: now.done[key] for key in nodes}

    def run_what_can(
        self, nodes: Mapping[str, Node], force: Collection[str] = ()
    ) -> tuple[dict[str, Done], dict[str, BaseException]]:
        """As `run`, but a failed step ends only those that need it.

        Returns:
            The results, and by step what each of the others failed of, or what the first step that it needs failed of.

        Raises:
            Exception: a defect of this program: what is not raised on purpose and not the system's.
        """
        now = self._ended(_Progress(force, _at_this_pace(nodes), goes_on=True))
        return now.done, now.failed

    def _ended(self, now: _Progress) -> _Progress:
        self._keys.codes.read({node.stage.name for node in now.waiting.values()})
        images = self._around.images
        if images is not None:
            images.listen(lambda: now.ended.put(None))
        interrupted = False
        try:
            self._run(now)
            return now
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            if images is not None:
                images.stop(error)
            raise
        finally:
            self._executor.close(interrupted=interrupted)

    def _run(self, now: _Progress) -> None:
        failure: BaseException | None = None
        while now.waiting or now.running:
            if failure is None:
                self._start_ready(now)
            if not now.running and (failure is not None or not any(map(self._lacks_image, now.waiting.values()))):
                if failure is not None:
                    raise failure
                continue
            ended = now.ended.get()
            if ended is None:
                failure = failure or (self._around.images.error if self._around.images is not None else None)
                continue
            key, outcome = ended
            del now.running[key]
            if isinstance(outcome, Done):
                now.done[key] = outcome
                self._around.watcher.finished(key, outcome.seconds, cached=outcome.cached)
            elif not self._passed_over(key, outcome, now):
                self._around.watcher.failed(key, str(outcome))
                failure = failure or outcome
        if failure is not None:
            raise failure

    def _lacks_image(self, node: Node) -> bool:
        return self._around.images is not None and self._around.images.lacks(node.stage.image)

    def _passed_over(self, key: str, error: BaseException, now: _Progress) -> bool:
        """Whether the run goes on after this failure; the steps that need the failed one are then given up."""
        if not now.goes_on or not isinstance(error, (BundleError, OSError)):
            return False
        self._around.watcher.failed(key, str(error))
        now.failed[key] = error
        now.waiting.pop(key, None)
        for node in list(now.waiting.values()):  # each after its inputs
            lost = [s.node for s in node.inputs.values() if isinstance(s, Output) and s.node in now.failed]
            if lost:
                now.failed[node.key] = now.failed[lost[0]]
                del now.waiting[node.key]
        return True

    def _start_ready(self, now: _Progress) -> None:
        """Take stored results, and start what is ready as far as the executor takes it; again while one was taken."""
        taken = True
        while taken:
            taken = False
            for node in list(now.waiting.values()):
                taken = self._taken_or_started(node, now) or taken

    def _taken_or_started(self, node: Node, now: _Progress) -> bool:
        """Whether a stored result was taken, which may have made other nodes ready."""
        needed = {source.node for source in node.inputs.values() if isinstance(source, Output)}
        if node.key not in now.waiting or not needed <= now.done.keys():
            return False  # given up meanwhile, or not ready
        if self._lacks_image(node):
            return False  # its key holds its image's ID
        if node.key not in now.to_make and self._taken(node, needed, now):
            return True
        if node.key in now.to_make and self._executor.admits(node, now.running.values()):
            del now.waiting[node.key]
            now.running[node.key] = node
            self._executor.start(now.to_make.pop(node.key), lambda outcome: now.ended.put((node.key, outcome)))
            self._executor.look_ahead(list(now.waiting.values()))
        return False

    def _taken(self, node: Node, needed: Collection[str], now: _Progress) -> bool:
        """Whether the result of a ready node was stored; else it is to be made. Looked for once: its key is fixed."""
        results = {name: now.done[name].result for name in needed}
        try:
            task = Task(node, self._keys.key(node, results), results, forced=node.key in now.force)
            stored = None if task.forced else self._store.load(task.fingerprint)
        except (BundleError, OSError) as error:  # such as data that cannot be read
            if not self._passed_over(node.key, error, now):
                raise
            return False
        if stored is None:
            now.to_make[node.key] = task
            return False
        started_s = time.monotonic() - self._around.began_s
        now.done[node.key] = Done(node, stored, cached=True, started_s=started_s, seconds=0.0)
        del now.waiting[node.key]
        self._around.watcher.finished(node.key, 0.0, cached=True)
        return True


def _at_this_pace(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """The nodes with the limits of time of this machine, wherever they are made."""
    factor = time_factor()
    if factor == 1:
        return dict(nodes)
    return {
        key: replace(node, stage=replace(node.stage, timeout_s=node.stage.timeout_s * factor))
        for key, node in nodes.items()
    }
