"""The converted model, run by kernels that are compiled when it is loaded: float32, the same bytes everywhere.

The weights come out of the converted ONNX graph. A batch goes through in groups of utterances, each with one thread or
with two, which share all of the group's work: frames of the convolutions, hidden units of the layers, frames of the
result. So two cores work on one batch however small it is.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import functools
import mmap
from typing import Any, Callable, Mapping, Sequence

import numpy
import onnx
from onnx import numpy_helper

from stages.compiled import llvm
from stages.model.kernels import amx, recogniser, softmax
from stages.model.kernels import parts as kernel_parts
from stages.model.kernels.parts import PARTS
from stages.model.kernels.products import Shape
from stages.shared import architecture, elementary
from stages.shared.runtime_arguments import available_threads, require_batch_size
from stages.shared.stage import StageError

_FRAMES = architecture.OUTPUT_FRAMES
_HIDDEN = architecture.HIDDEN
_GATES = 4 * _HIDDEN
_UNITS = _HIDDEN // PARTS
_MIDDLE = 122  # columns after the first convolution
_CHANNELS = architecture.CHANNELS
_FEATURES = architecture.CONV_FEATURES
_FORWARDS = False  # the kernels take panels from the first to the last
_GROUP = 16  # utterances at a time: full speed, and memory that does not grow with the batch size
_CACHED_BYTES = 3 << 18  # of the rows that pass over every panel together
_ALIGNMENT = 64
_APART = 32  # int64 values between counters: cache lines are fetched in pairs
_HUGE_PAGE = 1 << 21


def aligned(shape: Sequence[int], dtype: Any = numpy.float32) -> numpy.ndarray:
    """An array of zeros whose first byte is at a multiple of a cache line."""
    size = int(numpy.prod(shape)) * numpy.dtype(dtype).itemsize
    alignment = _HUGE_PAGE if size >= _HUGE_PAGE // 2 else _ALIGNMENT
    # Private: what could be shared between processes gets no huge pages, unless the machine's root says so.
    memory = mmap.mmap(-1, size + alignment, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    advice = getattr(mmap, "MADV_HUGEPAGE", None)  # Python 3.8 and later; a matter of speed alone
    if alignment == _HUGE_PAGE and advice is not None:
        with contextlib.suppress(OSError):  # EINVAL: a kernel that was made without huge pages
            getattr(memory, "madvise")(advice)  # noqa: B009 - the stages are held to the library of 3.7
    buffer = numpy.frombuffer(memory, dtype=numpy.uint8)
    offset = -buffer.ctypes.data % alignment
    return buffer[offset : offset + size].view(dtype).reshape(shape)


def panels(matrix: numpy.ndarray, width: int) -> numpy.ndarray:
    """(K, N) -> (ceil(N / width), K, width), zeros where the last panel has no column."""
    terms, columns = matrix.shape
    count = -(-columns // width)
    padded = numpy.zeros((terms, count * width), dtype=numpy.float32)
    padded[:, :columns] = matrix
    result = aligned((count, terms, width))
    result[...] = padded.reshape(terms, count, width).transpose(1, 0, 2)
    return result


@functools.lru_cache(maxsize=None)
def _library(kind: str, features: tuple[tuple[str, bool], ...]) -> tuple[Shape, llvm.Library]:
    shape = recogniser.host_shape(dict(features))
    text = recogniser.source(shape, kind, _HIDDEN, architecture.COLUMNS, _MIDDLE, _FEATURES)
    signatures = dict(recogniser.SIGNATURES)
    if kind != recogniser.FLOAT32:
        signatures.update(recogniser.OF_BFLOAT16)
    if kind == recogniser.AMX:
        signatures.update(amx.SIGNATURES)
    return shape, llvm.Library(text, dict(features), signatures)


@functools.lru_cache(maxsize=None)
def _softmax_library(features: tuple[tuple[str, bool], ...]) -> llvm.Library:
    return llvm.Library(softmax.source(architecture.CLASSES), dict(features), softmax.SIGNATURES)


def _expected_shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of every constant that the kernels take from a converted graph."""
    wide = _CHANNELS * _FEATURES
    shapes = {"project.weight": (2 * _HIDDEN, architecture.CLASSES), "logits.bias": (architecture.CLASSES,)}
    for index, below in enumerate((1, _CHANNELS)):
        shapes["conv{}.weight".format(index)] = (_CHANNELS, below, 3, 3)
        shapes["conv{}.bias".format(index)] = (_CHANNELS,)
    for layer in range(architecture.LAYERS):
        name = "layer{}.".format(layer)
        shapes[name + "input_weights"] = (2, _GATES, 2 * _HIDDEN if layer else wide)
        shapes[name + "recurrent_weights"] = (2, _GATES, _HIDDEN)
        shapes[name + "biases"] = (2, 2 * _GATES)
    return shapes


