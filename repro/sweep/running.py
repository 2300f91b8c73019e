"""Running a sweep: one graph per device, equal steps once, a record per cell; one that fails does not stop others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from repro.base.errors import BundleError, UsageError
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.display.console import Console
from repro.graph.pipeline import Node
from repro.record import Record, load_record, record_bytes
from repro.record.reading import FILE
from repro.run.execute import Executed, execute
from repro.run.options import LOCAL
from repro.run.plan import STORED, plan_steps
from repro.run.reproduce import Asked, now, record_of
from repro.run.request import aim, graph_of, resolve
from repro.run.session import Session
from repro.run.target import Target
from repro.run.writing import write_run
from repro.sweep.matrix import Cell
from repro.sweep.steps import OneGraph, one_graph_of


@dataclass(frozen=True)
class How:
    """How the cells of a sweep are run: as the options of `invoke reproduce`."""

    engine: str = "auto"
    fetch: bool = True
    on: str = LOCAL


@dataclass(frozen=True)
class Machine:
    """Where a speed was measured, as far as the key of the measuring step and the record tell it.

    Attributes:
        host: a digest that tells hosts apart and says nothing else.
        chip: the devices of an NPU, by number; on a CPU the processor's name.
        driver: of the NPU, with its firmware; '' on a CPU.
    """

    host: str
    chip: str
    driver: str


@dataclass(frozen=True)
class Finished:
    """A cell with its record.

    Attributes:
        run: the name of its folder in artifacts/runs.
        record_sha256: of its record.json.
        steps: how many there are, how many of them this sweep made.
    """

    cell: Cell
    record: Record
    run: str
    record_sha256: str
    machine: Machine
    steps: tuple[int, int]


@dataclass(frozen=True)
class Failed:
    """A cell without a record, and why."""

    cell: Cell
    step: str
    error: BaseException

    @property
    def reason(self) -> str:
        """One line."""
        said = self.error.message if isinstance(self.error, BundleError) else str(self.error)
        return f"{self.step}: {said}" if self.step and not said.startswith(f"stage {self.step}") else said


@dataclass(frozen=True)
class Swept:
    """What a sweep came to: every cell, in order, and how many steps were asked for, are different, were made now."""

    cells: tuple[Finished | Failed, ...]
    asked: int
    different: int
    made: int


@dataclass
class _Group:
    """The cells of one device: one target, one graph."""

    target: Target
    cells: list[Cell]
    asked: list[Asked]
    graphs: list[Mapping[str, Node]]
    graph: OneGraph


def run_sweep(
    paths: Paths, console: Console, cells: Sequence[Cell], how: How, earlier: Mapping[str, tuple[str, str]]
) -> Swept:
    """Bring every cell to a record.

    Args:
        cells: of the sweep.
        earlier: run and sha256 of its record by the identity of a cell: taken again where nothing of it changed.

    Raises:
        UsageError: a cell asks for what no run can have.
    """
    session = Session(paths, console, how.on)
    ended: dict[str, Finished | Failed] = {}
    asked = different = made = 0
    with session.store.in_use():  # until the records name what was taken
        for group in _groups(session, cells, how, ended):
            started_at = now()
            asked, different = asked + group.graph.asked, different + len(group.graph.nodes)
            try:
                options = replace(group.cells[0].options(how.engine, fetch=how.fetch), on=how.on)
                executed = execute(session, options, group.target, group.graph.nodes, go_on=True)
            except (BundleError, OSError) as error:
                ended.update({cell.identity: Failed(cell, "", error) for cell in group.cells})
                continue
            made += sum(not item.cached for item in executed.done.values())
            ended.update(_recorded(session, group, executed, started_at, earlier))
    return Swept(tuple(ended[cell.identity] for cell in cells), asked, different, made)


def plan_sweep(paths: Paths, console: Console, cells: Sequence[Cell], how: How) -> list[str]:
    """Per cell, how many of its steps are stored, are another cell's too, or would run; runs nothing."""
    session = Session(paths, console, how.on)
    ended: dict[str, Finished | Failed] = {}
    lines: list[str] = []
    counts = {"asked": 0, "different": 0, "stored": 0}
    for group in _groups(session, cells, how, ended):
        troubles, steps = plan_steps(session, group.target, group.graph.nodes)
        lines += troubles
        counts["asked"] += group.graph.asked
        counts["different"] += len(steps)
        counts["stored"] += sum(told == STORED for told in steps.values())
        seen: set[str] = set()
        for cell, names in zip(group.cells, group.graph.names):
            mine = [name for name in names.values() if name not in seen]
            stored = sum(steps[name] == STORED for name in mine)
            seen.update(mine)
            lines.append(
                f"{cell.name}: {len(names)} steps: {len(names) - len(mine)} of cells above, {stored} stored, "
                f"{len(mine) - stored} to run"
            )
    lines += [f"cannot run: {one.cell.name}: {one.reason}" for one in ended.values() if isinstance(one, Failed)]
    told = "{asked} steps, of which {different} differ and {stored} are stored".format(**counts)
    return [*lines, f"{len(cells)} cells: {told}"]


