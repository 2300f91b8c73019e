"""The runner: equal work is not done twice, an edit reruns what it reaches, a failure loses nothing."""

from __future__ import annotations

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from _graph_cases import Bench, image

from repro.base.errors import CouldNotRun, EngineUnavailable, NonDeterministicResult, StageFailed, UsageError
from repro.base.imports import Modules
from repro.container.job import Outcome
from repro.graph.cache import StatCache
from repro.graph.code import read_code
from repro.graph.keys import difference
from repro.graph.local import may_run_beside
from repro.graph.pipeline import Node, Source
from repro.images.coming import ComingImages
from repro.machine.facts import Given, Machine
from repro.run.engine_when_needed import EngineWhenNeeded


def write_name(job, out: Path, obs: Path, on_line) -> int:
    (out / "result").write_bytes(job.name.encode())
    (obs / "time").write_text("now")
    on_line("stderr", '@progress {"done": 1, "total": 1, "what": "x"}')
    return 0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, write_name)


def test_every_node_runs_once_and_the_second_run_runs_none(bench: Bench):
    done = bench.runner().run(bench.nodes())
    assert bench.engine.ran == ["first", "second"]
    assert [item.cached for item in done.values()] == [False, False]
    again = bench.runner().run(bench.nodes())
    assert bench.engine.ran == ["first", "second"]
    assert [item.cached for item in again.values()] == [True, True]
    assert bench.engine.prepared == ["base"]


def test_an_edit_of_a_module_reruns_the_stages_that_import_it_and_no_more(bench: Bench):
    bench.runner().run(bench.nodes())
    (bench.stages / "_shared.py").write_text("X = 2\n")
    bench.runner().run(bench.nodes())
    # `second` is not run: `first` gave the same bytes, and `second` depends on content.
    assert bench.engine.ran == ["first", "second", "first"]


def test_other_data_reruns_what_reads_it(bench: Bench):
    bench.runner().run(bench.nodes())
    (bench.data / "wave").write_bytes(b"Speech")
    bench.runner().run(bench.nodes())
    assert bench.engine.ran == ["first", "second", "first"]


def test_another_image_reruns_everything_made_in_it(bench: Bench):
    bench.runner().run(bench.nodes())
    bench.images["base"] = image(config_digest="sha256:" + "9" * 64)
    bench.runner().run(bench.nodes())
    assert bench.engine.ran == ["first", "second", "first", "second"]


def test_a_parameter_reruns_the_stage_that_takes_it(bench: Bench):
    bench.runner().run(bench.nodes())
    nodes = bench.nodes()
    nodes["second"] = replace(nodes["second"], parameters={"bs": "16"})
    bench.runner().run(nodes)
    assert bench.engine.ran == ["first", "second", "second"]


def test_a_speed_is_never_taken_from_another_machine(bench: Bench):
    nodes = bench.nodes(host_bound=True)
    bench.runner().run(nodes)
    bench.machine = Machine("amd64 test", "another machine")
    bench.runner().run(nodes)
    assert bench.engine.ran.count("first") == 2


def test_a_forced_node_runs_again_and_must_agree(bench: Bench):
    bench.runner().run(bench.nodes())
    done = bench.runner().run(bench.nodes(), force={"first"})
    assert bench.engine.ran == ["first", "second", "first"]
    assert not done["first"].cached


def test_a_forced_node_that_gives_other_bytes_is_reported(bench: Bench):
    bench.runner().run(bench.nodes())
    bench.engine.behave = lambda job, out, obs, on_line: (out / "result").write_bytes(b"other") and 0
    with pytest.raises(NonDeterministicResult):
        bench.runner().run(bench.nodes(), force={"first"})


def test_a_refused_input_is_shown_with_the_stage_s_own_words(bench: Bench):
    def refuse(job, out, obs, on_line):
        on_line("stderr", "hint: mend the file")
        on_line("stderr", "error: utterance FADG0_SX52: the wave is truncated")
        return 3

    bench.engine.behave = refuse
    with pytest.raises(StageFailed) as caught:
        bench.runner().run(bench.nodes())
    assert caught.value.message == "stage first: utterance FADG0_SX52: the wave is truncated"
    assert caught.value.hint == "mend the file"
    assert bench.engine.ran == ["first"]
    assert list(bench.store().entries()) == []
    log = (bench.root / "artifacts" / "logs" / "first.log").read_text()
    assert "the wave is truncated" in log


