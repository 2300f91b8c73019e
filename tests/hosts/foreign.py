"""Runs a program where the kernel gives another architecture's programs to QEMU, with every user's number kept.

    python3 -m tests.hosts.foreign RULE PROGRAM [ARGUMENT ...]

As `repro.machine.private_binfmt`, whose namespace knows one user only; a tree of packages has files of many, so that
this needs root. On most machines the host's kernel has the rule already, and nobody needs this.
"""

from __future__ import annotations

import ctypes
import os
import sys

from repro.machine import private_binfmt

_NUMBERS = "0 0 65536"
_BINFMT = private_binfmt._BINFMT
_NEW = private_binfmt._CLONE_NEWUSER | private_binfmt._CLONE_NEWNS


def main(rule: str, *argv: str) -> int:
    """Enter, and run the program; its exit code."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        if libc.unshare(_NEW):
            os._exit(private_binfmt.NOT_STARTED)
        os.write(ready[1], b"1")
        os.read(go[0], 1)
        if libc.mount(b"binfmt_misc", _BINFMT.encode(), b"binfmt_misc", 0, None):
            os._exit(private_binfmt.NOT_STARTED)
        with open(f"{_BINFMT}/register", "w") as stream:
            stream.write(rule)
        os.execvp(argv[0], argv)
    os.read(ready[0], 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{name}", "w") as stream:
            stream.write(_NUMBERS)
    os.write(go[1], b"1")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