def _groups(session: Session, cells: Sequence[Cell], how: How, ended: dict[str, Finished | Failed]) -> Iterator[_Group]:
    """The cells by device, each group with its graph; cells that cannot be asked for are noted as failed."""
    for device in dict.fromkeys(cell.device for cell in cells):
        of_device = [cell for cell in cells if cell.device == device]
        try:
            target = aim(of_device[0].options(how.engine, fetch=how.fetch), session)
        except UsageError:
            raise
        except (BundleError, OSError) as error:
            ended.update({cell.identity: Failed(cell, "", error) for cell in of_device})
            continue
        taken, asked, graphs = list[Cell](), list[Asked](), list[Mapping[str, Node]]()
        for cell in of_device:
            try:
                options = cell.options(how.engine, fetch=how.fetch)
                request, checkpoint = resolve(options, session.paths, session.cache, target)
            except UsageError:
                raise
            except (BundleError, OSError) as error:
                ended[cell.identity] = Failed(cell, "", error)
                continue
            taken.append(cell)
            asked.append(Asked(target, request, checkpoint))
            graphs.append(graph_of(request, session.paths))
        if taken:
            yield _Group(target, taken, asked, graphs, one_graph_of(graphs))


def _recorded(
    session: Session, group: _Group, executed: Executed, started_at: str, earlier: Mapping[str, tuple[str, str]]
) -> dict[str, Finished | Failed]:
    found: dict[str, Finished | Failed] = {}
    for cell, asked, graph, names in zip(group.cells, group.asked, group.graphs, group.graph.names):
        lost = next((key for key, name in names.items() if name in executed.failed), None)
        if lost is not None:
            found[cell.identity] = Failed(cell, lost, executed.failed[names[lost]])
            continue
        done = {key: replace(executed.done[name], node=graph[key]) for key, name in names.items()}
        try:
            record = record_of(session, asked, replace(executed, done=done), started_at)
            kept, run = _kept(session.paths, record, earlier.get(cell.identity))
        except (BundleError, OSError) as error:
            found[cell.identity] = Failed(cell, "", error)
            continue
        made = sum(not item.cached for item in done.values())
        machine = _machine(done[f"measure@{cell.batch_size}"].result.key, record)
        digest = sha256_bytes(record_bytes(kept))
        found[cell.identity] = Finished(cell, kept, run, digest, machine, (len(done), made))
    return found


def _kept(paths: Paths, record: Record, earlier: tuple[str, str] | None) -> tuple[Record, str]:
    """The record and its folder's name: an earlier sweep's, where every result is the same; else written now."""
    if earlier is not None:
        run, digest = earlier
        try:
            before = load_record(paths.runs / run / FILE)
            if sha256_bytes(record_bytes(before)) == digest and _results(before) == _results(record):
                return before, run
        except BundleError:
            pass  # it was removed or changed: the record is written again
    return record, write_run(paths, record, latest=False).name


def _results(record: Record) -> object:
    stages = [(stage.key, stage.fingerprint, stage.outputs.digest, stage.observations) for stage in record.stages]
    return record.identity, stages, record.results, record.toolchain, record.verdict


def _machine(key: Mapping[str, object], record: Record) -> Machine:
    host = str(key.get("host", "")).partition(" ")[0][:8]
    chip = record.host.npu_devices_used or ""
    driver = str(key.get("accelerator", "")).partition(", ")[2]
    return Machine(host, f"device {chip}" if chip else record.host.cpu, driver)