def test_the_last_node_s_failure_is_raised_too(bench: Bench):
    def refuse_second(job, out, obs, on_line):
        if job.name == "second":
            on_line("stderr", "error: no")
            return 3
        return write_name(job, out, obs, on_line)

    bench.engine.behave = refuse_second
    with pytest.raises(StageFailed, match="stage second: no"):
        bench.runner().run(bench.nodes())


def test_a_crash_shows_the_log_s_end_and_where_the_log_is(bench: Bench):
    def crash(job, out, obs, on_line):
        for line in ("Traceback (most recent call last):", "ZeroDivisionError"):
            on_line("stderr", line)
        return 1

    bench.engine.behave = crash
    with pytest.raises(StageFailed, match="exit code 1") as caught:
        bench.runner().run(bench.nodes())
    assert "ZeroDivisionError" in caught.value.detail
    assert "first.log" in caught.value.detail


def test_an_engine_that_dies_leaves_nothing_half_written(bench: Bench):
    def die(job, out, obs, on_line):
        (out / "half").write_bytes(b"x")
        raise ConnectionError("the daemon went away")

    bench.engine.behave = die
    with pytest.raises(ConnectionError):
        bench.runner().run(bench.nodes())
    assert list(bench.store().entries()) == []
    assert list((bench.root / "artifacts" / "tmp").iterdir()) == []


def test_a_stage_over_its_time_is_said_to_be(bench: Bench, monkeypatch):
    monkeypatch.setattr(bench.engine, "run", lambda job, on_line: Outcome(137, True, 9.0, {}))
    with pytest.raises(StageFailed, match="longer than its limit") as error:
        bench.runner().run(bench.nodes())
    assert "BUNDLE_TIME_FACTOR" in error.value.hint


def test_limits_of_time_are_as_many_times_as_long_as_the_user_of_a_slow_machine_says(bench: Bench, monkeypatch):
    given = []
    real = bench.engine.run

    def run(job, on_line):
        given.append(job.limits.timeout_s)
        return real(job, on_line)

    monkeypatch.setattr(bench.engine, "run", run)
    before = {key: done.result.fingerprint for key, done in bench.runner().run(bench.nodes()).items()}
    shutil.rmtree(bench.root / "artifacts" / "store")
    monkeypatch.setenv("BUNDLE_TIME_FACTOR", "2.5")
    slowly = bench.runner().run(bench.nodes())
    half = len(given) // 2
    assert sorted(given[half:]) == sorted(2.5 * limit_s for limit_s in given[:half])
    assert {key: done.result.fingerprint for key, done in slowly.items()} == before, "no result depends on it"


@pytest.mark.parametrize("text", ["fast", "0", "-1", "0.5", "nan", "inf", "1001"])
def test_a_factor_of_time_that_is_none_is_wrong_use(bench: Bench, monkeypatch, text):
    monkeypatch.setenv("BUNDLE_TIME_FACTOR", text)
    with pytest.raises(UsageError, match="from 1 to 1000"):
        bench.runner().run(bench.nodes())


def test_independent_nodes_run_at_the_same_time_and_whole_machine_nodes_alone(tmp_path: Path):
    together = threading.Barrier(2, timeout=20)

    def meet(job, out, obs, on_line):
        together.wait()
        return write_name(job, out, obs, on_line)

    bench = Bench(tmp_path, meet)
    first = bench.nodes()["first"]
    nodes = {"first": first, "twin": replace(first, key="twin", parameters={"x": "1"})}
    bench.runner().run(nodes)
    assert sorted(bench.engine.ran) == ["first", "twin"]

    running, most = set(), []

    def alone(job, out, obs, on_line):
        running.add(job.name)
        most.append(len(running))
        running.discard(job.name)
        return write_name(job, out, obs, on_line)

    (tmp_path / "alone").mkdir()
    bench = Bench(tmp_path / "alone", alone)
    first = bench.nodes(whole_machine=True)["first"]
    bench.runner().run({"first": first, "twin": replace(first, key="twin", parameters={"x": "1"})})
    assert most == [1, 1]


def test_the_key_names_what_changed(bench: Bench):
    old = {"image": "a", "code": "b", "argv": ["x"], "inputs": {"data": "1", "conf": "2"}}
    new = {"image": "z", "code": "b", "argv": ["y"], "inputs": {"data": "1", "conf": "3"}}
    assert difference(old, new) == ["image changed", "parameters changed", "input conf changed"]


def test_the_code_digest_covers_exactly_the_import_closure(bench: Bench):
    assert sorted(read_code(bench.root, "first").files) == [
        "stages/__init__.py",
        "stages/_shared.py",
        "stages/first.py",
    ]
    assert sorted(read_code(bench.root, "second").files) == ["stages/__init__.py", "stages/second.py"]


