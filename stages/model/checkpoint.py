"""Opens a checkpoint safely and holds every tensor to the architecture: name, shape, type, finiteness."""

from __future__ import annotations

import collections
import os
from typing import TYPE_CHECKING, Any, Mapping

import numpy

from stages.formats import pickled_tensors
from stages.shared import architecture
from stages.shared.stage import StageError

if TYPE_CHECKING:  # PyTorch is in some images alone
    from stages.model.model import AcousticModel

_MAX_BYTES = 1 << 30  # the weights are 71 MB in float32; with an optimizer's two moments, 214 MB
_HINT = "use the published ctc_best_model.pth, or a checkpoint that was saved as {'state_dict': model.state_dict()}"


def _read_state(path: str) -> dict[Any, Any]:
    try:
        size_bytes = os.path.getsize(path)
        if size_bytes > _MAX_BYTES:
            raise StageError(
                "{} has {} bytes; a checkpoint of this model has at most {}".format(path, size_bytes, _MAX_BYTES), _HINT
            )
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError as error:
        raise StageError("cannot read the checkpoint {}: {}".format(path, error.strerror), _HINT)
    try:
        package = pickled_tensors.read(data)
    except pickled_tensors.CheckpointError as error:
        raise StageError("{} is refused: {}".format(path, error).replace("\n", " "), _HINT)
    state = package.get("state_dict") if isinstance(package, dict) else None
    if not isinstance(state, dict):
        raise StageError("{} holds no 'state_dict'".format(path), _HINT)
    return state


def _strip_prefix(path: str, state: Mapping[Any, Any]) -> dict[str, Any]:
    """Names without the 'module.' of nn.DataParallel."""
    result = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise StageError("{}: a name in 'state_dict' is {!r}, not a string".format(path, name), _HINT)
        short = name[len("module.") :] if name.startswith("module.") else name
        if short in result:
            raise StageError("{}: tensor {} is there twice, with and without 'module.'".format(path, short), _HINT)
        result[short] = value
    return result


def _type_name(dtype: numpy.dtype) -> str:
    return "bfloat16" if dtype.kind == "V" else dtype.name


def _check_tensor(path: str, name: str, value: Any, shape: tuple[int, ...]) -> numpy.ndarray:
    """The tensor as float32 (counters: int64), contiguous and writable, or StageError."""
    if not isinstance(value, numpy.ndarray):
        raise StageError("{}: {} is not a tensor".format(path, name), _HINT)
    if value.shape != shape:
        raise StageError("{}: tensor {} has shape {}, the model needs {}".format(path, name, value.shape, shape), _HINT)
    allowed = ("int64",) if architecture.is_counter(name) else ("float32", "float16")
    if _type_name(value.dtype) not in allowed:
        raise StageError(
            "{}: tensor {} is {}, not {}".format(path, name, _type_name(value.dtype), " or ".join(allowed)), _HINT
        )
    if architecture.is_counter(name):
        return numpy.array(value, dtype=numpy.int64)
    value = numpy.array(value, dtype=numpy.float32, order="C")
    bad = int(numpy.count_nonzero(~numpy.isfinite(value)))
    if bad:
        raise StageError("{}: tensor {} has {} values that are NaN or infinite".format(path, name, bad), _HINT)
    if name.endswith(".running_var") and value.min() < 0:
        raise StageError("{}: tensor {} holds a negative variance".format(path, name), _HINT)
    return value


def load_weights(path: str) -> collections.OrderedDict[str, numpy.ndarray]:
    """The checkpoint's state dict, checked.

    Args:
        path: a file that `torch.save` wrote (zip or legacy format): a dict with 'state_dict', whose names may carry
            'module.'; weights float32, or float16, which are widened.

    Returns:
        OrderedDict of name -> float32 array (int64 scalar for BatchNorm's counters), in the module's order.

    Raises:
        StageError: unreadable, asks for foreign code, or a tensor is missing, surplus, of another shape or type, or
            not finite; the message names the tensor.
    """
    state = _strip_prefix(path, _read_state(path))
    shapes = architecture.state_dict_shapes()
    missing = [name for name in shapes if name not in state]
    surplus = sorted(name for name in state if name not in shapes)
    for what, names in (("lacks tensor", missing), ("has a tensor that the model does not know:", surplus)):
        if names:
            more = " and {} more".format(len(names) - 1) if len(names) > 1 else ""
            raise StageError("{} {} {}{}".format(path, what, names[0], more), _HINT)
    return collections.OrderedDict(
        (name, _check_tensor(path, name, state[name], shape)) for name, shape in shapes.items()
    )


def model_of(weights: Mapping[str, numpy.ndarray]) -> AcousticModel:
    """The acoustic model with these weights, of `load_weights`, in evaluation mode.

    The one function here that needs PyTorch.
    """
    import torch

    from stages.model.model import build_model

    model = build_model()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
    return model.eval()


def load_model(path: str) -> AcousticModel:
    """`model_of` the weights of a file; raises as `load_weights`."""
    return model_of(load_weights(path))
