"""The model's input batches on disk, and the names and summary that ais_bench gives to what comes out of them."""

import os
import re

import numpy

from stages.shared import architecture
from stages.shared.stage import StageError, atomic_file, read_json

_FOLDERS = (("bins", "result", "num_batches"), ("tail", "tail", "num_tail_batches"))


class Batch:
    """One input file and where its output goes: `source` (a path), `folder` ('result' or 'tail'), `output` (a name)."""

    def __init__(self, source, folder):
        self.source = source
        self.folder = folder
        # ais_bench: what stands before the first dot, then the output's number.
        self.output = os.path.basename(source).split(".")[0] + "_0.npy"

    @property
    def key(self):
        """The output's path below a stage's folder, with '/'."""
        return self.folder + "/" + self.output


def natural_key(name):
    """Sorts inputs_10 after inputs_9, as ais_bench does."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def read_manifest(folder, batch_size=None):
    """The batches stage's manifest; refused where it was made for another batch size or another model."""
    path = os.path.join(folder, "manifest.json")
    manifest = read_json(path)
    if batch_size is not None and manifest["batch_size"] != batch_size:
        raise StageError(
            "{} was made for batches of {}, not {}".format(path, manifest["batch_size"], batch_size),
            "run the stage batches with --bs {}".format(batch_size),
        )
    if (manifest["rows"], manifest["columns"]) != (architecture.ROWS, architecture.COLUMNS):
        raise StageError(
            "{} has utterances of {} x {}; the model takes {} x {}".format(
                path, manifest["rows"], manifest["columns"], architecture.ROWS, architecture.COLUMNS
            )
        )
    return manifest


def list_batches(folder, manifest):
    """Every `Batch` of the folder, whole batches before the tail, in natural order.

    Raises:
        StageError: the files on disk are not those of the manifest.
    """
    batches = []
    for source, result, count in _FOLDERS:
        path = os.path.join(folder, source)
        names = os.listdir(path) if os.path.isdir(path) else []
        names = sorted((name for name in names if name.endswith((".bin", ".npy"))), key=natural_key)
        expected = ["inputs_{}.bin".format(len(batches) + index) for index in range(manifest[count])]
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


def read_batch(batch, batch_size):
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


def make_output_folders(out, batches):
    """`result`, and `tail` where a batch goes there, below `out`."""
    for folder in sorted({batch.folder for batch in batches} | {"result"}):
        os.mkdir(os.path.join(out, folder))


def write_output(out, batch, values):
    """Save one batch's log-probabilities (195, B, 41) float32 as .npy, and return its path."""
    if not numpy.isfinite(values).all():
        raise StageError("{}: the model's output is not finite".format(batch.source), "check its features")
    path = os.path.join(out, batch.folder, batch.output)
    with atomic_file(path) as stream:
        numpy.save(stream, numpy.ascontiguousarray(values, dtype="<f4"), allow_pickle=False)
    return path


def read_output(folder, batch, batch_size):
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


def times_info(times_ms):
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


def summary(infiles, outfiles, times_ms, batch_size, arguments, streams=1):
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
