"""Features: features beside Kaldi's own programs, and over all cores.

Both sides make the same features of the same waves on one core: ours as the stage that a run has, Python's start and
the reading of the waves included; Kaldi's as its four programs alone, with waves that lie ready in one archive.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from repro.base.errors import VerificationFailed
from repro.bench.figure import AT_LEAST, AT_MOST, Figure
from repro.bench.goals import goal
from repro.bench.inputs import demo_results
from repro.bench.workbench import Sample, StageRun, Workbench
from repro.images.commands import obtainable
from repro.machine import facts

GOAL = goal("features").title
_RATE_HZ = 16000
_SPLITS = ("train", "dev", "test")
_MAX_ABS, _MEAN_ABS = 5e-3, 1e-5  # golden's bounds
# Of the demo corpus there are a hundred times golden's values, so the largest difference from Kaldi's programs and from
# kaldi-native-fbank lies further out. Another dither would show in the mean: 6e-3 and more.
_MAX_ABS_OF_MANY = 2e-2
_MODULE = "bench.features"
_PROBE_BLOCKS = 2048  # of 1 MiB: some 2 s of one core


def measure(bench: Workbench) -> Iterator[Figure]:
    """The figures of this area."""
    data, corpus = demo_results(bench, "demo_corpus", "corpus")
    # In full, twelve times the demo corpus, three of TIMIT: on less, the start of Python would be most of a run.
    part = _selected(bench, corpus, every=2 if bench.quick else 1, times=1 if bench.quick else 12)
    inputs = {"data": data, "corpus": part, "conf": bench.paths.conf / "features"}
    speech_s = _speech_s(part)
    golden = _check_golden(bench)

    cores = len(os.sched_getaffinity(0))
    runs: dict[str, list[StageRun]] = {"one": [], "all": [], "kaldi": []}

    def ours(name: str, count: int) -> float:
        os.sync()  # what an earlier run left to be written is none of this one's work
        runs[name].append(bench.stage("features", "features", [], inputs, cores=count))
        return runs[name][-1].work_s

    def kaldis() -> float:
        os.sync()
        runs["kaldi"].append(bench.stage("kaldi", _MODULE, ["--mode", "kaldi"], inputs, cores=1))
        return float(sum(json.loads((runs["kaldi"][-1].obs / "times.json").read_bytes()).values()))

    candidates = {
        "one": lambda: ours("one", 1),
        "all": lambda: ours("all", cores),
        "arithmetic on one": lambda: arithmetic(1),
        "arithmetic on all": lambda: arithmetic(cores),
    }
    if "kaldi" in obtainable(bench.paths, facts.architecture(), bench.say):
        candidates["kaldi"] = kaldis
    else:
        bench.say("features: Kaldi's own programs are not here, since its source archive is not; no ratio to them")
    times = bench.interleaved(candidates, rounds=1 if bench.quick else 3)
    _hold_equal([run.out for name in ("one", "all") for run in runs[name]])
    exact = f"{golden}; every run's archives are equal byte by byte"

    one = times["one"]
    yield Figure(
        GOAL, "one core, share of real time", one.median / speech_s, "s/s",
        "the stage's seconds on one core, from its first line of Python to its last / seconds of speech",
        AT_MOST, 0.0018, (one.low / speech_s, one.high / speech_s), len(one.times), exact,
    )  # fmt: skip
    if "kaldi" in times:
        yield from _beside_kaldi(bench, runs, times, speech_s, exact)
    yield _beside_native(bench, inputs)
    yield from scaling(cores, times, exact)
    for out in {run.out.parent for group in runs.values() for run in group}:
        bench.remove(out)


def arithmetic(threads: int) -> float:
    """Seconds in which each of some threads digests the same bytes: arithmetic of registers and a core's own cache."""
    block = bytes(1 << 20)

    def digest() -> None:
        found = hashlib.blake2b()
        for _ in range(_PROBE_BLOCKS):  # without Python's lock
            found.update(block)

    began_s = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(digest) for _ in range(threads)]:
            done.result()
    return time.perf_counter() - began_s


def scaling(cores: int, times: Mapping[str, Sample], checked: str) -> Iterator[Figure]:
    """What all cores give, of linear and of what they give arithmetic alone in the same rounds.

    Cores that share a clock, or are two threads of one core, are no `cores` times one: the bound is of what there is.
    """
    rounds = zip(times["one"].times, times["all"].times,
                 times["arithmetic on one"].times, times["arithmetic on all"].times)  # fmt: skip
    found = [(one / (cores * together), alone / beside) for one, together, alone, beside in rounds]
    linear, reachable = [share for share, _ in found], [share for _, share in found]
    ratios = [share / most for share, most in found]
    yield Figure(
        GOAL, f"{cores} cores, share of linear", statistics.median(linear), "ratio",
        "seconds on one core / (cores * seconds on all cores), both with the start of Python",
        spread=(min(linear), max(linear)), samples=len(linear), checked=checked,
    )  # fmt: skip
    yield Figure(
        GOAL, f"{cores} cores, share of what arithmetic alone reaches", statistics.median(ratios), "ratio",
        "share of linear / (seconds of a digest on one core / seconds of one on each core at once), of the same round",
        AT_LEAST, 0.9, (min(ratios), max(ratios)), len(ratios), checked,
        f"arithmetic alone reaches {statistics.median(reachable):.3f} of linear here",
    )  # fmt: skip


