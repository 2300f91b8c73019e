"""Checkpoints that PyTorch itself writes, in both of its formats, read without it."""

import collections
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from _model_cases import golden_weights

from stages.model import checkpoint
from stages.shared import architecture
from stages.shared.stage import StageError


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
        checkpoint.load_weights(str(path))
    assert refused.value.hint
    assert "\n" not in refused.value.message
    return refused.value.message


@pytest.mark.parametrize("legacy", [False, True])
def test_both_file_formats_give_the_weights_in_module_order(tmp_path, state, legacy):
    loaded = checkpoint.load_weights(_save(tmp_path / "a.pth", state, legacy))
    assert list(loaded) == list(architecture.state_dict_shapes())
    assert all(np.array_equal(loaded[name], state[name].numpy()) for name in state)


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
    loaded = checkpoint.load_weights(_save(tmp_path / "a.pth", state, legacy, **beside))
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


@pytest.mark.parametrize("legacy", [False, True])
def test_shared_and_transposed_storages_are_read_as_they_are(tmp_path, state, legacy):
    both = torch.arange(2 * 1536 * 384, dtype=torch.float32).reshape(2, 1536, 384)
    state["rnns.1.rnn.weight_hh_l0"], state["rnns.2.rnn.weight_hh_l0"] = both[0], both[1]
    state["fc.1.weight"] = torch.randn(768, 41).t()
    loaded = checkpoint.load_weights(_save(tmp_path / "a.pth", state, legacy))
    assert all(np.array_equal(loaded[name], state[name].numpy()) for name in state)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, state, legacy, share):
    path = _save(tmp_path / "a.pth", state, legacy)
    os.truncate(path, int(os.path.getsize(path) * share))
    assert "a.pth" in _refusal(path)


def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pth"))
    assert "TorchScript" in _refusal(tmp_path / "a.pth")


def test_a_saved_model_loads_into_the_module(tmp_path, state):
    model = checkpoint.load_model(_save(tmp_path / "a.pth", {"module." + name: state[name] for name in state}))
    assert not model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
