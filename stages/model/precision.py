"""The number formats that the model can be run in, and the network for each."""

from __future__ import annotations

import argparse
from typing import Mapping

import numpy

from stages.compiled import llvm
from stages.model.kernels import amx, recogniser
from stages.model.network import Group, Network, Share, Weights, aligned, in_parts, panels, rows_at_once
from stages.shared import architecture
from stages.shared.stage import StageError

FLOAT32, BFLOAT16 = "fp32", "bf16"
PRECISIONS = (FLOAT32, BFLOAT16)
_FRAMES, _HIDDEN, _GATES = architecture.OUTPUT_FRAMES, architecture.HIDDEN, 4 * architecture.HIDDEN
_WIDE = architecture.CHANNELS * architecture.CONV_FEATURES


def open_network(
    path: str, precision: str, threads: int | None = None, features: Mapping[str, bool] | None = None
) -> Network:
    """The `Network` of a converted graph in one of PRECISIONS.

    In bf16 the recurrent layers and the last one multiply operands that are rounded to bfloat16; the convolutions, 3 %
    of the work, stay float32. AMX and AVX512-BF16 add the products in orders of their own: the output depends on which
    of the two it is, and on neither batch size nor threads.

    Raises:
        StageError: bf16 on a processor that multiplies no bfloat16: it would be slower than fp32.
    """
    if precision == FLOAT32:
        return Network(path, threads, features)
    found = llvm.host_features() if features is None else features
    if amx.usable(found):
        return _AmxNetwork(path, threads, features)
    if found.get("avx512bf16") and found.get("avx512f"):
        return _PairsNetwork(path, threads, features)
    raise StageError("this processor has neither AMX nor AVX512-BF16: bf16 would be slower than fp32 here",
                     "use --precision fp32, the model's own")  # fmt: skip


def argument(parser: argparse.ArgumentParser) -> None:
    """Add the option --precision."""
    parser.add_argument("--precision", choices=PRECISIONS, default=FLOAT32,
                        help="number format of the recurrent layers (default: fp32, the model's own)")  # fmt: skip


