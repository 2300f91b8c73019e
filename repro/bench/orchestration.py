"""Orchestration: a run with nothing to do, what a stage costs beside its own work, and stages side by side."""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from repro.base import programs
from repro.base.errors import CouldNotVerify, EngineUnavailable
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.bench import floor
from repro.bench.figure import AT_MOST, Figure
from repro.bench.goals import goal
from repro.bench.workbench import Candidate, Sample, Workbench
from repro.container.job import Engine
from repro.graph.cache import StatCache
from repro.graph.code import Codes
from repro.graph.keys import Keys
from repro.graph.local import LocalExecutor
from repro.graph.making import Done, Surroundings
from repro.graph.pipeline import Node, Output, StageDefinition
from repro.graph.runner import Runner
from repro.graph.store import Store
from repro.machine import facts
from repro.machine.facts import Given, Machine
from repro.record import Record, load_record
from repro.record.reading import FILE
from repro.run.engine_choice import choose
from repro.sweep.steps import one_graph_of

GOAL = goal("orchestration").title
_ENTRIES = 10_000
_IMAGE = "base"
_NOTHING = """import sys
out = sys.argv[sys.argv.index("--out") + 1]
with open(out + "/number", "w") as stream:
    stream.write(sys.argv[sys.argv.index("--number") + 1])
"""
_PAUSE = "import time\n" + _NOTHING + "time.sleep(1.0)\n"
_PAUSE_S = 1.0


def measure(bench: Workbench) -> Iterator[Figure]:
    """The figures of this area."""
    yield from _overheads(bench)
    yield from _sweep(bench)
    yield from _side_by_side(bench)
    yield from _nothing_to_do(bench)  # last: it leaves ten thousand files to be written to the disk


# A run with nothing to do


def _nothing_to_do(bench: Workbench) -> Iterator[Figure]:
    results, words = _finished_run(bench)
    first = _record(results)
    steps = floor.steps_of(first, Store(Paths(bench.paths.root, results).store, bench.scratch, StatCache(None)))
    candidates: dict[str, Candidate] = {
        "ours": functools.partial(_again, bench, results, words, first),
        "Invoke's own start": lambda: bench.invoke("--list")[0],
    }
    if programs.find("make") is None:
        bench.say("make is not on this machine: not measured")
    else:
        make = floor.Make(bench.folder("floor") / "make", steps)
        make.run()
        make.check()
        candidates["make"] = make.idle
    samples = bench.interleaved(candidates, 3 if bench.quick else 9)
    ours = samples.pop("ours")
    files = sum(len(stage.outputs.files) for stage in first.stages)
    graph = f"{len(steps)} stages, {files} stored files"
    checked = f"each run found all {len(steps)} stages stored, and has the first run's identity"
    formula = "wall time of `invoke reproduce --bs 8`, all of whose results are stored; median"
    yield _seconds("a run with nothing to do", ours, formula, checked, graph, bound=0.3)
    start = samples.pop("Invoke's own start")
    yield _seconds("Invoke's own start, the floor", start, "wall time of `invoke --list`; median", "exit code 0")
    yield _ratio("a run with nothing to do, times Invoke's own start", ours, start, 3.0, checked)
    for name, sample in samples.items():
        said = "it found nothing to do; after one change of a source it had, and did it"
        yield _seconds(f"{name} with nothing to do", sample, "wall time; median", said, f"the same graph: {graph}")
    _fill(results, _ENTRIES)
    _again(bench, results, words, first)
    full = bench.interleaved({"ours": candidates["ours"]}, 3 if bench.quick else 9)["ours"]
    name = f"a run with nothing to do, {_ENTRIES} entries in the store"
    note = f"{graph}; the others are copies of one of them under other names, with their rows in the digests' cache"
    yield _seconds(name, full, formula, checked, note)
    yield _ratio(f"{name}, times one without them", full, ours, 1.2, checked)  # nothing ever lists the store


def _seconds(
    name: str, sample: Sample, formula: str, checked: str, note: str = "", bound: float | None = None
) -> Figure:
    return Figure(
        GOAL, name, sample.median, "s", formula, AT_MOST if bound else "", bound, (sample.low, sample.high),
        len(sample.times), checked, note,
    )  # fmt: skip


def _ratio(name: str, ours: Sample, other: Sample, bound: float, checked: str) -> Figure:
    ratios = [mine / theirs for mine, theirs in zip(ours.times, other.times)]
    return Figure(
        GOAL, name, ours.median / other.median, "times", "the two medians' ratio; spread: of the rounds' ratios",
        AT_MOST, bound, (min(ratios), max(ratios)), len(ratios), checked,
    )  # fmt: skip


