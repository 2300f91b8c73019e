"""File names in images are UTF-8 whatever this machine's locale is: Python has to take them so, or digests differ."""

from __future__ import annotations

import os
import sys


def insist_on_utf8() -> None:
    """Start this process again in Python's UTF-8 mode, if the locale would have file names read otherwise.

    Under a Latin-1 locale, or under C where Python's own remedies are switched off, a name such as that of a Hungarian
    certificate would be read as other characters: a layer would come out with another digest, and an image could not
    be unpacked.
    """
    if sys.flags.utf8_mode or sys.getfilesystemencoding().lower().replace("-", "") == "utf8":
        return
    words = getattr(sys, "orig_argv", ["", *sys.argv])[1:]  # Python 3.9 keeps only what follows its own options
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *words])  # noqa: S606 - this very program again
