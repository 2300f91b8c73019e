"""The pipeline as data: which stages there are, what each takes, and the graph that a request asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Union

from repro.base.confined import TreeLimits
from repro.base.errors import UsageError
from repro.graph.cann_images import CANN_IMAGE, cann_image, host_cann

BATCH_SIZES = (1, 4, 8, 16, 32, 64)
DEFAULT_BATCH_SIZE = 8
PRECISIONS = ("fp32", "bf16")
"""The model's own number format, and the one that trades a few digits for speed: stages/model/precision.py."""
EXACT = "exact"
SMALL = TreeLimits(entries=1_000, depth=4, total_bytes=4 * 1024**3)
"""What most stages leave at most: a few files, a model."""
CORPUS = TreeLimits(entries=60_000, depth=16, total_bytes=64 * 1024**3)
"""What stages leave that write lists and archives of a whole corpus: the demo's, the largest, has 5,400 files."""
BATCHES = TreeLimits(entries=1_000_000, depth=4, total_bytes=256 * 1024**3)
"""What stages leave that write a file for each batch: with --bs 1, a corpus of 150 times TIMIT's utterances."""
ISA_EXACT = "exact per instruction set, else within a tolerance with the same decoded symbols"


@dataclass(frozen=True)
class StageDefinition:
    """The declared interface of one stage; `docs/stages.md` is its long form.

    Attributes:
        image: the image it runs in.
        exactness: EXACT where outputs are the same bytes on every processor; ISA_EXACT where floating point differs.
        whole_machine: it uses every core, or must not be disturbed: it runs alone, unless it `shares`.
        shares: stages of one core may run beside it: nothing of it is timed, nor does its result depend on its cores.
        host_bound: its result is this machine's, and is never shown for another (measure).
        accelerator: it runs on the NPU: its container gets the devices, and its result is of that chip and driver.
        leaves: bounds on what it may leave in out/.
    """

    name: str
    image: str
    exactness: str = EXACT
    whole_machine: bool = False
    shares: bool = False
    host_bound: bool = False
    accelerator: bool = False
    timeout_s: float = 3600.0
    memory_bytes: int = 8 * 1024**3
    leaves: TreeLimits = SMALL


STAGES: Mapping[str, StageDefinition] = {
    stage.name: stage
    for stage in (
        StageDefinition("demo_corpus", "synth", whole_machine=True, shares=True, leaves=CORPUS),
        StageDefinition("corpus", "base", leaves=CORPUS),
        StageDefinition("features", "features", timeout_s=4 * 3600.0, leaves=CORPUS),
        StageDefinition("lm", "base"),
        StageDefinition("batches", "base", leaves=BATCHES),
        StageDefinition("export", "exporter"),
        StageDefinition(
            name="reference",
            image="exporter",
            exactness=ISA_EXACT,
            whole_machine=True,
            shares=True,
            timeout_s=4 * 3600.0,
            leaves=BATCHES,
        ),
        StageDefinition("convert", "runtime"),
        StageDefinition("infer", "runtime", whole_machine=True, timeout_s=4 * 3600.0, leaves=BATCHES),
        # Its own limit follows what its first executions take; this one is for a machine that hangs.
        StageDefinition("measure", "runtime", whole_machine=True, host_bound=True, timeout_s=24 * 3600.0),
        StageDefinition("score", "base"),
        StageDefinition(
            name="compare",
            image="runtime",
            exactness=ISA_EXACT,
            whole_machine=True,
            shares=True,
            timeout_s=4 * 3600.0,
            leaves=BATCHES,
        ),
        # atc compiles operators in several processes; a conversion takes minutes and some gigabytes.
        StageDefinition("convert_npu", CANN_IMAGE, whole_machine=True, timeout_s=4 * 3600.0, memory_bytes=32 * 1024**3),
        StageDefinition(
            "infer_npu", CANN_IMAGE, accelerator=True, whole_machine=True, timeout_s=4 * 3600.0, leaves=BATCHES
        ),
        StageDefinition(
            "measure_npu", CANN_IMAGE, accelerator=True, whole_machine=True, host_bound=True, timeout_s=2 * 3600.0
        ),
        StageDefinition("demo_train", "exporter", exactness=ISA_EXACT, whole_machine=True, timeout_s=12 * 3600.0),
    )
}


PINNED_IMAGES: Mapping[str, str] = {"features": "kaldi", "export": "exporter-pinned", "reference": "exporter-pinned"}
"""Stages that have an image to the letter of the compatibility table, compiled from the user's source archives."""


NPU_STAGES: Mapping[str, str] = {"convert": "convert_npu", "infer": "infer_npu", "measure": "measure_npu"}
"""Stages that another one stands in for with --device npu; their steps keep the names 'convert@8' and so on."""