def test_a_stage_runs_from_a_snapshot_and_not_from_the_live_tree(bench: Bench):
    seen = []

    def look(job, out, obs, on_line):
        (bench.stages / "first.py").write_text("raise SystemExit\n")
        code = next(mount.source for mount in job.mounts if mount.target == "/run/code")
        seen.append((code / "stages" / "first.py").read_text())
        return write_name(job, out, obs, on_line)

    bench.engine.behave = look
    bench.runner().run({"first": bench.nodes()["first"]})
    assert seen == ["from stages import _shared\n"]


def test_the_stored_key_is_the_whole_account(bench: Bench):
    done = bench.runner().run(bench.nodes())
    document = json.loads((done["second"].result.folder / "result.json").read_bytes())
    assert document["key"]["argv"][:3] == ["/usr/bin/python3", "-m", "stages.second"]
    assert document["key"]["inputs"] == {"before": done["first"].result.output_digest}


def test_an_engine_is_chosen_only_when_a_stage_runs(bench: Bench):
    bench.runner().run(bench.nodes())
    asked = []
    bench.engine = EngineWhenNeeded(lambda: asked.append(1))
    bench.runner().run(bench.nodes())
    assert asked == []
    assert bench.engine.choice is None


def test_an_engine_that_cannot_be_used_is_an_error_of_the_run_that_needs_it(bench: Bench):
    def refuse():
        raise EngineUnavailable("there is none")

    bench.engine = EngineWhenNeeded(refuse)
    with pytest.raises(EngineUnavailable, match="there is none"):
        bench.runner().run(bench.nodes())
    assert list((bench.root / "artifacts" / "tmp").glob("*")) == []


@pytest.mark.parametrize("gigabytes, together", [(16, True), (15, False), (1, False)])
def test_stages_run_side_by_side_as_far_as_memory_goes(bench: Bench, gigabytes: int, together: bool):
    nodes = bench.nodes(memory_bytes=8 * 1024**3)
    first, second = nodes["first"], replace(nodes["second"], inputs={})
    given = Given(cores=4, memory_bytes=gigabytes * 1024**3)
    assert may_run_beside([], first, given)
    assert may_run_beside([first], second, given) is together


def test_a_stage_of_the_whole_machine_runs_alone(bench: Bench):
    whole, single = bench.nodes(whole_machine=True, memory_bytes=1)["first"], bench.nodes(memory_bytes=1)["first"]
    given = Given(cores=4, memory_bytes=16 * 1024**3)
    assert may_run_beside([], whole, given) and may_run_beside([single], single, given)
    assert not may_run_beside([single], whole, given) and not may_run_beside([whole], single, given)


def test_making_an_image_ready_is_no_part_of_a_stage_s_time(bench: Bench):
    runner = bench.runner()
    done = runner.run(bench.nodes())
    assert [item.image for item in runner.preparations] == ["base"]
    ready_s = runner.preparations[0].started_s + runner.preparations[0].seconds
    assert done["first"].started_s >= ready_s
    assert done["second"].started_s >= done["first"].started_s + done["first"].seconds


def test_what_a_module_imports_is_remembered_by_its_content_and_a_run_reads_it_once(bench: Bench):
    cache = StatCache(bench.root / "digests.sqlite")
    before = read_code(bench.root, "first", Modules(bench.root, cache))
    assert read_code(bench.root, "first", Modules(bench.root, cache)) == before == read_code(bench.root, "first")
    seen = Modules(bench.root, cache)
    read_code(bench.root, "first", seen)
    (bench.stages / "_other.py").write_text("Y = 1\n")
    (bench.stages / "_shared.py").write_text("from stages import _other\n")
    assert read_code(bench.root, "first", seen) == before
    assert "stages/_other.py" in read_code(bench.root, "first", Modules(bench.root, cache)).files


def test_images_of_steps_never_run_before_are_made_ready_while_the_first_one_runs(bench: Bench):
    ready = threading.Event()
    bench.images["late"] = image("late", "sha256:" + "3" * 64)
    nodes = bench.nodes()
    nodes["second"] = replace(nodes["second"], stage=replace(nodes["second"].stage, image="late"))
    prepare = bench.engine.prepare
    bench.engine.prepare = lambda image: (prepare(image), image.name == "late" and ready.set())

    def behave(job, out, obs, on_line):
        assert ready.wait(30)  # the first stage ends only when the second one's image is ready
        return write_name(job, out, obs, on_line)

    bench.engine.behave = behave
    bench.runner().run(nodes)
    assert sorted(bench.engine.prepared) == ["base", "late"]
    bench.engine.prepared.clear()
    (bench.stages / "_shared.py").write_text("X = 2\n")
    bench.runner().run(nodes)
    assert bench.engine.prepared == ["base"]  # `second` has a result, which is taken: nothing is loaded for it


