"""Makes the graph that ONNX Runtime is given on a CPU, for one batch size: 22 nodes in place of 160.

The exported graph runs the two directions of a layer as two LSTMs around flips, and BatchNorm before each layer. Here
a layer is one bidirectional LSTM, and BatchNorm is folded into the weights behind it, in float64, rounded once. The
arithmetic is the same up to rounding, and the stage proves it on every conversion: ONNX Runtime runs both graphs on the
same random utterances, the kernels that stage infer uses run the converted one, and the conversion is refused where
either differs from the exported graph by more than 5e-5.

out/model.onnx: actual_input_1 (B, 390, 243) -> output1 (195, B, 41), float32; out/summary.json.
obs/verification.json: the largest difference found (it depends on the CPU's instruction set).
"""

from __future__ import annotations

import collections
import hashlib
import os
from typing import Any, NamedTuple, Sequence

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

from stages.model import network, runtime
from stages.shared import architecture, runtime_arguments, stage

TOLERANCE = 5e-5
SEED = 20230331
_OPSET = 11
_IR_VERSION = 6  # what the exporter writes: every ONNX Runtime since 1.2 reads it
_SOURCE = "lstm_ctc.onnx"
_EXPECTED = {"Conv": 2, "LSTM": 2 * architecture.LAYERS, "BatchNormalization": architecture.LAYERS, "MatMul": 1}


def _load(path: str) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # noqa: BLE001 - a damaged file makes protobuf or the checker raise anything
        raise stage.StageError("{} is not a valid ONNX model: {}".format(path, str(error).splitlines()[0]))
    return model


class Convolution(NamedTuple):
    """Weight (32, inputs, 3, 3) and bias (32,), float64, with BatchNorm folded in, and the strides."""

    weight: numpy.ndarray
    bias: numpy.ndarray
    strides: list[int]


class Normalisation(NamedTuple):
    """BatchNorm as y = scale * x + shift, each (768,) float64."""

    scale: numpy.ndarray
    shift: numpy.ndarray


