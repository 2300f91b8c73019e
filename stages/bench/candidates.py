"""The candidates of the bench's inference area: how each is opened, run, timed and held to PyTorch's outputs."""

from __future__ import annotations

import argparse
import functools
import os
import time
from typing import Any, Callable, Mapping, Sequence

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from stages.bench import speech as dev_speech
from stages.model import network as model_network
from stages.shared import architecture, runtime_arguments
from stages.shared.stage import StageError

Runner = Callable[[Any], numpy.ndarray]
"""Runs one batch, or makes one product."""

EDGE = 1536  # of the square product that the peak is taken with
PRODUCTS = 8  # per core and round
LEAST_ROUNDS = 3  # of a median
SIDE_BY_SIDE, ONE_AT_A_TIME = "side by side", "one at a time"
OURS, ONNX_RUNTIME, OPENVINO = "ours", "ONNX Runtime", "OpenVINO"
_GRAPH, _MODEL = "lstm_ctc.onnx", "model.onnx"


def _session(graph: str | bytes, threads: int) -> onnxruntime.InferenceSession:
    """ONNX Runtime with its own defaults, except for the number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, sess_options=options, providers=["CPUExecutionProvider"])


def _run_session(session: onnxruntime.InferenceSession, rows: numpy.ndarray) -> numpy.ndarray:
    return session.run([architecture.OUTPUT_NAME], {architecture.INPUT_NAME: rows})[0]


def _run_openvino(request: Any, rows: numpy.ndarray) -> numpy.ndarray:
    return request.infer([rows], share_inputs=True)[0].copy()


class Candidates:
    """Ours and the peers, ready to run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.cores = runtime_arguments.available_threads()
        self._graph = os.path.join(options.onnx, _GRAPH)
        self.network = model_network.Network(os.path.join(options.model, _MODEL))
        self.session = _session(self._graph, self.cores)
        self._sessions: dict[str, list[Runner]] = {
            SIDE_BY_SIDE: [functools.partial(_run_session, _session(self._graph, 1)) for _ in range(self.cores)],
            ONE_AT_A_TIME: [functools.partial(_run_session, self.session)],
        }

    def at(self, size: int) -> dict[tuple[str, str], list[Runner]]:
        """(candidate, way) -> the functions that run a batch of `size`, one per thread."""
        runners: dict[tuple[str, str], list[Runner]] = {}
        ours: dict[str, list[Runner]] = {
            SIDE_BY_SIDE: [stream.run for stream in self.network.streams(size)],
            ONE_AT_A_TIME: [self.network.run],
        }
        openvino = _openvino(self._graph, size, self.cores)
        for name, ways in ((OURS, ours), (ONNX_RUNTIME, self._sessions), (OPENVINO, openvino)):
            for way, functions in ways.items():
                runners[name, way] = functions
        return runners


def _openvino(graph: str, size: int, cores: int) -> dict[str, list[Runner]]:
    """Way -> functions; nothing where OpenVINO is not in the image."""
    try:
        import openvino
    except ImportError:
        return {}
    core = openvino.Core()
    model = core.read_model(graph)
    model.reshape(list(architecture.input_shape(size)))
    ways: dict[str, list[Runner]] = {}
    for way, streams in ((SIDE_BY_SIDE, cores), (ONE_AT_A_TIME, 1)):
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cores, "NUM_STREAMS": streams}
        compiled = core.compile_model(model, "CPU", settings)
        ways[way] = [functools.partial(_run_openvino, compiled.create_infer_request()) for _ in range(streams)]
    return ways