def test_no_image_is_made_ready_beside_a_measurement_that_is_the_first_to_start(bench: Bench, monkeypatch):
    """Which stages were still to come when images were made ready ahead."""
    ahead = []
    runner = bench.runner()
    monkeypatch.setattr(
        runner._executor, "_prepare_ahead", lambda waiting: ahead.append([node.key for node in waiting])
    )
    runner.run(bench.nodes(host_bound=True))
    assert ahead == [[]]  # with `second`, which runs after the measurement


def test_an_image_that_cannot_be_made_ready_is_the_error_of_the_stage_that_needs_it(bench: Bench):
    bench.images["late"] = image("late", "sha256:" + "3" * 64)
    nodes = bench.nodes()
    nodes["second"] = replace(nodes["second"], stage=replace(nodes["second"].stage, image="late"))

    def prepare(image):
        if image.name == "late":
            raise CouldNotRun("no space for late")

    bench.engine.prepare = prepare
    with pytest.raises(CouldNotRun, match="no space for late"):
        bench.runner().run(nodes)
    assert bench.engine.ran == ["first"]


def test_the_closure_covers_packages_and_relative_imports_of_any_level(bench: Bench):
    for path, text in {
        "first.py": "from stages.model import network\n",
        "model/__init__.py": "from . import face\n",
        "model/face.py": "",
        "model/network.py": "from .kernels.products import multiply\n",
        "model/kernels/__init__.py": "",
        "model/kernels/products.py": "from ...shared import stage\nfrom .. import numbers\nfrom ... import _top\n",
        "model/numbers.py": "",
        "model/untouched.py": "",
        "shared/__init__.py": "",
        "shared/stage.py": "import stages.formats.bins\n",
        "formats/__init__.py": "",
        "formats/bins.py": "",
        "_top.py": "",
    }.items():
        (bench.stages / path).parent.mkdir(parents=True, exist_ok=True)
        (bench.stages / path).write_text(text)
    assert sorted(read_code(bench.root, "first").files) == [
        "stages/__init__.py",
        "stages/_top.py",
        "stages/first.py",
        "stages/formats/__init__.py",
        "stages/formats/bins.py",
        "stages/model/__init__.py",
        "stages/model/face.py",
        "stages/model/kernels/__init__.py",
        "stages/model/kernels/products.py",
        "stages/model/network.py",
        "stages/model/numbers.py",
        "stages/shared/__init__.py",
        "stages/shared/stage.py",
    ]


def test_one_content_in_two_packages_imports_two_things(bench: Bench, tmp_path: Path):
    for path, text in {
        "first.py": "from stages.a import x\nfrom stages.b import x as y\n",
        "a/__init__.py": "", "a/x.py": "from . import z\n", "a/z.py": "A = 1\n",
        "b/__init__.py": "", "b/x.py": "from . import z\n", "b/z.py": "B = 1\n",
    }.items():  # fmt: skip
        (bench.stages / path).parent.mkdir(parents=True, exist_ok=True)
        (bench.stages / path).write_text(text)
    cache = StatCache(tmp_path / "cache.sqlite")
    files = read_code(bench.root, "first", Modules(bench.root, cache)).files
    assert {"stages/a/z.py", "stages/b/z.py"} <= set(files)


def test_a_name_that_begins_like_a_stage_is_no_stage(bench: Bench):
    with pytest.raises(UsageError, match="no stage"):
        read_code(bench.root, "firs")


def test_a_run_that_goes_on_gives_up_only_what_needs_the_failed_step(bench: Bench):
    def refuse_first(job, out, obs, on_line):
        if job.name == "first":
            on_line("stderr", "error: no")
            return 3
        return write_name(job, out, obs, on_line)

    bench.engine.behave = refuse_first
    nodes = bench.nodes()
    nodes["other"] = replace(nodes["second"], key="other", inputs={"data": nodes["first"].inputs["data"]})
    done, failed = bench.runner().run_what_can(nodes)
    assert list(done) == ["other"]
    assert sorted(failed) == ["first", "second"]
    assert failed["second"] is failed["first"]
    assert isinstance(failed["first"], StageFailed)
    assert sorted(bench.engine.ran) == ["first", "other"]


