"""Runs a stage and says what it cost: `python3 -m stages.bench.account stages.NAME CORES ARGUMENTS…`.

For the bench: a stage itself neither measures nor mentions its own cost. obs/account.json: its own seconds, processor
seconds and the largest resident set in bytes of any of its processes. CORES: the processors it may run on, '0,1'.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys
import time
from typing import Sequence

_KIB = 1024  # ru_maxrss is in KiB on Linux


def _account(began_s: float) -> dict[str, float]:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "cpu_s": sum(usage.ru_utime + usage.ru_stime for usage in usages),
        "peak_bytes": max(usage.ru_maxrss for usage in usages) * _KIB,
        "work_s": time.monotonic() - began_s,
    }


def main(module: str, cores: str, arguments: Sequence[str]) -> None:
    """Run the module as the program that it is, and account for it even where it ends with an exit code."""
    os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    began_s = time.monotonic()
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        obs = arguments[arguments.index("--obs") + 1]
        with open(os.path.join(obs, "account.json"), "w", encoding="utf-8") as stream:
            json.dump(_account(began_s), stream, sort_keys=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
