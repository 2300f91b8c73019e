"""What this process has open. Some tests run in an image without `repro`, so this imports nothing of it."""

import contextlib
import os

KEPT = set()  # of whole sessions, by their names: an engine's service that all tests of a process share


def open_descriptors():
    """The open descriptors that no session keeps: each number with the name that the kernel gives it."""
    found = {}
    with contextlib.suppress(OSError):  # a system without /proc
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the listing's own
                found[int(number)] = os.readlink("/proc/self/fd/" + number)
    return {number: name for number, name in found.items() if name not in KEPT}
