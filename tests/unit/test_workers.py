"""Work shared by processes: in order, bounded, and with the first error of the tasks' order."""

import collections
import os

import pytest

from stages.shared import workers
from stages.shared.stage import StageError


def slower_at_first(task):
    sum(range(300000 if task % 5 == 0 else 0))  # so that results come in another order than the tasks
    return task, os.getpid()


@pytest.mark.parametrize("num_processes", [1, 2, 5])
def test_results_come_in_the_order_of_the_tasks(num_processes):
    results = list(workers.in_order(slower_at_first, range(40), num_processes))
    assert [task for task, _ in results] == [returned for _, (returned, _) in results] == list(range(40))
    used = {process for _, (_, process) in results}
    assert used == {os.getpid()} if num_processes == 1 else os.getpid() not in used and len(used) == num_processes


# How long each task takes, such that the twelfth result finds all that was given done, and more to give.
ALL_DONE_AT_ONCE = [9, 2, 2, 20, 20, 2, 1, 2, 5, 1, 2, 9, 20, 2]


class PretendedProcess:
    """Stands for a process and its pipe, in a time of its own."""

    now = 0

    def __init__(self):
        self.free_at = 0
        self.finished = collections.deque()

    def send(self, task):
        self.free_at = max(PretendedProcess.now, self.free_at) + ALL_DONE_AT_ONCE[task]
        self.finished.append((self.free_at, task))

    def recv(self):
        return "done", self.finished.popleft()[1]


def wait_in_pretended_time(processes):
    assert processes, "waits for nobody, for ever"
    PretendedProcess.now = max(PretendedProcess.now, min(process.finished[0][0] for process in processes))
    return [process for process in processes if process.finished[0][0] <= PretendedProcess.now]


def test_nothing_is_waited_for_when_all_that_was_given_is_done(monkeypatch):
    monkeypatch.setattr(PretendedProcess, "now", 0)
    pool = object.__new__(workers._Pool)
    pool._processes = [(None, PretendedProcess()), (None, PretendedProcess())]
    pool._wait = wait_in_pretended_time
    assert [result for _, result in pool.results(iter(range(14)))] == list(range(14))


def test_tasks_are_taken_only_as_far_as_there_is_room():
    taken = []

    def tasks():
        for number in range(1000):
            taken.append(number)
            yield number

    results = workers.in_order(lambda task: task, tasks(), 2)
    next(results)
    assert len(taken) < 20
    results.close()


def refuse_seven_and_three(task):
    if task == 3:
        sum(range(3000000))  # seven is refused long before
    if task in (3, 7):
        raise StageError(f"task {task} is refused", "a hint")
    return task


@pytest.mark.parametrize("num_processes", [1, 3])
def test_the_first_refusal_in_order_is_the_one_that_counts(num_processes):
    done = []
    with pytest.raises(StageError, match="task 3 is refused") as refused:
        for task, _ in workers.in_order(refuse_seven_and_three, range(20), num_processes):
            done.append(task)
    assert done == [0, 1, 2]
    assert refused.value.hint == "a hint"


def divide_by(task):
    return 1 / task


def test_a_defect_keeps_its_traceback():
    with pytest.raises(RuntimeError, match=r"(?s)in divide_by.*ZeroDivisionError"):
        list(workers.in_order(divide_by, [1, 0], 2))


def end_at_once(task):
    if task == 2:
        os._exit(1)
    return task


def test_a_process_that_ends_is_noticed():
    with pytest.raises(RuntimeError, match="ended before its work was done"):
        list(workers.in_order(end_at_once, range(30), 2))


def children():
    return open(f"/proc/self/task/{os.getpid()}/children").read().split()


def test_no_process_is_left_whether_all_is_done_or_not():
    before = children()
    list(workers.in_order(slower_at_first, range(5), 2))
    unfinished = workers.in_order(slower_at_first, range(100), 2)
    next(unfinished)
    unfinished.close()
    assert children() == before
