"""A stage that measures speed runs alone on the machine, beside no stage of another process.

Every stage holds one lock of the machine, shared; one that measures holds it alone. Before it, each passes a gate,
which whoever measures keeps closed: so it waits for the stages that run, and not for those that come after it. The
locks lie where every user of the machine can open them; where there is no such place, or it has no locks, each process
is alone only by itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from repro.base.errors import CouldNotRun
from repro.base.locking import Taken, locked

VARIABLE = "BUNDLE_MACHINE_LOCK"
"""Names another file for the lock: for a machine whose parts are used as several (and for tests)."""

_PLACES = (Path("/run/lock"), Path("/tmp"))  # noqa: S108 - a lock that all users of the machine share
_NAME = "lstm-ctc-bundle.machine.lock"
_POLL_S = 0.5
_NO_PLACE = (errno.ENOENT, errno.EROFS)  # no folder for a lock, or one that nobody writes to
WAIT_S = 3600.0


def machine_lock(places: Iterable[Path] = _PLACES, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The lock's file, in the first folder that every user may write to; None where there is none."""
    if environ.get(VARIABLE):
        return Path(environ[VARIABLE]).absolute()
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
        waiting: is called again and again while another process is waited for.
        wait_s: how long; after that whoever measures gives up, and any other stage goes on.

    Raises:
        CouldNotRun: the machine was not to be had alone, or the lock cannot be opened, so that nobody can know.
    """
    until_s = time.monotonic() + wait_s
    with contextlib.ExitStack() as held:
        if lock is not None:
            with contextlib.ExitStack() as gate:
                door = lock.with_name(f"{lock.name}.gate")
                if _took(gate, door, alone=alone, waiting=waiting, until_s=until_s):
                    _took(held, lock, alone=alone, waiting=waiting, until_s=until_s)
                if alone:
                    held.push(gate.pop_all())  # kept closed
        yield


def _took(stack: contextlib.ExitStack, lock: Path, *, alone: bool, waiting: Callable[[], None], until_s: float) -> bool:
    """Whether the lock is held now; if not, the caller goes on without. Only whoever measures has to know why not."""
    while True:
        try:
            stack.enter_context(locked(lock, shared=not alone, wait=False, create=True))
            return True
        except Taken as error:
            waiting()
            if time.monotonic() > until_s:
                if not alone:
                    return False
                raise CouldNotRun(
                    "other runs kept this machine busy: a speed is measured only when nothing else runs",
                    hint=f"wait for the other runs on this machine, then run the same command again (lock: {lock})",
                ) from error
            time.sleep(_POLL_S)
        except CouldNotRun:
            return False  # the file system has no locks
        except OSError as error:
            if not alone or error.errno in _NO_PLACE:
                return False
            raise CouldNotRun(
                f"the machine's lock cannot be taken: {lock}: {error.strerror}; a speed is measured only when nothing "
                "else runs",
                hint=f"make {lock} a plain file that every user may read, or name another file in {VARIABLE}",
            ) from error
