"""Opening a checkpoint: what is refused, by name, and what is accepted."""

import collections
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from _model_cases import golden_weights  # noqa: E402
from stages import _architecture as architecture  # noqa: E402
from stages import _checkpoint, _pickled_tensors  # noqa: E402
from stages._stage import StageError  # noqa: E402


@pytest.fixture(scope="module")
def weights():
    return {name: torch.from_numpy(array) for name, array in golden_weights().items()}


@pytest.fixture
def state(weights):
    return collections.OrderedDict(weights)


def _save(path, state, legacy=False, **beside):
    torch.save({"state_dict": state, **beside}, str(path), _use_new_zipfile_serialization=not legacy)
    return str(path)


def _refusal(path):
    with pytest.raises(StageError) as refused:
        _checkpoint.load_weights(str(path))
    assert refused.value.hint
    assert "\n" not in refused.value.message
    return refused.value.message


@pytest.mark.parametrize("legacy", [False, True])
def test_both_file_formats_give_the_weights_in_module_order(tmp_path, state, legacy):
    loaded = _checkpoint.load_weights(_save(tmp_path / "a.pth", state, legacy))
    assert list(loaded) == list(architecture.state_dict_shapes())
    assert all(np.array_equal(loaded[name], state[name].numpy()) for name in state)


def test_the_prefix_of_dataparallel_is_taken_off(tmp_path, state):
    prefixed = {"module." + name: value for name, value in state.items()}
    assert list(_checkpoint.load_weights(_save(tmp_path / "a.pth", prefixed))) == list(
        architecture.state_dict_shapes()
    )


def test_half_precision_weights_are_widened(tmp_path, state):
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    loaded = _checkpoint.load_weights(_save(tmp_path / "a.pth", half))
    assert loaded["fc.1.weight"].dtype == np.float32
    assert np.array_equal(loaded["fc.1.weight"], state["fc.1.weight"].half().float().numpy())


@pytest.mark.parametrize("legacy", [False, True])
def test_what_the_reference_keeps_beside_its_weights_is_ignored(tmp_path, state, legacy):
    beside = {
        "rnn_param": {"rnn_type": torch.nn.LSTM, "rnn_hidden_size": 384, "bidirectional": True},
        "cnn_param": collections.OrderedDict(activate=torch.nn.ReLU, layer=[[1, 32], (3, 3)]),
        "num_class": 41,
        "_drop_out": np.float64(0.2),
        "loss": np.arange(3.0),
        "module": torch.nn.Linear(2, 2),
    }
    loaded = _checkpoint.load_weights(_save(tmp_path / "a.pth", state, legacy, **beside))
    assert len(loaded) == len(state)


