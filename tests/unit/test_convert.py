"""The graph for ONNX Runtime: what it holds, that it computes the same, and what is refused."""

import collections
import functools
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from _model_cases import golden_weights, parity, write_plain_onnx
from _stage_cases import progress_of, refused

from stages import convert
from stages.model import runtime
from stages.shared.stage import StageError


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    write_plain_onnx(folder / "lstm_ctc.onnx", golden_weights())
    return folder


def _convert(export, folder, batch_size):
    for name in ("out", "obs"):
        (folder / name).mkdir(parents=True)
    convert.main(
        ["--onnx", str(export), "--bs", str(batch_size), "--out", str(folder / "out"), "--obs", str(folder / "obs")]
    )
    return folder / "out"


@pytest.fixture(scope="module")
def converted(export, tmp_path_factory):
    return _convert(export, tmp_path_factory.mktemp("converted"), 2)


def test_both_graphs_equal_the_reference(export, converted):
    rows, expected = parity()
    for path in (export / "lstm_ctc.onnx", converted / "model.onnx"):
        output = runtime.Graph(str(path)).run(rows)
        assert np.abs(output - expected).max() <= 2e-5


def test_a_layer_is_one_bidirectional_lstm_and_no_batchnorm_is_left(converted):
    graph = onnx.load(str(converted / "model.onnx")).graph
    kinds = collections.Counter(node.op_type for node in graph.node)
    assert len(graph.node) == 22
    assert kinds["LSTM"] == 4
    assert kinds["BatchNormalization"] == 0


def test_the_batch_size_is_fixed(converted):
    graph = runtime.Graph(str(converted / "model.onnx"))
    assert graph.batch_size == 2
    with pytest.raises(StageError, match="batches of 2, not 4"):
        graph.require_batch_size(4)


def test_converting_twice_gives_the_same_bytes_and_no_observation_in_them(export, converted, tmp_path, monkeypatch):
    told = progress_of(convert.stage, monkeypatch)
    again = _convert(export, tmp_path, 2)
    assert sorted(path.name for path in again.iterdir()) == ["model.onnx", "summary.json"]
    for path in again.iterdir():
        assert path.read_bytes() == (converted / path.name).read_bytes()
    assert json.loads((again / "summary.json").read_text()) == {
        "batch_size": 2,
        "nodes": 22,
        "nodes_before": len(onnx.load(str(export / "lstm_ctc.onnx")).graph.node),
        "opset": 11,
        "sha256": hashlib.sha256((again / "model.onnx").read_bytes()).hexdigest(),
        "tolerance": 5e-5,
    }
    assert told == [("convert", 3), 1, 1, 1]
    verified = json.loads((tmp_path / "obs" / "verification.json").read_text())
    assert 0 < verified.pop("max_abs_difference") <= 5e-5 and verified == {"seed": 20230331}


LAYER = [
    (
        "LSTM",
        ".lstm",
        [".input_weights", ".recurrent_weights", ".biases"],
        {"direction": b"bidirectional", "hidden_size": 384},
    ),
    ("Transpose", ".directions_last", [], {"perm": [0, 2, 1, 3]}),
    ("Reshape", ".output", [".output.shape"], {}),
]


def node_table():
    """(kind, name, constants, attributes) of each node of the chain."""
    yield "Reshape", "image", ["image.shape"], {}
    for index, strides in enumerate(([1, 2], [2, 2])):
        name = f"conv{index}"
        attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": strides}
        yield "Conv", name, [name + ".weight", name + ".bias"], attributes
        yield "Relu", name + ".relu", [], {}
    yield "Transpose", "time_first", [], {"perm": [2, 0, 1, 3]}
    yield "Reshape", "frames", ["frames.shape"], {}
    for layer in range(4):
        for kind, name, constants, attributes in LAYER:
            yield kind, f"layer{layer}{name}", [f"layer{layer}{each}" for each in constants], attributes
    yield "MatMul", "project", ["project.weight"], {}
    yield "Add", "logits", ["logits.bias"], {}
    yield "LogSoftmax", "output1", [], {"axis": 2}


