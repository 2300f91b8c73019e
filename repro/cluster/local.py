"""The folder on a machine's own disk, where the shared one holds everything else."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from repro.base.errors import CouldNotRun
from repro.base.system_errors import advice

_SETTING = "set `local` in [slurm] of conf/site.toml"


def own_folder(path: Path) -> Path:
    """This user's folder of that name on this machine, which nobody else may write to; made where it is missing.

    Raises:
        CouldNotRun: something else stands there: a link, or a folder that others may write to.
    """
    path = path.with_name(f"{path.name}.{os.getuid()}")
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700, parents=True)
        found = path.lstat()
    except OSError as error:
        raise CouldNotRun(f"{path} cannot be made: {error.strerror}", hint=f"{_SETTING}; {advice(error)}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise CouldNotRun(
            f"{path} is not this user's own folder: it is a link, somebody else's, or others may write to it",
            hint=f"{_SETTING} to a folder on this machine's disk that nobody else writes to",
        )
    return path