def _beside_kaldi(
    bench: Workbench, runs: Mapping[str, list[StageRun]], times: Mapping[str, Sample], speech_s: float, exact: str
) -> Iterator[Figure]:
    """The stage beside Kaldi's four programs, each on one core, in turn."""
    one, kaldi = times["one"], times["kaldi"]
    beside = _compare(bench, runs["one"][-1].out, runs["kaldi"][-1].out, "Kaldi's of this run", _MAX_ABS_OF_MANY)
    ratios = [theirs / mine for theirs, mine in zip(kaldi.times, one.times)]
    yield Figure(
        GOAL, "one core, times Kaldi's own programs", kaldi.median / one.median, "times",
        "seconds of compute-fbank-feats, compute-cmvn-stats, apply-cmvn and copy-feats on one core / the stage's",
        AT_LEAST, 1.0, (min(ratios), max(ratios)), len(ratios), f"{beside}; {exact}",
    )  # fmt: skip
    yield Figure(
        GOAL, "Kaldi's own programs on one core, share of real time", kaldi.median / speech_s, "s/s",
        "the four programs' seconds / seconds of speech", spread=(kaldi.low / speech_s, kaldi.high / speech_s),
        samples=len(kaldi.times), checked=beside,
    )  # fmt: skip


def _beside_native(bench: Workbench, inputs: dict[str, Path]) -> Figure:
    """The filter banks alone beside kaldi-native-fbank's, a block of frames by the one, then by the other."""
    rounds = []
    for _ in range(1 if bench.quick else 3):
        run = bench.stage("bench", "bench.native", [], inputs, cores=1)
        times, found = (json.loads((path).read_bytes()) for path in (run.obs / "times.json", run.out / "native.json"))
        rounds.append(times["native_s"] / times["ours_s"])
        if found["max_abs"] > _MAX_ABS_OF_MANY or found["mean_abs"] > _MEAN_ABS:
            raise VerificationFailed(f"filter banks differ from kaldi-native-fbank's: {found}")
    return Figure(
        GOAL, "filter banks on one core, times kaldi-native-fbank", sorted(rounds)[len(rounds) // 2], "times",
        "seconds of kaldi-native-fbank from Python / seconds of our kernels, on the same frames without the dither",
        AT_LEAST, 1.0, (min(rounds), max(rounds)), len(rounds),
        f"{found['frames']} frames equal within {found['max_abs']:.1e}, {found['mean_abs']:.1e} on average",
    )  # fmt: skip


def _rows(corpus: Path) -> dict[str, list[str]]:
    return {split: (corpus / split / "audio.tsv").read_text(encoding="utf-8").splitlines() for split in _SPLITS}


def _selected(bench: Workbench, corpus: Path, *, every: int, times: int) -> Path:
    """An audio index of each `every`-th utterance, `times` over under further names: waves are read where they are."""
    folder = bench.folder("index")
    for split, lines in _rows(corpus).items():
        chosen = [line.split("\t", 1) for line in lines[::every]]
        named = sorted(
            (name if copy == 0 else name.replace("_", f"-{copy}_"), rest)
            for copy in range(times)
            for name, rest in chosen
        )
        (folder / split).mkdir()
        text = "".join(f"{name}\t{rest}\n" for name, rest in named)
        (folder / split / "audio.tsv").write_text(text, encoding="utf-8")
    return folder


def _speech_s(corpus: Path) -> float:
    return sum(int(line.rsplit("\t", 1)[1]) for lines in _rows(corpus).values() for line in lines) / _RATE_HZ


def _check_golden(bench: Workbench) -> str:
    """The stages' features of golden's corpus, held to the reference's own."""
    golden = bench.paths.root / "tests" / "golden"
    corpus = bench.stage("base", "corpus", [], {"data": golden / "TIMIT", "conf": bench.paths.conf / "timit"})
    inputs = {"data": golden / "TIMIT", "corpus": corpus.out, "conf": bench.paths.conf / "features"}
    return _compare(bench, bench.stage("features", "features", [], inputs).out, golden / "data", "golden's", _MAX_ABS)


def _compare(bench: Workbench, ours: Path, theirs: Path, whose: str, most: float) -> str:
    run = bench.stage("features", _MODULE, ["--mode", "compare"], {"ours": ours, "theirs": theirs})
    splits = json.loads((run.out / "compare.json").read_bytes())
    largest, mean = (max(split[what] for split in splits.values()) for what in ("max_abs", "mean_abs"))
    if largest > most or mean > _MEAN_ABS:
        raise VerificationFailed(f"features differ from {whose} by {largest:.2g} at most, {mean:.2g} on average")
    return f"features equal {whose} within {largest:.1e}, {mean:.1e} on average"


def _hold_equal(folders: list[Path]) -> None:
    """Whatever the cores, each run must have written the same bytes."""
    first, *others = folders
    for path in sorted(path for path in first.rglob("*") if path.is_file()):
        for other in others:
            if (other / path.relative_to(first)).read_bytes() != path.read_bytes():
                raise VerificationFailed(f"{path.relative_to(first)} differs from one run to the next")