def test_the_converted_graph_is_this_chain_of_nodes_and_names_them_by_what_they_do(converted):
    model = onnx.load(str(converted / "model.onnx"))
    last, expected = "actual_input_1", []
    for kind, name, constants, attributes in node_table():
        expected.append((kind, name, [last, *constants], [name], attributes))
        last = name
    found = [
        (node.op_type, node.name, list(node.input), list(node.output),
         {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute})
        for node in model.graph.node
    ]  # fmt: skip
    assert found == expected
    shapes = {value.name: list(value.dims) for value in model.graph.initializer}
    assert list(shapes) == [name for _, _, constants, _ in node_table() for name in constants]
    numbers = {
        name: onnx.numpy_helper.to_array(value).tolist()
        for value in model.graph.initializer
        for name in [value.name]
        if name.endswith(".shape")
    }
    assert numbers == {
        "image.shape": [2, 1, 390, 243],
        "frames.shape": [195, 2, 1952],
        **{f"layer{layer}.output.shape": [195, 2, 768] for layer in range(4)},
    }
    assert (model.graph.name, model.ir_version) == ("lstm_ctc", 6)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 11)]
    faces = [
        (value.name, value.type.tensor_type.elem_type, [size.dim_value for size in value.type.tensor_type.shape.dim])
        for value in [*model.graph.input, *model.graph.output]
    ]
    assert faces == [("actual_input_1", 1, [2, 390, 243]), ("output1", 1, [195, 2, 41])]


@functools.lru_cache
def exported_bytes():
    with tempfile.TemporaryDirectory() as folder:
        write_plain_onnx(Path(folder, "m.onnx"), golden_weights())
        return Path(folder, "m.onnx").read_bytes()


def exported(change=lambda model: None):
    """An export of golden's weights, changed."""
    model = onnx.load_from_string(exported_bytes())
    change(model)
    return model


def as_nodes(model):
    """Give every weight by a node Constant in place of an initializer."""
    constants = [onnx.helper.make_node("Constant", [], [value.name], value=value) for value in model.graph.initializer]
    nodes = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(constants + nodes)


def node_of(model, kind, index=0):
    return [node for node in model.graph.node if node.op_type == kind][index]


def without_weights(model):
    kept = [value for value in model.graph.initializer if value.name != "fc.1"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def transposed(model):
    for value in model.graph.initializer:
        if value.name == "fc.1":
            value.dims[:] = value.dims[::-1]


def one_layer_less(model):
    model.graph.node.remove(node_of(model, "LSTM"))


def another_epsilon(model):
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            node.attribute.append(onnx.helper.make_attribute("epsilon", 0.5))


def test_weights_may_be_constants_of_either_kind():
    plain = convert.fuse(exported(), "p", 1).SerializeToString(deterministic=True)
    assert convert.fuse(exported(as_nodes), "p", 1).SerializeToString(deterministic=True) == plain


def test_the_export_s_own_epsilon_is_folded_in():
    """BatchNorm's variance is what 0.5 is added to: a thousandth of the scale's inverse square tells which was used."""
    weights = golden_weights()
    folded = {}
    for name, change in (("plain", lambda model: None), ("other", another_epsilon)):
        model = convert.fuse(exported(change), "p", 1)
        values = {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer}
        folded[name] = values["project.weight"]
    for name, epsilon in (("plain", 1e-5), ("other", 0.5)):
        scale = weights["fc.0.weight"] / np.sqrt(weights["fc.0.running_var"].astype(np.float64) + epsilon)
        assert folded[name] == pytest.approx(scale[:, None] * weights["fc.1.weight"].T, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_weights, ["p.onnx: fc.1 is not a constant"]),
        (transposed, ["p.onnx", "fc.1", "(41, 768), not (768, 41)"]),
        (one_layer_less, ["p.onnx has 7 nodes of type LSTM, not 8"]),
    ],
)
def test_an_export_that_lacks_something_is_refused_by_what(change, told):
    with refused(*told):
        convert.fuse(exported(change), "p.onnx", 1)


