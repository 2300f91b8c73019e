"""The checkpoint that the demo's training ends with: the reference's format, and the same bytes for the same weights.

`torch.save` of PyTorch 1.8 names tensors inside the file by their place in memory, so the file would differ from run
to run. Here the format is written out: a zip archive of a pickle, `archive/data.pkl`, and one member a tensor.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from typing import Any, BinaryIO, Callable, Mapping

import torch

from stages.shared import architecture
from stages.shared.stage import StageError, atomic_file

MAX_CHECKPOINT_BYTES = 36000000

# The parameters beside the weights, as a checkpoint of the reference carries them, in plain types: class names are
# strings, so that nothing but tensors and builtins is in the pickle.
_RNN_PARAM = {
    "rnn_input_size": architecture.COLUMNS,
    "rnn_hidden_size": architecture.HIDDEN,
    "rnn_layers": architecture.LAYERS,
    "rnn_type": "nn.LSTM",
    "bidirectional": True,
    "batch_norm": True,
}
_CNN_PARAM = {
    "batch_norm": True,
    "activate_function": "nn.ReLU",
    "layer": [
        [(1, architecture.CHANNELS), (3, 3), (1, 2), (1, 1), None],
        [(architecture.CHANNELS, architecture.CHANNELS), (3, 3), (2, 2), (1, 1), None],
    ],
}

_PICKLE_PROTOCOL = 2  # torch.save's
_FORMAT_VERSION = b"3\n"  # of the archive, as PyTorch 1.8 writes and reads it
_STORAGES = {torch.float16: torch.HalfStorage, torch.int64: torch.LongStorage}


class _Storage:
    """Stands for a tensor's values in the pickle; they are a member of the archive."""

    def __init__(self, kind: Any, key: str, count: int) -> None:
        self.reference = ("storage", kind, key, "cpu", count)


class _Pickler(pickle.Pickler):
    """Writes tensors as references to members `data/0`, `data/1`, …, in the order in which it meets them."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream, protocol=_PICKLE_PROTOCOL)
        self.values: list[bytes] = []  # one bytes object per member
        self.dispatch_table = {torch.Tensor: self._reduce}

    def persistent_id(self, value: Any) -> Any:
        return value.reference if isinstance(value, _Storage) else None

    def _reduce(self, tensor: torch.Tensor) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        storage = _Storage(_STORAGES[tensor.dtype], str(len(self.values)), tensor.numel())
        self.values.append(tensor.contiguous().numpy().tobytes())
        strides: list[int] = []
        step = 1
        for size in reversed(tensor.shape):
            strides.insert(0, step)
            step *= size
        hooks: OrderedDict[str, object] = OrderedDict()
        return torch._utils._rebuild_tensor_v2, (storage, 0, tuple(tensor.shape), tuple(strides), False, hooks)


def rounded(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy of a model's state dict with every weight in float16 (BatchNorm's counters stay int64).

    Raises:
        StageError: a weight is not finite in float16.
    """
    result = {}
    for name, value in state_dict.items():
        value = value.detach().clone()
        if not architecture.is_counter(name):
            value = value.to(torch.float16)
            if not bool(torch.isfinite(value).all()):
                raise StageError("the weight {} does not fit into float16".format(name), "Train again.")
        result[name] = value
    return result


def checkpoint_bytes(weights: Mapping[str, torch.Tensor], dropout: float) -> bytes:
    """A file of the reference's checkpoint format: a dict with 'state_dict' and the architecture's parameters.

    Args:
        weights: what `rounded` returns.
        dropout: what the model was trained with.
    """
    content = {
        "state_dict": weights,
        "rnn_param": _RNN_PARAM,
        "cnn_param": _CNN_PARAM,
        "num_class": architecture.CLASSES,
        "_drop_out": dropout,
    }
    pickled = io.BytesIO()
    pickler = _Pickler(pickled)
    pickler.dump(content)
    members = [("data.pkl", pickled.getvalue())]
    members += [("data/{}".format(index), values) for index, values in enumerate(pickler.values)]
    members.append(("version", _FORMAT_VERSION))
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            # A ZipInfo without a date has the format's first day, 1980-01-01.
            archive.writestr(zipfile.ZipInfo("archive/" + name), data)
    return result.getvalue()


def write_checkpoint(path: str, weights: Mapping[str, torch.Tensor], dropout: float) -> None:
    """Write `checkpoint_bytes` to a file; StageError if it would be larger than 36,000,000 bytes."""
    content = checkpoint_bytes(weights, dropout)
    if len(content) > MAX_CHECKPOINT_BYTES:
        raise StageError("the checkpoint has {} bytes, over {}".format(len(content), MAX_CHECKPOINT_BYTES))
    with atomic_file(path) as stream:
        stream.write(content)
