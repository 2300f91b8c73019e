"""The agreement of PyTorch's and the converted network's outputs, recomputed from both stored outputs.

By the formulas that the stage `compare` states. What it says of the exported network, whose outputs nobody stores,
cannot be recomputed; it is held to what follows from the two others and the triangle inequality.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from repro.record.scores import Comparison, Pair, Thresholds
from repro.record.stage_files import FRAMES, Manifest

FORMULAS = {
    "max_abs": "max |a - b|",
    "cosine": "sum(a b) / sqrt(sum(a a) sum(b b))",
    "relative_euclidean": "sqrt(sum((a - b)^2)) / sqrt(sum(a a))",
    "kl": "mean over frames of sum over classes of exp(a) (a - b) - exp(a) + exp(b), nats",
    "rmse": "sqrt(mean((a - b)^2))",
    "mean_relative": "mean(|a - b| / max(|a|, 2^-23))",
    "symbols_changed": "frames within each utterance's output length with another argmax",
}
MINIMA: Mapping[str, float] = {"cosine": 0.99}
MAXIMA: Mapping[str, float] = {"relative_euclidean": 0.05, "kl": 0.005, "rmse": 1.0, "mean_relative": 1.0}
_SMALLEST = 2.0**-23
_RELATIVE = 1e-6  # two orders of summation of float64, and another library's exp
_ABSOLUTE = 1e-12
_LARGEST_EXPONENT = 700.0

Frames = list["array[float]"]
"""An utterance's outputs: of each frame all classes."""


@dataclass
class _Sums:
    """Running sums over utterances; float64."""

    parts: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in ("ab", "aa", "bb", "squares", "kl", "relative")}
    )
    max_abs: float = 0.0
    changed: int = 0

    def add(self, first: list[float], second: list[float]) -> None:
        """The values of one utterance's frame."""
        apart = [a - b for a, b in zip(first, second)]
        self.parts["ab"].append(math.fsum(a * b for a, b in zip(first, second)))
        self.parts["aa"].append(math.fsum(a * a for a in first))
        self.parts["bb"].append(math.fsum(b * b for b in second))
        self.parts["squares"].append(math.fsum(d * d for d in apart))
        self.parts["kl"].append(math.fsum(_exp(a) * d - _exp(a) + _exp(b) for a, b, d in zip(first, second, apart)))
        self.parts["relative"].append(math.fsum(abs(d) / max(abs(a), _SMALLEST) for a, d in zip(first, apart)))
        self.max_abs = max(self.max_abs, max(abs(distance) for distance in apart))

    def pair(self, utterances: int, scored_frames: int, classes: int) -> Pair:
        """The figures of the pair."""
        total = {name: math.fsum(parts) for name, parts in self.parts.items()}
        frames = utterances * FRAMES
        norms = math.sqrt(total["aa"] * total["bb"])
        figures = {
            "max_abs": self.max_abs,
            "cosine": total["ab"] / norms if norms > 0 else float(total["aa"] == total["bb"]),
            "relative_euclidean": math.sqrt(total["squares"] / max(total["aa"], _SMALLEST**2)),
            "kl": total["kl"] / max(frames, 1),
            "rmse": math.sqrt(total["squares"] / max(frames * classes, 1)),
            "mean_relative": total["relative"] / max(frames * classes, 1),
        }
        return Pair(
            **figures, frames=frames, scored_frames=scored_frames, symbols_changed=self.changed, utterances=utterances,
            within_thresholds=within(figures),
        )  # fmt: skip


def _exp(value: float) -> float:
    return math.exp(min(value, _LARGEST_EXPONENT))


def within(figures: Mapping[str, float]) -> bool:
    """Whether figures keep the vendor's thresholds."""
    return all(figures[name] >= limit for name, limit in MINIMA.items()) and all(
        figures[name] <= limit for name, limit in MAXIMA.items()
    )


def agreement(manifest: Manifest, reference: Iterator[Frames], converted: Iterator[Frames]) -> Pair:
    """The figures of the pair torch_converted.

    Args:
        manifest: of the stage batches.
        reference: each utterance's outputs of the stage reference, all frames of them, in the manifest's order.
        converted: likewise of the stage infer.
    """
    sums, scored, classes = _Sums(), 0, 0
    for entry, first, second in zip(manifest.utterances, reference, converted):
        for number, (one, two) in enumerate(zip(first, second)):
            a, b = one.tolist(), two.tolist()
            classes = len(a)
            sums.add(a, b)
            sums.changed += number < entry.output_frames and a.index(max(a)) != b.index(max(b))
        scored += entry.output_frames
    return sums.pair(len(manifest.utterances), scored, classes)


def contradictions(told: Comparison, found: Pair) -> list[str]:
    """What compare.json says that the stored outputs, or its own figures, deny."""
    wrong = _other_figures(told.torch_converted, found)
    for name, pair in (("torch_onnx", told.torch_onnx), ("onnx_converted", told.onnx_converted)):
        figures = {figure: float(getattr(pair, figure)) for figure in (*MINIMA, *MAXIMA)}
        if pair.within_thresholds != within(figures):
            wrong.append(f"compare.json: {name}.within_thresholds does not follow from its figures")
        for count in ("frames", "scored_frames", "utterances"):
            if getattr(pair, count) != getattr(found, count):
                wrong.append(f"compare.json: {name}.{count} is {getattr(pair, count)}, not {getattr(found, count)}")
    for figure in ("max_abs", "rmse"):
        sides = getattr(told.torch_onnx, figure) + getattr(told.onnx_converted, figure)
        if getattr(found, figure) > sides * (1 + _RELATIVE) + _ABSOLUTE:
            wrong.append(
                f"compare.json: {figure} of torch_onnx and onnx_converted are together {sides!r}; the stored outputs "
                f"are {getattr(found, figure)!r} apart"
            )
    pairs = (told.torch_onnx, told.torch_converted, told.onnx_converted)
    if told.within_thresholds != all(pair.within_thresholds for pair in pairs):
        wrong.append("compare.json: within_thresholds does not follow from the pairs")
    if told.formulas != FORMULAS or told.thresholds != Thresholds(at_least=dict(MINIMA), at_most=dict(MAXIMA)):
        wrong.append("compare.json: its formulas or thresholds are not those of the agreement")
    return wrong


def _other_figures(told: Pair, found: Pair) -> list[str]:
    wrong = []
    for name in Pair.__struct_fields__:
        ours, theirs = getattr(found, name), getattr(told, name)
        near = math.isclose(ours, theirs, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
        if (ours != theirs) if isinstance(ours, (bool, int)) else not near:
            wrong.append(f"compare.json: torch_converted.{name} is {theirs!r}; recomputed from both outputs: {ours!r}")
    return wrong
