"""The recogniser's architecture in numbers: what every stage that touches a tensor of it must agree on.

Standard library only, so that stages in images without PyTorch can use it too. Source of the numbers: the
reference's model configuration (CTC model with two convolutions and four bidirectional LSTM layers).
"""

from __future__ import annotations

import collections

ROWS = 390
"""Stacked feature rows of one utterance, zero padding included."""

COLUMNS = 243
"""Values of a row: three frames of 81."""

OUTPUT_FRAMES = 195
"""Frames of log-probabilities: half of ROWS, as the second convolution steps over two rows."""

CLASSES = 41
"""0 is the blank, 1 is UNK, then the 39 phones in the order of `units`."""

CHANNELS = 32
CONV_FEATURES = 61
"""Columns that are left after two convolutions of stride 2: 243 -> 122 -> 61."""

HIDDEN = 384
LAYERS = 4

INPUT_NAME = "actual_input_1"
OUTPUT_NAME = "output1"
INPUT_VALUE_BYTES = 4  # float32


def input_shape(batch_size: int) -> tuple[int, int, int]:
    """(batch_size, 390, 243), float32."""
    return (batch_size, ROWS, COLUMNS)


def output_shape(batch_size: int) -> tuple[int, int, int]:
    """(195, batch_size, 41), float32 natural logarithms of probabilities."""
    return (OUTPUT_FRAMES, batch_size, CLASSES)


def _batch_norm(shapes: dict[str, tuple[int, ...]], name: str, width: int) -> None:
    for suffix in ("weight", "bias", "running_mean", "running_var"):
        shapes[name + "." + suffix] = (width,)
    shapes[name + ".num_batches_tracked"] = ()


def state_dict_shapes() -> collections.OrderedDict[str, tuple[int, ...]]:
    """Name -> shape of every entry of the state dict, in the module's own order.

    `num_batches_tracked` entries are int64 scalars, everything else is floating point.
    """
    shapes: collections.OrderedDict[str, tuple[int, ...]] = collections.OrderedDict()
    for index, inputs in enumerate((1, CHANNELS)):
        shapes["conv.{}.conv.weight".format(index)] = (CHANNELS, inputs, 3, 3)
        shapes["conv.{}.conv.bias".format(index)] = (CHANNELS,)
        _batch_norm(shapes, "conv.{}.batch_norm".format(index), CHANNELS)
    for index in range(LAYERS):
        width = CHANNELS * CONV_FEATURES if index == 0 else 2 * HIDDEN
        if index > 0:
            _batch_norm(shapes, "rnns.{}.batch_norm".format(index), width)
        for direction in ("rnn", "rnn_w"):
            prefix = "rnns.{}.{}.".format(index, direction)
            shapes[prefix + "weight_ih_l0"] = (4 * HIDDEN, width)
            shapes[prefix + "weight_hh_l0"] = (4 * HIDDEN, HIDDEN)
    _batch_norm(shapes, "fc.0", 2 * HIDDEN)
    shapes["fc.1.weight"] = (CLASSES, 2 * HIDDEN)
    return shapes


def is_counter(name: str) -> bool:
    """Whether the entry is BatchNorm's int64 count of training batches, not a weight."""
    return name.endswith(".num_batches_tracked")
