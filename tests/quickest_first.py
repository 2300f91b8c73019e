"""A plugin of pytest for `invoke mutants`: the quickest tests first, file by file, so that a mutant dies soon.

mutmut has measured the tests by then. Tests of one file stay together: what they share is made once.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

MEASURED = Path("mutmut-stats.json")


def pytest_collection_modifyitems(items):
    if not MEASURED.is_file():
        return
    seconds = json.loads(MEASURED.read_text("utf-8"))["duration_by_test"]
    of_file = Counter()
    for item in items:
        of_file[item.path] += seconds.get(item.nodeid, 0.0)
    items.sort(key=lambda item: (of_file[item.path], str(item.path), seconds.get(item.nodeid, 0.0)))
