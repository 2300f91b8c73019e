"""The training's memory on disk (the state), and the checkpoint that it ends with."""

import io
import os
import zipfile

import torch

from stages import _architecture as architecture
from stages._stage import StageError, atomic_file

_STATE_FILE = "training.state"
_FORMAT = 1
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


def _bytes_of(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def save_state(folder, key, state):
    """Replace the state in `folder`; a kill at any moment leaves the old one or the new one.

    Args:
        key: what the training depends on, as text; `load_state` refuses a state of another key.
        state: tensors, numbers, strings, lists and dicts of them.
    """
    content = _bytes_of({"format": _FORMAT, "key": key, "state": state})
    with atomic_file(os.path.join(folder, _STATE_FILE)) as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def load_state(folder, key):
    """The state that `save_state` left, or None where there is none.

    Raises:
        StageError: the file is damaged, or belongs to other data or options.
    """
    path = os.path.join(folder, _STATE_FILE)
    if not os.path.exists(path):
        return None
    # Our own file of a run before; later releases would refuse the generator's state by default.
    options = {} if torch.__version__.startswith("1.") else {"weights_only": False}
    try:
        content = torch.load(path, map_location="cpu", **options)
        found, state_format, state = content["key"], content["format"], content["state"]
    except Exception as error:  # noqa: BLE001 - a damaged pickle can make PyTorch raise anything
        raise StageError("{}: cannot be read: {}".format(path, error), "Remove it to train from the start.")
    if state_format != _FORMAT or found != key:
        raise StageError(
            "{}: it belongs to a training with other data or options".format(path),
            "Give the same data and options again, or another --state folder.",
        )
    return state


def rounded(state_dict):
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


def write_checkpoint(path, weights, dropout):
    """Write the reference's checkpoint format: a dict with 'state_dict' and the parameters of the architecture.

    The file is the same bytes for the same weights and PyTorch release: its archive holds no date, and the name
    inside does not follow the file's.

    Args:
        weights: what `rounded` returns.

    Raises:
        StageError: the file would be larger than 36,000,000 bytes.
    """
    content = _bytes_of(
        {
            "state_dict": weights,
            "rnn_param": _RNN_PARAM,
            "cnn_param": _CNN_PARAM,
            "num_class": architecture.CLASSES,
            "_drop_out": dropout,
        }
    )
    if len(content) > MAX_CHECKPOINT_BYTES:
        raise StageError("the checkpoint has {} bytes, over {}".format(len(content), MAX_CHECKPOINT_BYTES))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        dates = {member.date_time for member in archive.infolist()}
    if len(dates) != 1:
        raise StageError("this PyTorch writes dates into its files: {}".format(sorted(dates)), "Use PyTorch 1.8.0.")
    with atomic_file(path) as stream:
        stream.write(content)
