"""Opening a checkpoint: what is refused, by name, and what is accepted. Without PyTorch: the archives are hand-made."""

import os
import pickle
import zipfile

import numpy as np
import pytest
from _model_cases import _pickled_tensor, _text, checkpoint_members, golden_weights, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.formats import pickled_tensors
from stages.model import checkpoint
from stages.shared import architecture
from stages.shared.stage import StageError


@pytest.fixture(scope="module")
def weights():
    return golden_weights()


@pytest.fixture
def state(weights):
    return dict(weights)


def _refusal(path):
    with pytest.raises(StageError) as refused:
        checkpoint.load_weights(str(path))
    assert refused.value.hint
    assert "\n" not in refused.value.message
    assert os.path.basename(str(path)) in refused.value.message
    return refused.value.message


def test_the_weights_come_in_module_order_and_unchanged(tmp_path, state):
    loaded = checkpoint.load_weights(write_checkpoint(tmp_path / "a.pth", state))
    assert list(loaded) == list(architecture.state_dict_shapes())
    assert all(np.array_equal(loaded[name], state[name]) for name in state)


def test_the_prefix_of_dataparallel_is_taken_off(tmp_path, state):
    prefixed = {"module." + name: value for name, value in state.items()}
    loaded = checkpoint.load_weights(write_checkpoint(tmp_path / "a.pth", prefixed))
    assert list(loaded) == list(architecture.state_dict_shapes())


def test_half_precision_weights_are_widened(tmp_path, state):
    half = {name: value.astype(np.float16) if value.dtype.kind == "f" else value for name, value in state.items()}
    loaded = checkpoint.load_weights(write_checkpoint(tmp_path / "a.pth", half))
    assert loaded["fc.1.weight"].dtype == np.float32
    assert np.array_equal(loaded["fc.1.weight"], half["fc.1.weight"].astype(np.float32))


def test_what_the_reference_keeps_beside_its_weights_is_ignored(tmp_path, state):
    beside = b"X\x09\x00\x00\x00rnn_param}X\x08\x00\x00\x00rnn_typectorch.nn.modules.rnn\nLSTM\ns"
    assert len(checkpoint.load_weights(write_checkpoint(tmp_path / "a.pth", state, beside))) == len(state)


@pytest.mark.parametrize(
    ("opcodes", "name"),
    [
        (b"cposix\nmkdir\n(X\x03\x00\x00\x00ranttR", "posix.mkdir"),
        (b"cbuiltins\neval\n(X\x03\x00\x00\x001+1tR", "builtins.eval"),
        (b"c__builtin__\ngetattr\n)R", "builtins.getattr"),
        (b"ctorch.hub\nload\n)R", "torch.hub.load"),
        (b"ctorch\nload\n)R", "torch.load"),
        (b"ccollections\nabc\n", "collections.abc"),
        (b"ctorch.nnx\nLSTM\n", "torch.nnx.LSTM"),
    ],
)
@pytest.mark.parametrize("inside_state", [False, True])
def test_code_in_a_pickle_is_named_and_not_run(tmp_path, monkeypatch, state, opcodes, name, inside_state):
    monkeypatch.chdir(tmp_path)
    if inside_state:
        path = write_checkpoint(tmp_path / "a.pth", dict(state, **{"fc.1.weight": opcodes}))
    else:
        path = write_checkpoint(tmp_path / "a.pth", state, b"X\x01\x00\x00\x00x" + opcodes)
    assert name in _refusal(path)
    assert os.listdir(str(tmp_path)) == ["a.pth"]


def test_an_inert_placeholder_is_no_tensor(tmp_path, state):
    state["fc.1.weight"] = b"ctorch.nn.modules.rnn\nLSTM\n)R"
    assert "fc.1.weight is not a tensor" in _refusal(write_checkpoint(tmp_path / "a.pth", state))


@pytest.mark.parametrize("name", ["conv.0.conv.weight", "rnns.3.rnn_w.weight_hh_l0", "fc.0.num_batches_tracked"])
def test_a_missing_tensor_is_named(tmp_path, state, name):
    del state[name]
    assert "lacks tensor " + name in _refusal(write_checkpoint(tmp_path / "a.pth", state))


def test_a_surplus_tensor_is_named(tmp_path, state):
    state["fc.1.bias"] = np.zeros(41, np.float32)
    assert "fc.1.bias" in _refusal(write_checkpoint(tmp_path / "a.pth", state))


def test_a_tensor_of_another_shape_is_named(tmp_path, state):
    state["fc.1.weight"] = np.zeros((48, 768), np.float32)
    message = _refusal(write_checkpoint(tmp_path / "a.pth", state))
    assert "fc.1.weight" in message
    assert "(48, 768)" in message
    assert "(41, 768)" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fc.1.weight", np.zeros((41, 768))),
        ("fc.1.weight", np.zeros((41, 768), np.int64)),
        ("fc.0.num_batches_tracked", np.array(1.0, np.float32)),
    ],
)
def test_a_tensor_of_another_type_is_named(tmp_path, state, name, value):
    state[name] = value
    message = _refusal(write_checkpoint(tmp_path / "a.pth", state))
    assert name in message
    assert value.dtype.name in message


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named(tmp_path, state, bad):
    name = "rnns.2.rnn.weight_ih_l0"
    state[name] = state[name].copy()
    state[name][7, 9] = bad
    message = _refusal(write_checkpoint(tmp_path / "a.pth", state))
    assert name in message
    assert "1 values" in message


def test_a_negative_variance_is_named(tmp_path, state):
    state["fc.0.running_var"] = -state["fc.0.running_var"]
    assert "fc.0.running_var" in _refusal(write_checkpoint(tmp_path / "a.pth", state))


