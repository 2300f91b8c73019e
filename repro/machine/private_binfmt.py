"""Run a program in a user namespace of its own, in which the kernel gives another architecture's programs to QEMU.

Run as a script, in a fresh interpreter with one thread, as the kernel wants it; imports nothing of the bundle.

    python3 -I -S private_binfmt.py RULE PROGRAM [ARGUMENT ...]

RULE is what binfmt_misc takes (https://docs.kernel.org/admin-guide/binfmt-misc.html). Since Linux 6.7 each user
namespace may mount a binfmt_misc of its own, which processes outside of it neither see nor are touched by, and which
ends with the last of its processes. PROGRAM sees its user as number 0, with the rights that it has outside; bubblewrap
gives the number back. A failure is one line on standard error and exit code 125: PROGRAM was not started.
"""

from __future__ import annotations

import ctypes
import os
import sys

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18
_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_BINFMT = "/proc/sys/fs/binfmt_misc"
NOT_STARTED = 125


def _check(result: int, doing: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{doing}: {os.strerror(ctypes.get_errno())}")


def _write(path: str, text: str) -> None:
    with open(path, "wb", buffering=0) as stream:
        stream.write(text.encode("ascii"))


def enter(rule: str) -> None:
    """Move this process into new user and mount namespaces with that one rule.

    Raises:
        OSError: the kernel is older than 6.7, or does not let this user make namespaces.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    _check(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "making a user namespace")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1")  # whatever user registers must be number 0 of the namespace
    _write("/proc/self/gid_map", f"0 {gid} 1")
    _check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "keeping mounts private")
    flags = _MS_NOSUID_NODEV_NOEXEC
    _check(libc.mount(b"binfmt_misc", _BINFMT.encode(), b"binfmt_misc", flags, None), "mounting binfmt_misc")
    _write(f"{_BINFMT}/register", rule)


def main(arguments: list[str]) -> int:
    """Enter, and become the program."""
    rule, *argv = arguments
    try:
        enter(rule)
        os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"cannot have programs of another architecture emulated: {error}\n")
    return NOT_STARTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
