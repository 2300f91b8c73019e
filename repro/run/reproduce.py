"""`invoke reproduce`: from what a person asked to a record, a verdict and a report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from repro.base.paths import Paths
from repro.display.console import Console
from repro.graph.leavings import read_document
from repro.graph.making import Done
from repro.guide import toolchain
from repro.guide.published import Published
from repro.guide.verdict import is_excepted
from repro.images.archives import sources_of
from repro.machine import facts, npu
from repro.run import record
from repro.run.execute import execute
from repro.run.options import Options
from repro.run.request import aim, graph_of, resolve
from repro.run.session import Session, span
from repro.run.target import PINNED, PORTABLE, Target
from repro.run.writing import write_run

if TYPE_CHECKING:
    from repro.run.engine_choice import Choice

PINNED_DEVIATING = "pinned-deviating"  # the pinned images, but something of the table is not as required
SIMULATOR = "npu-simulator"  # what stands in for an NPU in tests: no record calls it one
NO_ENGINE = "none"  # every result was stored


def reproduce(options: Options, paths: Paths, console: Console) -> dict[str, Any]:
    """Run everything that was asked, and write record and reports into a new folder of artifacts/runs.

    Returns:
        The record, its verdict included.
    """
    session = Session(paths, console)
    with session.store.in_use():  # until the record names what was taken
        return _reproduced(options, session)


def _reproduced(options: Options, session: Session) -> dict[str, Any]:
    from repro.guide import published, verdict

    paths = session.paths
    started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    target = aim(options, session)
    request, checkpoint = resolve(options, paths, session.cache, target)
    nodes = graph_of(request, paths)
    force = set(nodes) if options.force else set()
    executed = execute(session, options, target, nodes, force)
    done, images = executed.done, executed.images
    used = {name: images[name] for name in sorted({node.stage.image for node in nodes.values()})}
    probes = {
        name: read_document(done[f"probe:{name}"].result.out, "probe.json", f"probe of {name}") for name in used
    }  # fmt: skip
    corpus = read_document(done["corpus"].result.out, "summary.json", "corpus: summary.json")
    data_kind = "demo" if request.data is None else ("timit" if corpus["timit"]["matches"] else "user")
    fingerprint = done["corpus"].result.key["inputs"]["data"]
    table = published.load_published(paths.conf / "published.toml")
    host_facts = {**facts.facts(), **npu.facts(target.npu, target.chips)}
    rows = toolchain.compare(toolchain.load_components(paths.conf), probes, npu.facts(target.npu, target.chips))
    if request.on_npu and (target.npu.simulator or any(probe["simulator"] for probe in probes.values())):
        request = replace(request, device=SIMULATOR)
    parts = record.Parts(
        request=request,
        toolchain_name=_toolchain_name(target, rows, host_facts, table),
        data_kind=data_kind,
        data_fingerprint=fingerprint,
        checkpoint=checkpoint,
        images=used,
        toolchain=rows,
        engine=_engine_part(executed.choice, done),
        host=host_facts,
        sources=sources_of(paths, used, session.architecture),
        observations={
            "started_at": started_at,
            "wall_s": session.phases.total_s(),
            "phases": session.phases.items,
            "steps": [
                {"key": k, "started_s": round(d.started_s, 3), "wall_s": round(d.seconds, 3), "cached": d.cached}
                for k, d in done.items()
            ],
            "layers": session.phases.layers,
            "preparations": [span(p.image, p.started_s, p.seconds) for p in executed.preparations],
        },
    )
    document = record.make_record(parts, done)
    document["verdict"] = verdict.verdict(document, table)
    write_run(paths, started_at, document)
    return document


def _engine_part(choice: Choice | None, done: Mapping[str, Done]) -> dict[str, Any]:
    """The engine of this run; the limits are those under which the stored results were made."""
    limits: dict[str, str] = {}
    for item in done.values():
        limits.update(item.result.observations.get("limits", {}))
    if choice is None:
        return {"name": NO_ENGINE, "facts": {}, "limits": limits, "passed_over": []}
    return {
        "name": choice.engine.name,
        "facts": dict(choice.availability.facts),
        "limits": limits,
        "passed_over": [{"name": other.name, "reason": other.reason} for other in choice.passed_over],
    }


def _toolchain_name(target: Target, rows: list[dict[str, str]], host_facts: Mapping[str, Any], table: Published) -> str:
    """'pinned' only where every row of the compatibility table is as required, or excepted for this card."""
    if target.toolchain != PINNED:
        return PORTABLE
    wrong = toolchain.deviations(rows, lambda row: is_excepted(row, host_facts, table))
    return PINNED_DEVIATING if wrong else PINNED
