"""The model's input batches on disk, and the names and summary that ais_bench gives to what comes out of them."""

from __future__ import annotations

import os
import re
from typing import Any, Iterable, Iterator, NamedTuple, Sequence

import numpy

from stages.shared import architecture
from stages.shared.stage import StageError, atomic_file, read_json


class Placed(NamedTuple):
    """One utterance of the manifest: its id, its batch and row there, rows of the input and frames of the output."""

    id: str
    batch: int
    row: int
    stacked_frames: int
    output_frames: int


class Manifest(NamedTuple):
    """What the batches stage wrote; `num_tail_batches` is 0 or 1, and `excluded` says which utterances and why."""

    batch_size: int
    rows: int
    columns: int
    split: str
    num_batches: int
    num_tail_batches: int
    utterances: list[Placed]
    excluded: list[dict[str, str]]

    def of_batch(self, number: int) -> list[Placed]:
        """The utterances of one batch; they stand in the order of the batches."""
        first = number * self.batch_size
        return self.utterances[first : first + self.batch_size]


class Batch:
    """One input file and where its output goes: `source` (a path), `folder` ('result' or 'tail'), `output` (a name)."""

    def __init__(self, source: str, folder: str) -> None:
        self.source = source
        self.folder = folder
        # ais_bench: what stands before the first dot, then the output's number.
        self.output = os.path.basename(source).split(".")[0] + "_0.npy"

    @property
    def key(self) -> str:
        """The output's path below a stage's folder, with '/'."""
        return self.folder + "/" + self.output


def natural_key(name: str) -> list[int | str]:
    """Sorts inputs_10 after inputs_9, as ais_bench does."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def read_manifest(folder: str, batch_size: int | None = None) -> Manifest:
    """The batches stage's manifest.

    Raises:
        StageError: it is not one, or was made for another batch size or another model.
    """
    path = os.path.join(folder, "manifest.json")
    manifest = _manifest(read_json(path), path)
    if batch_size is not None and manifest.batch_size != batch_size:
        raise StageError(
            "{} was made for batches of {}, not {}".format(path, manifest.batch_size, batch_size),
            "run the stage batches with --bs {}".format(batch_size),
        )
    if (manifest.rows, manifest.columns) != (architecture.ROWS, architecture.COLUMNS):
        raise StageError(
            "{} has utterances of {} x {}; the model takes {} x {}".format(
                path, manifest.rows, manifest.columns, architecture.ROWS, architecture.COLUMNS
            )
        )
    return manifest


def _manifest(document: Any, path: str) -> Manifest:
    try:
        utterances = [Placed(**entry) for entry in document["utterances"]]
        manifest = Manifest(**dict(document, utterances=utterances))
    except (KeyError, TypeError) as error:
        raise StageError("{} is no manifest: {}".format(path, error), "run the stage batches again") from error
    whole = [manifest.batch_size, manifest.rows, manifest.columns, manifest.num_batches, manifest.num_tail_batches]
    whole += [number for placed in utterances for number in placed[1:]]
    texts = [manifest.split, *(placed.id for placed in utterances)]
    if any(type(number) is not int or number < 0 for number in whole) or not all(isinstance(t, str) for t in texts):
        raise StageError("{} is no manifest: a number or a name is none".format(path), "run the stage batches again")
    return manifest


def list_batches(folder: str, manifest: Manifest) -> list[Batch]:
    """Every `Batch` of the folder, whole batches before the tail, in natural order.

    Raises:
        StageError: the files on disk are not those of the manifest.
    """
    batches: list[Batch] = []
    counts = (("bins", "result", manifest.num_batches), ("tail", "tail", manifest.num_tail_batches))
    for source, result, count in counts:
        path = os.path.join(folder, source)
        names = os.listdir(path) if os.path.isdir(path) else []
        names = sorted((name for name in names if name.endswith((".bin", ".npy"))), key=natural_key)
        expected = ["inputs_{}.bin".format(len(batches) + index) for index in range(count)]
        if names != expected:
            odd = sorted(set(names).symmetric_difference(expected), key=natural_key)
            raise StageError(
                "{} holds {} input files, its manifest says {} (first difference: {})".format(
                    path, len(names), len(expected), odd[0]
                ),
                "run the stage batches again",
            )
        batches.extend(Batch(os.path.join(path, name), result) for name in names)
    if not batches:
        raise StageError("{} holds no batch: not find valid file".format(folder))
    return batches


def read_batch(batch: Batch, batch_size: int) -> numpy.ndarray:
    """(batch_size, 390, 243) float32 from a file of exactly that size, or StageError in ais_bench's words."""
    shape = architecture.input_shape(batch_size)
    tensor_bytes = int(numpy.prod(shape)) * architecture.INPUT_VALUE_BYTES
    try:
        file_bytes = os.path.getsize(batch.source)
        if file_bytes != tensor_bytes:
            raise StageError(
                "{}: arg0 tensorsize: {} filesize: {} not match".format(batch.source, tensor_bytes, file_bytes),
                "the model takes batches of {}; run the stage batches with the same --bs".format(batch_size),
            )
        values = numpy.fromfile(batch.source, dtype="<f4")
    except OSError as error:
        raise StageError("cannot read {}: {}".format(batch.source, error.strerror))
    return values.reshape(shape)


