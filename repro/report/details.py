"""The report's sections of facts: environment, images, stages, times, formulas."""

from __future__ import annotations

import msgspec

from repro.record import Record
from repro.report.lanes import legend
from repro.report.parts import (
    Bullet,
    Section,
    digest,
    engine_name,
    made_and_stored,
    makers,
    number,
    origin,
    size,
    status,
    table,
)
from repro.report.timeline import accounted, spans_of


def happened(record: Record) -> list[Section]:
    """What happened when: the timeline."""
    return [_times(record)]


def sections(record: Record) -> list[Section]:
    """The sections, in order."""
    return [
        _toolchain(record),
        _inputs(record),
        _engine(record),
        _images(record),
        _stages(record),
        *_vendor_commands(record),
        _metrics(record),
    ]


def _toolchain(record: Record) -> Section:
    rows = [[row.component, row.required, row.found or "-", status(row.status), row.probe] for row in record.toolchain]
    same = sum(row.status == "same" for row in record.toolchain)
    sentence = (
        f"Toolchain {record.request.toolchain}: {same} of {len(rows)} components are what the guide's "
        "compatibility table requires; found by probes, not by declaration."
    )
    took = [f"In pinned images ran: {', '.join(record.request.pinned)}."] if record.request.pinned else []
    took += [f"CANN, as was asked for: {record.request.cann}."] if record.request.cann else []
    return Section(
        "Toolchain",
        [sentence, *took],
        tables=[table(["component", "required", "found", "status", "probe"], rows)],
        lead=f"{record.request.toolchain}: {same} of {len(rows)} components as required",
    )


def _inputs(record: Record) -> Section:
    data, checkpoint = record.data, record.checkpoint
    counts = f"train {data.utterances.train}, dev {data.utterances.dev}, test {data.utterances.test}"
    rows = [
        ["data", data.kind, digest(data.fingerprint), f"utterances: {counts}. {data.note}"],
        ["checkpoint", checkpoint.kind, digest(checkpoint.sha256), f"{checkpoint.trust}. {checkpoint.note}"],
    ]
    rows += [
        [f"source archive {source.name}", source.licence, digest(source.digest.rpartition(":")[2]),
         f"{source.title}: {source.trust}"]
        for source in record.sources
    ]  # fmt: skip
    deviations = [Bullet(f"not as TIMIT: {text}") for text in data.timit_deviations]
    excluded = [[entry.utterance, entry.reason] for entry in data.excluded]
    tables = [table(["input", "kind", "sha256", "what is known of it"], rows)]
    if excluded:
        tables.append(table(["excluded utterance", "reason"], excluded))
    lead = f"data {data.kind}, checkpoint {checkpoint.kind}"
    return Section("Inputs", bullets=deviations, tables=tables, lead=lead)


def _engine(record: Record) -> Section:
    engine, when = record.engine, _when(record)
    rows = [["engine", "name", engine_name(record)]]
    rows += [["engine", name, value] for name, value in sorted(engine.facts.items())]
    rows += [[f"limit, {when}", name, _was(value, record)] for name, value in sorted(engine.limits.items())]
    rows += [["host", name, str(value)] for name, value in sorted(msgspec.to_builtins(record.host).items())]
    sentence = (
        f"Of {len(record.stages)} results, {made_and_stored(record)}; they were made with {', '.join(makers(record))}. "
        "A limit is that of the runs that made the results: it is called enforced where it was enforced for all of "
        "them."
    )
    return Section(
        "Engine and host", [sentence], tables=[table(["of", "what", "value"], rows)], lead=engine_name(record)
    )


def _when(record: Record) -> str:
    """When the limits held: while this run made the results, or while earlier ones did."""
    stored = {stage.cached for stage in record.stages}
    if stored == {True}:
        return "when earlier runs made the results"
    return "in this run and the earlier ones that made the results" if True in stored else "in this run"


def _was(limit: str, record: Record) -> str:
    """A limit of results that are all of earlier runs, in the past tense: nothing was enforced in this run."""
    return f"was {limit}" if record.stages and all(stage.cached for stage in record.stages) else limit


