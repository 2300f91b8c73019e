"""A stage that measures speed runs alone on the machine, beside no stage of another process.

Every stage holds one lock of the machine, shared; one that measures holds it alone. The lock lies where every user of
the machine can open it; where there is no such place, or it has no locks, each process is alone only by itself.
"""

from __future__ import annotations

import contextlib
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from repro.base.errors import CouldNotRun
from repro.base.locking import Taken, locked

_PLACES = (Path("/run/lock"), Path("/tmp"))  # noqa: S108 - a lock that all users of the machine share
_NAME = "lstm-ctc-bundle.machine.lock"
_POLL_S = 0.5
WAIT_S = 3 * 3600.0


def machine_lock(places: Iterable[Path] = _PLACES) -> Path | None:
    """The lock's file, in the first folder that every user may write to; None where there is none."""
    for place in places:
        with contextlib.suppress(OSError):
            found = place.stat()
            if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_IWOTH:
                return place / _NAME
    return None


@contextlib.contextmanager
def machine(lock: Path | None, *, alone: bool, waiting: Callable[[], None], wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the machine, alone or beside others.

    Args:
        lock: as `machine_lock`; None holds nothing.
        alone: to measure speed.
        waiting: is called once when another process is waited for.
        wait_s: how long; after that whoever measures gives up, and any other stage goes on.

    Raises:
        CouldNotRun: the machine was not to be had alone.
    """
    with contextlib.ExitStack() as stack:
        if lock is not None:
            _take(stack, lock, alone=alone, waiting=waiting, until_s=time.monotonic() + wait_s)
        yield


def _take(stack: contextlib.ExitStack, lock: Path, *, alone: bool, waiting: Callable[[], None], until_s: float) -> None:
    told = False
    while True:
        try:
            stack.enter_context(locked(lock, shared=not alone, wait=False, create=True))
            return
        except Taken as error:
            if not told:
                waiting()
                told = True
            if time.monotonic() > until_s:
                if not alone:
                    return
                raise CouldNotRun(
                    "other runs kept this machine busy: a speed is measured only when nothing else runs",
                    hint=f"wait for the other runs on this machine, then run the same command again (lock: {lock})",
                ) from error
            time.sleep(_POLL_S)
        except (OSError, CouldNotRun):
            return  # no such lock on this machine
