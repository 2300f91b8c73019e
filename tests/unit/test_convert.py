"""The graph for ONNX Runtime: what it holds, that it computes the same, and what is refused."""

import collections
import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from _model_cases import golden_weights, parity, write_plain_onnx

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


def test_converting_twice_gives_the_same_bytes_and_no_observation_in_them(export, converted, tmp_path):
    again = _convert(export, tmp_path, 2)
    assert sorted(path.name for path in again.iterdir()) == ["model.onnx", "summary.json"]
    for path in again.iterdir():
        assert path.read_bytes() == (converted / path.name).read_bytes()
    summary = json.loads((again / "summary.json").read_text())
    assert (summary["batch_size"], summary["nodes"]) == (2, 22)
    assert json.loads((tmp_path / "obs" / "verification.json").read_text())["max_abs_difference"] <= 5e-5


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
    with pytest.raises(StageError, match="not an export of this model"):
        _convert(tmp_path, tmp_path / "run", 1)


@pytest.mark.parametrize("data", [b"", b"\x08\x06garbage"])
def test_a_damaged_export_is_refused(tmp_path, data):
    (tmp_path / "lstm_ctc.onnx").write_bytes(data)
    with pytest.raises(StageError, match=r"lstm_ctc\.onnx"):
        _convert(tmp_path, tmp_path / "run", 1)


def test_an_absent_export_is_refused(tmp_path):
    with pytest.raises(StageError, match=r"lstm_ctc\.onnx"):
        _convert(tmp_path, tmp_path / "run", 1)


@pytest.mark.parametrize("what", ["the converted graph", "the compiled kernels"])
@pytest.mark.parametrize(
    ("difference", "accepted"),
    [(0.0, True), (4.9e-5, True), (-4.9e-5, True), (5.1e-5, False), (-5.1e-5, False), (np.nan, False), (np.inf, False)],
)
def test_both_ways_to_run_the_converted_graph_are_held_to_the_exported_one(monkeypatch, what, difference, accepted):
    """In natural logarithms of probabilities, by 5e-5; a NaN is over every limit."""
    plain = np.zeros((195, 2, 41))
    other = plain.copy()
    other[7, 1, 3] = difference
    outputs = {"plain": plain, "converted": other if what == "the converted graph" else plain}

    class Graph:
        def __init__(self, path):
            self.output = outputs[path]

        def run(self, rows):
            assert rows.shape == (2, 390, 243)
            return self.output

    class Network(Graph):
        def run(self, rows):
            assert rows.shape == (2, 390, 243)
            return other if what == "the compiled kernels" else plain

    monkeypatch.setattr(convert.runtime, "Graph", Graph)
    monkeypatch.setattr(convert.network, "Network", Network)
    if accepted:
        assert convert.verify("plain", "converted", 2) == abs(difference)
    else:
        with pytest.raises(StageError, match="differs from it by"):
            convert.verify("plain", "converted", 2)
