"""The record of one run: what was asked and found, results by digest, figures, verdict. Its JSON is record.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal, Union

from msgspec import UNSET, Meta, UnsetType

from repro.base.values import (
    ArchiveDigest,
    Count,
    Digest,
    Instant,
    Name,
    Positive,
    Real,
    Seconds,
    Sha256,
    StageKey,
    Strict,
)
from repro.record.judgement import Verdict
from repro.record.scores import Excluded, Result
from repro.record.stages import Phase, Stage, Step

SCHEMA: Literal["lstm-ctc-bundle/record"] = "lstm-ctc-bundle/record"
VERSION: Literal[1] = 1
DataKind = Literal["demo", "timit", "user"]
CheckpointKind = Literal["demo", "user"]


class RequestedDecoder(Strict, frozen=True):
    """The decoder asked for; width and weight count for Beam alone."""

    type: Literal["Greedy", "Beam"]
    beam_width: Positive
    lm_alpha: Real


class Request(Strict, frozen=True):
    """What was asked for.

    `soc_version`, `precision_mode` and `num_devices` stand in runs on an NPU, `cann` in those with another CANN than
    the table's (its version, or 'host' and what the host's own says of itself), `precision` in runs in another number
    format, `pinned` (stages) in runs with pinned images, `sample` in those that measure the same thing once more.
    """

    batch_sizes: Annotated[tuple[Positive, ...], Meta(min_length=1, extra_json_schema={"uniqueItems": True})]
    device: Literal["cpu", "npu", "npu-simulator"]
    toolchain: Literal["pinned", "pinned-deviating", "portable"]
    data: DataKind
    checkpoint: CheckpointKind
    decode: RequestedDecoder
    split: Literal["dev", "test"]
    loop: Positive
    skip_bad: bool
    soc_version: Union[str, UnsetType] = UNSET
    precision: Union[Literal["bf16"], UnsetType] = UNSET
    precision_mode: Union[str, UnsetType] = UNSET
    num_devices: Union[Positive, UnsetType] = UNSET
    cann: Union[str, UnsetType] = UNSET
    pinned: Union[Annotated[tuple[Name, ...], Meta(extra_json_schema={"uniqueItems": True})], UnsetType] = UNSET
    sample: Union[Annotated[str, Meta(min_length=1, max_length=100)], UnsetType] = UNSET

    def __post_init__(self) -> None:
        _once(self.batch_sizes, "batch size")
        _once(self.pinned or (), "stage")


class IdentityData(Strict, frozen=True):
    """The data set's part of an identity."""

    kind: DataKind
    fingerprint: Sha256


class IdentityCheckpoint(Strict, frozen=True):
    """The checkpoint's part of an identity."""

    kind: CheckpointKind
    sha256: Sha256


class IdentityStage(Strict, frozen=True):
    """A stage's part of an identity: what it was made of, and the digest of what came out."""

    fingerprint: Sha256
    outputs: Sha256


class Identity(Strict, frozen=True):
    """What two runs of the same thing share to the byte, and its digest: no engine, time, host name or cache state.

    The request in it has no `sample`: runs that measure the same thing again share `results`.

    Attributes:
        sha256: of everything below: two runs on machines of one architecture and instruction set share it.
        results: digest of request, data, checkpoint and the outputs of exact stages: two runs on any machines share it.
        environment: digest of the images, which are of one architecture.
    """

    sha256: Sha256
    results: Sha256
    environment: Sha256
    request: Request
    data: IdentityData
    checkpoint: IdentityCheckpoint
    images: dict[Name, Digest]
    stages: dict[StageKey, IdentityStage]


class PassedOver(Strict, frozen=True):
    """An engine that was not chosen, and why."""

    name: str
    reason: str


class EngineUsed(Strict, frozen=True):
    """The engine of this run ('none' where every result was stored), and per limit: 'enforced', or why it is not.

    The limits are those under which the results were made, by this run or by earlier ones.
    """

    name: Name
    facts: dict[str, str]
    limits: dict[str, str]
    passed_over: tuple[PassedOver, ...]


class ToolchainRow(Strict, frozen=True):
    """A row of the compatibility table: required, and found by a probe."""

    component: str
    required: str
    found: str
    status: Literal["same", "deviates", "absent"]
    probe: str
    purpose: str
    kind: Literal["table", "requirement"]