def _read_constants(path: str) -> tuple[dict[str, numpy.ndarray], int]:
    """(constants by name, batch size) of a converted graph; everything that the kernels rely on is checked here.

    Raises:
        StageError: the file is not a graph as the stage convert makes it.
    """
    try:
        graph = onnx.load(path).graph
        values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        dimensions = [item.dim_value for item in graph.input[0].type.tensor_type.shape.dim]
    except Exception as error:  # noqa: BLE001 - a damaged file makes protobuf or NumPy raise anything
        raise StageError("{} is not a valid ONNX model: {}".format(path, (str(error) or repr(error)).splitlines()[0]))
    for name, shape in sorted(_expected_shapes().items()):
        found = values.get(name)
        if found is None or found.shape != shape or found.dtype != numpy.float32:
            raise StageError(
                "{}: constant {} is not float32 of shape {}: no graph that the stage convert made".format(
                    path, name, shape
                ),
                "run the stage convert",
            )
    if dimensions[:1] == [0] or tuple(dimensions[1:]) != architecture.input_shape(1)[1:]:
        raise StageError("{} takes {}, not this model's input".format(path, dimensions), "run the stage convert")
    return values, dimensions[0]


class Weights:
    """A converted graph's constants, laid out for the kernels.

    Args:
        values: the constants by name.
        width: columns of a panel.
        lay_out: makes what a kernel takes from a matrix (K, N) and the width.
        order: puts the columns of the gates in the kernels' order.
    """

    def __init__(
        self,
        values: Mapping[str, numpy.ndarray],
        width: int,
        lay_out: Callable[[numpy.ndarray, int], numpy.ndarray],
        order: Callable[[numpy.ndarray], numpy.ndarray],
    ) -> None:
        self.kernels: list[numpy.ndarray] = []
        self.kernel_biases: list[numpy.ndarray] = []
        for name in ("conv0", "conv1"):
            # (channels, below, row, column) -> terms in the order row, column, below
            kernel = values[name + ".weight"].transpose(2, 3, 1, 0).reshape(-1, _CHANNELS)
            self.kernels.append(panels(kernel, _CHANNELS))
            self.kernel_biases.append(copied(values[name + ".bias"]))
        self.inputs: list[list[numpy.ndarray]] = []  # by layer and direction
        self.biases: list[list[numpy.ndarray]] = []
        self.recurrent: list[list[numpy.ndarray]] = []
        for layer in range(architecture.LAYERS):
            name = "layer{}".format(layer)
            inputs = values[name + ".input_weights"]
            if layer == 0:  # the convolutions' output lies columns first here, channels first in the graph
                inputs = inputs.reshape(2, _GATES, _CHANNELS, _FEATURES).transpose(0, 1, 3, 2).reshape(2, _GATES, -1)
            recurrent, biases = values[name + ".recurrent_weights"], values[name + ".biases"]
            self.inputs.append([lay_out(order(matrix.T), width) for matrix in inputs])
            self.biases.append([copied(order(bias[:_GATES] + bias[_GATES:])) for bias in biases])
            self.recurrent.append([lay_out(order(matrix.T), width) for matrix in recurrent])
        self.project = lay_out(values["project.weight"], width)
        self.logits_bias = panels(values["logits.bias"][numpy.newaxis], width).reshape(-1)


def in_parts(columns: numpy.ndarray) -> numpy.ndarray:
    """(..., 4 * hidden), gate after gate -> the same, part after part, and gate after gate in each."""
    shape = columns.shape
    parts = columns.reshape(shape[:-1] + (4, PARTS, _UNITS))
    return numpy.swapaxes(parts, -3, -2).reshape(shape)