@dataclass(frozen=True)
class Source:
    """An input from outside the graph: a file or folder of the user's or the repository's, by content."""

    name: str
    path: Path


@dataclass(frozen=True)
class Output:
    """An input that is another node's out/ folder, or a path below it."""

    node: str
    below: str = ""


Inputs = Mapping[str, Union[Source, Output]]
NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Node:
    """One stage to run: its inputs by option name, its parameters by option name.

    `key` names it within a run: 'features', 'infer@8'. `sample` tells several results of one host-bound stage apart,
    where its speed is measured more than once on purpose; '' for the only one.
    """

    key: str
    stage: StageDefinition
    inputs: Inputs
    parameters: Mapping[str, str] = field(default_factory=dict)
    batch_size: int | None = None
    sample: str = ""

    def argv(self) -> tuple[str, ...]:
        """The stage's command line inside its container, the same on every machine and engine."""
        words = ["/usr/bin/python3", "-m", f"stages.{self.stage.name}"]
        for name in sorted(self.inputs):
            below = getattr(self.inputs[name], "below", "")
            words += [f"--{name}", f"/run/in/{name}" + (f"/{below}" if below else "")]
        for name in sorted(self.parameters):
            value = self.parameters[name]
            words += [f"--{name}"] + ([value] if value else [])
        return (*words, "--out", "/run/out", "--obs", "/run/obs")


@dataclass(frozen=True)
class Request:
    """What a person asked for.

    Attributes:
        data, checkpoint: the user's, or None for the embedded demo.
        decode: 'Greedy' or 'Beam'.
        skip_bad: exclude utterances that cannot be used, listed and counted, instead of refusing.
        pinned: stages that run in their pinned image (see PINNED_IMAGES).
        soc_version: the NPU's chip as atc calls it, '' on the CPU.
        precision: the number format that the model runs in on the CPU, one of PRECISIONS.
        precision_mode: of atc; '' leaves it to the vendor's default.
        num_devices: how many chips share the batches.
        cann: which CANN, as `repro.graph.cann_images` has it; '' for the table's.
        sample: which of several measurements of the same thing this is, such as 'repeat 2'; '' for the only one.
    """

    batch_sizes: tuple[int, ...]
    data: Path | None = None
    checkpoint: Path | None = None
    device: str = "cpu"
    decode: str = "Greedy"
    beam_width: int = 10
    lm_alpha: float = 0.1
    split: str = "dev"
    loop: int = 100
    skip_bad: bool = False
    pinned: tuple[str, ...] = ()
    soc_version: str = ""
    precision: str = PRECISIONS[0]
    precision_mode: str = ""
    num_devices: int = 1
    cann: str = ""
    sample: str = ""

    @property
    def on_npu(self) -> bool:
        """Whether conversion, inference and measurement are the NPU's; 'npu-simulator' stands for it in records."""
        return self.device.startswith("npu")


def parse_batch_sizes(text: str) -> tuple[int, ...]:
    """'8', '1,8' or 'all' as batch sizes, sorted, each once.

    Raises:
        UsageError: not a positive whole number, a list of them, or 'all'.
    """
    if text.strip() == "all":
        return BATCH_SIZES
    try:
        sizes = {int(word) for word in text.split(",")}
    except ValueError:
        sizes = {0}
    if min(sizes) < 1:
        raise UsageError(f"--bs {text!r} is not a batch size", hint="use one number, a list such as 1,8,64, or all")
    if max(sizes) > 1024:
        raise UsageError(f"--bs {max(sizes)} is too large", hint="1024 is the most; the published table ends at 64")
    return tuple(sorted(sizes))


def reference_batch_size(sizes: Sequence[int]) -> int:
    """The batch size that PyTorch and the exported graph run in: the guide's where it is asked for, else the first.

    An utterance's output depends on no other one beside it, so it is computed once and serves every batch size.
    """
    return DEFAULT_BATCH_SIZE if DEFAULT_BATCH_SIZE in sizes else sizes[0]


def _flags(request: Request, *names: str) -> dict[str, str]:
    known = {
        "skip-bad": {"skip-bad": ""} if request.skip_bad else {},
        "decode": {"decode": request.decode},
        "beam": {"beam-width": str(request.beam_width), "lm-alpha": repr(request.lm_alpha)}
        if request.decode == "Beam"
        else {},
        "soc": {"soc-version": request.soc_version} if request.on_npu else {},
        "devices": {"num-devices": str(request.num_devices)} if request.on_npu and request.num_devices > 1 else {},
    }
    known["precision"] = {} if request.precision == PRECISIONS[0] else {"precision": request.precision}
    if request.on_npu and request.precision_mode:
        known["soc"] = {**known["soc"], "precision-mode": request.precision_mode}
    if request.on_npu and host_cann(request.cann):
        known = {**known, **{name: {**known[name], "cann": host_cann(request.cann)} for name in ("soc", "devices")}}
    merged: dict[str, str] = {}
    for name in names:
        merged.update(known[name])
    return merged