class _Hostile:
    def __init__(self, marker):
        self._marker = marker

    def __reduce__(self):
        return os.mkdir, (self._marker,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("inside_state", [False, True])
def test_code_in_a_pickle_is_named_and_not_run(tmp_path, state, legacy, inside_state):
    marker = tmp_path / "ran"
    hostile = _Hostile(str(marker))
    if inside_state:
        state["fc.1.weight"] = hostile
        path = _save(tmp_path / "a.pth", state, legacy)
    else:
        path = _save(tmp_path / "a.pth", state, legacy, extra=hostile)
    assert "posix.mkdir" in _refusal(path)
    assert not marker.exists()


def test_builtins_are_no_way_out(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R.")
    assert "builtins.eval" in _refusal(tmp_path / "a.pth")


def test_a_tensor_that_reaches_beyond_its_storage_is_refused():
    storage = np.zeros(4, np.float32)
    for offset, size, stride in [(0, (5,), (1,)), (1, (2, 2), (2, 1)), (0, (2,), (4,)), (-1, (1,), (1,)), (0, (2,), ())]:
        with pytest.raises(_pickled_tensors.UnreadableCheckpoint):
            _pickled_tensors._rebuild_tensor(storage, offset, size, stride)


@pytest.mark.parametrize("legacy", [False, True])
def test_shared_and_transposed_storages_are_read_as_they_are(tmp_path, state, legacy):
    both = torch.arange(2 * 1536 * 384, dtype=torch.float32).reshape(2, 1536, 384)
    state["rnns.1.rnn.weight_hh_l0"], state["rnns.2.rnn.weight_hh_l0"] = both[0], both[1]
    state["fc.1.weight"] = torch.randn(768, 41).t()
    loaded = _checkpoint.load_weights(_save(tmp_path / "a.pth", state, legacy))
    assert all(np.array_equal(loaded[name], state[name].numpy()) for name in state)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_harmless(data):
    small = io.BytesIO()
    legacy = data.draw(st.booleans())
    torch.save({"state_dict": {"a": torch.ones(3)}}, small, _use_new_zipfile_serialization=not legacy)
    damaged = bytearray(small.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        _pickled_tensors.read(bytes(damaged))
    except _pickled_tensors.UnreadableCheckpoint as refused:
        assert str(refused)


@pytest.mark.parametrize("name", ["conv.0.conv.weight", "rnns.3.rnn_w.weight_hh_l0", "fc.0.num_batches_tracked"])
def test_a_missing_tensor_is_named(tmp_path, state, name):
    del state[name]
    assert "lacks tensor " + name in _refusal(_save(tmp_path / "a.pth", state))


def test_a_surplus_tensor_is_named(tmp_path, state):
    state["fc.1.bias"] = torch.zeros(41)
    assert "fc.1.bias" in _refusal(_save(tmp_path / "a.pth", state))


def test_a_tensor_of_another_shape_is_named(tmp_path, state):
    state["fc.1.weight"] = torch.zeros(48, 768)
    message = _refusal(_save(tmp_path / "a.pth", state))
    assert "fc.1.weight" in message and "(48, 768)" in message and "(41, 768)" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fc.1.weight", torch.zeros(41, 768).double()),
        ("fc.1.weight", torch.zeros(41, 768).bfloat16()),
        ("fc.0.num_batches_tracked", torch.tensor(1.0)),
    ],
)
def test_a_tensor_of_another_type_is_named(tmp_path, state, name, value):
    state[name] = value
    message = _refusal(_save(tmp_path / "a.pth", state))
    assert name in message and str(value.dtype).replace("torch.", "") in message


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_named(tmp_path, state, bad):
    name = "rnns.2.rnn.weight_ih_l0"
    state[name] = state[name].clone()
    state[name][7, 9] = bad
    message = _refusal(_save(tmp_path / "a.pth", state))
    assert name in message and "1 values" in message


def test_a_negative_variance_is_named(tmp_path, state):
    state["fc.0.running_var"] = -state["fc.0.running_var"]
    assert "fc.0.running_var" in _refusal(_save(tmp_path / "a.pth", state))


def test_a_value_that_is_no_tensor_is_named(tmp_path, state):
    state["fc.1.weight"] = [1.0]
    assert "fc.1.weight is not a tensor" in _refusal(_save(tmp_path / "a.pth", state))


def test_a_name_twice_is_refused(tmp_path, state):
    state["module.fc.1.weight"] = state["fc.1.weight"]
    assert "fc.1.weight is there twice" in _refusal(_save(tmp_path / "a.pth", state))


def test_a_dict_without_state_dict_is_refused(tmp_path, state):
    torch.save(dict(state), str(tmp_path / "a.pth"))
    assert "no 'state_dict'" in _refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, state, legacy, share):
    path = _save(tmp_path / "a.pth", state, legacy)
    os.truncate(path, int(os.path.getsize(path) * share))
    assert "a.pth" in _refusal(path)


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", b"\x80\x02", pickle.dumps({"state_dict": 1}, 2)])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, data):
    (tmp_path / "a.pth").write_bytes(data)
    assert "a.pth" in _refusal(tmp_path / "a.pth")


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(StageError, match="No such file"):
        _checkpoint.load_weights(str(tmp_path / "absent.pth"))


def test_a_compressed_archive_is_refused(tmp_path):
    with zipfile.ZipFile(str(tmp_path / "a.pth"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"0" * 100000)
    assert "compressed" in _refusal(tmp_path / "a.pth")


def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pth"))
    assert "TorchScript" in _refusal(tmp_path / "a.pth")
