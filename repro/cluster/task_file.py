"""What a node of the cluster is given to make one node of the graph, and what it leaves beside the result, as files.

CLUSTER/FINGERPRINT/task.json         everything that the job needs
CLUSTER/FINGERPRINT/job               the number of the job that was submitted for it
CLUSTER/FINGERPRINT/progress          where the stage is, in words
CLUSTER/FINGERPRINT/NUMBER.N.json     how the Nth start of that job ended; N counts from 0
CLUSTER/log/NUMBER.log                what the job printed
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

import msgspec
from msgspec import UNSET, UnsetType

from repro.base import typed_json
from repro.base.confined import TreeLimits
from repro.base.errors import VerificationFailed
from repro.base.files import canonical_json, sha256_bytes
from repro.base.strict_json import parse
from repro.base.values import Count, Digest, Name, Positive, Sha256, Strict
from repro.container.image import Image, Layer
from repro.graph.executor import Task
from repro.graph.made_on import MadeOn
from repro.graph.pipeline import Node, Output, Source, StageDefinition

VERSION: Literal[1] = 1
TASK, JOB, PROGRESS = "task.json", "job", "progress"


class LayerFile(Strict, frozen=True):
    """A layer; its tar lies among the blobs of the checkout's OCI layout."""

    name: str
    kind: str
    diff_id: Digest
    size_bytes: Count
    made_from: str


class ImageFile(Strict, frozen=True):
    """An image: `config` and `manifest` are the exact text that its digests are of."""

    name: Name
    architecture: str
    layers: tuple[LayerFile, ...]
    config: str
    manifest: str
    env: dict[str, str]
    python: str

    def image(self, blobs: Path) -> Image:
        """The image, its digests computed here.

        Raises:
            VerificationFailed: its config names other layers.
        """
        config, manifest = self.config.encode(), self.manifest.encode()
        named = parse(config, what=f"the config of image {self.name}")["rootfs"]["diff_ids"]
        if named != [layer.diff_id for layer in self.layers]:
            raise VerificationFailed(f"image {self.name}: its config names other layers than its task does")
        return Image(
            name=self.name,
            architecture=self.architecture,
            layers=tuple(
                Layer(each.name, each.kind, each.diff_id, each.size_bytes, blobs / each.diff_id[7:], each.made_from)
                for each in self.layers
            ),
            config=config,
            config_digest=f"sha256:{sha256_bytes(config)}",
            manifest=manifest,
            manifest_digest=f"sha256:{sha256_bytes(manifest)}",
            env=self.env,
            python=self.python,
        )


class InputFile(Strict, frozen=True):
    """An input: a file or folder by its path, or the result of another node by its fingerprint."""

    name: str
    path: Union[str, UnsetType] = UNSET
    fingerprint: Union[Sha256, UnsetType] = UNSET
    below: str = ""


class LimitsFile(Strict, frozen=True):
    """See `TreeLimits`."""

    entries: Positive
    depth: Positive
    total_bytes: Positive


class StageFile(Strict, frozen=True):
    """See `StageDefinition`."""

    name: Name
    image: Name
    exactness: str
    whole_machine: bool
    shares: bool
    host_bound: bool
    accelerator: bool
    timeout_s: float
    memory_bytes: Positive
    leaves: LimitsFile


class TaskFile(Strict, frozen=True):
    """Everything that a job needs to make one node of the graph.

    Attributes:
        key: what the result depends on; the job computes it anew and holds it to this one.
        images: the stage's own, and the sandbox's.
        blobs: the folder of the OCI layout's blobs.
        engine: 'sandbox', 'docker' or 'podman'.
        local: the folder on the node's own disk.
        accelerator: chip, driver and firmware of the NPU, '' on the CPU.
        names: the node's name is recorded beside its facts.
    """

    version: Literal[1]
    key: dict[str, Any]
    node: str
    stage: StageFile
    inputs: dict[Name, InputFile]
    parameters: dict[str, str]
    batch_size: Union[Positive, None]
    sample: str
    forced: bool
    images: tuple[ImageFile, ...]
    blobs: str
    engine: str
    local: str
    accelerator: str
    names: bool

    def graph_node(self) -> Node:
        """The node of the graph."""
        stage = msgspec.to_builtins(self.stage)
        inputs: dict[str, Union[Source, Output]] = {}
        for name, given in self.inputs.items():
            if isinstance(given.path, str):
                inputs[name] = Source(given.name, Path(given.path))
            else:
                inputs[name] = Output(given.name, given.below)
        definition = StageDefinition(**{**stage, "leaves": TreeLimits(**stage["leaves"])})
        return Node(self.node, definition, inputs, self.parameters, self.batch_size, self.sample)

    def fingerprints(self) -> dict[str, str]:
        """The results that go in, by the node that they are of."""
        return {given.name: given.fingerprint for given in self.inputs.values() if given.fingerprint is not UNSET}


