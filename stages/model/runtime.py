"""ONNX Runtime on the CPU, opened the same way by every stage that runs a graph."""

from __future__ import annotations

import numpy
import onnxruntime

from stages.shared import architecture, runtime_arguments
from stages.shared.stage import StageError

PROVIDER = "CPUExecutionProvider"


class Graph:
    """A loaded ONNX graph: `batch_size` is None where its batch axis is dynamic."""

    def __init__(self, path: str, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = runtime_arguments.available_threads() if threads is None else threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, sess_options=options, providers=[PROVIDER])
        except Exception as error:  # noqa: BLE001 - the runtime's exceptions share no public base class
            raise StageError("ONNX Runtime cannot load {}: {}".format(path, str(error).splitlines()[0]))
        self._path = path
        self.threads = options.intra_op_num_threads
        self.batch_size = self._check()

    def _check(self) -> int | None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = [value.name for value in inputs], [value.name for value in outputs]
        if names != ([architecture.INPUT_NAME], [architecture.OUTPUT_NAME]):
            raise StageError("{} has the inputs and outputs {}, {}".format(self._path, *names))
        shape = inputs[0].shape
        batch_size = shape[0] if isinstance(shape[0], int) else None
        if tuple(shape[1:]) != architecture.input_shape(1)[1:] or inputs[0].type != "tensor(float)":
            raise StageError("{} takes {} {}, not this model's input".format(self._path, inputs[0].type, shape))
        return batch_size

    def require_batch_size(self, batch_size: int) -> None:
        """Refuse a graph that is fixed to another batch size: a throughput figure would silently be wrong."""
        runtime_arguments.require_batch_size(self._path, self.batch_size, batch_size)

    def run(self, rows: numpy.ndarray) -> numpy.ndarray:
        """(B, 390, 243) float32 -> (195, B, 41) float32 log-probabilities."""
        return self._session.run([architecture.OUTPUT_NAME], {architecture.INPUT_NAME: rows})[0]
