"""What a node is like for jobs of ours, as a short job on it finds: for `invoke doctor --on slurm`."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Union

from repro.base.errors import CouldNotRun
from repro.base.values import Count, Strict
from repro.cluster.local import own_folder

_CLONE_NEWUSER = 0x10000000


class Looked(Strict, frozen=True):
    """What a node says.

    Attributes:
        token: the content of the file on the shared folder; None where the node does not see it.
        clock_s: the node's time, in seconds since 1970.
        namespaces: why no user namespace can be made; '' where one can.
        local: why the folder on the node's own disk cannot be used; '' where it can.
        free_bytes: on that disk.
    """

    token: Union[str, None]
    clock_s: float
    namespaces: str
    local: str
    free_bytes: Count
    python: str
    architecture: str


def look(token: Path, local: Path) -> Looked:
    """Look at this node.

    Args:
        token: a file on the shared folder.
        local: the folder on the node's own disk.
    """
    try:
        content: str | None = token.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        content = None
    problem, free_bytes = "", 0
    try:
        free_bytes = shutil.disk_usage(own_folder(local)).free
    except CouldNotRun as error:
        problem = error.message
    return Looked(
        token=content,
        clock_s=time.time(),
        namespaces=why_no_namespace(),
        local=problem,
        free_bytes=free_bytes,
        python=platform.python_version(),
        architecture=platform.machine(),
    )


def why_no_namespace() -> str:
    """Why this user cannot make a user namespace, which the embedded sandbox needs; '' where it can."""
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()
    if child == 0:  # a namespace of its own: this process stays in its one
        os._exit(0 if libc.unshare(_CLONE_NEWUSER) == 0 else min(ctypes.get_errno(), 255) or 255)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "" if code == 0 else os.strerror(code)
