"""How far PyTorch, the exported graph and the converted graph agree, on the real batches.

Three pairs: torch_onnx, torch_converted, onnx_converted. PyTorch's and the converted graph's outputs are read from
their stages; the exported graph is run here. PyTorch and the exported graph run once per utterance, in batches of
reference_batch_size: for other sizes, this stage reads what it wrote for that one. Only rows of real utterances count,
never those that fill up a batch.
With a and b the log-probabilities of a pair, over all N values of all real utterances (195 frames of 41 classes each),
the pair's first member being a:

max_abs             max |a - b|
cosine              sum(a b) / sqrt(sum(a a) sum(b b))
relative_euclidean  sqrt(sum((a - b)^2)) / sqrt(sum(a a))
kl                  mean over frames of sum over classes of exp(a) (a - b) - exp(a) + exp(b), in nats: the
                    divergence of Kullback and Leibler, kept from going below 0 by rounding of the probabilities' sum
rmse                sqrt(sum((a - b)^2) / N)
mean_relative       mean of |a - b| / max(|a|, 2^-23)
symbols_changed     frames within the utterances' own lengths whose most probable class differs

The thresholds are the NPU vendor's for comparing tensors; they do not bind max_abs and symbols_changed.
out/compare.json; out/onnx where the exported graph was run: its outputs as PyTorch's, float32 (195, B, 41).
"""

from __future__ import annotations

import os
from typing import Any, Iterator, Sequence

import numpy

from stages.formats import bins
from stages.model import runtime
from stages.shared import runtime_arguments, stage

FORMULAS = {
    "max_abs": "max |a - b|",
    "cosine": "sum(a b) / sqrt(sum(a a) sum(b b))",
    "relative_euclidean": "sqrt(sum((a - b)^2)) / sqrt(sum(a a))",
    "kl": "mean over frames of sum over classes of exp(a) (a - b) - exp(a) + exp(b), nats",
    "rmse": "sqrt(mean((a - b)^2))",
    "mean_relative": "mean(|a - b| / max(|a|, 2^-23))",
    "symbols_changed": "frames within each utterance's output length with another argmax",
}
MINIMA = {"cosine": 0.99}
MAXIMA = {"relative_euclidean": 0.05, "kl": 0.005, "rmse": 1.0, "mean_relative": 1.0}
_SMALLEST = 2.0**-23  # of |a|: float32's step at 1, below which a relative error says nothing


class Agreement:
    """Accumulates the figures of one pair; sums are float64, in the order of the utterances."""

    def __init__(self) -> None:
        self._products = {"ab": 0.0, "aa": 0.0, "bb": 0.0, "squares": 0.0, "kl": 0.0, "relative": 0.0}
        self._max_abs = 0.0
        self._values = 0
        self._frames = 0
        self._scored_frames = 0
        self._symbols_changed = 0
        self._utterances = 0

    def add(self, first: numpy.ndarray, second: numpy.ndarray, output_frames: int) -> None:
        """One utterance's log-probabilities, (frames, classes) each, of which the first `output_frames` are decoded."""
        changed = first[:output_frames].argmax(axis=1) != second[:output_frames].argmax(axis=1)
        self._symbols_changed += int(numpy.count_nonzero(changed))
        a, b = first.astype(numpy.float64), second.astype(numpy.float64)
        difference = a - b
        self._max_abs = max(self._max_abs, float(numpy.abs(difference).max()))
        for name, values in (
            ("ab", a * b),
            ("aa", a * a),
            ("bb", b * b),
            ("squares", difference * difference),
            ("kl", numpy.exp(a) * difference - numpy.exp(a) + numpy.exp(b)),
            ("relative", numpy.abs(difference) / numpy.maximum(numpy.abs(a), _SMALLEST)),
        ):
            self._products[name] += float(values.sum())
        self._values += a.size
        self._frames += len(a)
        self._scored_frames += output_frames
        self._utterances += 1

    def result(self) -> dict[str, Any]:
        """The figures, with whether they keep the thresholds; at least one utterance must have been added."""
        sums = self._products
        norms = (sums["aa"] * sums["bb"]) ** 0.5
        figures = {
            "max_abs": self._max_abs,
            # Two tensors of zeros point the same way.
            "cosine": sums["ab"] / norms if norms > 0 else float(sums["aa"] == sums["bb"]),
            "relative_euclidean": (sums["squares"] / max(sums["aa"], _SMALLEST**2)) ** 0.5,
            "kl": sums["kl"] / self._frames,
            "rmse": (sums["squares"] / self._values) ** 0.5,
            "mean_relative": sums["relative"] / self._values,
        }
        within = all(figures[name] >= limit for name, limit in MINIMA.items())
        within = within and all(figures[name] <= limit for name, limit in MAXIMA.items())
        return dict(
            figures,
            frames=self._frames,
            scored_frames=self._scored_frames,
            symbols_changed=self._symbols_changed,
            utterances=self._utterances,
            within_thresholds=within,
        )


