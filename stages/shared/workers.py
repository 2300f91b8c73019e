"""Work shared by processes, its results in the order of the tasks: for NumPy work that threads would only queue for.

Processes are forked, so that what is prepared before costs nothing again, and talk through pipes: nothing here needs
shared memory or named semaphores, which a container may lack.
"""

from __future__ import annotations

import collections
import contextlib
import os
import traceback
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Sequence, TypeVar

from stages.shared.stage import StageError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 4  # tasks a process may be ahead of the one whose result is due: bounds what waits for its turn


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def in_order(work: Callable[[T], R], tasks: Iterable[T], num_processes: int) -> Iterator[tuple[T, R]]:
    """Yield (task, work(task)) for every task, in their order.

    Args:
        work: called in another process where `num_processes` is over 1; its result is pickled. What it raises is
            raised here when the task's turn comes: so the first error in the tasks' order, whatever finished first.
        tasks: an iterable, taken only as far as there is room, so it may be longer than memory.
        num_processes: 1 for this process alone.

    Raises:
        StageError: as `work` raised it.
        RuntimeError: anything else that `work` raised, with its traceback, or a process that ended by itself.
    """
    if num_processes <= 1:
        for task in tasks:
            yield task, work(task)
        return
    with _Pool(work, num_processes) as pool:
        yield from pool.results(iter(tasks))


class _Pool:
    def __init__(self, work: Callable[[Any], Any], num_processes: int) -> None:
        self._processes: list[tuple[Any, Connection]] = []
        import multiprocessing.connection  # here: a process that works alone starts sooner without

        self._wait: Callable[[list[Any]], list[Any]] = multiprocessing.connection.wait
        context = multiprocessing.get_context("fork")
        for _ in range(num_processes):
            ours, theirs = context.Pipe()
            pipes = [pipe for _, pipe in self._processes] + [ours]
            process = context.Process(target=_serve, args=(work, theirs, pipes), daemon=True)
            process.start()
            theirs.close()
            self._processes.append((process, ours))

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: Any) -> None:
        for process, pipe in self._processes:
            pipe.close()  # an idle process ends on this; one at work is not waited for
            process.terminate()
            process.join()

    def results(self, tasks: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        """(task, its result) in order; every process has a task at hand beside the one it works on."""
        idle: collections.deque[Any] = collections.deque([pipe for _, pipe in self._processes] * 2)
        waiting: dict[int, Any] = {}  # number: task, of those without a result
        done: dict[int, tuple[str, Any]] = {}
        given, due, exhausted = 0, 0, False
        numbers: dict[Any, collections.deque[int]] = {pipe: collections.deque() for _, pipe in self._processes}
        while True:
            while idle and not exhausted and given - due < _AHEAD * len(self._processes):  # give what there is room for
                try:
                    task = next(tasks)
                except StopIteration:
                    exhausted = True
                    break
                pipe = idle.popleft()
                numbers[pipe].append(given)
                with contextlib.suppress(OSError):  # it has ended: reading from it will say so
                    pipe.send(task)
                waiting[given] = task
                given += 1
            while due in done:
                yield waiting.pop(due), _result(done.pop(due))
                due += 1
            if exhausted and due == given:
                return
            # Nobody is at work where all that was given is done: then there is nothing to wait for, but more to give.
            busy = [pipe for pipe, queue in numbers.items() if queue]
            if due not in done and busy:
                for ready in self._wait(busy):
                    done[numbers[ready].popleft()] = _received(ready)
                    idle.append(ready)


def _serve(work: Callable[[Any], Any], pipe: Connection, others: Sequence[Connection]) -> None:
    """A process's life: until its pipe is closed, a task comes and its outcome goes."""
    for other in others:
        other.close()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            outcome = ("done", work(task))
        except StageError as error:
            outcome = ("refused", (error.message, error.hint))
        except Exception:  # noqa: BLE001 - raised where the task's turn comes
            outcome = ("failed", traceback.format_exc())
        pipe.send(outcome)


def _received(pipe: Connection) -> tuple[str, Any]:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return "failed", "a process ended before its work was done (killed, or out of memory?)"


def _result(outcome: tuple[str, Any]) -> Any:
    kind, value = outcome
    if kind == "refused":
        raise StageError(*value)
    if kind == "failed":
        raise RuntimeError(value)
    return value
