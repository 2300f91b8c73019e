"""From nothing: from nothing but fetched files to a report, with its account, second by second."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from repro.base.errors import CouldNotVerify
from repro.base.files import disk_bytes
from repro.base.paths import Paths
from repro.bench.figure import AT_LEAST, AT_MOST, Figure
from repro.bench.goals import goal
from repro.bench.workbench import Workbench
from repro.fetching.cache import Cache
from repro.images.build import files_needed
from repro.images.rootfs import SANDBOX_IMAGE
from repro.machine import facts
from repro.record import Record, load_record
from repro.record.reading import FILE
from repro.report.timeline import IMAGE, LAYER, PHASE, STAGE, Span, covered_s, spans_of

GOAL = goal("nothing").title
_WORDS = ("reproduce", "--bs", "8", "--engine", "sandbox", "--data", "demo", "--checkpoint", "demo")
_FEW_LOOPS = "10"  # of timed executions, where these are left out of the figure
_IMAGES = ("base", "exporter", "features", "runtime", "synth", SANDBOX_IMAGE)
_NOT_COPIED = {"artifacts", "data", "tests", "docs", "__pycache__"}


def measure(bench: Workbench) -> Iterator[Figure]:
    """The figures of this area: one run in a copy of the checkout that holds nothing that was made before."""
    copy = _copy(bench.paths.root, bench.folder("nothing") / "checkout")
    absent = _give_fetched_files(bench.paths.root, copy)
    if absent:
        bench.say(f"{absent} locked files are not fetched here: the run downloads them, and that time is not counted")
    wall_s = _run(copy, _WORDS)
    record = load_record(Paths(copy).runs / "latest" / FILE)
    used = disk_bytes(copy / "artifacts")
    _check(copy, record)
    spans = spans_of(record)
    for line in _account(spans):
        bench.say(line)
    # With every file there, that phase only hashes them, which is this run's own work.
    download_s = sum(span.seconds for span in spans if span.name == "fetch") if absent else 0.0
    checked = (
        "every layer and image has its pinned ID and the demo corpus its pinned digest, no stage came from a store, "
        "a second run found all of them stored and came to the same identity"
    )
    yield Figure(
        GOAL, "first run, all but the download", wall_s - download_s, "s",
        "wall time of `reproduce --bs 8` with an empty artifacts folder - the phases 'fetch' if any file was absent",
        AT_MOST, 60.0, checked=checked,
    )  # fmt: skip
    yield Figure(
        GOAL, "share of the first run that its account covers", covered_s(spans, PHASE) / wall_s, "s/s",
        "seconds that lie in some phase of the record / wall time of the process", AT_LEAST, 0.98, checked=checked,
    )  # fmt: skip
    yield Figure(
        GOAL, "disk of the first run, fetched files included", used / 1e9, "GB",
        "bytes on the disk below artifacts/, each file once", AT_MOST, 5.0, checked=checked,
    )  # fmt: skip
    yield _all_sizes(copy, record)
    for name, kind in (("layers built", LAYER), ("images made ready", IMAGE), ("stages", STAGE)):
        of_kind = [span for span in spans if span.kind == kind]
        alone_s = sum(span.seconds for span in of_kind)
        yield Figure(
            GOAL, f"{name}: seconds in which any was at work", covered_s(spans, kind), "s",
            "seconds that lie in at least one of them", checked=checked,
            note=f"{len(of_kind)} of them, {alone_s:.1f} s one after another",
        )  # fmt: skip
    bench.remove(copy)


def beside_loops_s(record: Record) -> float:
    """Seconds in which any stage of a run was at work, less the timed executions, which take what they take."""
    return covered_s(spans_of(record), STAGE) - sum(
        result.sustained.timed_s for result in record.results if result.sustained
    )


def _all_sizes(copy: Path, first: Record) -> Figure:
    """What `--bs all` costs after `--bs 8`: utterances, export and PyTorch's outputs are there."""
    words = tuple("all" if word == "8" else word for word in _WORDS)
    _run(copy, (*words, "--loop", _FEW_LOOPS))
    every = load_record(Paths(copy).runs / "latest" / FILE)
    return Figure(
        GOAL, "--bs all after --bs 8, times --bs 8 itself, timed executions left out",
        beside_loops_s(every) / beside_loops_s(first), "times",
        "(seconds in which any stage was at work - timed executions), of `--bs all --loop 10` / of the first run",
        AT_MOST, 1.6,
        checked=f"{len(every.results)} batch sizes, each compared with PyTorch's outputs",
    )  # fmt: skip


def _copy(root: Path, copy: Path) -> Path:
    """The checkout without anything that was made or that is the user's; data/ with the demo's checkpoint alone."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        top = Path(folder) == root
        return {name for name in names if name == "__pycache__" or (top and (name in _NOT_COPIED or name[0] == "."))}

    shutil.copytree(root, copy, ignore=left_out)
    shutil.copytree(root / "data" / "demo", copy / "data" / "demo")
    return copy


def _give_fetched_files(root: Path, copy: Path) -> int:
    """Put what is fetched into the copy's cache, by hard link where that can be; returns how many files are absent."""
    theirs, absent = Cache(root), 0
    for sha256 in files_needed(Paths(copy), _IMAGES, [facts.architecture()]):
        path = theirs.path(sha256)
        if path is None:
            absent += 1
            continue
        place = copy / "artifacts" / "cache" / "sha256" / sha256[:2] / sha256
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(path, place)
    return absent


def _run(copy: Path, words: tuple[str, ...]) -> float:
    env = {name: value for name, value in os.environ.items() if name != "BUNDLE_RESULTS"}
    began_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(copy / "tasks.py"), *words], cwd=copy, env=env, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began_s
    if done.returncode != 0:
        raise CouldNotVerify("the run from nothing failed", detail=(done.stderr or done.stdout)[-2000:])
    return seconds


def _check(copy: Path, first: Record) -> None:
    taken = [stage.key for stage in first.stages if stage.cached]
    pins = json.loads((copy / "conf" / "locks" / "images.json").read_bytes())["images"][facts.architecture()]
    others = [name for name, identity in first.images.items() if pins.get(name) != identity]
    if taken or others:
        raise CouldNotVerify(f"the run from nothing took {taken} from a store, or {others} are not the pinned images")
    _run(copy, _WORDS)
    again = load_record(Paths(copy).runs / "latest" / FILE)
    if not all(stage.cached for stage in again.stages) or again.identity != first.identity:
        raise CouldNotVerify("a second run after the one from nothing ran a stage, or came to another identity")


def _account(spans: Collection[Span]) -> list[str]:
    """The account as lines: what, from when to when, how long."""
    return [
        f"from nothing: {span.started_s:7.2f} to {span.ended_s:7.2f} s  {span.seconds:6.2f} s  {span.kind} {span.name}"
        for span in spans
        if span.seconds >= 0.01
    ]
