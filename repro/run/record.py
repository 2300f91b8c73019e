"""Making the record of a run from what was asked, what stages left and what was observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from msgspec import UNSET, UnsetType

from repro.base import typed_json
from repro.container.image import Image
from repro.graph.leavings import HOST_WATCH, read_document
from repro.graph.making import Done
from repro.graph.pipeline import PRECISIONS, Node, Request, Source
from repro.guide.disturbance import while_measuring
from repro.guide.published import Published
from repro.guide.verdict import verdict
from repro.locks.archives import SourceArchive
from repro.record import document
from repro.record.document import Findings, Record
from repro.record.identity import make_identity
from repro.record.measuring import (
    LEAST_DURATION_S,
    LEAST_EXECUTIONS,
    LoadFile,
    MachineFile,
    Sustained,
    WhileMeasuring,
)
from repro.record.scores import Comparison, Result
from repro.record.stage_files import CorpusFile, Manifest, MeasureFile, ScoreFile, SplitSummaries, SustainedFile
from repro.record.stages import OutputFile, Outputs, Stage, StageInput, StageObservations
from repro.run.inputs import Checkpoint

T = TypeVar("T")
LOAD, SUSTAINED = "load.json", "sustained.json"
DEMO_DATA_NOTE = "The demo corpus: synthetic speech in TIMIT's layout; its error rates say nothing about TIMIT."
DEMO_CHECKPOINT_NOTE = "The demo checkpoint: trained on the demo corpus; it is not the published model."
METRICS = {
    "cer_percent": document.Metric(
        formula="100 * (character edits pooled over utterances) / (reference characters); published protocol: "
        "hypotheses carry the reference implementation's leading space",
        unit="%",
    ),
    "wer_percent": document.Metric(
        formula="100 * (phone edits pooled over utterances) / (reference phones): a phone error rate", unit="%"
    ),
    "throughput_utterances_per_s": document.Metric(
        formula="1000 * batch_size / mean(execution times in ms), pure inference, copies not counted",
        unit="utterances/s",
    ),
    "latency_ms": document.Metric(formula="execution time of one batch, pure inference", unit="ms"),
}


@dataclass(frozen=True)
class Parts:
    """Everything that a record is made of beside the stages' results, gathered by the run."""

    request: Request
    toolchain_name: str
    data_kind: document.DataKind
    checkpoint: Checkpoint
    images: Mapping[str, Image]
    toolchain: tuple[document.ToolchainRow, ...]
    engine: document.EngineUsed
    host: document.Host
    observations: document.Observations
    sources: tuple[SourceArchive, ...] = ()


def read_output(done: Done, name: str, kind: type[T]) -> T:
    """A JSON file of a stage's out/, as a type.

    Raises:
        VerificationFailed: it is not what this stage writes; the message names the place.
    """
    return _read(done, done.result.out, name, kind)


def read_observed(done: Done, name: str, kind: type[T]) -> T:
    """The same of its obs/."""
    return _read(done, done.result.obs, name, kind)


def _read(done: Done, folder: Path, name: str, kind: type[T]) -> T:
    what = f"{done.node.key}: {name}"
    return typed_json.convert(read_document(folder, name, what), kind, what=what)


def _typed(what: str, of: type[T], /, **members: Any) -> T:
    """A part of the record from values whose types are wider: those of the command line and of other modules."""
    return typed_json.convert(members, of, what=what)


def _request(parts: Parts) -> document.Request:
    request = parts.request
    special: dict[str, Any] = {}
    if request.on_npu:
        special["soc_version"] = request.soc_version
        special["precision_mode"] = request.precision_mode
        special["num_devices"] = request.num_devices
        special |= {"cann": request.cann} if request.cann else {}
    elif request.precision != PRECISIONS[0]:
        special["precision"] = request.precision
    if request.pinned:
        special["pinned"] = list(request.pinned)
    if request.sample:
        special["sample"] = request.sample
    return _typed(
        "the request",
        document.Request,
        batch_sizes=list(request.batch_sizes),
        device=request.device,
        toolchain=parts.toolchain_name,
        data=parts.data_kind,
        checkpoint=parts.checkpoint.kind,
        decode={"type": request.decode, "beam_width": request.beam_width, "lm_alpha": request.lm_alpha},
        split=request.split,
        loop=request.loop,
        skip_bad=request.skip_bad,
        **special,
    )


def data_found(kind: document.DataKind, fingerprint: str, corpus: CorpusFile) -> document.Data:
    """What a record says of the data set.

    Args:
        kind: whose it is.
        fingerprint: of the data set's files.
        corpus: what the stage corpus found in it.
    """
    return document.Data(
        kind=kind,
        fingerprint=fingerprint,
        utterances=_counts(corpus.splits, "utterances"),
        phones=_counts(corpus.splits, "phones"),
        timit_counts_match=corpus.timit.matches,
        timit_deviations=corpus.timit.deviations,
        excluded=corpus.excluded,
        note=DEMO_DATA_NOTE if kind == "demo" else "",
    )


def _counts(splits: SplitSummaries, what: str) -> document.Splits:
    return document.Splits(**{name: getattr(getattr(splits, name), what) for name in ("train", "dev", "test")})


def _checkpoint(found: Checkpoint) -> document.CheckpointUsed:
    return _typed(
        "the checkpoint",
        document.CheckpointUsed,
        kind=found.kind,
        sha256=found.sha256,
        trust=found.trust,
        note=DEMO_CHECKPOINT_NOTE if found.kind == "demo" else "",
    )


