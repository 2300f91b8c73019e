"""A finished run's folder: record, reports and crate, which appear together or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from repro.base.files import remove_tree, write_atomic
from repro.base.paths import Paths
from repro.record import Record, record_bytes
from repro.record.reading import FILE


def write_run(paths: Paths, record: Record) -> None:
    """Write record, reports and crate into a new folder of runs/, which appears whole, and point `latest` at it.

    Args:
        paths: of the checkout.
        record: the folder is named after the time at which its run started.
    """
    from repro.report import write_report
    from repro.report.crate import write_crate

    paths.runs.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".new.", dir=paths.runs))
    try:
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
    finally:
        remove_tree(work)
    _point_latest(paths, target)


def _point_latest(paths: Paths, folder: Path) -> None:
    temporary = paths.runs / f".latest.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    os.replace(temporary, paths.runs / "latest")