def _finished_run(bench: Workbench) -> tuple[Path, tuple[str, ...]]:
    """A folder of results that holds all of one run, and that run's options.

    Full: the demo. Quick: the golden corpus, kept beside the bench's results. Either is run first where it is not
    stored, and then copied: what is measured on, other entries are added to.
    """
    results, home = bench.folder("results"), bench.paths.results
    corpus = bench.paths.root / "tests" / "golden" / "TIMIT"
    words: tuple[str, ...] = ("reproduce", "--bs", "8", "--checkpoint", "demo", "--data")
    if bench.quick and corpus.is_dir():
        words, home = (*words, str(corpus), "--loop", "2"), home / "bench" / "small"
    else:
        words = (*words, "demo")
    _checked(bench.invoke(*words, "--engine", "sandbox", results=home)[1])
    for stage in _record(home).stages:
        place = Path("store", stage.fingerprint[:2], stage.fingerprint)
        shutil.copytree(home / place, results / place)
    _checked(bench.invoke(*words, results=results)[1])
    return results, words


def _again(bench: Workbench, results: Path, words: tuple[str, ...], first: Record) -> float:
    seconds, done = bench.invoke(*words, results=results)
    _checked(done)
    record = _record(results)
    if not all(stage.cached for stage in record.stages) or record.identity != first.identity:
        raise CouldNotVerify("a run with nothing to do ran a stage, or came to another identity")
    return seconds