def test_a_value_that_is_no_tensor_is_named(tmp_path, state):
    state["fc.1.weight"] = b"]"
    assert "fc.1.weight is not a tensor" in _refusal(write_checkpoint(tmp_path / "a.pth", state))


def test_a_name_twice_is_refused(tmp_path, state):
    state["module.fc.1.weight"] = state["fc.1.weight"]
    assert "fc.1.weight is there twice" in _refusal(write_checkpoint(tmp_path / "a.pth", state))


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, state, share):
    path = write_checkpoint(tmp_path / "a.pth", state)
    os.truncate(path, int(os.path.getsize(path) * share))
    _refusal(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>404</html>", b"\x80\x02", pickle.dumps({"state_dict": 1}, 2), b"PK\x03\x04", b"\x80\x02}s."],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, data):
    (tmp_path / "a.pth").write_bytes(data)
    _refusal(tmp_path / "a.pth")


def test_an_absent_file_is_refused(tmp_path):
    assert "No such file" in _refusal(tmp_path / "absent.pth")


def test_a_compressed_archive_is_refused(tmp_path):
    with zipfile.ZipFile(str(tmp_path / "a.pth"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"0" * 100000)
    assert "compressed" in _refusal(tmp_path / "a.pth")


def test_a_zip_file_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(str(tmp_path / "a.pth"), "w") as archive:
        archive.writestr("readme", b"0")
    assert "data.pkl" in _refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("change", ["absent", "short", "long"])
def test_a_storage_of_another_size_is_refused(tmp_path, state, change):
    members = checkpoint_members(state)
    data = members.pop("archive/data/3")
    if change != "absent":
        members["archive/data/3"] = data[:-4] if change == "short" else data + bytes(4)
    with zipfile.ZipFile(str(tmp_path / "a.pth"), "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert "archive/data/3" in _refusal(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (5,), (1,)), (1, (2, 2), (2, 1)), (0, (2,), (4,)), (-1, (1,), (1,)), (0, (2,), ()), (0, (1,), (-1,)),
     (True, (1,), (1,)), (0.0, (1,), (1,))],
)  # fmt: skip
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(offset, size, stride):
    with pytest.raises(pickled_tensors.CheckpointError):
        pickled_tensors._rebuild_tensor(np.zeros(4, np.float32), offset, size, stride)


_SMALL = {"a": np.ones(3, np.float32), "b": np.array(1)}


@settings(max_examples=150)
@given(st.data())
def test_damaged_bytes_are_refused_or_harmless(tmp_path_factory, data):
    path = write_checkpoint(tmp_path_factory.getbasetemp() / "damaged.pth", _SMALL)
    with open(path, "rb") as stream:
        damaged = bytearray(stream.read())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        package = pickled_tensors.read(bytes(damaged))
    except pickled_tensors.CheckpointError as refused:
        assert str(refused)
    else:
        assert package is not None


LAYOUTS = [b"\x88", b"K\x02", b"ctorch_npu.npu._format\nFormat\nK\x02\x85R"]
"""What stands behind a tensor that lay on an NPU: True, or the format that it had on the chip, plain or as an enum."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_that_torch_npu_saved_holds_plain_tensors(tmp_path, state, layout):
    members = checkpoint_members(state)
    pickled = members["archive/data.pkl"]
    tensors = pickled.count(b"_rebuild_tensor_v2")
    pickled = pickled.replace(
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch_npu.utils.storage\n_rebuild_npu_tensor\n"
    )
    pickled = pickled.replace(b"ccollections\nOrderedDict\n)RtR", b"ccollections\nOrderedDict\n)R" + layout + b"tR")
    pickled = pickled.replace(_text("cpu"), _text("npu:0"))
    assert (pickled.count(layout + b"tR"), pickled.count(_text("npu:0"))) == (tensors, tensors)
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        for name, data in dict(members, **{"archive/data.pkl": pickled}).items():
            archive.writestr(name, data)
    loaded = checkpoint.load_weights(str(tmp_path / "a.pth"))
    assert all(np.array_equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "name", [b"torch_npu.utils.storage\n_other", b"torch._utils\n_rebuild_device_tensor_from_numpy"]
)
def test_a_tensor_that_cannot_be_read_from_a_device_is_refused_with_what_to_do(tmp_path, state, name):
    state["fc.1.weight"] = b"c" + name + b"\n)R"
    message = _refusal(write_checkpoint(tmp_path / "a.pth", state))
    assert name.decode().replace("\n", ".") in message
    assert "save it anew from the CPU, {'state_dict': model.cpu().state_dict()}" in message


def test_a_transposed_tensor_is_refused_and_one_stored_transposed_is_read(tmp_path, state):
    expected = state["fc.1.weight"].copy()
    state["fc.1.weight"] = np.ascontiguousarray(expected.T)
    assert "fc.1.weight has shape (768, 41), the model needs (41, 768)" in _refusal(
        write_checkpoint(tmp_path / "a.pth", state)
    )
    members = checkpoint_members(state)
    stored = _pickled_tensor(str(list(state).index("fc.1.weight")), state["fc.1.weight"])
    read_so = _pickled_tensor(str(list(state).index("fc.1.weight")), np.asfortranarray(expected))
    assert stored != read_so
    assert members["archive/data.pkl"].count(stored) == 1
    members["archive/data.pkl"] = members["archive/data.pkl"].replace(stored, read_so)
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    loaded = checkpoint.load_weights(str(tmp_path / "b.pth"))["fc.1.weight"]
    assert np.array_equal(loaded, expected)
    assert loaded.flags.c_contiguous
