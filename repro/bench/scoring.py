"""Scoring: 100,000 utterances on one core, held to the strings that the reference decoded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from repro.audit import arithmetic
from repro.base.errors import VerificationFailed
from repro.bench.figure import AT_MOST, Figure
from repro.bench.goals import goal
from repro.bench.many_outputs import ManyOutputs, check_lines, make_outputs
from repro.bench.workbench import StageRun, Workbench

GOAL = goal("scoring").title
_BATCH_SIZE = 8
_FEW, _MANY = 10_000, 100_000


def measure(bench: Workbench) -> Iterator[Figure]:
    """The figures of this area."""
    count = _FEW if bench.quick else _MANY
    run, material = score_many(bench, count)
    checked = "every utterance's string is the reference's; the pooled rates are recomputed by other code"
    note = "outputs come from memory: a few files are linked again and again"
    if bench.quick:
        note += "; the bound is for 100,000, which --full measures"
    yield Figure(
        GOAL, f"Greedy, {count:,} utterances on one core", run.wall_s, "s",
        "the stage score from starting its container to its end, intervals of both protocols included",
        "" if bench.quick else AT_MOST, None if bench.quick else 60.0, checked=checked, note=note,
    )  # fmt: skip
    yield Figure(
        GOAL, f"Greedy, {count:,} utterances, memory", run.peak_bytes / 2**20, "MiB",
        "largest resident set of the stage's processes", checked=checked,
    )  # fmt: skip
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