def _checked(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode != 0:
        raise CouldNotVerify("a run of the bench failed", detail=(done.stderr or done.stdout)[-2000:])


def _record(results: Path) -> Record:
    return load_record(results / "runs" / "latest" / FILE)


def _fill(results: Path, count: int) -> None:
    """Add entries to a store: copies of its smallest one under other names, each file known to the digests' cache."""
    store = results / "store"
    smallest = min(store.glob("??/*/result.json"), key=lambda path: path.stat().st_size).parent
    text = (smallest / "result.json").read_bytes()
    files = [(path.name, path.read_bytes()) for path in (smallest / "out").iterdir() if path.is_file()]
    rows = []
    for number in range(count):
        name = sha256_bytes(f"entry {number}".encode())
        out = store / name[:2] / name / "out"
        out.mkdir(parents=True)
        (out.parent / "result.json").write_bytes(text)
        for file, data in files:
            (out / file).write_bytes(data)
            found = (out / file).stat()
            mark = f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
            rows.append((f"{found.st_dev}:{found.st_ino}", mark, sha256_bytes(data)))
    with sqlite3.connect(results / "digests.sqlite") as database:
        database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
    database.close()


# What a stage costs beside its own work


class _Silent:
    """Shows nothing of a run that is timed."""

    def started(self, key: str) -> None: ...

    def moved(self, key: str, where: str) -> None: ...

    def progress(self, key: str, done: int, total: int, what: str) -> None: ...

    def finished(self, key: str, seconds: float, *, cached: bool) -> None: ...

    def failed(self, key: str, why: str) -> None: ...


class _Tiny:
    """Graphs of stages that do nothing, or only wait, run by the real runner into a store of their own."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._root = bench.folder("tiny")
        (self._root / "stages").mkdir()
        for name, text in (("__init__", ""), ("nothing", _NOTHING), ("pause", _PAUSE)):
            (self._root / "stages" / f"{name}.py").write_text(text)
        self._cache = StatCache(self._root / "digests.sqlite")
        self._count = 0

    def new(self) -> str:
        """A parameter that no stage had before, so that it really runs."""
        self._count += 1
        return str(self._count)

    def run(self, engine: Engine, given: Given, nodes: Mapping[str, Node]) -> tuple[float, dict[str, Done]]:
        """Run a graph; returns its seconds and results, each held to what its stage must have written."""
        keys = Keys(
            Codes(self._root, self._cache), self._bench.images([_IMAGE]), Machine("bench", "bench"), self._cache
        )
        store = Store(self._root / "store", self._root / "tmp", self._cache)
        began_s = time.perf_counter()
        around = Surroundings(self._root / "code", self._root / "logs", _Silent(), given)
        runner = Runner(LocalExecutor(engine, keys, store, around), keys, store, around)
        done = runner.run(nodes)
        seconds = time.perf_counter() - began_s
        for key, item in done.items():
            written = (item.result.out / "number").read_text()
            if item.cached or written != nodes[key].parameters["number"]:
                raise CouldNotVerify(f"stage {key} of the bench did not run, or wrote {written!r}")
        return seconds, done


def _overheads(bench: Workbench) -> Iterator[Figure]:
    tiny = _Tiny(bench)
    bounds = {"sandbox": 0.1, "docker": 0.4}
    engines: dict[str, Engine] = {"sandbox": bench.engine}
    try:
        engines["docker"] = choose("docker", bench.paths).engine
    except EngineUnavailable as error:
        bench.say(f"Docker cannot be used here, so its overhead is not measured: {error.message}")
    for engine in engines.values():
        engine.prepare(bench.images([_IMAGE])[_IMAGE])
    length = 4 if bench.quick else 10

    def one(engine: Engine) -> float:
        nodes: dict[str, Node] = {}
        for number in range(length):
            inputs = {"before": Output(f"s{number - 1}")} if number else {}
            key = f"s{number}"
            nodes[key] = Node(key, StageDefinition("nothing", _IMAGE), inputs, {"number": tiny.new()})
        return tiny.run(engine, facts.given(), nodes)[0] / length

    samples = bench.interleaved(
        {name: functools.partial(one, engine) for name, engine in engines.items()}, 3 if bench.quick else 7
    )
    for name, sample in samples.items():
        yield _seconds(
            f"overhead a stage, {name}",
            sample,
            f"wall time of {length} stages in a chain / {length}; each starts Python and writes one small file",
            "every stage ran, and wrote what it had to",
            "keys, container, Python's start, digests, fsync and publishing",
            bound=bounds[name],
        )


def cells_of_small_steps(count: int, new: Callable[[], str]) -> list[dict[str, Node]]:
    """Graphs of a sweep's shape: one step that all cells share, and a chain of five of each cell's own."""
    small = StageDefinition("nothing", _IMAGE, memory_bytes=1024**3)
    shared = Node("data", small, {}, {"number": new()})
    graphs = []
    for _ in range(count):
        graph = {"data": shared}
        for before, key in zip(("data", *"abcd"), "abcde"):
            graph[key] = Node(key, small, {"before": Output(before)}, {"number": new()})
        graphs.append(graph)
    return graphs


def _sweep(bench: Workbench) -> Iterator[Figure]:
    tiny, cells, cores = _Tiny(bench), 20 if bench.quick else 100, len(os.sched_getaffinity(0))
    bench.engine.prepare(bench.images([_IMAGE])[_IMAGE])
    graphs = cells_of_small_steps(cells, tiny.new)
    began_s = time.perf_counter()
    nodes = one_graph_of(graphs).nodes
    merged_s = time.perf_counter() - began_s
    seconds, done = tiny.run(bench.engine, facts.given(), nodes)
    yield Figure(
        GOAL, "overhead per step of a sweep, sandbox", (merged_s + seconds) / len(done), "s",
        f"(time to make one graph of {cells} cells + wall time of its {len(done)} small steps) / {len(done)}",
        AT_MOST, 1.0, checked=f"{sum(map(len, graphs))} steps were asked for; each different one ran once",
        note=f"{cores} cores; the same runner as a sweep's, without the records and the page",
    )  # fmt: skip


def _side_by_side(bench: Workbench) -> Iterator[Figure]:
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        bench.say("one core: no stages run side by side here")
        return
    tiny = _Tiny(bench)
    stage = StageDefinition("pause", _IMAGE, memory_bytes=1024**3)

    def waiting(count: int, memory_bytes: int) -> float:
        nodes = {f"p{n}": Node(f"p{n}", stage, {}, {"number": tiny.new()}) for n in range(count)}
        return tiny.run(bench.engine, Given(cores, memory_bytes), nodes)[0]

    room = 2 * 1024**3
    samples = bench.interleaved(
        {
            "one": lambda: waiting(1, room),
            "two": lambda: waiting(2, room),
            "two, memory of one": lambda: waiting(2, room - 1),
        },
        1 if bench.quick else 3,
    )
    if samples["two, memory of one"].low < 2 * _PAUSE_S:
        raise CouldNotVerify("two stages ran at once that had memory for one")
    ratios = [two / one for one, two in zip(samples["one"].times, samples["two"].times)]
    yield Figure(
        GOAL,
        "two independent stages at once, beside one",
        sorted(ratios)[len(ratios) // 2],
        "times",
        "wall time of two stages that wait a second each / of one such stage; median of pairs",
        AT_MOST,
        1.3,
        (min(ratios), max(ratios)),
        len(ratios),
        "both ran and wrote what they had to; with memory for one alone the two took more than two seconds",
    )
