"""Errors of the operating system: which a person can mend, and what to do about each."""

from __future__ import annotations

import errno

_KEPT = "and run the same command again: nothing half-written is left behind"
_SPACE = f"free some space on that disk, {_KEPT}"
_RIGHTS = f"mend the permissions, {_KEPT}"
_IN_THE_WAY = "what stands in that place is not what belongs there: move it away, or give another path"
_FILES = "raise the limit of open files (`ulimit -n 1024`), and run the same command again"
_DISK = "the disk or its connection fails: `dmesg` says more; run the same command again when it is mended"
_IN_USE = "another program uses it: wait until that has ended, and run the same command again"
_MEMORY = "close other programs, or raise the limits (`ulimit -v`, `ulimit -u`), and run the same command again"
_ADVICE = {
    errno.ENOSPC: _SPACE, errno.EDQUOT: _SPACE,
    errno.EROFS: _RIGHTS, errno.EACCES: _RIGHTS, errno.EPERM: _RIGHTS,
    errno.ENOTDIR: _IN_THE_WAY, errno.EISDIR: _IN_THE_WAY, errno.EEXIST: _IN_THE_WAY, errno.ELOOP: _IN_THE_WAY,
    errno.ENAMETOOLONG: "no file system takes so long a name: give a shorter path, or move the checkout to one",
    errno.EMFILE: _FILES, errno.ENFILE: _FILES,
    errno.EIO: _DISK, errno.ESTALE: _DISK, errno.EREMOTEIO: _DISK,
    errno.ENOMEM: _MEMORY, errno.EAGAIN: _MEMORY,
    errno.EFBIG: "that disk, or `ulimit -f`, takes no file as large: put it on another disk (BUNDLE_RESULTS)",
    errno.EBUSY: _IN_USE, errno.ETXTBSY: _IN_USE,
    errno.ENOTCONN: _DISK, errno.ETIMEDOUT: _DISK, errno.EHOSTUNREACH: _DISK, errno.ENETUNREACH: _DISK,
    errno.EILSEQ: "that file system does not take such a name: give another path, or another disk",
}  # fmt: skip
"""Errors of the system that a person can mend."""


def can_be_mended(error: OSError) -> bool:
    """Whether it is of the machine or its disk; what else the system refuses was not to be asked."""
    return error.errno in _ADVICE


def advice(error: OSError, otherwise: str = "") -> str:
    """What to do about an error of the system; `otherwise` where it has no advice of its own."""
    return _ADVICE.get(error.errno or 0, otherwise)