def copied(values: numpy.ndarray) -> numpy.ndarray:
    result = aligned(values.shape)
    result[...] = values
    return result


class Group:
    """Memory for up to `size` utterances on their way through the network; made once and used again."""

    BLOCK = 8  # rows that every kernel takes at once

    def __init__(self, size: int, logits: int) -> None:
        self.size = size
        # Products take whole blocks of rows: a few rows more cost less than another pass over the weights.
        self.rows = -(-_FRAMES * size // self.BLOCK) * self.BLOCK
        self.images = [aligned((architecture.ROWS + 2, architecture.COLUMNS + 2)) for _ in range(PARTS)]
        self.rings = [aligned((4, _MIDDLE + 2, _CHANNELS)) for _ in range(PARTS)]
        self.frames = aligned((self.rows, architecture.CHANNELS * _FEATURES))
        self.below = self.frames  # what the first layer gets
        self.layers = [aligned((self.rows, 2 * _HIDDEN)) for _ in range(2)]
        self.gates = [aligned((self.rows, _GATES)) for _ in range(2)]
        self.sums = [aligned((size, _GATES)) for _ in range(2)]
        self.cells = [aligned((size, _HIDDEN)) for _ in range(2)]
        self.zeros = aligned((size, _HIDDEN))
        self.logits = aligned((self.rows, logits))
        self.meetings = aligned((PARTS, _APART), numpy.int64)[:, :1]

    def let_go(self) -> None:
        """No thread waits for another any more: one of them will not come."""
        self.meetings[...] = kernel_parts.LET_GO


class Share:
    """What one thread does of all that a group goes through, and its meetings with the thread that does the rest."""

    def __init__(self, kernels: Any, group: Group, number: int, count: int) -> None:
        self._kernels = kernels
        self.number = number
        self._count = count
        self.parts = PARTS // count
        self.first_part = number * self.parts
        self.met = 0
        self.mine = self.theirs = 0
        if count > 1:
            self.mine, self.theirs = (group.meetings[each].ctypes.data for each in (number, 1 - number))

    def of(self, amount: int, block: int = 1) -> tuple[int, int]:
        """(from, to): this share of things in a row, in whole blocks."""
        bounds = [-(-amount * number // (self._count * block)) * block for number in (self.number, self.number + 1)]
        return bounds[0], min(bounds[1], amount)

    def meet(self) -> None:
        """Wait until the other has come as far: each then sees what the other wrote."""
        self.met += 1
        if self._count > 1:
            self._kernels.meet(self.mine, self.theirs, self.met)


def log_softmax(logits: numpy.ndarray) -> numpy.ndarray:
    """Log-probabilities (..., 41) from logits (..., 41).

    In float64, for the caller to round once, by functions that give the same bytes on every processor; a row's powers
    are added in eight partial sums, joined in pairs. The kernel of `kernels.softmax` gives these bytes; this is what it
    is held to.
    """
    values = logits.astype(numpy.float64)
    values -= values.max(axis=2, keepdims=True)
    powers = elementary.exp(values)
    parts = [powers[..., lane] for lane in range(softmax.LANES)]
    for start in range(softmax.LANES, powers.shape[2] - 1, softmax.LANES):
        parts = [part + powers[..., start + lane] for lane, part in enumerate(parts)]
    while len(parts) > 1:
        parts = [one + other for one, other in zip(parts[0::2], parts[1::2])]
    return values - elementary.log(parts[0] + powers[..., -1])[..., numpy.newaxis]


def rows_at_once(rows: int, row_bytes: int, block: int = Group.BLOCK) -> int:
    """How many rows pass over all weights before the next do: whole blocks that stay in a core's cache together."""
    passes = -(-rows * row_bytes // _CACHED_BYTES)
    return -(-rows // passes // block) * block


class Network:
    """A converted model, ready to run batches of any size.

    Args:
        path: the converted graph.
        threads: how many cores one batch is spread over; by default all that this process may use.
        features: LLVM's processor features, for tests; by default this processor's.
    """

    KIND = recogniser.FLOAT32
    PACKED = 1  # operands in the place of a float32
    SHARED_BATCH = 1  # up to this size, two threads on one batch are faster than two batches side by side

    def __init__(self, path: str, threads: int | None = None, features: Mapping[str, bool] | None = None) -> None:
        features = llvm.host_features() if features is None else features
        self._shape, self._library = _library(self.KIND, tuple(sorted(features.items())))
        self._kernels = self._library.call
        self._softmax = _softmax_library(tuple(sorted(features.items()))).call
        self._path = path
        values, self.batch_size = _read_constants(path)
        self._weights = self._lay_out(values)
        self._prepare(available_threads() if threads is None else threads)

    def _lay_out(self, values: Mapping[str, numpy.ndarray]) -> Weights:
        return Weights(values, self._shape.width, panels, in_parts)

    def _new_group(self, size: int) -> Group:
        return Group(size, len(self._weights.logits_bias))

    def _prepare(self, threads: int) -> None:
        self.threads = threads
        self._pool = concurrent.futures.ThreadPoolExecutor(max(1, threads - 1))  # threads start when needed
        self._groups: list[Group] = []

    def stream(self, threads: int = 1) -> Network:
        """This network on fewer threads, with memory of its own and the same weights: several run side by side."""
        other = copy.copy(self)
        other._prepare(threads)
        return other

    def streams(self, batch_size: int) -> list[Network]:
        """Streams that together use all of this network's threads best for batches of this size.

        What two threads save on a small batch, its weights' way into the cache, is more than what they lose by waiting
        for each other; on a large one it is less.
        """
        pairs = self.threads // 2 if batch_size <= self.SHARED_BATCH else 0
        return [self.stream(2) for _ in range(pairs)] + [self.stream() for _ in range(self.threads - 2 * pairs)]

    def require_batch_size(self, batch_size: int) -> None:
        """Refuse a graph that was converted for another batch size: a throughput figure would silently be wrong."""
        require_batch_size(self._path, self.batch_size, batch_size)

    @property
    def description(self) -> str:
        """What computes, for the records of a run."""
        return "kernels compiled for {} lanes, {}".format(self._shape.lanes, self.KIND)

    def run(self, rows: numpy.ndarray) -> numpy.ndarray:
        """(B, 390, 243) float32 -> (195, B, 41) float32 log-probabilities."""
        batch_size = len(rows)
        if rows.shape != architecture.input_shape(batch_size) or rows.dtype != numpy.float32:
            raise ValueError("{} {} is no batch".format(rows.dtype, rows.shape))
        output = numpy.empty(architecture.output_shape(batch_size), dtype=numpy.float32)
        shares = min(PARTS, self.threads)
        groups = max(1, min(batch_size, self.threads // shares))
        size = min(_GROUP, -(-batch_size // groups))
        spans = [(start, min(start + size, batch_size)) for start in range(0, batch_size, size)]
        for first in range(0, len(spans), groups):
            self._run_groups(rows, output, spans[first : first + groups], shares)
        return output

    def _run_groups(
        self, rows: numpy.ndarray, output: numpy.ndarray, spans: Sequence[tuple[int, int]], shares: int
    ) -> None:
        largest = max(stop - start for start, stop in spans)
        if len(self._groups) < len(spans) or self._groups[0].size != largest:
            self._groups = [self._new_group(largest) for _ in spans]
        tasks = []
        for group, (start, stop) in zip(self._groups, spans):
            group.meetings[...] = 0
            for number in range(shares):
                share = Share(self._kernels, group, number, shares)
                tasks.append((group, share, rows[start:stop], output[:, start:stop]))
        futures = []
        try:
            for task in tasks[1:]:
                futures.append(self._pool.submit(self._walk, *task))
            self._walk(*tasks[0])
        except BaseException:  # a thread that could not be started, or an interrupt: nobody may wait for it
            for group in self._groups:
                group.let_go()
            raise
        finally:
            concurrent.futures.wait(futures)
        for future in futures:
            future.result()

    def _walk(self, group: Group, share: Share, rows: numpy.ndarray, output: numpy.ndarray) -> None:
        """One share of a group's way through the network."""
        try:
            start, stop = share.of(_FRAMES)
            for index, values in enumerate(rows):
                self._convolve(group, share, values, index, start, stop)
            self._after_convolutions(group, start, stop)
            share.meet()
            for layer in range(architecture.LAYERS):
                self._layer(group, share, layer)
                share.meet()
            start, stop = share.of(group.rows, group.BLOCK)
            if start < stop:
                self._project(group, start, stop - start)
            share.meet()
            start, stop = share.of(_FRAMES)
            if start < stop:
                self._log_softmax(group, output[start:stop], start, len(rows))
        except BaseException:
            group.let_go()
            raise

    def _log_softmax(self, group: Group, output: numpy.ndarray, start: int, count: int) -> None:
        """Log-probabilities of `count` utterances, from frame `start` on, into `output` (frames, count, 41)."""
        apart = group.logits.shape[1]
        self._softmax.log_softmax(
            group.logits[start * group.size].ctypes.data, apart, apart * group.size, output.ctypes.data,
            output.strides[0] // output.itemsize, len(output), count,
        )  # fmt: skip

    def _convolve(self, group: Group, share: Share, rows: numpy.ndarray, index: int, start: int, stop: int) -> None:
        """Output frames `start` to `stop` of an utterance's convolutions."""
        image, ring = group.images[share.number], group.rings[share.number]
        # The utterance lies one row down. A frame takes five rows: three of the middle, each of three that overlap.
        first, last = max(0, 2 * start - 2), min(architecture.ROWS, 2 * stop + 1)
        image[1 + first : 1 + last, 1:-1] = rows[first:last]
        ring.fill(0.0)
        weights = self._weights
        self._kernels.convolutions(
            image.ctypes.data, weights.kernels[0].ctypes.data, weights.kernel_biases[0].ctypes.data,
            weights.kernels[1].ctypes.data, weights.kernel_biases[1].ctypes.data, ring.ctypes.data,
            group.frames[index].ctypes.data, group.size * group.frames.shape[1], start, stop,
        )  # fmt: skip

    def _after_convolutions(self, group: Group, start: int, stop: int) -> None:
        """What another number format does to the frames that were made."""

    def _layer(self, group: Group, share: Share, layer: int) -> None:
        """One of the parts of both directions, or both parts."""
        below = group.below if layer == 0 else group.layers[(layer + 1) % 2]
        above = group.layers[layer % 2]
        weights, width, state = self._weights, below.shape[1] // self.PACKED, _HIDDEN // self.PACKED
        unit = share.first_part * _UNITS
        column, panels = 4 * unit, share.parts * 4 * _UNITS // self._shape.width
        block = rows_at_once(group.rows, below.strides[0], group.BLOCK)
        for direction in range(2):
            gates, cells = group.gates[direction].ctypes.data + 4 * column, group.cells[direction]
            self._kernels.multiply(
                below.ctypes.data, width, weights.inputs[layer][direction].ctypes.data + 4 * column * width, gates,
                _GATES, weights.biases[layer][direction].ctypes.data + 4 * column, 0, group.rows, width, panels, block,
                _FORWARDS,
            )  # fmt: skip
            cells[:, unit : unit + share.parts * _UNITS] = 0.0
            self._kernels.recurrence(
                gates, weights.recurrent[layer][direction].ctypes.data + 4 * column * state,
                above.ctypes.data + 4 * state * direction, 2 * state, group.size, _FRAMES, direction == 1,
                group.zeros.ctypes.data, cells.ctypes.data + 4 * unit, group.sums[direction].ctypes.data + 4 * column,
                share.first_part, share.parts, share.mine, share.theirs, share.met + 1,
            )  # fmt: skip
            share.met += _FRAMES

    def _project(self, group: Group, first: int, rows: int) -> None:
        weights = self._weights
        top, logits = group.layers[(architecture.LAYERS - 1) % 2][first:], group.logits[first:]
        ld, terms = logits.shape[1], 2 * _HIDDEN // self.PACKED
        self._kernels.project(
            top.ctypes.data, terms, weights.project.ctypes.data, logits.ctypes.data, ld,
            weights.logits_bias.ctypes.data, 0, rows, terms, ld // self._shape.width, group.BLOCK, _FORWARDS,
        )  # fmt: skip
