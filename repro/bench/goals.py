"""The goals of the bench: what each area measures, and which decision its figures serve. An area without one goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """One area of the bench.

    Attributes:
        area: its module in repro/bench, and its name for `--only`.
        title: as figures are grouped and the history is keyed.
        decision: what its figures decide, for whoever keeps this repository.
        full_only: it takes too long for a quick bench.
    """

    area: str
    title: str
    decision: str
    full_only: bool = False


GOALS = (
    Goal("inference", "1 inference", "whether kernels of our own stand beside ONNX Runtime and OpenVINO"),
    Goal("precision", "2 reduced precision", "whether --precision bf16 is offered: much faster, few digits less"),
    Goal("pipeline", "3 pipeline", "how infer overlaps reading, computing and writing, and its memory limit"),
    Goal("features", "4 features", "whether our own arithmetic replaces Kaldi's programs on the CPU"),
    Goal("scoring", "5 scoring", "whether scoring in plain Python and NumPy stands, up to 100,000 utterances"),
    Goal("orchestration", "6 orchestration", "whether a runner of our own stands: its cost per stage and of nothing"),
    Goal("packing", "packing", "how many processes pack and verify a bundle; whether hashing bounds them"),
    Goal("scale", "8 scale", "how large a corpus the stages take, and their declared time and memory limits",
         full_only=True),
    Goal("nothing", "7 from nothing", "what a first report takes, second by second, and what to shorten",
         full_only=True),
    Goal("installed", "9 installed", "what a bundle takes to its first report, and what install.py should do before",
         full_only=True),
)  # fmt: skip


def goal(area: str) -> Goal:
    """The goal of an area.

    Raises:
        KeyError: there is no such area.
    """
    return {each.area: each for each in GOALS}[area]
