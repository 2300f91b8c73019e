"""What the task `invoke sweep` does: read the file, run the cells, write the page, and end as the cells did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from repro.base import typed_json
from repro.base.confined import check_name, read_below
from repro.base.errors import BundleError, CouldNotRun, VerificationFailed
from repro.base.foreign import shown
from repro.base.paths import Paths, given_path
from repro.display.console import Console
from repro.sweep.matrix import Cell, Sweep, cells_of, read_sweep
from repro.sweep.page import FILE, PAGE, summary, write_page
from repro.sweep.running import Failed, Finished, How, Swept, plan_sweep, run_sweep

Say = Callable[[str], None]
_MOST_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class Asked:
    """Options of `invoke sweep`; `to` is '' for a folder in artifacts/sweeps."""

    file: str
    to: str = ""
    how: How = field(default_factory=How)


class _EarlierCell(msgspec.Struct, frozen=True):
    """What an earlier sweep.json says of a cell, as far as it is taken again."""

    id: str
    run: str = ""
    record_sha256: str = ""


class _Earlier(msgspec.Struct, frozen=True):
    """An earlier sweep.json."""

    cells: tuple[_EarlierCell, ...]


def plan(paths: Paths, console: Console, asked: Asked) -> list[str]:
    """What the sweep would run, and what is stored; runs nothing and writes nothing."""
    return plan_sweep(paths, console, _read(asked)[1], asked.how)


def sweep(paths: Paths, console: Console, asked: Asked, say: Say) -> Swept:
    """Run a sweep and write its page.

    Raises:
        UsageError: the file is wrong; nothing ran.
        VerificationFailed, CouldNotRun: a cell failed; the page is written, and names each with its reason.
    """
    read, cells = _read(asked)
    folder = given_path("--to", asked.to) if asked.to else paths.results / "sweeps" / _stem(asked.file)
    swept = run_sweep(paths, console, cells, asked.how, _earlier(folder))
    write_page(read, swept, folder)
    judged = summary(swept)
    say(f"{judged.headline}. {judged.sentence}")
    say(f"sweep: {paths.told(folder / PAGE)} (also sweep.md, sweep.json)")
    error = _error(swept)
    if error is not None:
        raise error
    return swept


def outcome(swept: Swept) -> str:
    """The outcome that the exit code is made of: not reproduced where any cell's record is."""
    outcomes = [ended.record.verdict.outcome for ended in swept.cells if isinstance(ended, Finished)]
    return next((one for one in outcomes if one == "not-reproduced"), "")


def _read(asked: Asked) -> tuple[Sweep, list[Cell]]:
    path = given_path("the sweep", asked.file)
    read = read_sweep(path)
    return read, cells_of(read, path.parent)


def _stem(file: str) -> str:
    name = Path(file).stem
    check_name(name)
    return name


def _earlier(folder: Path) -> dict[str, tuple[str, str]]:
    """Run and digest of its record by cell, of the sweep that was written there before; nothing where it is no such."""
    try:
        data = read_below(folder, FILE, _MOST_BYTES)
        found = typed_json.read(data, _Earlier, what=FILE, max_bytes=_MOST_BYTES)
        for cell in found.cells:
            check_name(cell.run or "none")
    except (OSError, VerificationFailed):
        return {}
    return {cell.id: (cell.run, cell.record_sha256) for cell in found.cells if cell.run}


def _error(swept: Swept) -> BundleError | None:
    failed = [ended for ended in swept.cells if isinstance(ended, Failed)]
    if not failed:
        return None
    wrong = any(isinstance(one.error, VerificationFailed) for one in failed)
    return (VerificationFailed if wrong else CouldNotRun)(
        f"{len(failed)} of {len(swept.cells)} cells failed; the first: {failed[0].cell.name}: {failed[0].reason}",
        detail="\n".join(f"{one.cell.name}: {shown(one.reason)}" for one in failed),
        hint="the others have their records; the same command runs what is missing",
    )