def _definition(request: Request, stage: str, parameters: Mapping[str, str]) -> StageDefinition:
    """The stage as this request wants it: for the NPU, in the pinned image, of the CANN that was asked for."""
    definition = STAGES[NPU_STAGES.get(stage, stage) if request.on_npu else stage]
    if stage in request.pinned:
        definition = replace(definition, image=PINNED_IMAGES[stage])
    if definition.image == CANN_IMAGE:
        definition = replace(definition, image=cann_image(request.cann))
    if (stage in request.pinned and stage == "features") or "precision" in parameters:
        # Kaldi multiplies by OpenBLAS; AMX and AVX512-BF16 add products of bf16 in orders of their own.
        definition = replace(definition, exactness=ISA_EXACT)
    return definition


def build_graph(request: Request, conf: Path, demo_checkpoint: Path) -> dict[str, Node]:
    """The nodes of `invoke reproduce`, in an order in which each comes after its inputs.

    Args:
        request: what was asked for.
        conf: the repository's conf/.
        demo_checkpoint: stands in where the user gives none.
    """
    nodes: dict[str, Node] = {}

    def add(stage: str, inputs: Inputs, parameters: Mapping[str, str] = NONE, size: int | None = None) -> None:
        key = stage if size is None else f"{stage}@{size}"
        definition = _definition(request, stage, parameters)
        nodes[key] = Node(key, definition, inputs, parameters, size, request.sample if definition.host_bound else "")

    data: Source | Output
    if request.data is None:
        add("demo_corpus", {})
        data = Output("demo_corpus")
    else:
        data = Source("data", request.data)
    corpus, features = Output("corpus"), Output("features")
    checkpoint = Source("checkpoint", request.checkpoint or demo_checkpoint)
    skip = _flags(request, "skip-bad")
    add("corpus", {"data": data, "conf": Source("conf/timit", conf / "timit")}, skip)
    add("export", {"checkpoint": checkpoint})
    by_kaldi = {"implementation": "kaldi"} if "features" in request.pinned else {}
    add("features", {"data": data, "corpus": corpus, "conf": Source("conf/features", conf / "features")}, by_kaldi)
    if request.decode == "Beam":
        add("lm", {"corpus": corpus})
    once = reference_batch_size(request.batch_sizes)
    for size in request.batch_sizes:
        bs = {"bs": str(size)}
        batches, outputs = Output(f"batches@{size}"), Output(f"infer@{size}")
        model = {"model": Output(f"convert@{size}")}
        add("batches", {"corpus": corpus, "features": features}, {**bs, **skip, "split": request.split}, size)
        add("convert", {"onnx": Output("export")}, {**bs, **_flags(request, "soc")}, size)
        add("infer", {**model, "batches": batches}, {**bs, **_flags(request, "devices", "precision")}, size)
        scored: Inputs = {"outputs": outputs, "batches": batches, "corpus": corpus}
        if request.decode == "Beam":
            scored = {**scored, "lm": Output("lm")}
        add("score", scored, {**bs, **_flags(request, "decode", "beam")}, size)
        timed = {**bs, "loop": str(request.loop), **_flags(request, "devices", "precision")}
        add("measure", model, timed, size)
        if size == once:
            add("reference", {"checkpoint": checkpoint, "batches": batches}, size=size)
    for size in sorted(request.batch_sizes, key=lambda size: size != once):  # what runs once serves every other size
        outputs, batches = Output(f"infer@{size}"), Output(f"batches@{size}")
        compared: Inputs = {"reference": Output(f"reference@{once}"), "outputs": outputs, "batches": batches}
        if size == once:
            compared = {**compared, "onnx": Output("export")}
        else:
            given = Output(f"batches@{once}")
            compared = {**compared, "onnx-outputs": Output(f"compare@{once}", "onnx"), "reference-batches": given}
        add("compare", compared, {"bs": str(size)}, size)
    return nodes


def closure(nodes: Mapping[str, Node], targets: Iterable[str]) -> dict[str, Node]:
    """The nodes that `targets` need, themselves included, in the order of `nodes`.

    Raises:
        UsageError: a target is not in the graph.
    """
    needed: set[str] = set()
    pending = list(targets)
    while pending:
        key = pending.pop()
        if key not in nodes:
            raise UsageError(f"there is no step {key!r} in this run", hint="steps: " + ", ".join(nodes))
        if key not in needed:
            needed.add(key)
            pending += [source.node for source in nodes[key].inputs.values() if isinstance(source, Output)]
    return {key: node for key, node in nodes.items() if key in needed}