@dataclass(frozen=True)
class NodePlace:
    """What every task of a run says of the nodes; see `TaskFile`."""

    blobs: str
    engine: str
    local: str
    accelerator: str
    names: bool


class EngineFile(Strict, frozen=True):
    """The engine that a job used."""

    name: Name
    facts: dict[str, str]


class Ended(Strict, frozen=True):
    """How one start of a job ended.

    Attributes:
        outcome: 'made'; 'stored' (another process had made the result); 'failed'; 'other processor': this node gives
            the result another key.
        seconds: that the stage took, its image's preparation aside.
        prepared_s: that its image took to be made ready.
        error, code: of a failure: message, detail and hint, and the exit code of its kind.
    """

    outcome: Literal["made", "stored", "failed", "other processor"]
    machine: MadeOn
    engine: Union[EngineFile, None] = None
    seconds: float = 0.0
    prepared_s: float = 0.0
    error: tuple[str, str, str] = ("", "", "")
    code: int = 0


def task_file(task: Task, images: Mapping[str, Image], place: NodePlace) -> TaskFile:
    """A task as a file for whichever node makes it.

    Args:
        task: a ready node of the graph.
        images: the stage's own, and the sandbox's.
        place: what holds for every task of the run.
    """
    node = task.node
    return TaskFile(
        version=VERSION,
        key=dict(task.key),
        node=node.key,
        stage=stage_file(node.stage),
        inputs=inputs_of(task),
        parameters=dict(node.parameters),
        batch_size=node.batch_size,
        sample=node.sample,
        forced=task.forced,
        images=tuple(image_file(image) for image in images.values()),
        blobs=place.blobs,
        engine=place.engine,
        local=place.local,
        accelerator=place.accelerator if node.stage.accelerator else "",
        names=place.names,
    )


def image_file(image: Image) -> ImageFile:
    """An image as a task names it."""
    return ImageFile(
        name=image.name,
        architecture=image.architecture,
        layers=tuple(
            LayerFile(
                name=each.name,
                kind=each.kind,
                diff_id=each.diff_id,
                size_bytes=each.size_bytes,
                made_from=each.made_from,
            )
            for each in image.layers
        ),
        config=image.config.decode(),
        manifest=image.manifest.decode(),
        env=dict(image.env),
        python=image.python,
    )


def inputs_of(task: Task) -> dict[str, InputFile]:
    """A task's inputs: sources by their path, results by their fingerprint."""
    found = {}
    for name, source in task.node.inputs.items():
        if isinstance(source, Source):
            found[name] = InputFile(name=source.name, path=str(source.path.resolve()))
        else:
            fingerprint = task.results[source.node].fingerprint
            found[name] = InputFile(name=source.node, fingerprint=fingerprint, below=source.below)
    return found


def stage_file(stage: StageDefinition) -> StageFile:
    """A stage's declaration as a task has it."""
    return msgspec.convert(msgspec.to_builtins(stage), StageFile)


def written(document: msgspec.Struct) -> bytes:
    """A document as bytes."""
    return canonical_json(msgspec.to_builtins(document))


def read_task(folder: Path) -> TaskFile:
    """The task in a folder; its key is the one that the folder is named after.

    Raises:
        VerificationFailed: it is not what an executor writes.
    """
    return typed_json.read((folder / TASK).read_bytes(), TaskFile, what=TASK)


def read_ended(folder: Path, number: str) -> Ended | None:
    """How the last start of a job ended; None where no start came to an end of its own, or where the folder is gone.

    Another submitter that takes the result removes the folder, also while it is read here.
    """
    try:
        starts = [name[len(number) + 1 : -len(".json")] for name in os.listdir(folder) if _tells_of(name, number)]
        if not starts:
            return None
        content = (folder / f"{number}.{max(starts, key=int)}.json").read_bytes()
    except FileNotFoundError:
        return None
    return typed_json.read(content, Ended, what=f"how job {number} ended")


def _tells_of(name: str, number: str) -> bool:
    return re.fullmatch(rf"{re.escape(number)}\.[0-9]+\.json", name) is not None
