"""Whether the kernel lets a program make memory executable, as stages do: they compile their arithmetic in memory.

SELinux can forbid it to all programs of a user (execmem; so does Debian's policy as it comes), systemd and prctl to a
service and what it starts.
"""

from __future__ import annotations

import mmap

WHY = "no program of this user can make memory executable here, and stages compile their arithmetic in memory"
HINT = (
    "where SELinux forbids it, as root: setsebool -P allow_execmem on (Fedora and its kin: setsebool -P deny_execmem "
    "off); where it is systemd, in the service that this runs in: MemoryDenyWriteExecute=no"
)


def allowed() -> bool:
    """Whether this process can have a page that it can write and execute; what it starts then can too."""
    try:
        mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except PermissionError:
        return False
    return True
