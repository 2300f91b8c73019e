"""What came of a job: its result from the store, or the error that a person can act on."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from repro.base.errors import (
    EXIT_USAGE,
    EXIT_VERIFICATION_FAILED,
    BundleError,
    CouldNotRun,
    StageFailed,
    UsageError,
    VerificationFailed,
)
from repro.base.files import make_shared_folder
from repro.base.system_errors import advice
from repro.cluster.slurm import JobState
from repro.cluster.task_file import Ended
from repro.graph.executor import Task
from repro.graph.store import Result, Store

EXIT_BY_ERRNO = 200
"""An exit code from here on is an error number: of a job that could not even write how it ended."""

_SEEN_WITHIN_S = 90.0  # an NFS client may believe for a minute that a name is not there
_LOOK_EVERY_S = 1.0
_TAIL_BYTES = 2_000
_KINDS = {EXIT_USAGE: UsageError, EXIT_VERIFICATION_FAILED: VerificationFailed}
_WORDS = {
    "TIMEOUT": ("Slurm ended it at its time limit", "raise `minutes` in [slurm] of conf/site.toml, or choose a "
                "partition with a longer limit: `sinfo -o '%P %l'`"),
    "OUT_OF_MEMORY": ("Slurm ended it for memory", "use a smaller --bs, or a partition whose nodes have more"),
    "NODE_FAIL": ("{node} failed while it ran there, and Slurm did not queue it again",
                  "`sinfo -R` shows why; then run the same command again"),
    "CANCELLED": ("it was cancelled in the queue", "run the same command again; what was finished is kept"),
}  # fmt: skip


def collected(task: Task, ended: Ended | None, state: JobState, store: Store) -> Result | None:
    """The result that a job has brought, held to its digests; None where there is none.

    One that the job says it made is looked for again: an NFS client may take a while to see it.
    """
    if task.forced and (ended is None or ended.outcome != "made"):
        return None
    promised = state.state == "COMPLETED" or (ended is not None and ended.outcome in ("made", "stored"))
    until_s = time.monotonic() + _SEEN_WITHIN_S
    while True:
        found = store.load(task.fingerprint)
        if found is not None or not promised or time.monotonic() > until_s:
            return found
        time.sleep(_LOOK_EVERY_S)
        parent = store.path(task.fingerprint).parent
        make_shared_folder(parent)
        os.listdir(parent)  # asks the server


def error_told(ended: Ended) -> BundleError:
    """The error that a job ended with, as it would have been raised here."""
    message, detail, hint = ended.error
    return _KINDS.get(ended.code, StageFailed)(message, detail=detail, hint=hint)


def error_of_slurm(task: Task, number: str, state: JobState, exit_code: int, log: Path) -> BundleError:
    """Of a job that ended without a word of its own.

    Args:
        task: what it was to make.
        number: of the job.
        state: the last that Slurm told.
        exit_code: its own; see EXIT_BY_ERRNO.
        log: what it printed.
    """
    what = f"stage {task.node.key} (job {number}{f' on {state.node}' if state.node else ''})"
    if exit_code > EXIT_BY_ERRNO:
        system = OSError(exit_code - EXIT_BY_ERRNO, os.strerror(exit_code - EXIT_BY_ERRNO))
        return CouldNotRun(f"{what}: the shared folder cannot be written: {system.strerror}", hint=advice(system))
    for word, (said, hint) in _WORDS.items():
        if state.state.startswith(word):
            return StageFailed(f"{what}: {said.format(node=state.node or 'its node')}", hint=hint, detail=_tail(log))
    return StageFailed(
        f"{what} ended without a word: {state.state.lower()}, exit code {exit_code}",
        detail=_tail(log),
        hint=f"what the job printed: {log}; `invoke doctor --on slurm` looks at the nodes",
    )


def exit_code_of(error: OSError) -> int:
    """The exit code that tells an error of the shared folder to whoever waits for the job."""
    number = errno.ENOSPC if error.errno == errno.EDQUOT else error.errno or errno.EIO
    return EXIT_BY_ERRNO + number if number < 55 else EXIT_BY_ERRNO + errno.EIO


def _tail(log: Path) -> str:
    try:
        with open(log, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
            return stream.read(_TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
