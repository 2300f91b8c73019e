"""A finished run's folder: record, reports and crate, which appear together or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from repro.base.files import fsync_folder, write_atomic
from repro.base.paths import Paths
from repro.base.temporary import temporary_folder
from repro.record import Record, record_bytes
from repro.record.reading import FILE
from repro.report import write_report
from repro.report.crate import write_crate


def write_run(paths: Paths, record: Record, *, latest: bool = True) -> Path:
    """Write record, reports and crate into a new folder of runs/, which appears whole; returns it.

    Args:
        paths: of the checkout.
        record: the folder is named after the time at which its run started.
        latest: point the name `latest` at it.
    """
    with temporary_folder(paths.runs, "run") as work:
        folder = work / "run"
        folder.mkdir()
        write_atomic(folder / FILE, record_bytes(record))
        write_report(record, folder)
        write_crate(record, folder)
        name = record.observations.started_at.replace(":", "").replace("-", "")
        target = paths.runs / name
        number = 0
        while True:
            try:
                os.rename(folder, target)
                break
            except OSError:
                if not target.exists():
                    raise
                number += 1  # another run ended within the same second
                target = paths.runs / f"{name}-{number}"
        if latest:
            (work / "latest").symlink_to(target.name)
            os.replace(work / "latest", paths.runs / "latest")
    fsync_folder(paths.runs)
    return target