def make_output_folders(out: str, batches: Iterable[Batch]) -> None:
    """`result`, and `tail` where a batch goes there, below `out`."""
    for folder in sorted({batch.folder for batch in batches} | {"result"}):
        os.mkdir(os.path.join(out, folder))


def write_output(out: str, batch: Batch, values: numpy.ndarray) -> str:
    """Save one batch's log-probabilities (195, B, 41) float32 as .npy, and return its path."""
    if not numpy.isfinite(values).all():
        raise StageError("{}: the model's output is not finite".format(batch.source), "check its features")
    path = os.path.join(out, batch.folder, batch.output)
    with atomic_file(path) as stream:
        numpy.save(stream, numpy.ascontiguousarray(values, dtype="<f4"), allow_pickle=False)
    return path


def read_output(folder: str, batch: Batch, batch_size: int) -> numpy.ndarray:
    """The log-probabilities (195, B, 41) that a stage saved for this batch, checked for shape, type and finiteness."""
    path = os.path.join(folder, batch.folder, batch.output)
    try:
        values = numpy.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StageError("cannot read {}: {}".format(path, error))
    shape = architecture.output_shape(batch_size)
    if not isinstance(values, numpy.ndarray) or values.shape != shape or values.dtype != numpy.float32:
        raise StageError("{} is not a float32 array of shape {}".format(path, shape))
    if not numpy.isfinite(values).all():
        raise StageError("{} holds values that are not finite".format(path))
    return values


def each_output(folder: str, batches: Sequence[Batch], manifest: Manifest) -> Iterator[numpy.ndarray]:
    """Every utterance's log-probabilities (195, 41) that a stage saved, in the manifest's order; holds one batch."""
    for number, batch in enumerate(batches):
        outputs = read_output(folder, batch, manifest.batch_size)
        for utterance in manifest.of_batch(number):
            yield outputs[:, utterance.row]


def times_info(times_ms: Sequence[float]) -> dict[str, float]:
    """ais_bench's statistics of a list of times in ms; zeros with count 0 where nothing was timed."""
    times = numpy.asarray(times_ms if len(times_ms) else [0.0], dtype=numpy.float64)
    return {
        "min": float(times.min()),
        "max": float(times.max()),
        "mean": float(times.mean()),
        "median": float(numpy.median(times)),
        "percentile(99%)": float(numpy.percentile(times, 99)),
        "count": len(times_ms),
    }


def summary(
    infiles: Sequence[str],
    outfiles: Sequence[str],
    times_ms: Sequence[float],
    batch_size: int,
    arguments: Sequence[str],
    streams: int = 1,
) -> dict[str, Any]:
    """ais_bench's result summary: `throughput` is 1000 * batch size / mean compute time in ms, times `streams`.

    `streams`: how many batches were computed side by side, each in a time of its own; ais_bench has one.

    The compute times stand under its own name, NPU_compute_time, whatever the device is; the two copies have a count
    of 0, as a CPU copies nothing to a device.
    """
    compute = times_info(times_ms)
    return {
        "filesinfo": {
            str(index): {"infiles": [source], "outfiles": [target]}
            for index, (source, target) in enumerate(zip(infiles, outfiles))
        },
        "args": list(arguments),
        "NPU_compute_time": compute,
        "H2D_latency": times_info([]),
        "D2H_latency": times_info([]),
        "throughput": 1000.0 * batch_size * streams / compute["mean"] if compute["mean"] > 0 else 0.0,
        "npu_compute_time_list": [float(time) for time in times_ms],
        "pid": os.getpid(),
        "streams": streams,
    }