def _result(size: int, done: Mapping[str, Done]) -> Result:
    score = read_output(done[f"score@{size}"], "score.json", ScoreFile)
    measured = done[f"measure@{size}"]
    speed = read_observed(measured, "measure.json", MeasureFile)
    return Result(
        batch_size=size,
        published=score.protocols.published,
        complete=score.protocols.complete,
        decode=score.decode,
        excluded=read_output(done[f"batches@{size}"], "manifest.json", Manifest).excluded,
        throughput_utterances_per_s=speed.throughput_utterances_per_s,
        latency_ms=speed.latency_ms,
        measured=speed.figures(),
        comparison=read_output(done[f"compare@{size}"], "compare.json", Comparison),
        sustained=_sustained(measured),
        while_measuring=_while_measuring(measured, speed.loop),
    )


def _sustained(measured: Done) -> Sustained | UnsetType:
    if SUSTAINED not in measured.result.observations.get("files", {}):
        return UNSET
    file = read_observed(measured, SUSTAINED, SustainedFile)
    return sustained(file) if file.each else UNSET


def sustained(file: SustainedFile) -> Sustained:
    """What a record holds of all loops together."""
    executions = sum(each.loop for each in file.each)
    throughputs = [each.throughput_utterances_per_s for each in file.each]
    timed_s = executions * file.latency_ms.mean / 1000.0
    several, whole = len(file.each) > 1, file.throughput_utterances_per_s
    return Sustained(
        executions=executions,
        timed_s=timed_s,
        throughput_utterances_per_s=whole,
        latency_ms=file.latency_ms,
        loops=file.each,
        spread_percent=100.0 * (max(throughputs) - min(throughputs)) / whole if several and whole else None,
        long_enough=executions >= LEAST_EXECUTIONS and timed_s >= LEAST_DURATION_S,
    )


def _while_measuring(measured: Done, loop: int) -> WhileMeasuring | UnsetType:
    """What was read beside the measurement; nothing where a result was brought here without it."""
    files = measured.result.observations.get("files", {})
    if HOST_WATCH not in files:
        return UNSET
    machine = read_observed(measured, HOST_WATCH, MachineFile)
    load = read_observed(measured, LOAD, LoadFile) if LOAD in files else None
    return while_measuring(machine, load, loop)


def _source(source: SourceArchive) -> document.RecordedSource:
    """An archive that a compiled layer is made from: what it is, what it was held to, what the user accepted."""
    return document.RecordedSource(
        name=source.name,
        title=source.title,
        digest=source.digest,
        trust=source.trust,
        licence=source.licence + (f", accepted by the user ({source.accept})" if source.accept else ""),
    )


def _inputs(node: Node, key: Mapping[str, Any]) -> dict[str, StageInput]:
    return {
        name: StageInput(origin=source.name if isinstance(source, Source) else source.node, digest=key["inputs"][name])
        for name, source in node.inputs.items()
    }


def stage_of(item: Done) -> Stage:
    """What a record says of a step that is done."""
    result, definition = item.result, item.node.stage
    return Stage(
        key=item.node.key,
        name=definition.name,
        batch_size=item.node.batch_size,
        fingerprint=result.fingerprint,
        image=result.key["image"],
        code=result.key["code"],
        argv=tuple(result.key["argv"]),
        inputs=_inputs(item.node, result.key),
        outputs=Outputs(
            digest=result.output_digest,
            files={p: OutputFile(sha256=f.sha256, size_bytes=f.size_bytes) for p, f in sorted(result.outputs.items())},
        ),
        exactness=definition.exactness,
        host_bound=definition.host_bound,
        cached=item.cached,
        observations=_typed(f"{item.node.key}: observations", StageObservations, **result.observations),
    )


def _layers(image: Image) -> tuple[document.RecordedLayer, ...]:
    return tuple(
        _typed(
            f"image {image.name}",
            document.RecordedLayer,
            name=layer.name,
            kind=layer.kind,
            diff_id=layer.diff_id,
            size_bytes=layer.size_bytes,
            made_from=layer.made_from,
        )
        for layer in image.layers
    )


def make_record(parts: Parts, done: Mapping[str, Done], published: Published) -> Record:
    """The record of a run, judged by the published table.

    Args:
        parts: what was asked and found.
        done: every node with its result.
        published: the table.

    Raises:
        VerificationFailed: a stage's result is not what this stage writes.
    """
    images = {name: image.config_digest for name, image in sorted(parts.images.items())}
    corpus = done["corpus"]
    data = data_found(
        parts.data_kind, corpus.result.key["inputs"]["data"], read_output(corpus, "summary.json", CorpusFile)
    )
    request, checkpoint = _request(parts), _checkpoint(parts.checkpoint)
    stages = tuple(stage_of(item) for item in done.values())
    findings = Findings(
        schema=document.SCHEMA,
        version=document.VERSION,
        request=request,
        identity=make_identity(request, data, checkpoint, images, stages),
        engine=parts.engine,
        toolchain=parts.toolchain,
        images=images,
        image_manifests={name: image.manifest_digest for name, image in sorted(parts.images.items())},
        image_layers={name: _layers(image) for name, image in sorted(parts.images.items())},
        data=data,
        checkpoint=checkpoint,
        results=tuple(_result(size, done) for size in parts.request.batch_sizes),
        stages=stages,
        metrics=METRICS,
        sources=tuple(_source(source) for source in parts.sources),
        host=parts.host,
        observations=parts.observations,
    )
    return findings.judged(verdict(findings, published))