def test_a_graph_whose_shapes_do_not_fit_is_refused_before_it_is_written(monkeypatch):
    monkeypatch.setattr(convert.architecture, "output_shape", lambda batch_size: (194, batch_size, 41))
    with pytest.raises(Exception, match=r"shape|infer"):
        convert.fuse(exported(), "p", 1)


def test_the_converted_bytes_are_the_same_on_any_thread_count(converted):
    rows, _ = parity()
    outputs = [runtime.Graph(str(converted / "model.onnx"), threads).run(rows) for threads in (1, 2)]
    assert outputs[0].tobytes() == outputs[1].tobytes()


def test_a_conversion_that_computes_something_else_is_refused(export, tmp_path, monkeypatch):
    original = convert._Source.normalisation
    monkeypatch.setattr(
        convert._Source, "normalisation", lambda self, index: [value * 1.01 for value in original(self, index)]
    )
    with pytest.raises(StageError, match="differs from it by"):
        _convert(export, tmp_path, 1)
    assert not (tmp_path / "out" / "summary.json").exists()


def test_another_model_is_refused(tmp_path):
    node = onnx.helper.make_node("Relu", ["actual_input_1"], ["output1"])
    value = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 390, 243])
        for name in ("actual_input_1", "output1")
    ]
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "other", value[:1], value[1:])),
        str(tmp_path / "lstm_ctc.onnx"),
    )
    with refused(tmp_path / "lstm_ctc.onnx", "has 0 nodes of type BatchNormalization, not 4"):
        _convert(tmp_path, tmp_path / "run", 1)


@pytest.mark.parametrize("data", [b"", b"\x08\x06garbage"])
def test_a_damaged_export_is_refused(tmp_path, data):
    (tmp_path / "lstm_ctc.onnx").write_bytes(data)
    with refused(tmp_path / "lstm_ctc.onnx", "onnx" if data else "is not a valid ONNX model: ") as error:
        _convert(tmp_path, tmp_path / "run", 1)
    assert "\n" not in error.value.message and not error.value.message.endswith(("None", ": "))


def test_an_absent_export_is_refused(tmp_path):
    with refused(tmp_path / "lstm_ctc.onnx", "No such file"):
        _convert(tmp_path, tmp_path / "run", 1)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("what", ["the converted graph", "the compiled kernels"])
@pytest.mark.parametrize(
    ("difference", "accepted"),
    [(0.0, True), (4.9e-5, True), (-4.9e-5, True), (5.1e-5, False), (-5.1e-5, False), (np.nan, False), (np.inf, False)],
)
def test_both_ways_to_run_the_converted_graph_are_held_to_the_exported_one(
    monkeypatch, what, difference, accepted, batch_size
):
    """In natural logarithms of probabilities, by 5e-5; a NaN is over every limit."""
    distinct = min(batch_size, 2)

    def output(size, *, changed):
        values = np.zeros((195, size, 41)) + np.arange(size)[:, None] % 2  # each utterance has its own
        values[7, size - 1, 3] += difference if changed else 0.0
        return values

    class Graph:
        def __init__(self, path, threads):
            assert threads == 1, "the other cores are other stages'"
            self.converted = path == "converted"

        def run(self, rows):
            size = batch_size if self.converted else distinct
            assert (rows.shape, rows.dtype) == ((size, 390, 243), np.float32)
            assert rows[0::2].all() and rows[1::2, :195].all(), "random values"
            assert not rows[1::2, 195:].any(), "zeros in the second half of the second, as padding is"
            return output(size, changed=self.converted and what == "the converted graph")

    class Network(Graph):
        def run(self, rows):
            assert rows.shape == (distinct, 390, 243)
            return output(distinct, changed=what == "the compiled kernels")

    monkeypatch.setattr(convert.runtime, "Graph", Graph)
    monkeypatch.setattr(convert.network, "Network", Network)
    if accepted:
        assert convert.verify("plain", "converted", batch_size) == pytest.approx(abs(difference))
    else:
        with refused("plain: ", f"{abs(difference):g}", "5e-05"):
            convert.verify("plain", "converted", batch_size)
