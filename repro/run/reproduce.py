"""`invoke reproduce`: from what a person asked to a record, a verdict and a report."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from repro.base.paths import Paths
from repro.container.job import Availability
from repro.display.console import Console
from repro.graph.making import Done
from repro.graph.pipeline import Request
from repro.guide import toolchain
from repro.guide.conditions import is_excepted
from repro.guide.published import load_published
from repro.images.archives import sources_of
from repro.machine import npu
from repro.record import Record
from repro.record.document import DataKind, EngineUsed, Host, Observations, PassedOver
from repro.record.stage_files import CorpusFile, ProbeFile
from repro.record.stages import Step
from repro.run import host_fits
from repro.run.execute import Executed, execute
from repro.run.inputs import Checkpoint
from repro.run.options import Options
from repro.run.record import Parts, make_record, read_output
from repro.run.request import aim, graph_of, resolve
from repro.run.session import Session, span
from repro.run.target import Target
from repro.run.writing import write_run

if TYPE_CHECKING:
    from repro.run.engine_choice import Choice

SIMULATOR = "npu-simulator"  # what stands in for an NPU in tests: no record calls it one
NO_ENGINE = "none"  # every result was stored
_ENFORCED = "enforced"


def reproduce(options: Options, paths: Paths, console: Console) -> Record:
    """Run everything that was asked, and write record and reports into a new folder of artifacts/runs."""
    session = Session(paths, console, options.on)
    with session.store.in_use():  # until the record names what was taken
        return _reproduced(options, session)


def _reproduced(options: Options, session: Session) -> Record:
    started_at = now()
    target = aim(options, session)
    request, checkpoint = resolve(options, session.paths, session.cache, target)
    nodes = graph_of(request, session.paths)
    executed = execute(session, options, target, nodes, set(nodes) if options.force else set())
    record = record_of(session, Asked(target, request, checkpoint), executed, started_at)
    write_run(session.paths, record)
    return record


def run_steps(options: Options, session: Session, steps: Collection[str]) -> Executed:
    """Bring these steps of a request to results, and nothing else: no record is made. Their inputs are among them."""
    with session.store.in_use():
        target = aim(options, session)
        request, _ = resolve(options, session.paths, session.cache, target)
        nodes = {key: node for key, node in graph_of(request, session.paths).items() if key in steps}
        return execute(session, options, target, nodes)


def now() -> str:
    """This moment as a record has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclass(frozen=True)
class Asked:
    """What a run was asked for, with target and inputs settled."""

    target: Target
    request: Request
    checkpoint: Checkpoint


def record_of(session: Session, asked: Asked, executed: Executed, started_at: str) -> Record:
    """The record of a request whose every node is done, judged by the published table.

    Raises:
        VerificationFailed: a stage's result is not what this stage writes.
    """
    paths, target, request, done = session.paths, asked.target, asked.request, executed.done
    used = {name: executed.images[name] for name in sorted({item.node.stage.image for item in done.values()})}
    probes = {name: read_output(done[f"probe:{name}"], "probe.json", ProbeFile) for name in used}
    table = load_published(paths.conf / "published.toml")
    npu_facts = npu.facts(target.npu, target.chips)
    host = msgspec.convert({**session.host(), **npu_facts, **_fits(target, paths, probes)}, Host)
    rows = toolchain.compare(toolchain.load_components(paths.conf), probes, npu_facts)
    if request.on_npu and (target.npu.simulator or any(probe.simulator for probe in probes.values())):
        request = replace(request, device=SIMULATOR)
    parts = Parts(
        request=request,
        toolchain_name=toolchain.name_of(request.pinned, request.cann, rows, lambda row: is_excepted(row, host, table)),
        data_kind=_data_kind(done["corpus"]) if request.data else "demo",
        checkpoint=asked.checkpoint,
        images=used,
        toolchain=rows,
        engine=engine_used(executed.choice, done),
        host=host,
        observations=_observations(started_at, session, executed),
        sources=sources_of(paths, used, session.architecture),
    )
    return make_record(parts, done, table)


def _fits(target: Target, paths: Paths, probes: Mapping[str, ProbeFile]) -> dict[str, str]:
    """Whether driver, firmware and CANN fit each other: of CANN by its own file, where a probe has read it."""
    found: Mapping[str, str] = next((probe.found for probe in probes.values() if "cann" in probe.found), {})
    installed = {host_fits.INNER: found.get("cann innerversion", ""), host_fits.DRIVERS: found.get("cann drivers", "")}
    version = found.get("cann") or host_fits.table_cann(paths.conf)
    return host_fits.facts(target.npu, paths.conf, version, installed)


def _data_kind(corpus: Done) -> DataKind:
    return "timit" if read_output(corpus, "summary.json", CorpusFile).timit.matches else "user"


def _observations(started_at: str, session: Session, executed: Executed) -> Observations:
    return Observations(
        started_at=started_at,
        wall_s=session.phases.total_s(),
        phases=tuple(session.phases.items),
        layers=tuple(session.phases.layers),
        preparations=tuple(span(p.image, p.started_s, p.seconds) for p in executed.preparations),
        steps=tuple(
            Step(key=key, started_s=round(item.started_s, 3), wall_s=round(item.seconds, 3), cached=item.cached)
            for key, item in executed.done.items()
        ),
    )


def engine_used(choice: Choice | Availability | None, done: Mapping[str, Done]) -> EngineUsed:
    """The engine of this run, and the limits under which the results were made, by this run or by earlier ones.

    A limit counts as enforced only where it was enforced for every result.
    """
    limits: dict[str, str] = {}
    for item in done.values():
        for name, how in item.result.observations.get("limits", {}).items():
            if limits.get(name, _ENFORCED) == _ENFORCED:
                limits[name] = how
    if choice is None:
        return EngineUsed(name=NO_ENGINE, facts={}, limits=limits, passed_over=())
    if isinstance(choice, Availability):  # a cluster's nodes were told which engine to use
        return EngineUsed(name=choice.name, facts=dict(choice.facts), limits=limits, passed_over=())
    return EngineUsed(
        name=choice.engine.name,
        facts=dict(choice.availability.facts),
        limits=limits,
        passed_over=tuple(PassedOver(name=other.name, reason=other.reason) for other in choice.passed_over),
    )