def round_to_bfloat16(values: numpy.ndarray) -> numpy.ndarray:
    """float32 values -> the nearest that a bfloat16 holds, ties to even, as float32."""
    bits = numpy.ascontiguousarray(values, dtype=numpy.float32).view(numpy.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & numpy.uint32(0xFFFF0000)
    return rounded.astype(numpy.uint32).view(numpy.float32)


class _TiledWeights(Weights):
    """The weights of the recurrent layers and the last one as AMX's tiles of bfloat16."""

    def __init__(self, values: Mapping[str, numpy.ndarray], width: int) -> None:
        super().__init__(values, width, _tiles, lambda columns: columns)
        self.logits_bias = aligned((len(self.project) * amx.TILE_COLUMNS,))
        self.logits_bias[: architecture.CLASSES] = values["logits.bias"]


def _tiles(matrix: numpy.ndarray, _width: int) -> numpy.ndarray:
    """(K, N) float32 -> (tiles, K / 32, 16, 16, 2) bfloat16 as uint16, an even number of tiles; see kernels.amx."""
    terms, columns = matrix.shape
    tiles = -(-columns // (2 * amx.TILE_COLUMNS)) * 2
    padded = numpy.zeros((terms, tiles * amx.TILE_COLUMNS), dtype=numpy.float32)
    padded[:, :columns] = matrix
    half = (round_to_bfloat16(padded).view(numpy.uint32) >> 16).astype(numpy.uint16)
    half = half.reshape(terms // amx.TILE_TERMS, amx.TILE_TERMS // 2, 2, tiles, amx.TILE_COLUMNS)
    result = aligned((tiles, terms // amx.TILE_TERMS, amx.TILE_TERMS // 2, amx.TILE_COLUMNS, 2), numpy.uint16)
    result[...] = half.transpose(3, 0, 1, 4, 2)
    return result


def _pairs(matrix: numpy.ndarray, width: int) -> numpy.ndarray:
    """(K, N) float32 -> panels of pairs of terms in bfloat16, each pair in the place of a float32."""
    half = (round_to_bfloat16(matrix).view(numpy.uint32) >> 16).reshape(len(matrix) // 2, 2, -1)
    pairs = numpy.ascontiguousarray(half[:, 0] | half[:, 1] << numpy.uint32(16))
    return panels(pairs.view(numpy.float32), width)


class _HalfGroup(Group):
    """The group's memory with frames and layers in bfloat16."""

    def __init__(self, size: int, logits: int) -> None:
        super().__init__(size, logits)
        self.below = aligned((self.rows, _WIDE), numpy.uint16)
        self.layers = [aligned((self.rows, 2 * _HIDDEN), numpy.uint16) for _ in range(2)]
        self.zeros = aligned((size, _HIDDEN), numpy.uint16)


class _TileGroup(_HalfGroup):
    """With rows for whole tiles."""

    BLOCK = amx.BLOCK_ROWS


class _PairsNetwork(Network):
    """bfloat16 operands, multiplied and added by pairs: the kernels of float32 with half as many terms."""

    KIND = recogniser.PAIRS
    PACKED = 2

    def _lay_out(self, values: Mapping[str, numpy.ndarray]) -> Weights:
        return Weights(values, self._shape.width, _pairs, in_parts)

    def _new_group(self, size: int) -> Group:
        return _HalfGroup(size, len(self._weights.logits_bias))

    def _after_convolutions(self, group: Group, start: int, stop: int) -> None:
        first = start * group.size
        frames, narrowed = group.frames[first:], group.below[first:]
        self._kernels.narrow(frames.ctypes.data, narrowed.ctypes.data, (stop - start) * group.size * _WIDE)


class _AmxNetwork(_PairsNetwork):
    """bfloat16 operands in the processor's matrix unit."""

    KIND = recogniser.AMX
    SHARED_BATCH = 0

    def _lay_out(self, values: Mapping[str, numpy.ndarray]) -> Weights:
        return _TiledWeights(values, self._shape.width)

    def _new_group(self, size: int) -> Group:
        return _TileGroup(size, len(self._weights.logits_bias))

    def _layer(self, group: Group, share: Share, layer: int) -> None:
        """One direction, or both: each one's weights fit a core's cache, and so nothing is gained by parts."""
        assert isinstance(group, _HalfGroup)
        below = group.below if layer == 0 else group.layers[(layer + 1) % 2]
        above = group.layers[layer % 2]
        for direction in range(*share.of(2)):
            weights, gates = self._weights, group.gates[direction]
            tiles = weights.inputs[layer][direction]
            self._kernels.product16(
                below.ctypes.data, below.shape[1], tiles.ctypes.data, gates.ctypes.data, _GATES,
                weights.biases[layer][direction].ctypes.data, group.rows, tiles.shape[1], tiles.shape[0],
                rows_at_once(group.rows, below.strides[0], group.BLOCK),
            )  # fmt: skip
            group.cells[direction].fill(0.0)
            self._kernels.recurrence16(
                gates.ctypes.data, weights.recurrent[layer][direction].ctypes.data,
                above.ctypes.data + 2 * _HIDDEN * direction, 2 * _HIDDEN, group.size, _FRAMES, direction == 1,
                group.zeros.ctypes.data, group.cells[direction].ctypes.data, group.sums[direction].ctypes.data,
            )  # fmt: skip

    def _project(self, group: Group, first: int, rows: int) -> None:
        weights = self._weights
        top, logits = group.layers[(architecture.LAYERS - 1) % 2][first:], group.logits[first:]
        self._kernels.product16(
            top.ctypes.data, 2 * _HIDDEN, weights.project.ctypes.data, logits.ctypes.data, logits.shape[1],
            weights.logits_bias.ctypes.data, rows, weights.project.shape[1], weights.project.shape[0], group.BLOCK,
        )  # fmt: skip