class Peak:
    """One large product per core, side by side, by each library of products that is here."""

    def __init__(self, network: model_network.Network, cores: int) -> None:
        random = numpy.random.RandomState(1)
        left, right = (random.uniform(-1.0, 1.0, (EDGE, EDGE)).astype(numpy.float32) for _ in range(2))
        self.runners = {
            "OpenBLAS": [self._openblas(left.copy(), right.copy()) for _ in range(cores)],
            "MLAS": [self._mlas(left.copy(), right) for _ in range(cores)],
            "ours": [self._ours(network, left, right) for _ in range(cores)],
        }
        exact = left.astype(numpy.float64) @ right.astype(numpy.float64)
        for name, functions in self.runners.items():
            if numpy.abs(functions[0](None) - exact).max() > 1e-3:
                raise StageError("the product of {} is wrong".format(name))

    @staticmethod
    def _openblas(left: numpy.ndarray, right: numpy.ndarray) -> Runner:
        result = numpy.empty_like(left)
        return lambda _item: numpy.matmul(left, right, out=result)

    @staticmethod
    def _mlas(left: numpy.ndarray, right: numpy.ndarray) -> Runner:
        shape = [EDGE, EDGE]
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["left", "right"], ["result"])],
            "product",
            [helper.make_tensor_value_info("left", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("result", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(right, "right")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
        model.ir_version = 6
        onnx.checker.check_model(model)
        session = _session(model.SerializeToString(), 1)
        return lambda _item: session.run(None, {"left": left})[0]

    @staticmethod
    def _ours(network: model_network.Network, left: numpy.ndarray, right: numpy.ndarray) -> Runner:
        # The very kernel and layout that the network multiplies with, taken out of it: no other product of ours counts.
        kernels, width = network._kernels, network._shape.width
        panels = model_network.panels(right, width)
        left, start = model_network.copied(left), model_network.aligned((EDGE,))
        result = model_network.aligned((EDGE, EDGE))
        rows_at_once = model_network.rows_at_once(EDGE, left.strides[0])

        def run(_item: None) -> numpy.ndarray:
            kernels.multiply(
                left.ctypes.data, EDGE, panels.ctypes.data, result.ctypes.data, EDGE, start.ctypes.data, 0, EDGE, EDGE,
                EDGE // width, rows_at_once, model_network._FORWARDS,
            )  # fmt: skip
            return result

        return run


class Checks:
    """What the outputs of every run, timed or not, were found to be."""

    def __init__(self, speech: dev_speech.Speech, ours: numpy.ndarray) -> None:
        self._speech = speech
        self._ours = ours
        self.largest: dict[str, float] = {}
        self.timed_utterances: dict[str, int] = {}
        self.unequal = 0  # outputs of ours that are not the bytes of the untimed run

    def look(self, name: str, picked: Sequence[Sequence[int]], outputs: Sequence[numpy.ndarray]) -> None:
        """Hold a round's outputs to PyTorch's, and ours to the untimed bytes too."""
        for numbers, values in zip(picked, outputs):
            by_utterance = numpy.swapaxes(values, 0, 1)
            largest = float(numpy.abs(by_utterance - self._speech.expected[numbers]).max())
            self.largest[name] = max(self.largest.get(name, 0.0), largest)
            self.timed_utterances[name] = self.timed_utterances.get(name, 0) + len(numbers)
            if name == OURS:
                self.unequal += sum(
                    found.tobytes() != self._ours[number].tobytes() for number, found in zip(numbers, by_utterance)
                )


def _everything(run: Runner, speech: dev_speech.Speech, size: int) -> numpy.ndarray:
    """Outputs (utterances, 195, 41) of the whole set by one function, `size` utterances at a time."""
    parts = [run(speech.rows[start : start + size]) for start in range(0, len(speech.rows), size)]
    return numpy.concatenate([numpy.swapaxes(part, 0, 1) for part in parts])


def measure(options: argparse.Namespace, rounds: Mapping[int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(times, checks) of all candidates; `rounds`: batch size -> how many rounds. See `stages.bench.inference`."""
    speech = dev_speech.Speech(options.batches, options.reference)
    candidates = Candidates(options)
    ours = _everything(candidates.network.run, speech, 8)
    plain = _everything(functools.partial(_run_session, candidates.session), speech, 16)
    wrong = [
        sum(a.tolist() != b.tolist() for a, b in zip(speech.symbols(ours), speech.symbols(other)))
        for other in (speech.expected, plain)
    ]
    checks = Checks(speech, ours)
    peak = Peak(candidates.network, candidates.cores)
    by_size = {}
    for size, number in rounds.items():
        by_size[str(size)] = _measure_size(size, candidates, peak, speech, checks, number, options.seconds)
    times = {
        "cores": candidates.cores,
        "flop_an_utterance": dev_speech.flop_an_utterance(),
        "product_flop": 2 * EDGE**3,
        "edge": EDGE,
        "sizes": by_size,
    }
    found = {
        "utterances": len(speech.rows),
        "largest_from_torch": float(numpy.abs(ours - speech.expected).max()),
        "largest_from_plain_graph": float(numpy.abs(ours - plain).max()),
        "utterances_with_other_symbols": {"torch": wrong[0], "plain graph": wrong[1]},
        "timed_largest_from_torch": checks.largest,
        "timed_utterances": checks.timed_utterances,
        "timed_not_the_untimed_bytes": checks.unequal,
    }
    return times, found


def _left_behind(runs: Mapping[str, Mapping[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The entries of ways in which a peer was a seventh slower than in its other one: they need no more rounds."""
    slow = []
    for name, ways in runs.items():
        rates = {way: entry["utterances"] / entry["seconds"][0] for way, entry in ways.items()}
        slow += [ways[way] for way in ways if name != OURS and 1.15 * rates[way] < max(rates.values())]
    return slow


def _measure_size(
    size: int,
    candidates: Candidates,
    peak: Peak,
    speech: dev_speech.Speech,
    checks: Checks,
    rounds: int,
    enough_s: float,
) -> dict[str, Any]:
    """{'peak': {library: {products, seconds}}, 'runs': {candidate: {way: {utterances, seconds}}}} of one batch size.

    After `enough_s` seconds a slow processor begins no further round than LEAST_ROUNDS.
    """
    cores = candidates.cores
    result: dict[str, dict[str, Any]] = {"peak": {}, "runs": {}}
    work: list[tuple[dict[str, Any], list[Runner], Any, list[Any], str]] = []
    for library, functions in peak.runners.items():
        entry = result["peak"][library] = {"products": PRODUCTS * cores, "seconds": []}
        work.append((entry, functions, None, [None] * (PRODUCTS * cores), library))
    for (name, way), functions in candidates.at(size).items():
        count = dev_speech.batches_in_a_round(size, cores, side_by_side=way == SIDE_BY_SIDE)
        picked = speech.picked(size, count)
        batches = [numpy.ascontiguousarray(speech.rows[numbers]) for numbers in picked]
        entry = {"utterances": size * count, "seconds": []}
        result["runs"].setdefault(name, {})[way] = entry
        work.append((entry, functions, picked, batches, name))
    for _entry, functions, _picked, batches, _name in work:  # memory, caches and the peers' own preparations
        for function in functions:
            function(batches[0])
    began_s = time.monotonic()
    for number in range(rounds):
        if number >= LEAST_ROUNDS and time.monotonic() - began_s > enough_s:
            break
        for entry, functions, picked, batches, name in work if number % 2 == 0 else work[::-1]:
            seconds, outputs = dev_speech.timed(functions, batches)
            if picked is not None:
                checks.look(name, picked, outputs)
            entry["seconds"].append(seconds)
        if number == 0:
            slow = [id(entry) for entry in _left_behind(result["runs"])]
            work = [item for item in work if id(item[0]) not in slow]
    return result
