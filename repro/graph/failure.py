"""Why a stage failed, in words: its own, or the machine's, with what to do next."""

from __future__ import annotations

import re
from collections.abc import Sequence

from repro.base import pace
from repro.base.errors import StageFailed
from repro.container.job import Outcome
from repro.graph.log import Said
from repro.machine import executable_memory

_SIGKILL_EXIT = 137
_DEFECT = "this is a defect of the stage or its image: please report it with the log"
_AGAIN = "then run the same command again"
_OTHER_DISK = f"or put results on another disk: BUNDLE_RESULTS=/other/disk; {_AGAIN}"
_SYSTEM = (
    (
        r"No space left on device|database or disk is full",
        "the disk is full, or has no room for more files",
        f"free space (`invoke store.gc` removes results that no run refers to), {_OTHER_DISK}",
    ),
    (r"Disk quota exceeded", "the disk quota is used up", f"free space within the quota, {_OTHER_DISK}"),
    (r"Read-only file system", "a file system is read-only", f"mount it writable, {_OTHER_DISK}"),
    (
        r"Input/output error",
        "the disk could not be read or written",
        f"look into the kernel's log (dmesg): a disk may be failing; {_AGAIN}",
    ),
    (
        r"Permission denied",
        "a permission is missing",
        "a stage reads data, checkpoint and code as the user who started it: check the owner and mode of what the log "
        "names, and of artifacts/",
    ),
    (r"Too many open files", "too many files are open", f"raise the limit (`ulimit -n 4096`); {_AGAIN}"),
    (
        r"write\+execute memory|memory cannot be made executable",
        "memory cannot be made executable",
        executable_memory.HINT,
    ),
    (
        r"Cannot allocate memory|MemoryError|std::bad_alloc",
        "memory ran out",
        "free memory on this machine, or use a smaller --bs",
    ),
)


def system_error(lines: Sequence[str]) -> tuple[str, str]:
    """An error of the machine, not of the stage, in a log's last lines: (what, what to do), or two empty texts."""
    for pattern, what, hint in _SYSTEM:
        if any(re.search(pattern, line) for line in lines):
            return what, hint
    return "", ""


def failure_of(what: str, timeout_s: float, memory_bytes: int, outcome: Outcome, said: Said, log: str) -> StageFailed:
    """The error of a stage that ended badly.

    Args:
        what: names it: 'stage features'.
        timeout_s, memory_bytes: its limits.
        outcome: how its container ended.
        said: what it printed.
        log: where the whole log is kept.
    """
    detail = f"the whole log: {log}"
    if outcome.timed_out:
        return StageFailed(
            f"{what} ran longer than its limit of {timeout_s:.0f} s and was ended", detail=detail, hint=pace.HINT
        )
    if outcome.out_of_memory or (outcome.exit_code == _SIGKILL_EXIT and not said.error):
        return StageFailed(
            f"{what} was killed, most likely for memory (limit {memory_bytes / 1e9:.1f} GB)",
            detail=detail,
            hint="free memory on this machine, or use a smaller --bs",
        )
    cause, hint = system_error([*said.tail, said.error])
    if said.error:
        return StageFailed(f"{what}: {said.error}", detail=detail, hint="\n".join(said.hints) or hint)
    if cause:
        return StageFailed(f"{what}: {cause}", detail="\n".join([*list(said.tail)[-1:], detail]), hint=hint)
    return StageFailed(
        f"{what} ended with exit code {outcome.exit_code}", detail="\n".join([*said.tail, detail]), hint=_DEFECT
    )