class RecordedLayer(Strict, frozen=True):
    """A layer of an image; `made_from` is its lock's digest."""

    name: str
    kind: Literal["debs", "wheels", "files", "built"]
    diff_id: Digest
    size_bytes: Count
    made_from: Digest


class Splits(Strict, frozen=True):
    """A count for each split."""

    train: Count
    dev: Count
    test: Count


class Data(Strict, frozen=True):
    """The data set."""

    kind: DataKind
    fingerprint: Sha256
    utterances: Splits
    phones: Splits
    timit_counts_match: bool
    timit_deviations: tuple[str, ...]
    excluded: tuple[Excluded, ...]
    note: str


class CheckpointUsed(Strict, frozen=True):
    """The checkpoint, and what its digest was held to."""

    kind: CheckpointKind
    sha256: Sha256
    trust: str
    note: str


class Metric(Strict, frozen=True):
    """A metric's formula and unit."""

    formula: str
    unit: str


class Host(Strict, frozen=True):
    """The machine of the run: no name, address or serial number. The second part stands where an NPU was found."""

    os: str
    kernel: str
    architecture: str
    cpu: str
    cores: Positive
    instruction_set: str
    memory_bytes: Count
    page_size_bytes: Positive
    python: str
    selinux: str
    driver: Union[str, UnsetType] = UNSET
    chip: Union[str, UnsetType] = UNSET
    card: Union[str, UnsetType] = UNSET
    npu_smi: Union[str, UnsetType] = UNSET
    npu_chips: Union[str, UnsetType] = UNSET
    npu_devices_used: Union[str, UnsetType] = UNSET
    npu_simulator: Union[str, UnsetType] = UNSET
    firmware_and_driver: Union[str, UnsetType] = UNSET
    cann_and_driver: Union[str, UnsetType] = UNSET


class Observations(Strict, frozen=True):
    """Times of this run, counted from its start; no digest includes them."""

    started_at: Instant
    wall_s: Seconds
    phases: tuple[Phase, ...]
    layers: tuple[Phase, ...]
    preparations: tuple[Phase, ...]
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        self.started()

    def started(self) -> datetime:
        """`started_at`.

        Raises:
            ValueError: there is no such day or time.
        """
        return datetime.strptime(self.started_at, "%Y-%m-%dT%H:%M:%SZ")


class RecordedSource(Strict, frozen=True):
    """An archive that compiled layers are made from, and what it was held to."""

    name: str
    title: str
    digest: ArchiveDigest
    trust: str
    licence: str


class Findings(Strict, frozen=True):
    """A record without its verdict: what the verdict is made from."""

    schema: Literal["lstm-ctc-bundle/record"]
    version: Literal[1]
    request: Request
    identity: Identity
    engine: EngineUsed
    toolchain: tuple[ToolchainRow, ...]
    images: Annotated[dict[Name, Digest], Meta(description="Image name to image ID (the config digest).")]
    image_manifests: Annotated[dict[Name, Digest], Meta(description="Image name to manifest digest.")]
    image_layers: dict[Name, tuple[RecordedLayer, ...]]
    data: Data
    checkpoint: CheckpointUsed
    results: tuple[Result, ...]
    stages: tuple[Stage, ...]
    metrics: Annotated[dict[Name, Metric], Meta(description="Every metric's formula and unit.")]
    sources: tuple[RecordedSource, ...]
    host: Host
    observations: Observations

    def __post_init__(self) -> None:
        _once((stage.key for stage in self.stages), "stage")
        _once((result.batch_size for result in self.results), "batch size")

    def stage(self, key: str) -> Stage | None:
        """The stage of this key, such as 'score@8'; None where the run has none."""
        return next((stage for stage in self.stages if stage.key == key), None)

    def result(self, batch_size: int) -> Result | None:
        """The figures of a batch size; None where the run has none."""
        return next((result for result in self.results if result.batch_size == batch_size), None)

    @property
    def is_demo(self) -> bool:
        """Whether the data set or the checkpoint is the demo's, so that no figure is about TIMIT or the model."""
        return "demo" in (self.data.kind, self.checkpoint.kind)

    def judged(self, verdict: Verdict) -> Record:
        """The record with this verdict."""
        return Record(verdict=verdict, **{name: getattr(self, name) for name in Findings.__struct_fields__})


class Record(Findings, frozen=True):
    """What was asked and found in one run: results by digest, figures, verdict."""

    verdict: Verdict


def _once(values: Iterable[object], what: str) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"the {what} {twice[0]} stands twice")