def _run_onnx(path: str, batches: Sequence[bins.Batch], manifest: bins.Manifest, out: str) -> Iterator[numpy.ndarray]:
    """Every utterance's log-probabilities (195, 41) from the exported graph, in the manifest's order; kept in `out`."""
    graph = runtime.Graph(path)
    graph.require_batch_size(manifest.batch_size)
    os.mkdir(out)
    bins.make_output_folders(out, batches)
    for number, batch in enumerate(batches):
        outputs = graph.run(bins.read_batch(batch, manifest.batch_size))
        bins.write_output(out, batch, outputs)
        for utterance in manifest.of_batch(number):
            yield outputs[:, utterance.row]


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--reference", required=True, metavar="DIR", help="the reference stage's results")
    exported = parser.add_mutually_exclusive_group(required=True)
    exported.add_argument("--onnx", metavar="DIR", help="the export stage's results")
    exported.add_argument(
        "--onnx-outputs", metavar="DIR", help="out/onnx of this stage, for the batches that PyTorch was given"
    )
    parser.add_argument("--outputs", required=True, metavar="DIR", help="the infer stage's results")
    parser.add_argument("--batches", required=True, metavar="DIR", help="the batches stage's results")
    parser.add_argument(
        "--reference-batches", metavar="DIR", help="those that PyTorch was given, where they are not --batches"
    )
    runtime_arguments.batch_size(parser)
    options = parser.parse_args(arguments)
    manifest = bins.read_manifest(options.batches, options.bs)
    batches = bins.list_batches(options.batches, manifest)
    of_torch = options.reference_batches or options.batches
    torch_manifest = bins.read_manifest(of_torch)
    if [each.id for each in torch_manifest.utterances] != [each.id for each in manifest.utterances]:
        raise stage.StageError(
            "{} and {} are not batches of the same utterances".format(of_torch, options.batches),
            "run the stages batches and reference again",
        )
    torch_batches = bins.list_batches(of_torch, torch_manifest)
    if options.onnx_outputs:
        of_graph = bins.each_output(options.onnx_outputs, torch_batches, torch_manifest)
    else:
        path = os.path.join(options.onnx, "lstm_ctc.onnx")
        of_graph = _run_onnx(path, batches, manifest, os.path.join(options.out, "onnx"))
    pairs = {"torch_onnx": Agreement(), "torch_converted": Agreement(), "onnx_converted": Agreement()}
    progress = stage.Progress("compare", len(manifest.utterances))
    for utterance, torch, onnx, converted in zip(
        manifest.utterances,
        bins.each_output(options.reference, torch_batches, torch_manifest),
        of_graph,
        bins.each_output(options.outputs, batches, manifest),
    ):
        outputs = {"torch": torch, "onnx": onnx, "converted": converted}
        for name, agreement in sorted(pairs.items()):
            first, second = name.split("_")
            agreement.add(outputs[first], outputs[second], utterance.output_frames)
        progress.advance()
    results = {name: agreement.result() for name, agreement in pairs.items()}
    stage.write_json(
        os.path.join(options.out, "compare.json"),
        dict(
            results,
            batch_size=options.bs,
            formulas=FORMULAS,
            reference_batch_size=torch_manifest.batch_size,
            thresholds={"at_least": MINIMA, "at_most": MAXIMA},
            within_thresholds=all(result["within_thresholds"] for result in results.values()),
        ),
    )


if __name__ == "__main__":
    stage.run(main)
