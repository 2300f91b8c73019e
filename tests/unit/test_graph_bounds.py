"""The graph in detail: what a key's difference is called, what a job is given, what a log keeps, what is looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from _graph_cases import Bench, image

from repro.base.confined import TreeLimits
from repro.base.errors import NotPlain, StageFailed, UsageError, VerificationFailed
from repro.container.job import Limits, Mount, Outcome
from repro.engines.npu_access import Access
from repro.graph import log as stage_log
from repro.graph.cache import StatCache
from repro.graph.failure import failure_of, system_error
from repro.graph.keys import difference
from repro.graph.leavings import HOST_LOG, HOST_WATCH, read_document, take_in
from repro.graph.local import may_run_beside
from repro.graph.log import Said, StageLog
from repro.graph.making import memory_of
from repro.graph.pipeline import (
    BATCHES,
    CORPUS,
    EXACT,
    ISA_EXACT,
    NPU_STAGES,
    SMALL,
    STAGES,
    Node,
    Output,
    Source,
    StageDefinition,
    closure,
    parse_batch_sizes,
)
from repro.graph.stage_job import StageJob
from repro.graph.store import Store
from repro.machine.facts import Given


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("image", "image changed"),
        ("code", "code of the stage changed"),
        ("env", "environment changed"),
        ("format", "format of the store changed"),
        ("instruction_set", "processor's instruction set changed"),
        ("host", "host or device changed"),
        ("accelerator", "NPU, its driver or firmware changed"),
        ("argv", "parameters changed"),
    ],
)
def test_each_part_of_a_key_that_differs_is_called_by_its_name(name: str, words: str):
    key = {"image": "i", "argv": ["a"], "inputs": {"x": "1"}}
    assert difference(key, {**key, name: "other"}) == [words]
    assert difference({**key, name: "other"}, key) == [words] and difference(key, dict(key)) == []


def test_each_input_that_differs_is_named_in_order_whether_it_came_or_went():
    old, new = {"inputs": {"b": "1", "a": "1", "gone": "1"}}, {"inputs": {"b": "2", "a": "1", "come": "1"}}
    assert difference(old, new) == ["input b changed", "input come changed", "input gone changed"]
    assert difference({}, new) == ["input a changed", "input b changed", "input come changed"]
    assert difference(old, {}) == ["input a changed", "input b changed", "input gone changed"]


def test_a_job_is_given_exactly_what_the_stage_is_and_may_write_its_own_folders_alone(tmp_path: Path):
    lent = (Mount(Path("/lent"), "/lent"),)
    access = Access(
        devices=("/dev/davinci0",), groups=(7,), mounts=(Mount(Path("/driver"), "/driver"),),
        env={"ASCEND": "1"}, shares_ipc=True, runtime="ascend",
    )  # fmt: skip
    limits, made = Limits(12.0, 34, 56), image()
    job = StageJob(
        "score-bs8", made, ("a", "b"), Path("/code"), {"x": Path("/x"), "corpus": Path("/c")}, Path("/made"), limits,
        {"saved": Path("/saved")}, lent, access,
    ).job()  # fmt: skip
    assert job.mounts == (
        Mount(Path("/code"), "/run/code"),
        Mount(Path("/c"), "/run/in/corpus"),
        Mount(Path("/x"), "/run/in/x"),
        Mount(Path("/made/out"), "/run/out", writable=True),
        Mount(Path("/made/obs"), "/run/obs", writable=True),
        Mount(Path("/saved"), "/run/saved", writable=True),
        *lent,
        *access.mounts,
    )
    assert (job.name, job.argv, job.limits, job.image) == ("score-bs8", ("a", "b"), limits, made)
    assert job.env == {"PYTHONPATH": "/run/code", "ASCEND": "1"} and job.devices == ("/dev/davinci0",)
    assert (job.groups, job.shares_ipc, job.runtime) == ((7,), True, "ascend")
    plain = StageJob("n", made, (), Path("/code"), {}, Path("/made"), limits).job()
    assert (plain.env, plain.devices, plain.groups, plain.shares_ipc) == ({"PYTHONPATH": "/run/code"}, (), (), False)
    assert plain.runtime == "" and len(plain.mounts) == 3


def test_a_stage_runs_within_the_limits_that_it_declares_and_the_machine_has(tmp_path: Path):
    jobs = []

    def behave(job, out, obs, on_line):
        jobs.append(job)
        (out / "x").write_bytes(b"1")
        return 0

    bench = Bench(tmp_path, behave)
    nodes = bench.nodes(timeout_s=77.0, memory_bytes=99 * 1024**3)
    nodes["second"] = replace(nodes["second"], key="second@8")
    bench.runner().run({"first": nodes["first"], "second@8": nodes["second"]})
    assert [job.name for job in jobs] == ["first", "second-bs8"]
    assert jobs[0].limits == Limits(77.0, 16 * 1024**3, 1024) and jobs[1].limits == Limits(3600.0, 8 * 1024**3, 1024)
    for job in jobs:
        assert {mount.target for mount in job.mounts if mount.writable} == {"/run/out", "/run/obs"}
        assert job.env == {"PYTHONPATH": "/run/code"} and not job.shares_ipc and job.devices == ()
    places = {mount.target: mount.source for mount in jobs[1].mounts}
    assert places["/run/in/before"].name == "out" and (places["/run/in/before"] / "x").read_bytes() == b"1"


def node(cores: bool = False, memory_bytes: int = 1) -> Node:
    return Node("n", StageDefinition("n", "base", whole_machine=cores, memory_bytes=memory_bytes), {})


def test_stages_run_beside_each_other_up_to_exactly_the_cores_and_the_memory():
    given = Given(cores=2, memory_bytes=10)
    assert memory_of(node(memory_bytes=11), given) == 10 and memory_of(node(memory_bytes=9), given) == 9
    assert may_run_beside([], node(cores=True, memory_bytes=99), given)
    assert may_run_beside([node(memory_bytes=5)], node(memory_bytes=5), given)
    assert not may_run_beside([node(memory_bytes=5)], node(memory_bytes=6), given)
    assert not may_run_beside([node(), node()], node(), given)
    assert not may_run_beside([node()], node(cores=True), given) and not may_run_beside(
        [node(cores=True)], node(), given
    )


def test_what_nothing_is_timed_of_runs_beside_one_core_and_beside_nothing_that_must_be_alone():
    given = Given(cores=2, memory_bytes=10)
    sharing = replace(node(), stage=replace(node(cores=True).stage, shares=True))
    assert may_run_beside([node()], sharing, given) and may_run_beside([sharing], node(), given)
    assert not may_run_beside([node(), node()], sharing, given)
    assert not may_run_beside([sharing], node(cores=True), given)
    assert not may_run_beside([node(cores=True)], sharing, given)
    assert {name for name, stage in STAGES.items() if stage.shares} == {"demo_corpus", "reference", "compare"}
    assert not any(stage.shares and (stage.host_bound or not stage.whole_machine) for stage in STAGES.values())


def logged(tmp_path: Path, *lines: tuple[str, str]):
    progress = []
    with StageLog(tmp_path / "log", lambda *told: progress.append(told)) as log:
        for line in lines:
            log.line(*line)
    return log.said, progress, (tmp_path / "log").read_bytes()


def test_errors_and_hints_are_taken_from_stderr_alone_the_last_error_and_the_first_hints(tmp_path: Path):
    lines = [("stdout", "error: no"), ("stderr", "error: one"), ("stderr", "error: t\x1bwo"), ("stdout", "hint: no")]
    said, progress, kept = logged(
        tmp_path, *lines, *[("stderr", f"hint: {n}") for n in range(9)], ("stderr", "x error: y")
    )
    assert said.error == "t\\x1bwo" and said.hints == [str(n) for n in range(8)] and progress == []
    assert kept.startswith(b"error: no\nerror: one\nerror: t\\x1bwo\nhint: no\nhint: 0\n") and kept.endswith(
        b"x error: y\n"
    )


def test_the_tail_is_the_last_lines_and_each_line_is_bounded(tmp_path: Path):
    long = "y" * 40_000
    said, _, kept = logged(
        tmp_path, *[("stdout", str(n)) for n in range(30)], ("stderr", long), ("stderr", "error: " + long)
    )
    assert list(said.tail)[:18] == [str(n) for n in range(12, 30)] and len(said.tail) == 20
    assert said.tail[18] == "y" * 2000 and said.error == "y" * 2000 + "…"
    first, second = kept.split(b"\n")[30:32]
    assert first == b"y" * 16_384 + "…".encode() and second == b"error: " + b"y" * (16_384 - 7) + "…".encode()
    assert logged_tabs(tmp_path) == b"a\tb\\x0d\tc\n"


def logged_tabs(tmp_path: Path) -> bytes:
    with StageLog(tmp_path / "tabs", lambda *_: None) as log:
        log.line("stdout", "a\tb\r\tc")
    return (tmp_path / "tabs").read_bytes()


def test_a_log_up_to_the_bound_is_whole_and_is_cut_once(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stage_log, "_MOST_BYTES", 7)
    _, _, kept = logged(tmp_path, ("stdout", "abc"), ("stdout", "d"), ("stdout", "e"), ("stdout", "f"))
    assert kept == b"abc\nd\n" + stage_log._CUT
    with StageLog(tmp_path / "other", lambda *_: None) as log:
        log.line("stdout", "abc")
        log.line("stdout", "defg")
        log.line("stdout", "h")
    assert (tmp_path / "other").read_bytes() == b"abc\n" + stage_log._CUT
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "text",
    ['{"done": -1, "total": 2, "what": "x"}', '{"done": 1, "total": true, "what": "x"}', '{"done": 1, "total": 2}',
     '{"done": 1.0, "total": 2, "what": "x"}', '{"done": 1, "total": 1000000000001, "what": "x"}', "[1]", "{",
     '{"total": 2, "what": "x"}', '{"done": 1, "total": 2, "what": 3}',
     '{"done": 1, "total": 2, "what": "' + "x" * 1000 + '"}'],
)  # fmt: skip
def test_what_is_no_progress_is_a_line_of_the_log(tmp_path: Path, text: str):
    said, progress, _ = logged(tmp_path, ("stderr", "@progress " + text))
    assert progress == [] and len(said.tail) == 1


def test_progress_is_shown_bounded_and_kept_nowhere(tmp_path: Path):
    told = '@progress {"done": 0, "total": 1000000000000, "what": "' + "x" * 39 + '\\u001b!"}'
    said, progress, kept = logged(tmp_path, ("stderr", told), ("stdout", told))
    assert progress == [(0, 10**12, "x" * 39 + "\\x1b…")] and len(said.tail) == 1 and kept.count(b"\n") == 1


LINES = [
    ("No space left on device", "the disk is full, or has no room for more files", "invoke store.gc"),
    ("database or disk is full", "the disk is full, or has no room for more files", "BUNDLE_RESULTS=/other/disk"),
    ("Disk quota exceeded", "the disk quota is used up", "within the quota"),
    ("Read-only file system", "a file system is read-only", "mount it writable"),
    ("Input/output error", "the disk could not be read or written", "dmesg"),
    ("Permission denied", "a permission is missing", "artifacts/"),
    ("Too many open files", "too many files are open", "ulimit -n 4096"),
    ("Cannot allocate memory", "memory ran out", "smaller --bs"),
    ("MemoryError", "memory ran out", "smaller --bs"),
    ("std::bad_alloc", "memory ran out", "smaller --bs"),
]


@pytest.mark.parametrize(("line", "what", "hint"), LINES)
def test_each_trouble_of_the_machine_has_its_name_and_its_way_out(line: str, what: str, hint: str):
    found, advice = system_error(["before", f"OSError: [Errno 1] {line}: 'x'", "after"])
    assert found == what and hint in advice and system_error(["all is well"]) == ("", "")
    said = Said()
    said.tail.extend(["first", "second", line])
    told = failure_of("stage x", 1.0, 10**9, Outcome(1, False, 0.0, {}), said, "L")
    assert (told.message, told.hint, told.detail) == (f"stage x: {what}", advice, f"{line}\nthe whole log: L")


def test_a_killed_stage_without_a_word_was_killed_for_memory_and_others_keep_their_exit_code():
    def told(code: int, error: str = "", out_of_memory: bool = False) -> StageFailed:
        said = Said(error=error)
        return failure_of("stage x", 1.0, 2_500_000_000, Outcome(code, False, 0.0, {}, out_of_memory), said, "L")

    memory = "stage x was killed, most likely for memory (limit 2.5 GB)"
    assert told(137).message == memory and told(1, out_of_memory=True).message == memory
    assert told(137).hint == "free memory on this machine, or use a smaller --bs"
    assert told(138).message == "stage x ended with exit code 138" and told(137, "no").message == "stage x: no"
    assert told(138).detail == "the whole log: L" and told(138).hint.startswith("this is a defect of the stage")


def left(tmp_path: Path, *names: str) -> Path:
    for folder in ("out", "obs"):
        (tmp_path / "result" / folder).mkdir(parents=True)
    for name in names:
        (tmp_path / "result" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "result" / name).write_bytes(b"x")
    return tmp_path / "result"


@pytest.mark.parametrize("name", [HOST_LOG, HOST_WATCH])
@pytest.mark.parametrize("below", ["", "/inside"])
def test_a_stage_may_not_take_the_hosts_own_names(tmp_path: Path, name: str, below: str):
    result = left(tmp_path, f"obs/{name}{below}")
    with pytest.raises(
        NotPlain, match=f"stage s left in obs/ what is not taken: {name} is the host's own name"
    ) as caught:
        take_in("s", result, (), TreeLimits(), StatCache(None))
    assert "hostile" in caught.value.hint


def test_what_is_taken_in_has_its_digests_and_fixed_modes_and_the_hosts_files_beside(tmp_path: Path):
    result = left(tmp_path, "out/a/b", "out/c", "obs/d")
    own = [tmp_path / HOST_LOG, tmp_path / HOST_WATCH]
    for path in own:
        path.write_bytes(b"host")
    (result / "out" / "a").chmod(0o700)
    (result / "out" / "c").chmod(0o600)
    (result / "obs").chmod(0o700)
    found = take_in("s", result, own, TreeLimits(), StatCache(None))
    assert list(found.outputs) == ["a/b", "c"] and list(found.observed) == ["d", HOST_WATCH, HOST_LOG]
    assert found.commands is None and found.observed[HOST_LOG].size_bytes == 4
    for path in result.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o444), path
    assert (result / "obs").stat().st_mode & 0o777 == 0o755


def test_a_process_that_is_still_at_work_is_found_by_what_it_changes(tmp_path: Path, monkeypatch):
    from repro.graph import leavings

    real, calls = leavings.list_tree, []

    def meddled(root, limits):
        found = real(root, limits)
        calls.append(root.name)
        if calls == ["out"]:
            (root / "late").write_bytes(b"x")
        return found

    monkeypatch.setattr(leavings, "list_tree", meddled)
    with pytest.raises(NotPlain, match="stage s left in out/ what is not taken: something changed while"):
        take_in("s", left(tmp_path, "out/a"), (), TreeLimits(), StatCache(None))


def test_a_stages_document_is_read_strictly_and_each_fault_names_it(tmp_path: Path):
    (tmp_path / "good").write_text('{"a": 1}')
    (tmp_path / "bad").write_text("{")
    (tmp_path / "folder").mkdir()
    assert read_document(tmp_path, "good", "s: good") == {"a": 1} == read_document(tmp_path, "good", "s: good", 8)
    for name, why, most in (
        ("none", "s: f cannot be read: No such file or directory", 99),
        ("folder", "s: f: folder is a folder, not a plain file", 99),
        ("bad", "s: f: it is not JSON: ", 99),
        ("good", "s: f: good has 8 bytes; at most 7 were expected", 7),
    ):
        with pytest.raises(VerificationFailed, match=why) as caught:
            read_document(tmp_path, name, "s: f", most)
        assert caught.value.hint.startswith("a stage or its image is broken or hostile")


def test_batch_sizes_are_sorted_once_each_and_bounded():
    assert parse_batch_sizes("8,1,8") == (1, 8) and parse_batch_sizes(" all ") == (1, 4, 8, 16, 32, 64)
    assert parse_batch_sizes("1024") == (1024,) and parse_batch_sizes("1") == (1,)
    for text in ("0", "-1", "1,0", "x", "", "1.5"):
        with pytest.raises(UsageError, match="is not a batch size"):
            parse_batch_sizes(text)
    with pytest.raises(UsageError, match="--bs 1025 is too large"):
        parse_batch_sizes("8,1025")


def test_a_target_brings_what_it_needs_and_no_more_in_the_graphs_order():
    stage = StageDefinition("s", "base")
    nodes = {
        "a": Node("a", stage, {"d": Source("d", Path("/d"))}),
        "b": Node("b", stage, {"x": Output("a")}),
        "c": Node("c", stage, {"x": Output("a"), "y": Output("b")}),
        "d": Node("d", stage, {"x": Output("a")}),
    }
    assert list(closure(nodes, ["c"])) == ["a", "b", "c"] and list(closure(nodes, ["d", "b"])) == ["a", "b", "d"]
    assert closure(nodes, []) == {}
    with pytest.raises(UsageError, match="there is no step 'e' in this run") as caught:
        closure(nodes, ["e"])
    assert caught.value.hint == "steps: a, b, c, d"


def test_what_each_stage_is_declared_to_be():
    declared = {
        name: (s.image, s.exactness == EXACT, s.whole_machine, s.host_bound, s.accelerator, s.leaves)
        for name, s in STAGES.items()
    }
    yes, no = True, False
    assert declared == {
        "demo_corpus": ("synth", yes, yes, no, no, CORPUS),
        "corpus": ("base", yes, no, no, no, CORPUS),
        "features": ("features", yes, no, no, no, CORPUS),
        "lm": ("base", yes, no, no, no, SMALL),
        "batches": ("base", yes, no, no, no, BATCHES),
        "export": ("exporter", yes, no, no, no, SMALL),
        "reference": ("exporter", no, yes, no, no, BATCHES),
        "convert": ("runtime", yes, no, no, no, SMALL),
        "infer": ("runtime", yes, yes, no, no, BATCHES),
        "measure": ("runtime", yes, yes, yes, no, SMALL),
        "score": ("base", yes, no, no, no, SMALL),
        "compare": ("runtime", no, yes, no, no, BATCHES),
        "convert_npu": ("cann", yes, yes, no, no, SMALL),
        "infer_npu": ("cann", yes, yes, no, yes, BATCHES),
        "measure_npu": ("cann", yes, yes, yes, yes, SMALL),
        "demo_train": ("exporter", no, yes, no, no, SMALL),
    }
    assert all(s.exactness in (EXACT, ISA_EXACT) and s.timeout_s >= 3600 for s in STAGES.values())
    assert NPU_STAGES == {"convert": "convert_npu", "infer": "infer_npu", "measure": "measure_npu"}


def test_a_store_says_that_it_waits_before_it_waits(tmp_path: Path):
    store, said = Store(tmp_path / "store", tmp_path / "tmp", StatCache(None)), []

    class Waited(Exception):
        """In place of waiting for ever."""

    def say(text):
        said.append(text)
        raise Waited

    with store.alone(said.append):
        assert said == []
    with store.in_use(), store.in_use(), pytest.raises(Waited), store.alone(say):
        pass
    assert said == ["waiting for the runs that are using stored results"]


def test_of_what_was_set_aside_the_newest_ten_stay_each_in_a_folder_of_its_own(tmp_path: Path):
    store = Store(tmp_path / "store", tmp_path / "tmp", StatCache(None))
    for _ in range(13):
        for fingerprint in ("a" * 64, "b" * 64):
            folder = store.path(fingerprint)
            folder.mkdir(parents=True)
            (folder / "result.json").write_text("{")
            assert store.load(fingerprint) is None and not folder.exists()
    kept = sorted(path.name for path in (tmp_path / "store" / "damaged").iterdir())
    assert len(kept) == 10 and all((tmp_path / "store" / "damaged" / name / "entry").is_dir() for name in kept)
    assert {name.partition(".")[0] for name in kept} == {"a" * 16, "b" * 16}


def test_garbage_is_what_no_root_names_and_what_was_set_aside_goes_too(tmp_path: Path):
    store = Store(tmp_path / "store", tmp_path / "tmp", StatCache(None))
    keep, go, alone = "ab" + "1" * 62, "ab" + "2" * 62, "cd" + "3" * 62
    for fingerprint in (keep, go, alone):
        (store.path(fingerprint) / "out").mkdir(parents=True)
        (store.path(fingerprint) / "result.json").write_text("{}")
    for kind in ("damaged", "conflicts", "locks", "last"):
        (store.folder / kind).mkdir()
    assert [path.name for path in store.entries()] == [keep, go, alone]
    assert store.collect_garbage({keep}) == [go, alone]
    assert sorted(path.name for path in store.folder.iterdir()) == ["ab", "last"]
    assert [path.name for path in (store.folder / "ab").iterdir()] == [keep]
