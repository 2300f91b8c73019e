"""The training's memory on disk: all that a training which was stopped needs to go on."""

from __future__ import annotations

import os
from typing import Any, Mapping

import torch

from stages.shared.stage import StageError, atomic_file

_STATE_FILE = "training.state"
_FORMAT = 1


def save_state(folder: str, key: str, state: Mapping[str, Any]) -> None:
    """Replace the state in `folder`; a kill at any moment leaves the old one or the new one.

    Args:
        key: what the training depends on, as text; `load_state` refuses a state of another key.
        state: tensors, numbers, strings, lists and dicts of them.
    """
    with atomic_file(os.path.join(folder, _STATE_FILE)) as stream:
        torch.save({"format": _FORMAT, "key": key, "state": state}, stream)
        stream.flush()
        os.fsync(stream.fileno())


def load_state(folder: str, key: str) -> dict[str, Any] | None:
    """The state that `save_state` left, or None where there is none.

    Raises:
        StageError: the file is damaged, or belongs to other data or options.
    """
    path = os.path.join(folder, _STATE_FILE)
    if not os.path.exists(path):
        return None
    try:
        content = torch.load(path, map_location="cpu")
        found, state_format, state = content["key"], content["format"], content["state"]
    except Exception as error:  # noqa: BLE001 - a damaged pickle can make PyTorch raise anything
        raise StageError("{}: cannot be read: {}".format(path, error), "Remove it to train from the start.")
    if state_format != _FORMAT or found != key:
        raise StageError(
            "{}: it belongs to a training with other data or options".format(path),
            "Give the same data and options again, or another --state folder.",
        )
    return state
