"""The code of a stage: its import closure in stages/, digested and copied, so that a run never reads a live tree."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import UsageError
from repro.base.files import remove_tree
from repro.base.imports import Modules, digest_of_closure


@dataclass(frozen=True)
class StageCode:
    """The files of one stage's import closure: {path: content}, and their digest."""

    files: dict[str, bytes]
    digest: str


def read_code(root: Path, stage: str, modules: Modules | None = None) -> StageCode:
    """Read the stage's module and every module of stages/ that it imports, directly or not.

    Args:
        root: the checkout.
        stage: a module of stages/, without that prefix.
        modules: where the files are read; None to read each of them now.

    Raises:
        UsageError: there is no such stage, or a module of its closure is not Python.
    """
    files = (modules or Modules(root)).closure(f"stages.{stage}")
    if not files:
        raise UsageError(f"there is no stage {stage!r}", hint="stages: see `invoke --list`")
    return StageCode({path: module.data for path, module in files.items()}, digest_of_closure(files))


def snapshot(code: StageCode, folder: Path) -> Path:
    """Write the closure below `folder`/DIGEST, once; returns that folder, which is mounted read-only."""
    target = folder / code.digest
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".code.", dir=folder))
    try:
        for path, data in code.files.items():
            file = temporary / "root" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
        try:
            os.rename(temporary / "root", target)
        except OSError:
            if not target.is_dir():  # another run was first with the same bytes
                raise
    finally:
        remove_tree(temporary)
    return target
