"""Scale: time and memory of each stage at once, ten times and a hundred times the demo corpus.

A larger corpus is the demo corpus under further speakers' names, wave by wave a hard link, in TIMIT's layout. Linear:
an utterance takes at most 1.1 times the processor time at the larger size. Flat: the largest process grows by at most a
tenth.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import VerificationFailed
from repro.bench.figure import AT_MOST, Figure
from repro.bench.goals import goal
from repro.bench.inputs import BATCH_SIZE, demo_results
from repro.bench.workbench import StageRun, Workbench

GOAL = goal("scale").title
_LINEAR, _FLAT = 1.1, 1.1
# Size -> the last stage that is run at it.
_QUICK = {1: "lm", 10: "lm"}
_FULL = {1: "score", 10: "score", 100: "score"}
_BYTES_A_CORPUS = 150_000_000  # of the disk: the demo corpus's features (114 MB), dev's batches and outputs
_ENOUGH_S = 600.0  # of one stage: a slow processor takes the largest corpus only up to the stages that are quicker
_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Point:
    """One stage at one size."""

    stage: str
    times: int
    utterances: int
    run: StageRun

    @property
    def ms_an_utterance(self) -> float:
        """Processor time: it does not grow where another program has the processor."""
        return 1e3 * self.run.cpu_s / self.utterances


def measure(bench: Workbench) -> Iterator[Figure]:
    """The figures of this area: each stage at its largest size here beside once the demo corpus."""
    (demo,) = demo_results(bench, "demo_corpus")
    sizes = _QUICK if bench.quick else _full(bench)
    points: list[Point] = []
    for times, until in sizes.items():
        points += measure_size(bench, demo, times, within(points, times, until, bench.say))
    yield from _figures(points)


def within(points: Sequence[Point], times: int, until: str, say: Callable[[str], None]) -> str:
    """The last stage to be run at a size: `until`, or the one before the first that would take too long there.

    Args:
        points: of the smaller sizes; what a stage took at the largest of these tells what it will take.
    """
    seconds = {point.stage: point.run.wall_s * times / point.times for point in points}
    stages = list(seconds)
    for last, stage in zip(stages, stages[1:]):
        if last == until:
            break
        if seconds[stage] > _ENOUGH_S:
            say(f"scale: {times} times the demo corpus only up to {last}: {stage} would take {seconds[stage]:.0f} s")
            return last
    return until


def _full(bench: Workbench) -> dict[int, str]:
    """The sizes of a full bench, the largest only as far as the disk goes."""
    free_bytes = shutil.disk_usage(bench.scratch).free
    sizes = {}
    for times, until in _FULL.items():
        needed_bytes = times * _BYTES_A_CORPUS
        if needed_bytes > free_bytes:
            bench.say(
                f"scale: {times} times the demo corpus only up to lm: features and outputs would take "
                f"{needed_bytes / 1e9:.0f} GB, and {free_bytes / 1e9:.0f} GB are free"
            )
            until = "lm"
        sizes[times] = until
    return sizes


def measure_size(bench: Workbench, demo: Path, times: int, until: str) -> Iterator[Point]:
    """Run the stages up to `until` on `times` the demo corpus, hold each result to what it must be, remove them."""
    for point in _stages(bench, demo, times):
        yield point
        if point.stage == until:
            break
    bench.remove(bench.scratch / f"corpus-{times}")


def _stages(bench: Workbench, demo: Path, times: int) -> Iterator[Point]:
    conf = bench.paths.conf
    folder = bench.scratch / f"corpus-{times}"
    data, lists = multiplied(demo, conf / "timit", folder, times)
    corpus = bench.stage("base", "corpus", [], {"data": data, "conf": lists})
    counts = _check_corpus(corpus.out, times)
    everything = sum(counts.values())
    yield Point("corpus", times, everything, corpus)
    lm = bench.stage("base", "lm", [], {"corpus": corpus.out})
    _check("lm", times, holds=(lm.out / "lm_phone_bg.arpa").read_text(encoding="utf-8").rstrip().endswith("\\end\\"))
    yield Point("lm", times, counts["train"], lm)
    features = bench.stage("features", "features", [], {"data": data, "corpus": corpus.out, "conf": conf / "features"})
    for split in _SPLITS:
        found = (features.out / split / "fbank.scp").read_text(encoding="utf-8").count("\n")
        _check("features", times, holds=found == counts[split])
    yield Point("features", times, everything, features)
    batches = bench.stage(
        "base", "batches", ["--bs", str(BATCH_SIZE), "--split", "dev"], {"features": features.out, "corpus": corpus.out}
    )
    listed = json.loads((batches.out / "manifest.json").read_bytes())["utterances"]
    _check("batches", times, holds=len(listed) == counts["dev"])
    yield Point("batches", times, counts["dev"], batches)
    bench.remove(features.out.parent)
    (model,) = demo_results(bench, "convert")
    infer = bench.stage("runtime", "infer", ["--bs", str(BATCH_SIZE)], {"model": model, "batches": batches.out})
    outputs = sum(1 for path in infer.out.glob("*/inputs_*_0.npy"))
    _check("infer", times, holds=outputs == -(-counts["dev"] // BATCH_SIZE))
    yield Point("infer", times, counts["dev"], infer)
    score = bench.stage(
        "base", "score", ["--bs", str(BATCH_SIZE)], {"outputs": infer.out, "batches": batches.out, "corpus": corpus.out}
    )
    pooled = json.loads((score.out / "score.json").read_bytes())["protocols"]["complete"]
    # The demo checkpoint makes 3.5 % errors on the demo's dev set; dither moves a few of them.
    _check("score", times, holds=pooled["utterances"] == counts["dev"] and pooled["wer_percent"] < 6)
    yield Point("score", times, counts["dev"], score)
    bench.remove(batches.out.parent)


def multiplied(demo: Path, conf: Path, folder: Path, times: int) -> tuple[Path, Path]:
    """A corpus of `times` as many speakers below `folder`, and speaker lists that name them.

    Copy 0 has the demo's own names; a file is a hard link, or a copy where the disk is another.

    Returns:
        The corpus's folder and the folder for the corpus stage's --conf.
    """
    data, lists = folder / "data", folder / "conf"
    lists.mkdir(parents=True)
    for copy in range(times):
        for top, _, names in os.walk(demo):
            place = Path(top).relative_to(demo)
            if len(place.parts) != 3:
                continue
            speaker = data / place.parent / _renamed(place.name, copy)
            speaker.mkdir(parents=True)
            for name in names:
                _link(Path(top) / name, speaker / name)
    for path in conf.iterdir():
        text = path.read_text(encoding="utf-8")
        if path.name.endswith("_spk.list"):
            speakers = text.split()
            text = "".join(f"{_renamed(name, copy)}\n" for copy in range(times) for name in speakers)
        (lists / path.name).write_text(text, encoding="utf-8")
    return data, lists


def _renamed(speaker: str, copy: int) -> str:
    return speaker if copy == 0 else f"{speaker}-{copy}"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())


def _check_corpus(out: Path, times: int) -> dict[str, int]:
    """Each split must be the same utterances, `times` over; returns their number by split."""
    counts = {}
    for split in _SPLITS:
        seen: dict[str, int] = {}
        lines = (out / split / "phn_text").read_text(encoding="utf-8").splitlines()
        for line in lines:
            original = re.sub(r"-\d+_", "_", line, count=1)
            seen[original] = seen.get(original, 0) + 1
        _check("corpus", times, holds=bool(seen) and set(seen.values()) == {times})
        counts[split] = len(lines)
    return counts


def _check(stage: str, times: int, *, holds: bool) -> None:
    if not holds:
        raise VerificationFailed(f"the stage {stage} did not make {times} times what it makes of the demo corpus")


def _figures(points: Sequence[Point]) -> Iterator[Figure]:
    for stage in dict.fromkeys(point.stage for point in points):
        of_stage = sorted((p for p in points if p.stage == stage), key=lambda p: p.times)
        one, many = of_stage[0], of_stage[-1]
        large = many.times
        checked = f"the result is {large} times the demo corpus's, by what _check_corpus and measure_size hold it to"
        yield Figure(
            GOAL,
            f"{stage}: time per utterance at {large} times the demo corpus, relative to one time",
            many.ms_an_utterance / one.ms_an_utterance,
            "times",
            f"(processor seconds / {many.utterances:,} utterances) / (the same with {one.utterances:,})",
            relation=AT_MOST,
            bound=_LINEAR,
            checked=checked,
            note=f"{one.ms_an_utterance:.3f} ms per utterance, then {many.ms_an_utterance:.3f} ms",
        )
        yield Figure(
            GOAL,
            f"{stage}: memory at {large} times the demo corpus, relative to one time",
            many.run.peak_bytes / one.run.peak_bytes,
            "times",
            "largest resident set of a process / the same at once the demo corpus",
            relation=AT_MOST,
            bound=_FLAT,
            checked=checked,
            note=f"{one.run.peak_bytes / 2**20:.0f} MiB, then {many.run.peak_bytes / 2**20:.0f} MiB",
        )
