"""Scoring: edit distances and beam search beside the reference's methods, and 100,000 utterances on one core.

The reference's methods are told again in `stages/bench/scoring.py`, from a description of what they do. They are timed
in the stage's own image, in turn with the stage's, on utterances whose strings the reference decoded itself.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence

from repro.audit import arithmetic
from repro.base.errors import VerificationFailed
from repro.bench.figure import AT_LEAST, AT_MOST, Figure
from repro.bench.goals import goal
from repro.bench.many_outputs import ManyOutputs, check_lines, make_outputs
from repro.bench.workbench import StageRun, Workbench

GOAL = goal("scoring").title
_BATCH_SIZE = 8
_FEW, _MANY = 10_000, 100_000


def measure(bench: Workbench) -> Iterator[Figure]:
    """The figures of this area."""
    yield from _beside_the_reference(bench)
    yield from _greedy(bench, _FEW if bench.quick else _MANY)


def _beside_the_reference(bench: Workbench) -> Iterator[Figure]:
    golden = bench.paths.root / "tests" / "golden"
    rounds = 5 if bench.quick else 15
    run = bench.stage(
        "base",
        "bench.scoring",
        ["--rounds", str(rounds)],
        {"score": golden / "score", "data": golden / "data"},
        cores=1,
    )
    checks = json.loads((run.out / "checks.json").read_bytes())
    wrong = sorted(name for name, equal in checks.items() if equal is False)
    if wrong:
        raise VerificationFailed(f"scoring does not find what the reference found: {', '.join(wrong)}")
    times = json.loads((run.obs / "times.json").read_bytes())
    edits_checked = "each distance equals the textbook's; the pooled rates print as the reference printed them"
    beam_checked = f"both give the reference's own strings, {checks['utterances']} of {checks['utterances']}"
    yield _ratio("both edit distances of an utterance, times the reference's", times, "edits", 500.0, edits_checked)
    yield _ratio("Beam, times the reference's", times, "beam", 50.0, beam_checked)
    alone = {"beam_reference": times["beam_reference"], "beam_ours": times["beam_ours_alone"]}
    yield _ratio("Beam with one utterance at a time, times the reference's", alone, "beam", None, beam_checked)
    yield _seconds("both edit distances of an utterance", times["edits_ours"], 1e6, "µs", edits_checked)
    yield _seconds("Beam, per utterance", times["beam_ours"], 1e3, "ms", beam_checked)
    yield _seconds("both edit distances, the reference's method", times["edits_reference"], 1e6, "µs", edits_checked)
    yield _seconds("Beam, the reference's method", times["beam_reference"], 1e3, "ms", beam_checked)


def _ratio(name: str, times: Mapping[str, Sequence[float]], method: str, bound: float | None, checked: str) -> Figure:
    reference, ours = times[f"{method}_reference"], times[f"{method}_ours"]
    ratios = [slow / quick for slow, quick in zip(reference, ours)]
    return Figure(
        GOAL,
        name,
        statistics.median(reference) / statistics.median(ours),
        "times",
        "median seconds per utterance of the reference's method / of the stage's, taking turns on one core",
        relation=AT_LEAST if bound else "",
        bound=bound,
        spread=(min(ratios), max(ratios)),
        samples=len(ratios),
        checked=checked,
    )


def _seconds(name: str, times: Sequence[float], scale: float, unit: str, checked: str) -> Figure:
    scaled = [scale * seconds for seconds in times]
    return Figure(
        GOAL,
        name,
        statistics.median(scaled),
        unit,
        "median seconds of a round / its utterances",
        spread=(min(scaled), max(scaled)),
        samples=len(scaled),
        checked=checked,
    )


def _greedy(bench: Workbench, count: int) -> Iterator[Figure]:
    run, material = score_many(bench, count)
    checked = "every utterance's string is the reference's; the pooled rates are recomputed by other code"
    yield Figure(
        GOAL,
        f"Greedy, {count:,} utterances on one core",
        run.wall_s,
        "s",
        "the stage score from starting its container to its end, intervals of both protocols included",
        relation="" if bench.quick else AT_MOST,
        bound=None if bench.quick else 60.0,
        checked=checked,
        note="outputs come from memory: a few files are linked again and again"
        + ("; the bound is for 100,000, which --full measures" if bench.quick else ""),
    )
    yield Figure(
        GOAL,
        f"Greedy, {count:,} utterances, memory",
        run.peak_bytes / 2**20,
        "MiB",
        "largest resident set of the stage's processes",
        checked=checked,
    )
    bench.remove(material.outputs.parent)


def score_many(bench: Workbench, count: int) -> tuple[StageRun, ManyOutputs]:
    """Run the stage score on `count` utterances, and hold its results to the reference's strings.

    Raises:
        VerificationFailed: a string or a pooled rate is another.
    """
    golden = bench.paths.root / "tests" / "golden"
    material = make_outputs(golden, bench.folder("many"), count, _BATCH_SIZE)
    inputs = {"outputs": material.outputs, "batches": material.batches, "corpus": material.corpus}
    run = bench.stage("base", "score", ["--bs", str(_BATCH_SIZE), "--decode", "Greedy"], inputs, cores=1)
    check_lines(material, run.out / "utterances.jsonl")
    _check_rates(material, json.loads((run.out / "score.json").read_bytes())["protocols"])
    return run, material


def _check_rates(material: ManyOutputs, protocols: Mapping[str, Mapping[str, object]]) -> None:
    kinds = len(material.heard)
    for protocol, count in (
        ("published", (len(material.names) - 1) // _BATCH_SIZE * _BATCH_SIZE),
        ("complete", len(material.names)),
    ):
        times_heard = [count // kinds + (which < count % kinds) for which in range(kinds)]
        cer = wer = characters = phones = 0
        for times, heard, spoken in zip(times_heard, material.heard, material.spoken):
            text = heard if protocol == "published" else heard[1:]
            cer += times * arithmetic.distance(spoken, text)
            wer += times * arithmetic.distance(spoken.split(), heard.split())
            characters += times * len(spoken)
            phones += times * len(spoken.split())
        found = protocols[protocol]
        expected = {
            "edits": {"cer": cer, "wer": wer},
            "characters": characters,
            "phones": phones,
            "cer_printed": f"{100 * cer / characters:.4f}",
            "wer_printed": f"{100 * wer / phones:.4f}",
        }
        if any(found[name] != value for name, value in expected.items()):
            raise VerificationFailed(f"the stage score pooled {protocol} to other numbers than {expected}")
