"""Pipeline: the stage infer beside nothing but its computations, and its memory with ten times the utterances."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base.errors import VerificationFailed
from repro.base.files import pretty_json, sha256_file
from repro.bench.figure import AT_MOST, Figure
from repro.bench.goals import goal
from repro.bench.inputs import BATCH_SIZE, Inputs, demo_inputs
from repro.bench.workbench import StageRun, Workbench

GOAL = goal("pipeline").title
MANY, QUICK_MANY = 10_000, 160
_ENOUGH_S = 360.0  # of pure inference: a slow processor is given fewer utterances


@dataclass(frozen=True)
class Links:
    """A batches folder whose files are links to the dev set's whole batches, again and again.

    Attributes:
        different: how many files differ; batch i is the same as batch i % different.
    """

    folder: Path
    count: int
    different: int


def link_batches(batches: Path, folder: Path, count: int) -> Links:
    """Make a batches folder with `count` whole batches out of a stage's, in an empty folder."""
    sources = sorted((batches / "bins").glob("inputs_*.bin"), key=lambda path: int(path.stem.split("_")[1]))
    (folder / "bins").mkdir()
    first: dict[int, Path] = {}
    for number in range(count):
        source = sources[number % len(sources)]
        path = folder / "bins" / f"inputs_{number}.bin"
        if number < len(sources):
            path.write_bytes(source.read_bytes())
            first[number] = path
        else:
            os.link(first[number % len(sources)], path)
    manifest: dict[str, Any] = json.loads((batches / "manifest.json").read_bytes())
    manifest.update(num_batches=count, num_tail_batches=0)
    utterances = [item for item in manifest["utterances"] if item["batch"] < len(sources)]
    per_batch: dict[int, list[dict[str, Any]]] = {}
    for item in utterances:
        per_batch.setdefault(item["batch"], []).append(item)
    manifest["utterances"] = [
        {**item, "id": f"{item['id']}-{number}", "batch": number}
        for number in range(count)
        for item in per_batch[number % len(sources)]
    ]
    (folder / "manifest.json").write_bytes(pretty_json(manifest))
    return Links(folder, count, min(count, len(sources)))


def check_outputs(links: Links, stage: Path, computed: Path) -> None:
    """Hold every output of the stage to the one that was computed from memory.

    Raises:
        VerificationFailed: an output is missing or has other bytes.
    """
    digests = [sha256_file(computed / "result" / f"inputs_{number}_0.npy") for number in range(links.different)]
    names = {path.name for path in (stage / "result").iterdir()}
    if names != {f"inputs_{number}_0.npy" for number in range(links.count)}:
        raise VerificationFailed(f"infer wrote {len(names)} outputs for {links.count} batches")
    for number in range(links.count):
        path = stage / "result" / f"inputs_{number}_0.npy"
        if sha256_file(path) != digests[number % links.different]:
            raise VerificationFailed(f"{path.name}: infer's output is not the one computed from memory")


def ratios(stage_s: float, start_s: float, batches: int, started: int, pure_s_a_batch: float) -> tuple[float, float]:
    """(with start-up, without) of the stage's seconds over the seconds of its computations alone.

    Args:
        stage_s: the stage's own seconds for `batches`.
        start_s: its seconds for `started` batches, one a core: nearly all of it is start-up, which the difference of
            the two leaves out.
        pure_s_a_batch: seconds of the whole processor a batch, from memory.
    """
    return stage_s / (batches * pure_s_a_batch), (stage_s - start_s) / ((batches - started) * pure_s_a_batch)


def utterances_within(seconds: float, pure_s_a_batch: float) -> int:
    """How many utterances take about so long: at most MANY, and at least a tenth of them, in whole tens of batches."""
    batches = min(MANY, max(MANY // 10, int(seconds / pure_s_a_batch) * BATCH_SIZE)) // BATCH_SIZE
    return batches // 10 * 10 * BATCH_SIZE


def measure(bench: Workbench) -> Iterator[Figure]:
    """The figures of this area."""
    inputs = demo_inputs(bench)
    cores = len(os.sched_getaffinity(0))
    rounds = 12 if bench.quick else 60  # batches before, and as many after
    pure = [_pure(bench, inputs, rounds)]
    utterances = QUICK_MANY if bench.quick else utterances_within(_ENOUGH_S, pure[0][1])
    links = link_batches(inputs.batches, bench.folder("links"), utterances // BATCH_SIZE)
    few = link_batches(inputs.batches, bench.folder("few"), cores)
    tenth = few if bench.quick else link_batches(inputs.batches, bench.folder("tenth"), links.count // 10)

    starts = [_infer(bench, inputs, few)]
    run = _infer(bench, inputs, links)
    starts.append(_infer(bench, inputs, few))
    pure.append(_pure(bench, inputs, rounds))
    small = starts[0] if tenth is few else _infer(bench, inputs, tenth)
    check_outputs(links, run.out, pure[0][0])
    check_outputs(tenth, small.out, pure[0][0])

    seconds = [seconds for _, seconds in pure]
    start_s = statistics.median(start.work_s for start in starts)
    with_start, without = ratios(run.work_s, start_s, links.count, few.count, statistics.mean(seconds))
    spread = [ratios(run.work_s, start_s, links.count, few.count, value) for value in seconds]
    checked = (
        f"each of the stage's {links.count} outputs has the bytes of the one computed from memory, and each timed "
        "computation too"
    )
    name = f"infer, {links.count * BATCH_SIZE:,} utterances"
    formula = "the stage's own seconds / its batches x seconds a batch from memory, same streams, before and after"
    for title, value, at, bound in (
        (f"{name}, times pure inference", with_start, 0, None if bench.quick else 1.1),
        (f"{name}, times pure inference, start-up left out", without, 1, 1.1 if bench.quick else None),
    ):
        values = [pair[at] for pair in spread]
        yield Figure(
            GOAL, title, value, "times",
            formula if at == 0 else formula + "; less the seconds of a run over one batch a core",
            AT_MOST if bound else "", bound, (min(values), max(values)), len(values), checked,
        )  # fmt: skip
    yield Figure(
        GOAL, "infer, start-up", start_s - statistics.mean(seconds) * few.count, "s",
        "the stage's own seconds for one batch a core - their computation: Python, libraries, compiling the kernels",
        samples=len(starts), checked=checked,
    )  # fmt: skip
    yield Figure(
        GOAL, f"infer, memory of {links.count * BATCH_SIZE:,} utterances, times that of {tenth.count * BATCH_SIZE:,}",
        run.peak_bytes / small.peak_bytes, "times", "largest resident set of the stage's process, many / few",
        AT_MOST, 1.1, checked=checked, note=f"{run.peak_bytes / 2**20:.0f} and {small.peak_bytes / 2**20:.0f} MiB",
    )  # fmt: skip
    bench.remove(run.out.parent)


def _infer(bench: Workbench, inputs: Inputs, links: Links) -> StageRun:
    folders = {"model": inputs.model, "batches": links.folder}
    return bench.stage("runtime", "infer", ["--bs", str(BATCH_SIZE)], folders)


def _pure(bench: Workbench, inputs: Inputs, count: int) -> tuple[Path, float]:
    """Where the outputs of the different batches lie, and the seconds of a batch."""
    words = ["--bs", str(BATCH_SIZE), "--count", str(count)]
    folders = {"model": inputs.model, "batches": inputs.batches}
    run = bench.stage("runtime", "bench.pipeline", words, folders)
    times = json.loads((run.obs / "times.json").read_bytes())
    return run.out, times["seconds"] / times["batches"]
