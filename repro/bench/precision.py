"""Reduced precision: the model in bfloat16 beside float32: how much faster, which error rate, how deterministic."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from typing import Any

from repro.base.errors import VerificationFailed
from repro.bench.figure import AT_LEAST, AT_MOST, Figure, shown
from repro.bench.goals import goal
from repro.bench.inputs import demo_inputs, demo_results
from repro.bench.workbench import Workbench
from repro.graph.pipeline import PRECISIONS
from repro.machine import facts

GOAL = goal("precision").title
SIZES, QUICK_SIZES = (1, 4, 8, 16, 32, 64), (8,)
WHOLE, HALF = PRECISIONS
LEAST_BY_UNIT = {"AMX": 2.5, "AVX512-BF16": 1.6}
"""Times fp32: the matrix unit multiplies eight times as many terms at once, AVX512-BF16 twice as many, and the
convolutions and gates stay as they are."""


def measure(bench: Workbench) -> Iterator[Figure]:
    """The figures of this area."""
    if not facts.multiplies_bfloat16():
        bench.say("neither AMX nor AVX512-BF16: --precision bf16 is refused here, and nothing is measured")
        return
    inputs = demo_inputs(bench)
    scores = {precision: _score(bench, precision) for precision in PRECISIONS}
    sizes = QUICK_SIZES if bench.quick else SIZES
    words = ["--sizes", ",".join(str(size) for size in sizes), "--rounds", "3" if bench.quick else "5"]
    run = bench.stage("runtime", "bench.precision", words, {"model": inputs.model, "batches": inputs.batches})
    checks = json.loads((run.out / "checks.json").read_bytes())
    if checks["unequal"]:
        raise VerificationFailed(f"{checks['unequal']} of {checks['compared']} outputs depend on batch size or threads")
    checked = f"{checks['compared']} outputs of any batch size are the bytes of one utterance on one thread"
    yield from _rates(scores, checked)
    times = json.loads((run.obs / "times.json").read_bytes())
    least = next(bound for unit, bound in LEAST_BY_UNIT.items() if unit in times["arithmetic"])
    for size, entry in sorted(times["sizes"].items(), key=lambda item: int(item[0])):
        whole, half = entry["seconds"][WHOLE], entry["seconds"][HALF]
        ratios = [one / other for one, other in zip(whole, half)]
        yield Figure(
            GOAL, f"batches of {size}, times fp32", statistics.median(whole) / statistics.median(half), "times",
            "utterances/s side by side on all cores, bf16 / fp32, taking turns", AT_LEAST, least,
            (min(ratios), max(ratios)), len(ratios), checked,
            f"{shown(entry['utterances'] / statistics.median(half))} utterances/s; {times['arithmetic']}",
        )  # fmt: skip


def _rates(scores: dict[str, dict[str, Any]], checked: str) -> Iterator[Figure]:
    """How far the error rate lies from fp32's, beside the half of fp32's interval that it lies in."""
    for metric, name in (("wer_percent", "WER"), ("cer_percent", "CER")):
        whole, half = scores[WHOLE][metric], scores[HALF][metric]
        low, high = scores[WHOLE]["interval_95"][metric]
        room = high - whole if half >= whole else whole - low
        yield Figure(
            GOAL, f"{name}, distance from fp32's", abs(half - whole), "points",
            f"|{name} in bf16 - {name} in fp32|, complete protocol; bound: that side of fp32's 95 % bootstrap interval",
            AT_MOST, room, samples=scores[HALF]["utterances"], checked=checked,
            note=f"bf16 {half:.4f} %, fp32 {whole:.4f} % ({low:.2f} to {high:.2f})",
        )  # fmt: skip


def _score(bench: Workbench, precision: str) -> dict[str, Any]:
    """The complete protocol's figures of the demo's dev set; made where they are not stored."""
    (folder,) = demo_results(bench, "score", precision=precision)
    document: dict[str, Any] = json.loads((folder / "score.json").read_bytes())["protocols"]["complete"]
    return document
