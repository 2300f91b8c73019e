"""Scale: time and memory of each stage at once, ten times and a hundred times the demo corpus.

A larger corpus is the demo corpus under further speakers' names, wave by wave a hard link, in TIMIT's layout. Linear:
an utterance takes at most 1.1 times the processor time at the larger size. Flat: the largest process grows by at most a
tenth. Other sizes, and only as far as a stage: `.venv/bin/python -m repro.bench.scale 1 10 40:lm`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.files import write_atomic
from repro.base.paths import Paths
from repro.base.temporary import temporary_folder
from repro.bench.figure import AT_MOST, Figure
from repro.bench.goals import goal
from repro.bench.workbench import StageRun, Workbench
from repro.report.canvas import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Canvas

GOAL = goal("scale").title
_BATCH_SIZE = "8"
_LINEAR, _FLAT = 1.1, 1.1
# Size -> the last stage that is run at it.
_QUICK = {1: "lm", 10: "lm"}
_FULL = {1: "score", 10: "score", 100: "score"}
_BYTES_A_CORPUS = 150_000_000  # of the disk: the demo corpus's features (114 MB), dev's batches and outputs
_SPLITS = ("train", "dev", "test")
_STYLE = (
    "<style>text{font:12px sans-serif;fill:#333}.grid{stroke:#ccc}.whisker{stroke:#1f5fa8;stroke-width:2}"
    ".ours{fill:#1f5fa8}.s0{opacity:.45}.s1{opacity:.7}</style>"
)


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
    points = list(_points(bench, _QUICK if bench.quick else _full(bench)))
    yield from _figures(points)
    write_atomic(bench.paths.results / "bench" / "scale.svg", plot(points).encode())


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


def _points(bench: Workbench, sizes: Mapping[int, str]) -> Iterator[Point]:
    demo = _demo_corpus(bench)
    for times, until in sizes.items():
        yield from measure_size(bench, demo, times, until=until)


def measure_size(bench: Workbench, demo: Path, times: int, *, until: str = "score") -> Iterator[Point]:
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
        "base", "batches", ["--bs", _BATCH_SIZE, "--split", "dev"], {"features": features.out, "corpus": corpus.out}
    )
    listed = json.loads((batches.out / "manifest.json").read_bytes())["utterances"]
    _check("batches", times, holds=len(listed) == counts["dev"])
    yield Point("batches", times, counts["dev"], batches)
    bench.remove(features.out.parent)
    model = _model(bench)
    infer = bench.stage("runtime", "infer", ["--bs", _BATCH_SIZE], {"model": model, "batches": batches.out})
    outputs = sum(1 for path in infer.out.glob("*/inputs_*_0.npy"))
    _check("infer", times, holds=outputs == -(-counts["dev"] // int(_BATCH_SIZE)))
    yield Point("infer", times, counts["dev"], infer)
    score = bench.stage(
        "base", "score", ["--bs", _BATCH_SIZE], {"outputs": infer.out, "batches": batches.out, "corpus": corpus.out}
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


def _demo_corpus(bench: Workbench) -> Path:
    return _result(bench, "stage.demo-corpus")


def _model(bench: Workbench) -> Path:
    return _result(bench, "stage.convert", "--bs", _BATCH_SIZE)


def _result(bench: Workbench, *words: str) -> Path:
    """The result folder of a stage, from the store where it is already there."""
    _, done = bench.invoke(*words)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines or not Path(lines[-1]).is_dir():
        raise CouldNotRun(f"{' '.join(words)} gave no result folder", hint=done.stderr.strip()[-400:])
    return Path(lines[-1])


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
            f"{stage}: memory at {large} x the demo corpus, of that at once",
            many.run.peak_bytes / one.run.peak_bytes,
            "times",
            "largest resident set of a process / the same at once the demo corpus",
            relation=AT_MOST,
            bound=_FLAT,
            checked=checked,
            note=f"{one.run.peak_bytes / 2**20:.0f} MiB, then {many.run.peak_bytes / 2**20:.0f} MiB",
        )


def table(points: Sequence[Point]) -> str:
    """The points as a Markdown table."""
    rows = [
        f"| {p.stage} | {p.times} x | {p.utterances:,} | {p.run.work_s:.2f} | {p.run.cpu_s:.2f} "
        f"| {p.ms_an_utterance:.3f} | {p.run.peak_bytes / 2**20:.0f} |"
        for p in points
    ]
    head = "| stage | size | utterances | seconds | processor seconds | ms per utterance | peak MiB |\n"
    head += "|---|---|---|---|---|---|---|"
    return "\n".join([head, *rows]) + "\n"


def plot(points: Sequence[Point]) -> str:
    """Two panels over the size, as an SVG file of its own: ms per utterance and peak memory, each of the smallest's."""
    stages = list(dict.fromkeys(point.stage for point in points))
    sizes = sorted({point.times for point in points})
    canvas = Canvas("Time per utterance and memory by size of the corpus", HEIGHT + 20)
    measures: Mapping[str, Callable[[Point], float]] = {
        "processor time per utterance, relative to one time": lambda point: point.ms_an_utterance,
        "peak memory, relative to one time": lambda point: float(point.run.peak_bytes),
    }
    width = (WIDTH - RIGHT - LEFT) / 2 - 20
    for panel, (title, value) in enumerate(measures.items()):
        left = LEFT + panel * (width + 40)
        shares = {
            (p.stage, p.times): value(p) / next(value(q) for q in points if (q.stage, q.times) == (p.stage, sizes[0]))
            for p in points
        }
        top = max(1.25, *shares.values())
        canvas.text(left, 16, title, "axis")
        for tick in (0.0, 0.5, 1.0):
            y = HEIGHT - BOTTOM - tick / top * (HEIGHT - BOTTOM - TOP)
            canvas.line(left, y, left + width, y, "grid")
            canvas.text(left - 6, y + 4, f"{tick:g}", "tick", "end")
        slot = width / len(stages)
        for index, stage in enumerate(stages):
            canvas.text(left + slot * (index + 0.5), HEIGHT - BOTTOM + 18, stage, "tick", "middle")
            for number, times in enumerate(sizes):
                if (stage, times) not in shares:
                    continue
                share = shares[stage, times]
                bar = slot * 0.7 / len(sizes)
                y = HEIGHT - BOTTOM - share / top * (HEIGHT - BOTTOM - TOP)
                x = left + slot * index + slot * 0.15 + bar * number
                style = f"ours s{number}"
                canvas.bar(x, y, bar - 1, HEIGHT - BOTTOM - y, style, f"{stage}, {times} x: {share:.3f}")
    words = ", ".join(f"{times} x" for times in sizes)
    canvas.text(LEFT, HEIGHT + 8, f"Bars from left to right: {words} the demo corpus", "axis")
    drawing = str(canvas.done())
    head, _, rest = drawing.partition(">")
    return head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ') + ">" + _STYLE + rest + "\n"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def main(words: Sequence[str]) -> None:
    """`SIZE` or `SIZE:LAST_STAGE` each: the table on stdout, and artifacts/bench/scale.svg."""
    sizes = {int(size): stage or "score" for size, _, stage in (word.partition(":") for word in words)}
    paths = Paths.of_checkout()
    temporary = temporary_folder(paths.temporary, "bench")
    scratch = temporary.path
    try:
        bench = Workbench(paths, quick=False, scratch=scratch, say=_say)
        points = list(_points(bench, sizes))
    finally:
        temporary.close()
    sys.stdout.write(table(points))
    write_atomic(paths.results / "bench" / "scale.svg", plot(points).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
