"""Features: features beside Kaldi's own programs, and over all cores.

Both sides make the same features of the same waves on one core: ours as the stage that a run has, Python's start and
the reading of the waves included; Kaldi's as its four programs alone, with waves that lie ready in one archive.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from repro.base.errors import VerificationFailed
from repro.base.files import sha256_file
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


def measure(bench: Workbench) -> Iterator[Figure]:
    """The figures of this area."""
    data, corpus = demo_results(bench, "demo_corpus", "corpus")
    # In full, twelve times the demo corpus, three of TIMIT: on less, the start of Python would be most of a run.
    part = _selected(bench, corpus, every=2 if bench.quick else 1, times=1 if bench.quick else 12)
    inputs = {"data": data, "corpus": part, "conf": bench.paths.conf / "features"}
    speech_s = _speech_s(part)
    cores = len(os.sched_getaffinity(0))
    golden = _check_golden(bench)
    runs = _Runs(bench, inputs, _shares(bench, part, cores))
    candidates = {
        "one": lambda: runs.ours("one", 1),
        "all": lambda: runs.ours("all", cores),
        "apart": runs.apart,
    }
    if "kaldi" in obtainable(bench.paths, facts.architecture(), bench.say):
        candidates["kaldi"] = runs.kaldis
    else:
        bench.say("features: Kaldi's own programs are not here, since its source archive is not; no ratio to them")
    times = bench.interleaved(candidates, rounds=1 if bench.quick else 3)
    _hold_equal(runs.digests)
    exact = f"{golden}; every run's archives are equal byte by byte"

    one = times["one"]
    yield Figure(
        GOAL, "one core, share of real time", one.median / speech_s, "s/s",
        "the stage's seconds on one core, from its first line of Python to its last / seconds of speech",
        AT_MOST, 0.0018, (one.low / speech_s, one.high / speech_s), len(one.times), exact,
    )  # fmt: skip
    if "kaldi" in times:
        yield from _beside_kaldi(bench, runs.kept, times, speech_s, exact)
    yield _beside_native(bench, inputs)
    yield from scaling(cores, times, exact)
    for run in runs.kept.values():
        bench.remove(run.out.parent)


class _Runs:
    """The candidates; each waits until the disk has what an earlier one wrote, which is none of its own work.

    Attributes:
        kept: the newest run of each kind alone: the kernel takes a core to make room for more files than memory holds.
        digests: of the files of every run of the stage on the whole corpus.
    """

    def __init__(self, bench: Workbench, inputs: Mapping[str, Path], shares: Sequence[Path]) -> None:
        self._bench, self._inputs, self._shares = bench, inputs, shares
        self.kept: dict[str, StageRun] = {}
        self.digests: list[dict[str, str]] = []

    def ours(self, kind: str, cores: int) -> float:
        os.sync()
        run = self._keep(kind, self._bench.stage("features", "features", [], self._inputs, cores=cores))
        self.digests.append(_digests(run.out))
        return run.work_s

    def kaldis(self) -> float:
        os.sync()
        run = self._keep("kaldi", self._bench.stage("kaldi", _MODULE, ["--mode", "kaldi"], self._inputs, cores=1))
        return float(sum(json.loads((run.obs / "times.json").read_bytes()).values()))

    def apart(self) -> float:
        """A stage for each share at once, on a core of its own: the longest one's seconds."""
        os.sync()
        with ThreadPoolExecutor(len(self._shares)) as pool:
            runs = list(pool.map(self._of_share, range(len(self._shares))))
        if sum(map(_frames, runs)) != _frames(self.kept["one"]):
            raise VerificationFailed("the shares have not as many frames together as the whole corpus")
        for run in runs:
            self._bench.remove(run.out.parent)
        return max(run.work_s for run in runs)

    def _of_share(self, number: int) -> StageRun:
        inputs = {**self._inputs, "corpus": self._shares[number]}
        return self._bench.stage("features", "features", [], inputs, cores=1, first=number)

    def _keep(self, kind: str, run: StageRun) -> StageRun:
        if kind in self.kept:
            self._bench.remove(self.kept[kind].out.parent)
        self.kept[kind] = run
        return run


def _shares(bench: Workbench, corpus: Path, count: int) -> list[Path]:
    """The corpus in equal shares: each `count`-th utterance of every split, from the first, the second and so on."""
    folders = []
    for share in range(count):
        folders.append(bench.folder("share"))
        for split, lines in _rows(corpus).items():
            (folders[-1] / split).mkdir()
            text = "".join(f"{line}\n" for line in lines[share::count])
            (folders[-1] / split / "audio.tsv").write_text(text, encoding="utf-8")
    return folders


def _frames(run: StageRun) -> int:
    return sum(json.loads((run.out / "summary.json").read_bytes())["frames"].values())


def scaling(cores: int, times: Mapping[str, Sample], checked: str) -> Iterator[Figure]:
    """What one stage on all cores gives, of linear, and of what as many stages give that have nothing in common.

    Cores share a clock, caches and the kernel's work, or are two threads of one core, so that `cores` of them are not
    `cores` times one. Whatever they are, they are that to separate stages too: the bound is of these.
    """
    linear = [one / (cores * together) for one, together in zip(times["one"].times, times["all"].times)]
    ratios = [apart / together for apart, together in zip(times["apart"].times, times["all"].times)]
    yield Figure(
        GOAL, f"{cores} cores, share of linear", statistics.median(linear), "ratio",
        "seconds on one core / (cores * seconds on all cores), both with the start of Python",
        spread=(min(linear), max(linear)), samples=len(linear), checked=checked,
    )  # fmt: skip
    yield Figure(
        GOAL, f"one stage on {cores} cores, times {cores} stages on one each", statistics.median(ratios), "times",
        "seconds of the longest of the stages at once, each with its share of the utterances / the one stage's",
        AT_LEAST, 0.9, (min(ratios), max(ratios)), len(ratios), f"{checked}; the shares have as many frames together",
    )  # fmt: skip


def _beside_kaldi(
    bench: Workbench, kept: Mapping[str, StageRun], times: Mapping[str, Sample], speech_s: float, exact: str
) -> Iterator[Figure]:
    """The stage beside Kaldi's four programs, each on one core, in turn."""
    one, kaldi = times["one"], times["kaldi"]
    beside = _compare(bench, kept["one"].out, kept["kaldi"].out, "Kaldi's of this run", _MAX_ABS_OF_MANY)
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


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _hold_equal(digests: Sequence[Mapping[str, str]]) -> None:
    """Whatever the cores, each run must have written the same bytes."""
    first, *others = digests
    for other in others:
        for path in sorted({*first, *other}):
            if first.get(path) != other.get(path):
                raise VerificationFailed(f"{path} differs from one run to the next")
