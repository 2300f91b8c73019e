"""A plugin of pytest for `invoke mutants`: the quickest tests first, file by file, so that a mutant dies soon.

install.py is joined of the modules as they are: what mutmut makes of them is not ASCII, and not what is shipped.

mutmut has measured the tests by then. Tests of one file stay together: what they share is made once. A test that takes
many times as long as then fails: of a mutant that waits for ever, mutmut itself would take minutes to be rid.
"""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from repro.packing import script

MEASURED = Path("mutmut-stats.json")
TIMES, MORE_S = 10.0, 10.0
_measured = {}


def pytest_configure():
    original = Path.cwd().parent / "repro" / "packing" / "script.py"
    if Path.cwd().name == "mutants" and original.is_file():
        script.__file__ = str(original)


def pytest_collection_modifyitems(items):
    if not MEASURED.is_file():
        return
    seconds = json.loads(MEASURED.read_text("utf-8"))["duration_by_test"]
    _measured.update(seconds)
    of_file = Counter()
    for item in items:
        of_file[item.path] += seconds.get(item.nodeid, 0.0)
    items.sort(key=lambda item: (of_file[item.path], str(item.path), seconds.get(item.nodeid, 0.0)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    seconds = _measured.get(item.nodeid)
    if seconds is None or threading.current_thread() is not threading.main_thread():
        return (yield)

    def give_up(*_):
        pytest.fail(f"took {TIMES:.0f} times as long as unmutated, and {MORE_S:.0f} s more")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, TIMES * seconds + MORE_S, MORE_S)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