def test_a_run_that_goes_on_passes_over_an_input_that_cannot_be_read(bench: Bench):
    nodes = bench.nodes()
    nodes["other"] = replace(nodes["first"], key="other", inputs={"data": Source("data", bench.root / "gone")})
    done, failed = bench.runner().run_what_can(nodes)
    assert sorted(done) == ["first", "second"]
    assert list(failed) == ["other"]


def test_a_defect_ends_a_run_that_goes_on(bench: Bench):
    def broken(job, out, obs, on_line):
        raise TypeError("a defect")

    bench.engine.behave = broken
    with pytest.raises(TypeError):
        bench.runner().run_what_can(bench.nodes())


def test_a_second_measurement_is_no_stored_one_and_is_stored_itself(bench: Bench):
    nodes = bench.nodes(host_bound=True)
    bench.runner().run(nodes)
    again = {**nodes, "first": replace(nodes["first"], sample="repeat 2")}
    bench.runner().run(again)
    assert bench.engine.ran == ["first", "second", "first"]
    bench.runner().run(again)
    assert bench.engine.ran == ["first", "second", "first"]


def in_late_image(bench: Bench) -> dict[str, Node]:
    """The bench's nodes, of which `second` runs in an image of its own."""
    nodes = bench.nodes()
    return {**nodes, "second": replace(nodes["second"], stage=replace(nodes["second"].stage, image="late"))}


def coming(make, stop=lambda _: None) -> ComingImages:
    return ComingImages(["base", "late"], make, stop)


def test_a_stage_starts_when_its_own_image_is_ready_and_others_are_still_made(bench: Bench):
    first_runs = threading.Event()

    def make(ready):
        ready(image())
        assert first_runs.wait(30)  # the second image comes only once the first stage is at work
        ready(image("late", "sha256:" + "3" * 64))

    def behave(job, out, obs, on_line):
        first_runs.set()
        return write_name(job, out, obs, on_line)

    bench.engine.behave, bench.images = behave, coming(make)
    done = bench.runner().run(in_late_image(bench))
    assert bench.engine.ran == ["first", "second"] and done["second"].result.key["image"] == "sha256:" + "3" * 64
    assert bench.engine.prepared.count("late") >= 1


def test_an_image_that_cannot_be_made_ends_the_run_and_what_ran_meanwhile_is_kept(bench: Bench):
    started, failed = threading.Event(), threading.Event()

    def make(ready):
        ready(image())
        assert started.wait(30)
        failed.set()
        raise CouldNotRun("no network for late")

    def behave(job, out, obs, on_line):
        started.set()
        assert failed.wait(30)
        return write_name(job, out, obs, on_line)

    bench.engine.behave, bench.images = behave, coming(make)
    with pytest.raises(CouldNotRun, match="no network for late"):
        bench.runner().run_what_can(in_late_image(bench))
    bench.images = {"base": image(), "late": image("late", "sha256:" + "3" * 64)}
    bench.runner().run(in_late_image(bench))
    assert bench.engine.ran == ["first", "second"]


def test_no_speed_is_measured_while_images_are_made(bench: Bench):
    over = []

    def make(ready):
        ready(image())
        ready(image("late", "sha256:" + "3" * 64))
        time.sleep(0.2)
        over.append("over")

    def behave(job, out, obs, on_line):
        if job.name == "second":
            assert over == ["over"]
        return write_name(job, out, obs, on_line)

    bench.engine.behave, bench.images = behave, coming(make)
    nodes = in_late_image(bench)
    nodes["second"] = replace(nodes["second"], stage=replace(nodes["second"].stage, host_bound=True))
    bench.runner().run(nodes)
    assert bench.engine.ran == ["first", "second"]


def test_a_run_that_fails_has_no_more_images_made(bench: Bench):
    told: list[BaseException] = []
    stopped = threading.Event()

    def make(ready):
        ready(image())
        assert stopped.wait(30)

    bench.images = coming(make, lambda error: (told.append(error), stopped.set()))
    bench.engine.behave = lambda *_: 3
    with pytest.raises(StageFailed) as caught:
        bench.runner().run(bench.nodes())
    assert told == [caught.value]


@pytest.mark.parametrize("on_their_way", [True, False])
def test_an_image_that_nobody_makes_is_a_defect_and_not_waited_for(bench: Bench, on_their_way: bool):
    bench.images = ComingImages(["base"], lambda ready: ready(image()), lambda _: None)
    if not on_their_way:
        bench.images = dict(bench.images.finish())
    with pytest.raises(KeyError, match="late"):
        bench.runner().run(in_late_image(bench))