class _Source:
    """The weights of the exported graph, found by what the nodes are, as the exporter names them by number."""

    def __init__(self, model: onnx.ModelProto, path: str) -> None:
        self._path = path
        self._constants = {value.name: value for value in model.graph.initializer}
        self._nodes: dict[str, list[onnx.NodeProto]] = collections.defaultdict(list)
        for node in model.graph.node:
            self._nodes[node.op_type].append(node)
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        for kind, count in sorted(_EXPECTED.items()):
            if len(self._nodes[kind]) != count:
                raise stage.StageError(
                    "{} has {} nodes of type {}, not {}: it is not an export of this model".format(
                        path, len(self._nodes[kind]), kind, count
                    ),
                    "run the stage export",
                )

    def _value(self, name: str, shape: tuple[int, ...]) -> numpy.ndarray:
        if name not in self._constants:
            raise stage.StageError("{}: {} is not a constant".format(self._path, name), "run the stage export")
        value = numpy_helper.to_array(self._constants[name]).astype(numpy.float64)
        if value.shape != shape:
            raise stage.StageError("{}: constant {} has shape {}, not {}".format(self._path, name, value.shape, shape))
        return value

    def convolution(self, index: int) -> Convolution:
        """The convolution of that number; the exporter has folded its BatchNorm into it."""
        node = self._nodes["Conv"][index]
        channels = architecture.CHANNELS
        weight = self._value(node.input[1], (channels, (1, channels)[index], 3, 3))
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        return Convolution(weight, self._value(node.input[2], (channels,)), list(attributes["strides"]))

    def normalisation(self, index: int) -> Normalisation:
        """The BatchNorm of that number behind the layers."""
        node = self._nodes["BatchNormalization"][index]
        width = (2 * architecture.HIDDEN,)
        gamma, beta, mean, variance = (self._value(name, width) for name in node.input[1:5])
        epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
        scale = gamma / numpy.sqrt(variance + epsilon)
        return Normalisation(scale, beta - mean * scale)

    def recurrence(self, layer: int, direction: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """(input weights (1536, inputs), recurrent weights (1536, 384)), gates in ONNX's order i, o, f, c."""
        node = self._nodes["LSTM"][2 * layer + direction]
        hidden = architecture.HIDDEN
        width = 2 * hidden if layer else architecture.CHANNELS * architecture.CONV_FEATURES
        return (
            self._value(node.input[1], (1, 4 * hidden, width))[0],
            self._value(node.input[2], (1, 4 * hidden, hidden))[0],
        )

    def projection(self) -> numpy.ndarray:
        """The last layer's weights, (768, 41)."""
        return self._value(self._nodes["MatMul"][0].input[1], (2 * architecture.HIDDEN, architecture.CLASSES))


class _Builder:
    """Collects a chain of nodes and their constants."""

    def __init__(self, name: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.last = name

    def constant(self, name: str, value: Any, dtype: Any = numpy.float32) -> str:
        self.constants.append(numpy_helper.from_array(numpy.ascontiguousarray(value, dtype=dtype), name))
        return name

    def add(self, kind: str, name: str, *constants: str, **attributes: Any) -> None:
        """Append a node that takes the last one's output and constants; LSTM's first output is its result."""
        self.nodes.append(helper.make_node(kind, [self.last, *constants], [name], name=name, **attributes))
        self.last = name

    def reshape(self, name: str, shape: Sequence[int]) -> None:
        self.add("Reshape", name, self.constant(name + ".shape", shape, numpy.int64))


def _product(matrix: numpy.ndarray, vector: numpy.ndarray) -> numpy.ndarray:
    """matrix @ vector in float64, summed in one fixed order: a BLAS's order, and so its last bit, differs by CPU."""
    total = numpy.zeros(len(matrix))
    for column, value in zip(matrix.T, vector):
        total += column * value
    return total


def _add_layer(builder: _Builder, source: _Source, layer: int, batch_size: int) -> None:
    name = "layer{}".format(layer)
    inputs, recurrent, biases = [], [], []
    for direction in range(2):
        weight, state_weight = source.recurrence(layer, direction)
        bias = numpy.zeros(8 * architecture.HIDDEN)
        if layer > 0:
            scale, shift = source.normalisation(layer - 1)
            bias[: 4 * architecture.HIDDEN] = _product(weight, shift)
            weight = weight * scale
        inputs.append(weight)
        recurrent.append(state_weight)
        biases.append(bias)
    builder.add(
        "LSTM",
        name + ".lstm",
        builder.constant(name + ".input_weights", numpy.stack(inputs)),
        builder.constant(name + ".recurrent_weights", numpy.stack(recurrent)),
        builder.constant(name + ".biases", numpy.stack(biases)),
        direction="bidirectional",
        hidden_size=architecture.HIDDEN,
    )
    builder.add("Transpose", name + ".directions_last", perm=[0, 2, 1, 3])
    builder.reshape(name + ".output", [architecture.OUTPUT_FRAMES, batch_size, 2 * architecture.HIDDEN])


def fuse(model: onnx.ModelProto, path: str, batch_size: int) -> onnx.ModelProto:
    """The 22-node graph for one batch size, from an exported model (`path` is for messages)."""
    source = _Source(model, path)
    builder = _Builder(architecture.INPUT_NAME)
    builder.reshape("image", [batch_size, 1, architecture.ROWS, architecture.COLUMNS])
    for index in range(2):
        weight, bias, strides = source.convolution(index)
        name = "conv{}".format(index)
        builder.add(
            "Conv",
            name,
            builder.constant(name + ".weight", weight),
            builder.constant(name + ".bias", bias),
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            strides=strides,
        )
        builder.add("Relu", name + ".relu")
    builder.add("Transpose", "time_first", perm=[2, 0, 1, 3])
    width = architecture.CHANNELS * architecture.CONV_FEATURES
    builder.reshape("frames", [architecture.OUTPUT_FRAMES, batch_size, width])
    for layer in range(architecture.LAYERS):
        _add_layer(builder, source, layer, batch_size)
    scale, shift = source.normalisation(architecture.LAYERS - 1)
    projection = source.projection()
    builder.add("MatMul", "project", builder.constant("project.weight", scale[:, numpy.newaxis] * projection))
    builder.add("Add", "logits", builder.constant("logits.bias", _product(projection.T, shift)))
    builder.add("LogSoftmax", architecture.OUTPUT_NAME, axis=2)
    graph = helper.make_graph(
        builder.nodes,
        "lstm_ctc",
        [_tensor(architecture.INPUT_NAME, architecture.input_shape(batch_size))],
        [_tensor(architecture.OUTPUT_NAME, architecture.output_shape(batch_size))],
        initializer=builder.constants,
    )
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    result.ir_version = _IR_VERSION
    onnx.checker.check_model(result, full_check=True)
    return result


def _tensor(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def verify(plain_path: str, fused_path: str, batch_size: int) -> float:
    """Largest difference from the exported graph, on random utterances, the second padded with zeros as padding is.

    ONNX Runtime runs the converted graph on a whole batch of them. What the batch size decides is in that graph alone:
    the exported graph and the compiled kernels take any number of utterances, and run each once.
    """
    distinct = min(batch_size, 2)
    rows = numpy.random.RandomState(SEED).standard_normal(architecture.input_shape(distinct)).astype(numpy.float32)
    rows[1:, architecture.ROWS // 2 :] = 0.0
    which = numpy.arange(batch_size) % distinct
    plain = runtime.Graph(plain_path, threads=1).run(rows)
    differences = [
        float(numpy.abs(plain[:, which] - runtime.Graph(fused_path, threads=1).run(rows[which])).max()),
        float(numpy.abs(plain - network.Network(fused_path, threads=1).run(rows)).max()),
    ]
    # Each by itself, and so that NaN, which is not above any limit, is refused; max() would pass over it.
    for difference in differences:
        if not difference <= TOLERANCE:
            raise stage.StageError(
                "{}: the converted graph differs from it by {:g}, over {:g}".format(plain_path, difference, TOLERANCE),
                "the exported weights are too large for float32, or the export is of another model",
            )
    return max(differences)


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--onnx", required=True, metavar="DIR", help="the export stage's results")
    runtime_arguments.batch_size(parser)
    options = parser.parse_args(arguments)
    progress = stage.Progress("convert", 3)
    plain_path = os.path.join(options.onnx, _SOURCE)
    model = _load(plain_path)
    fused = fuse(model, plain_path, options.bs)
    progress.advance()
    data = fused.SerializeToString(deterministic=True)
    fused_path = os.path.join(options.out, "model.onnx")
    with stage.atomic_file(fused_path) as stream:
        stream.write(data)
    progress.advance()
    difference = verify(plain_path, fused_path, options.bs)
    stage.write_json(os.path.join(options.obs, "verification.json"), {"max_abs_difference": difference, "seed": SEED})
    stage.write_json(
        os.path.join(options.out, "summary.json"),
        {
            "batch_size": options.bs,
            "nodes": len(fused.graph.node),
            "nodes_before": len(model.graph.node),
            "opset": _OPSET,
            "sha256": hashlib.sha256(data).hexdigest(),
            "tolerance": TOLERANCE,
        },
    )
    progress.advance()


if __name__ == "__main__":
    stage.run(main)
