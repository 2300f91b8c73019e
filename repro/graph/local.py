"""The executor of this machine: independent nodes side by side in one engine, as far as cores and memory go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from repro.container.job import Engine
from repro.graph.executor import Ended, Task
from repro.graph.keys import Keys
from repro.graph.making import Maker, Preparation, Surroundings, memory_of
from repro.graph.pipeline import Node
from repro.graph.store import Store
from repro.machine.facts import Given


def cores_of(node: Node, given: Given) -> int:
    """The cores that a stage keeps from others: all, or one."""
    return given.cores if node.stage.whole_machine and not node.stage.shares else 1


def may_run_beside(running: Collection[Node], node: Node, given: Given) -> bool:
    """Whether the machine takes `node` beside `running`: a stage alone always may run, whatever it declares."""
    if not running:
        return True
    together = (*running, node)
    cores = sum(cores_of(other, given) for other in together)
    memory_bytes = sum(memory_of(other, given) for other in together)
    return cores <= given.cores and memory_bytes <= given.memory_bytes


class LocalExecutor:
    """See `Executor`.

    Args:
        engine: asked for only when a node really runs.
        keys: of the nodes.
        store: of their results.
        around: what the run has around it.
    """

    def __init__(self, engine: Engine, keys: Keys, store: Store, around: Surroundings) -> None:
        self._store = store
        self._around = around
        self._maker = Maker(engine, keys, store, around)
        self._ahead: threading.Thread | None = None
        self._over = threading.Event()
        self._speeds_running: set[str] = set()  # of nodes that measure

    @property
    def preparations(self) -> list[Preparation]:
        """See `Executor`."""
        return self._maker.preparations

    def admits(self, node: Node, running: Collection[Node]) -> bool:
        """See `Executor`."""
        return may_run_beside(running, node, self._around.given)

    def start(self, task: Task, ended: Callable[[Ended], None]) -> None:
        """See `Executor`."""
        key, measures = task.node.key, task.node.stage.host_bound
        if measures:
            self._speeds_running.add(key)
            # Its speed is measured: nothing else may be at work.
            if self._around.images is not None:
                self._around.images.settle()
            if self._ahead is not None:
                self._ahead.join()

        def work() -> None:
            try:
                outcome: Ended = self._maker.make(task.node, task.key, task.results, forced=task.forced)
            except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
                outcome = error
            self._speeds_running.discard(key)
            ended(outcome)

        # Daemon threads: an interrupted process ends at once, and its containers with it.
        threading.Thread(target=work, daemon=True).start()

    def look_ahead(self, waiting: Collection[Node]) -> None:
        """See `Executor`."""
        if self._ahead is None and not self._speeds_running:
            self._prepare_ahead(waiting)

    def _prepare_ahead(self, waiting: Collection[Node]) -> None:
        """Make images ready while the first stages run: those of steps that this store has never seen a result of."""
        names = list(dict.fromkeys(node.stage.image for node in waiting if self._store.last_of(node.key) is None))

        def prepare() -> None:
            while names and not self._over.is_set():
                name = self._around.images.await_any(names) if self._around.images is not None else names[0]
                if name is None:
                    return
                names.remove(name)
                try:
                    self._maker.prepare(name)
                except BaseException:  # noqa: BLE001, S112 - the stage that needs it meets the same error, and tells it
                    continue

        self._ahead = threading.Thread(target=prepare, name="prepare-ahead", daemon=True)
        self._ahead.start()

    def close(self, *, interrupted: bool) -> None:
        """See `Executor`. No image is left half unpacked, except by a person who does not wait."""
        self._over.set()
        if self._ahead is not None and not interrupted:
            self._ahead.join()
