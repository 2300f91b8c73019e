"""BatchNorm folded into the convolution before it, with the same bytes on every processor.

PyTorch's exporter folds by itself, with the machine's libraries: MKL takes square roots by code that it chooses by the
processor's vendor, and on an AMD some are not correctly rounded. Here every step is one IEEE operation in float32, in
the order in which PyTorch 1.8.0 takes them (torch/csrc/jit/passes/onnx/eval_peephole.cpp), each rounded correctly:

    scale  = gamma / sqrt(variance + epsilon)
    weight = weight * scale
    bias   = (bias - mean) * scale + beta

NumPy computes an operation of arrays value by value, and sqrt, *, /, + and - of a processor are correctly rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

import numpy

from stages.shared import architecture

EPSILON = numpy.float32(1e-5)  # of nn.BatchNorm2d
CONVOLUTIONS = 2
MAX_UNITS = 4
"""How far PyTorch's own folding may be, in units of the last place: 2 were seen between code paths of one library."""


@dataclass(frozen=True)
class Folded:
    """One convolution with its BatchNorm folded in.

    Attributes:
        weight: (32, inputs, 3, 3) float32.
        bias: (32,) float32.
        bias_terms: (32,) float32, the largest value that entered each sum of `bias`: its units count there, since
            values that cancel leave less.
    """

    weight: numpy.ndarray
    bias: numpy.ndarray
    bias_terms: numpy.ndarray


def fold(weights: Mapping[str, numpy.ndarray], index: int) -> Folded:
    """Convolution `index` with its BatchNorm folded in.

    Args:
        weights: a checkpoint's float32 arrays by name, of `checkpoint.load_weights`.
        index: 0 or 1.
    """
    name = "conv.{}.".format(index)
    gamma, beta, mean, variance = (
        weights[name + "batch_norm." + each] for each in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / numpy.sqrt(variance + EPSILON)
    weight = weights[name + "conv.weight"] * scale[:, numpy.newaxis, numpy.newaxis, numpy.newaxis]
    product = (weights[name + "conv.bias"] - mean) * scale
    bias = product + beta
    if weight.dtype != numpy.float32 or bias.dtype != numpy.float32:
        raise TypeError("folded in {} and {}, not in float32".format(weight.dtype, bias.dtype))
    return Folded(weight, bias, numpy.maximum(numpy.abs(product), numpy.abs(beta)))


def folded_weights(weights: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    """The same checkpoint with both convolutions folded and BatchNorms that change nothing, whatever folds them.

    With variance 1 and an epsilon of 0, which the caller sets, a fold multiplies by 1 and adds 0: exact in any code.
    """
    result = dict(weights)
    for index in range(CONVOLUTIONS):
        folded, name = fold(weights, index), "conv.{}.".format(index)
        result[name + "conv.weight"], result[name + "conv.bias"] = folded.weight, folded.bias
        for each, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            result[name + "batch_norm." + each] = numpy.full(architecture.CHANNELS, value, numpy.float32)
    return result


def units(one: numpy.ndarray, other: numpy.ndarray, at: numpy.ndarray) -> numpy.ndarray:
    """By how many units in the last place of the float32 values `at` two float32 arrays differ: float64."""
    difference = numpy.abs(one.astype(numpy.float64) - other.astype(numpy.float64))
    return difference / numpy.spacing(numpy.abs(at)).astype(numpy.float64)
