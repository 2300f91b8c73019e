"""Exports a checkpoint to ONNX as the guide does: PyTorch's own exporter, opset 11, batch axis dynamic.

out/lstm_ctc.onnx: input actual_input_1 (batch, 390, 243) float32, output output1 (195, batch, 41) float32
log-probabilities; traced with a dummy batch of 1, the batch axis being named '-1'. out/summary.json says what was
checked. The bytes depend on the weights and on PyTorch's release alone.
"""

import hashlib
import os
import warnings

import torch

from stages.model import checkpoint
from stages.shared import architecture, stage

OPSET = 11
BATCH_AXIS_NAME = "-1"
FILE_NAME = "lstm_ctc.onnx"


def export_onnx(model, path):
    """Write `model` (an AcousticModel in evaluation mode) to `path`."""
    dummy = torch.zeros(architecture.input_shape(1))
    with stage.atomic_file(path) as stream, warnings.catch_warnings():
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


def main(arguments):
    parser = stage.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="a .pth file")
    options = parser.parse_args(arguments)
    progress = stage.Progress("export", 2)
    model = checkpoint.load_model(options.checkpoint)
    progress.advance()
    path = os.path.join(options.out, FILE_NAME)
    export_onnx(model, path)
    with open(path, "rb") as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    shape, output = list(architecture.input_shape(1)), list(architecture.output_shape(1))
    stage.write_json(
        os.path.join(options.out, "summary.json"),
        {
            "input": {"name": architecture.INPUT_NAME, "shape": [BATCH_AXIS_NAME] + shape[1:]},
            "output": {"name": architecture.OUTPUT_NAME, "shape": [output[0], BATCH_AXIS_NAME, output[2]]},
            "opset": OPSET,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "sha256": digest,
            "tensors_checked": len(architecture.state_dict_shapes()),
            "torch": torch.__version__,
        },
    )
    progress.advance()


if __name__ == "__main__":
    stage.run(main)