def _images(record: Record) -> Section:
    layers = record.image_layers
    rows = [
        [
            name,
            digest(identity),
            size(sum(layer.size_bytes for layer in layers.get(name, ()))),
            len(layers.get(name, ())),
        ]
        for name, identity in sorted(record.images.items())
    ]
    detail = [
        [name, layer.name, layer.kind, size(layer.size_bytes), digest(layer.diff_id), digest(layer.made_from)]
        for name, of_image in sorted(layers.items())
        for layer in of_image
    ]
    return Section(
        "Images",
        ["An image's ID is computed from its layers, and is the same wherever it is built."],
        tables=[
            table(["image", "ID", "#size", "#layers"], rows),
            table(["image", "layer", "kind", "#size", "diff ID", "made from"], detail),
        ],
        lead=f"{len(rows)} images",
    )


def _stages(record: Record) -> Section:
    rows = [
        [
            stage.name,
            "" if stage.batch_size is None else stage.batch_size,
            digest(stage.fingerprint),
            digest(stage.image),
            digest(stage.outputs.digest),
            len(stage.outputs.files),
            stage.exactness,
            origin(record, stage.key),
            number(stage.observations.wall_s, 2),
        ]
        for stage in record.stages
    ]
    columns = ["stage", "#B", "fingerprint", "image", "outputs", "#files", "exactness", "made in", "#seconds"]
    sentence = (
        "Each result by the digest of its files; inputs and every file's digest are in the record. What is exact has "
        "these bytes on every processor; which were tried, and since when: docs/decisions/exactness.md."
    )
    return Section("Stages", [sentence], tables=[table(columns, rows)], lead=made_and_stored(record))


def _vendor_commands(record: Record) -> list[Section]:
    """What of the vendor's tools ran on the NPU path, argument for argument."""
    rows = [
        [stage.key, " ".join(command.argv), command.exit_code, number(command.wall_s, 2)]
        for stage in record.stages
        for command in stage.observations.commands or ()
    ]
    if not rows:
        return []
    sentence = "The guide's commands as they were run, after its environment script was sourced."
    made = table(["step", "command", "#exit", "#seconds"], rows)
    return [Section("The guide's commands", [sentence], tables=[made], lead=f"{len(rows)} commands")]


def _times(record: Record) -> Section:
    rows = [
        [span.kind, span.name, number(span.started_s, 2), number(span.ended_s, 2), number(span.seconds, 2)]
        for span in spans_of(record)
    ]
    rows.append(["", "whole run", number(0.0, 2), *[number(record.observations.wall_s, 2)] * 2])
    sentence = (
        f"{accounted(record)} Phases in which stages run hold what those do: making images ready to start (an image is "
        "unpacked, or loaded into the engine), and the stages themselves, several at once where they may."
    )
    return Section(
        "What ran, and when",
        plots=["times"],
        caption=legend(record),
        tables=[table(["what", "name", "#from s", "#to s", "#seconds"], rows)],
        notes=[sentence],
        folded=False,
    )


_AGREEMENT_UNITS = {"kl": "nats", "max_abs": "nats", "rmse": "nats", "symbols_changed": "frames"}


def _metrics(record: Record) -> Section:
    """The record's formulas, and those that the stage compare states beside its figures."""
    rows = [[name, entry.unit, entry.formula] for name, entry in sorted(record.metrics.items())]
    agreement: dict[str, str] = {}
    for result in record.results:
        agreement.update(result.comparison.formulas)
    rows += [
        [f"agreement: {name}", _AGREEMENT_UNITS.get(name, "1"), formula] for name, formula in sorted(agreement.items())
    ]
    intervals = dict.fromkeys(result.complete.interval_95.method for result in record.results)
    rows += [["95 % interval", "%", method] for method in intervals]
    rows.append(["S + I + D", "phones", "substitutions, insertions and deletions of a shortest alignment"])
    return Section("Metrics", tables=[table(["metric", "unit", "formula"], rows)], lead=f"{len(rows)} formulas")
