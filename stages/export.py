"""Exports a checkpoint to ONNX as the guide does: PyTorch's own exporter, opset 11, batch axis dynamic.

out/lstm_ctc.onnx: input actual_input_1 (batch, 390, 243) float32, output output1 (195, batch, 41) float32
log-probabilities; traced with a dummy batch of 1, the batch axis being named '-1'. out/summary.json says what was
checked. The bytes depend on the weights and on PyTorch's release alone, on no processor: the one thing that the
exporter computes, BatchNorm folded into the convolutions, is done before, by `stages.model.folding`.

obs/exporter.json: the digest of what PyTorch exports from the checkpoint by itself on this machine, and how far that is
from out/lstm_ctc.onnx: nothing but the folded values may differ, by a few units in the last place.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from typing import Any, Mapping, Sequence

import numpy
import torch

from stages.formats import onnx_tensors
from stages.model import checkpoint, folding
from stages.shared import architecture, stage

OPSET = 11
BATCH_AXIS_NAME = "-1"
FILE_NAME = "lstm_ctc.onnx"
OBSERVATION = "exporter.json"


def exported(model: torch.nn.Module) -> bytes:
    """What PyTorch's exporter makes of `model` (an AcousticModel in evaluation mode)."""
    dummy = torch.zeros(architecture.input_shape(1))
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # PyTorch warns that an LSTM traced at batch 1 may hold initial states of batch 1. This model passes none, so
        # they are computed from the input's size; `convert` runs the graph at the batch size that is asked for.
        warnings.filterwarnings("ignore", message="Exporting a model to ONNX with a batch_size other than 1")
        torch.onnx.export(
            model,
            dummy,
            stream,
            opset_version=OPSET,
            input_names=[architecture.INPUT_NAME],
            output_names=[architecture.OUTPUT_NAME],
            dynamic_axes={
                architecture.INPUT_NAME: {0: BATCH_AXIS_NAME},
                architecture.OUTPUT_NAME: {1: BATCH_AXIS_NAME},
            },
        )
    return stream.getvalue()


def export_folded(model: torch.nn.Module, weights: Mapping[str, numpy.ndarray]) -> bytes:
    """As `exported`, with BatchNorm folded by us; the model keeps the folded weights.

    The exporter still folds, and finds the same graph: it divides by 1, multiplies by 1 and adds 0.
    """
    folded = folding.folded_weights(weights)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in folded.items()}, strict=True)
    for block in model.conv:
        block.batch_norm.eps = 0.0
    return exported(model)


def differences(ours: bytes, theirs: bytes, weights: Mapping[str, numpy.ndarray]) -> dict[str, dict[str, float]]:
    """How far PyTorch's own export is from ours, for each folded tensor: values, differing ones, most units.

    Raises:
        StageError: more than the folded values differs, or by more than `folding.MAX_UNITS`.
    """
    tensors = onnx_tensors.tensors(ours)
    if onnx_tensors.tensors(theirs) != tensors:
        raise stage.StageError("PyTorch's own export has other tensors than ours", _REPORT)
    found, outside, position = {}, [], 0
    for name, value, at in _folded(weights):
        place = [each for each in tensors if ours[each.start : each.stop] == value.tobytes()]
        if len(place) != 1:
            raise stage.StageError("the exported graph does not hold {} as it was folded".format(name), _REPORT)
        own = numpy.frombuffer(theirs[place[0].start : place[0].stop], "<f4").reshape(value.shape)
        away = folding.units(own, value, at)
        if not away.max() <= folding.MAX_UNITS:
            raise stage.StageError(
                "PyTorch folds {} otherwise: {:g} units in the last place away".format(name, away.max()), _REPORT
            )
        found[name] = {
            "differing": int((own != value).sum()), "max_units": float(away.max()), "values": int(value.size)
        }  # fmt: skip
        outside.append((place[0].start, place[0].stop))
    for start, stop in sorted(outside) + [(len(ours), len(ours))]:
        if ours[position:start] != theirs[position:start]:
            raise stage.StageError("PyTorch's own export differs in more than the folded weights", _REPORT)
        position = stop
    return found


_REPORT = "this is a defect of the export, or of the image's PyTorch: please report it with the checkpoint's digest"


def _folded(weights: Mapping[str, numpy.ndarray]) -> list[tuple[str, numpy.ndarray, numpy.ndarray]]:
    """(name, folded values, the values whose units in the last place count)."""
    result = []
    for index in range(folding.CONVOLUTIONS):
        folded = folding.fold(weights, index)
        result.append(("conv{}.weight".format(index), folded.weight, folded.weight))
        result.append(("conv{}.bias".format(index), folded.bias, folded.bias_terms))
    return result


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="a .pth file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # others have the other cores, and a thread of OpenMP's burns its own while it waits
    progress = stage.Progress("export", 3)
    weights = checkpoint.load_weights(options.checkpoint)
    model = checkpoint.model_of(weights)
    progress.advance()
    by_torch = exported(model)
    progress.advance()
    data = export_folded(model, weights)
    stage.write_json(
        os.path.join(options.obs, OBSERVATION),
        {"sha256": hashlib.sha256(by_torch).hexdigest(), "from_ours": differences(data, by_torch, weights)},
    )
    with stage.atomic_file(os.path.join(options.out, FILE_NAME)) as stream:
        stream.write(data)
    stage.write_json(os.path.join(options.out, "summary.json"), _summary(data, model))
    progress.advance()


def _summary(data: bytes, model: torch.nn.Module) -> dict[str, Any]:
    shape, output = list(architecture.input_shape(1)), list(architecture.output_shape(1))
    return {
        "input": {"name": architecture.INPUT_NAME, "shape": [BATCH_AXIS_NAME] + shape[1:]},
        "output": {"name": architecture.OUTPUT_NAME, "shape": [output[0], BATCH_AXIS_NAME, output[2]]},
        "opset": OPSET,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": hashlib.sha256(data).hexdigest(),
        "tensors_checked": len(architecture.state_dict_shapes()),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    stage.run(main)
