"""Slurm: what a site says, what its commands print, what a job asks for, and how its end is told."""

from __future__ import annotations

import errno
import os
import shutil
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
from _cluster_cases import FakeSlurm
from _graph_cases import Bench, SilentWatcher

from repro.base import typed_json
from repro.base.errors import CouldNotRun, StageFailed, UsageError, VerificationFailed
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.cluster import slurm
from repro.cluster.ending import EXIT_BY_ERRNO, collected, error_of_slurm, error_told, exit_code_of
from repro.cluster.executor import SlurmExecutor
from repro.cluster.local import own_folder
from repro.cluster.resources import Cluster, choose_node, resources
from repro.cluster.settings import Settings, load_settings
from repro.cluster.slurm import JobState, Slurm, seconds
from repro.cluster.submitter import Place
from repro.cluster.task_file import Ended, ImageFile, TaskFile, image_file, read_ended, read_task, written
from repro.container.image import Layer
from repro.fetching.site import Site, load_site
from repro.graph.executor import Task
from repro.graph.made_on import MadeOn
from repro.graph.making import Surroundings
from repro.graph.pipeline import STAGES, Node, Output, Source
from repro.graph.runner import Runner
from repro.images.oci import compute_image
from repro.machine.facts import Given
from repro.run.cluster import ClusterOfRun
from repro.run.on_node import given_here, start_of

HERE = MadeOn(identity="x cpu", cpu="a cpu", cores=2, instruction_set="amd64 x", memory_bytes=1)


# what a site says


def test_a_site_file_sets_what_the_environment_does_not(tmp_path: Path):
    (tmp_path / "site.toml").write_text('[slurm]\npartition = "npu"\naccount = "lab"\nmost_jobs = 7\nnames = true\n')
    found = load_settings(tmp_path / "site.toml", {"SLURM_PARTITION": "debug", "SLURM_SHARED": "/srv"})
    assert found == Settings(partition="debug", account="lab", most_jobs=7, names=True, shared="/srv")
    assert load_settings(tmp_path / "none.toml", {}) == Settings()
    assert load_site(tmp_path / "site.toml") == Site()  # where bytes come from is another matter


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("partitions = 'x'", "unknown 'partitions'"),
        ("most_jobs = '7'", "must be a whole number"),
        ("most_jobs = true", "must be a whole number"),
        ("names = 1", "must be true or false"),
        ("most_jobs = 0", "1 or more"),
        ("local = 'relative'", "absolute"),
    ],
)
def test_what_a_site_file_cannot_say_is_wrong_use(tmp_path: Path, line: str, said: str):
    (tmp_path / "site.toml").write_text(f"[slurm]\n{line}\n")
    with pytest.raises(UsageError, match=said):
        load_settings(tmp_path / "site.toml", {})


def test_the_example_of_a_site_file_names_every_setting():
    text = (Path(__file__).parents[2] / "conf" / "site.example.toml").read_text()
    lines = [line.lstrip("# ") for line in text.partition("[slurm]")[2].splitlines()]
    assert {line.partition(" ")[0] for line in lines if " = " in line} == set(vars(Settings()))


def test_a_run_on_a_cluster_needs_a_shared_folder_with_checkout_results_and_inputs_below_it(tmp_path: Path):
    paths = Paths(tmp_path / "checkout", tmp_path / "elsewhere" / "results")
    (paths.root / "conf").mkdir(parents=True)
    with pytest.raises(UsageError, match="names no folder"):
        ClusterOfRun(paths, print, {})
    with pytest.raises(UsageError, match="the folder of results lies outside"):
        ClusterOfRun(paths, print, {"SLURM_SHARED": str(paths.root)})
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(UsageError, match="the checkout lies outside"):
        ClusterOfRun(Paths(tmp_path / "link" / "usr"), print, {"SLURM_SHARED": str(tmp_path)})
    site = ClusterOfRun(paths, print, {"SLURM_SHARED": str(tmp_path), "SLURM_LOCAL": str(tmp_path / "own")})
    graph = Bench.nodes(_with_data(Path("/etc")))
    with pytest.raises(UsageError, match="data lies outside"):
        site.check_sources(graph.values())


def _with_data(path: Path) -> Bench:
    bench = Bench.__new__(Bench)
    bench.data = path
    return bench


def test_a_folder_on_a_node_s_disk_that_others_can_change_is_refused(tmp_path: Path):
    made = own_folder(tmp_path / "own")
    assert made == own_folder(tmp_path / "own") and made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o777)
    with pytest.raises(CouldNotRun, match="not this user's own"):
        own_folder(tmp_path / "own")
    made.rmdir()
    made.symlink_to(tmp_path)
    with pytest.raises(CouldNotRun, match="not this user's own"):
        own_folder(tmp_path / "own")


# what Slurm's commands print


@pytest.mark.parametrize(
    ("text", "found"),
    [("30:00", 1800.0), ("1:00:00", 3600.0), ("2-00:00:00", 172800.0), ("infinite", None), ("n/a", None)],
)
def test_a_time_as_slurm_prints_it(text: str, found: float | None):
    assert seconds(text) == found


@pytest.fixture
def fake(tmp_path: Path, monkeypatch) -> FakeSlurm:
    (tmp_path / "slurm").mkdir()
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


def test_nodes_are_the_default_partition_s_by_number(fake: FakeSlurm):
    fake.says("sinfo", (fake.folder / "sinfo.out").read_text() + "fat1|64|900000|(null)|idle|infinite|fat\n")
    nodes = Slurm().nodes("")
    assert [node.name for node in nodes] == ["node1", "node2", "node10"]
    assert [node.up for node in nodes] == [True, True, False]
    assert (nodes[1].cores, nodes[1].memory_bytes, nodes[1].limit_s) == (8, 32000 << 20, 86400.0)
    assert choose_node(nodes, "") == "node1" and choose_node(nodes, "node2") == "node2"
    with pytest.raises(CouldNotRun, match=r"node10.* is down\*"):
        choose_node(nodes, "node10")
    with pytest.raises(CouldNotRun, match="names node9, which is no node"):
        choose_node(nodes, "node9")
    with pytest.raises(CouldNotRun, match=r"no node of the partition is up: node10 is down\*"):
        choose_node(nodes[2:], "")


def test_a_refusal_of_slurm_is_told_in_its_words_and_a_controller_that_is_away_is_asked_again(
    fake: FakeSlurm, monkeypatch
):
    fake.says(
        "sbatch", "", error="sbatch: error: invalid partition specified: x\nsbatch: error: Batch job failed\n", code=1
    )
    with pytest.raises(CouldNotRun, match="Batch job failed") as caught:
        Slurm().submit("#!/bin/sh\n", [])
    assert "invalid partition" in caught.value.detail
    fake.says("squeue", "", error="slurm_load_jobs error: Unable to contact slurm controller (connect failure)", code=1)
    said: list[str] = []
    monkeypatch.setattr(slurm, "_RETRY_S", 0.0)
    with pytest.raises(CouldNotRun, match="Unable to contact"):
        Slurm(said.append, contact_s=2.0).jobs(0)
    assert len(fake.asked("squeue")) > 1 and len(said) == 1


def test_a_host_without_slurm_is_told_what_is_missing(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CouldNotRun, match="sinfo, which is not here"):
        Slurm().nodes("")


# what a job asks for


def asked_for(name: str, fake: FakeSlurm, excluded: tuple[str, ...] = (), **settings: object) -> list[str]:
    nodes = tuple(Slurm().nodes(""))
    cluster = Cluster(replace(Settings(), **settings), nodes, "node2")
    return list(resources(Node("x", STAGES[name], {}, {"num-devices": "2"}), cluster, excluded))


def test_a_job_asks_for_what_its_stage_declares(fake: FakeSlurm):
    small = asked_for("batches", fake, partition="p", account="lab")
    assert {"--cpus-per-task=1", "--mem=8192M", "--time=75", "--requeue", "--partition=p", "--account=lab"} <= set(
        small
    )
    assert not any(word.startswith(("--gres", "--exclusive", "--nodelist", "--exclude")) for word in small)
    whole = asked_for("reference", fake, ("node2",))  # on every node that is up: the smallest has four cores
    assert {"--cpus-per-task=4", "--time=255", "--exclude=node2"} <= set(whole)
    timed = asked_for("measure", fake, ("node2",))
    assert {"--exclusive", "--nodelist=node2", "--mem=0"} <= set(timed)
    assert not any(word.startswith(("--cpus", "--exclude")) for word in timed)
    assert "--gres=npu:2" in asked_for("infer_npu", fake)
    assert "--gres=ascend:2" in asked_for("measure_npu", fake, gres="ascend")


def test_no_job_asks_for_more_than_a_node_has_or_the_site_allows(fake: FakeSlurm):
    fake.says("sinfo", "node1|4|4000|(null)|idle|30:00|p*\n")
    assert {"--mem=3600M", "--time=30"} <= set(asked_for("convert_npu", fake))
    assert "--time=20" in asked_for("convert_npu", fake, minutes=20)


# tasks, and how they end


def an_image(folder: Path):
    data = b"tar"
    path = folder / sha256_bytes(data)
    path.write_bytes(data)
    layer = Layer("files:x", "files", f"sha256:{path.name}", len(data), path, "sha256:" + "b" * 64)
    return compute_image("base", "amd64", [layer], {}, "3.11", "")


def test_an_image_in_a_task_has_the_digests_of_what_it_says(tmp_path: Path):
    image = an_image(tmp_path)
    assert image_file(image).image(tmp_path) == image
    other = image_file(image).__class__(
        **{name: getattr(image_file(image), name) for name in ImageFile.__struct_fields__ if name != "layers"},
        layers=(),
    )
    with pytest.raises(VerificationFailed, match="names other layers"):
        other.image(tmp_path)


def test_a_task_carries_every_part_of_its_node(made: Fixture):
    """All that a node of the graph has: a part that a task leaves out would give the result another key."""
    node = Node(
        "x+2",
        replace(STAGES["measure_npu"], image="base"),
        {"a": Source("a", made.bench.data), "b": Output("first", "below")},
        {"bs": "8"},
        8,
        "repeat 2",
    )
    assert not any(getattr(node, item.name) == item.default for item in fields(Node))
    made.make()
    before = made.bench.store().load(made.bench.store().last_of("first") or "")
    document = made.runner()._executor._document(Task(node, {}, {"first": before}, forced=True))
    again = typed_json.read(written(document), TaskFile, what="task")
    assert again.graph_node() == node and again.fingerprints() == {"first": before.fingerprint} and again.forced


def test_the_last_start_of_a_job_tells_how_it_ended(tmp_path: Path):
    for start, outcome in ((0, "failed"), (10, "made"), (9, "failed")):
        (tmp_path / f"7.{start}.json").write_bytes(written(Ended(outcome=outcome, machine=HERE)))
    (tmp_path / "77.0.json").write_bytes(b"{}")
    ended = read_ended(tmp_path, "7")
    assert ended is not None and ended.outcome == "made"
    assert read_ended(tmp_path, "8") is None


@pytest.mark.parametrize("after", ["before it is listed", "before it is read"])
def test_a_job_s_folder_that_another_submitter_removes_meanwhile_tells_nothing(tmp_path: Path, monkeypatch, after: str):
    """Two submitters wait for one job; the first to see its end takes the result and removes the folder."""
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "7.0.json").write_bytes(written(Ended(outcome="made", machine=HERE)))
    real = os.listdir

    def listdir(path):
        names = real(path) if after == "before it is read" else None
        shutil.rmtree(folder)
        return real(path) if names is None else names

    monkeypatch.setattr(os, "listdir", listdir)
    assert read_ended(folder, "7") is None


def test_an_error_on_a_node_is_raised_here_as_its_own_kind():
    told = Ended(outcome="failed", machine=HERE, error=("what", "detail", "hint"), code=3)
    error = error_told(told)
    assert isinstance(error, VerificationFailed) and (error.message, error.hint) == ("what", "hint")
    assert isinstance(error_told(Ended(outcome="failed", machine=HERE, code=4)), StageFailed)


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        ("TIMEOUT", 0, "at its time limit"),
        ("OUT_OF_MEMORY", 0, "for memory"),
        ("NODE_FAIL", 0, "node7 failed while it ran there"),
        ("CANCELLED", 0, "cancelled"),
        ("FAILED", 9, "without a word: failed, exit code 9"),
        ("FAILED", exit_code_of(OSError(errno.ENOSPC, "")), "the shared folder cannot be written: No space left"),
        ("FAILED", exit_code_of(OSError(errno.EDQUOT, "")), "the shared folder cannot be written: No space left"),
    ],
)
def test_a_job_that_ended_without_a_word_is_explained(tmp_path: Path, state: str, code: int, said: str):
    log = tmp_path / "7.log"
    log.write_text("the end of it")
    task = Task(Node("infer@8", STAGES["infer"], {}), {}, {}, forced=False)
    error = error_of_slurm(task, "7", JobState(state, "node7"), code, log)
    assert said in error.message and "infer@8 (job 7 on node7)" in error.message and error.hint
    assert code > EXIT_BY_ERRNO or error.detail == "the end of it"


def test_what_slurm_gave_a_job_bounds_what_its_stage_takes():
    whole = given_here({})
    assert given_here({"SLURM_CPUS_ON_NODE": "1", "SLURM_MEM_PER_NODE": "100"}) == Given(1, 100 << 20)
    assert given_here({"SLURM_CPUS_ON_NODE": "many", "SLURM_MEM_PER_NODE": "0"}) == whole


def test_starts_of_a_job_are_told_apart():
    assert start_of({"SLURM_JOB_ID": "7"}) == ("7", "0")
    of_array = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "2"}
    assert start_of(of_array) == ("7_3", "2")


# the executor, with a queue that says what a test wants


def write_name(job, out: Path, obs: Path, on_line) -> int:
    (out / "result").write_bytes(job.name.encode())
    return 0


class Fixture:
    """An executor on a bench whose jobs this process makes, when the queue is said to have run them."""

    def __init__(self, root: Path, fake: FakeSlurm) -> None:
        self.bench, self.fake, self.said = Bench(root, write_name), fake, []
        self.bench.shared = True
        self.bench.images["base"] = an_image(root)
        self.watcher = SilentWatcher()
        self.watcher.moved = lambda key, where: self.said.append(f"{key} {where}")
        self.folder = root / "artifacts" / "cluster"

    def runner(self, **place: object) -> Runner:
        nodes = tuple(Slurm().nodes(""))
        around = Surroundings(
            self.bench.root / "artifacts" / "code", self.bench.root / "logs", self.watcher, Given(1, 1)
        )
        values = {
            "python": "python3", "root": self.bench.root, "folder": self.folder, "engine": "sandbox",
            "sandbox": an_image(self.bench.root), "accelerator": "", "run": "today", "leave": False, **place,
        }  # fmt: skip
        keys, store = self.bench.keys_of(), self.bench.store()
        cluster = Cluster(Settings(), nodes, "node1")
        executor = SlurmExecutor(Slurm(), cluster, Place(**values), keys, store, around, self.said.append)
        return Runner(executor, keys, store, around)

    def numbers(self, *numbers: str) -> None:
        """sbatch gives these, one after the other."""
        script = self.fake.folder / "bin" / "sbatch"
        text = script.read_text().rpartition("exit")[0]
        listed = " ".join(numbers)
        count = self.fake.folder / "count"
        script.write_text(
            f"{text}n=$(cat {count} 2>/dev/null || echo 1); echo $((n + 1)) > {count}; set -- {listed}; "
            f"shift $((n - 1)); echo $1\n"
        )

    def of_another(self, number: str) -> tuple[Task, Path]:
        """The first step and its folder, for which another submitter's job runs."""
        node = self.bench.nodes()["first"]
        task = Task(node, self.bench.keys_of().key(node, {}), {}, forced=False)
        folder = self.folder / task.fingerprint
        folder.mkdir(parents=True)
        (folder / "job").write_text(number)
        self.fake.says("squeue", f"{number}|RUNNING|node1|None\n")
        return task, folder

    def make(self) -> None:
        """What the nodes do: every step of the graph is made."""
        self.bench.runner().run(self.bench.nodes())


@pytest.fixture
def made(tmp_path: Path, fake: FakeSlurm, monkeypatch) -> Fixture:
    from repro.cluster import executor

    monkeypatch.setattr(executor, "_POLL_S", 0.05)
    monkeypatch.setattr(executor, "_GATHER_S", 0.05)
    (tmp_path / "bench").mkdir()
    return Fixture(tmp_path / "bench", fake)


def test_a_result_that_another_made_meanwhile_is_taken_and_no_job_submitted(made: Fixture, monkeypatch):
    made.make()
    looked = []
    real = type(made.bench.store()).load

    def load(self, fingerprint):
        looked.append(fingerprint)
        return None if len(looked) == 1 else real(self, fingerprint)  # the runner sees nothing, the executor does

    monkeypatch.setattr("repro.graph.store.Store.load", load)
    done = made.runner().run({"first": made.bench.nodes()["first"]})
    assert done["first"].cached and made.fake.asked("sbatch") == []


def test_a_job_brings_its_result_and_its_task_goes(made: Fixture):
    made.numbers("12")
    made.fake.says("squeue", "12|COMPLETED|node2|None\n")
    seen = []

    def moved(key: str, where: str) -> None:
        seen.append(where)
        [folder] = [path for path in made.folder.iterdir() if len(path.name) == 64]
        task = read_task(folder)
        assert task.graph_node() == made.bench.nodes()["first"] and task.images[0].image(made.bench.root)
        made.make()
        ended = Ended(outcome="made", machine=HERE, seconds=1.5)
        (folder / "12.0.json").write_bytes(written(ended))

    made.watcher.moved = moved
    done = made.runner().run({"first": made.bench.nodes()["first"]})
    assert not done["first"].cached and done["first"].seconds == 1.5
    assert seen[0] == "queued as job 12"
    [asked] = made.fake.asked("sbatch")
    assert "--export=ALL" in asked  # a list would start a login shell on the node
    assert "--job-name=lstm-ctc:first" in asked and "--comment=run today: first" in asked and "--requeue" in asked
    assert [path.name for path in made.folder.iterdir() if len(path.name) == 64] == []


def test_a_node_that_is_lost_is_named_and_the_job_waited_for(made: Fixture):
    made.numbers("12")
    made.fake.says("squeue", "12|RUNNING|node2|None\n")

    def moved(key: str, where: str) -> None:
        made.said.append(where)
        if where.startswith("runs on node2"):
            made.fake.says("squeue", "12|PENDING||BeginTime\n")
        if where.startswith("runs on node1"):
            made.make()
            made.fake.says("squeue", "12|COMPLETED|node1|None\n")

    made.watcher.moved = moved
    real_say = made.said.append

    def say(text: str) -> None:
        real_say(text)
        if "queued again" in text:
            made.fake.says("squeue", "12|RUNNING|node1|None\n")

    runner = made.runner()
    runner._executor.say = say
    runner.run({"first": made.bench.nodes()["first"]})
    assert any("node node2 was lost" in line for line in made.said), made.said


def test_a_job_that_slurm_ended_fails_its_stage_and_its_task_is_kept(made: Fixture):
    made.numbers("12")
    made.fake.says("squeue", "12|TIMEOUT|node2|None\n")
    with pytest.raises(StageFailed, match="time limit"):
        made.runner().run({"first": made.bench.nodes()["first"]})
    assert [path.name for path in made.folder.iterdir() if len(path.name) == 64] != []


def test_a_node_with_another_processor_is_left_out_the_next_time(made: Fixture):
    made.numbers("12", "13")
    made.fake.says("squeue", "12|FAILED|node2|None\n")

    def moved(key: str, where: str) -> None:
        made.said.append(where)
        [folder] = [path for path in made.folder.iterdir() if len(path.name) == 64]
        if where == "queued as job 12":
            (folder / "12.0.json").write_bytes(written(Ended(outcome="other processor", machine=HERE)))
        elif where == "queued as job 13":
            made.make()
            made.fake.says("squeue", "13|COMPLETED|node1|None\n")

    made.watcher.moved = moved
    made.runner().run({"first": made.bench.nodes()["first"]})
    first, second = made.fake.asked("sbatch")
    assert "--exclude" not in first and "--exclude=node2" in second


def test_what_is_ready_together_is_one_array_and_a_result_is_looked_for_in_each_of_its_jobs(made: Fixture):
    made.numbers("12")
    first = made.bench.nodes()["first"]
    nodes = {f"first@{n}": replace(first, key=f"first@{n}", parameters={"n": str(n)}) for n in (1, 2, 3)}
    made.fake.says("squeue", "12_0|COMPLETED|node1|None\n12_1|COMPLETED|node1|None\n12_2|COMPLETED|node2|None\n")
    made.watcher.moved = lambda key, where: made.bench.runner().run(nodes)
    done = made.runner().run(nodes)
    assert set(done) == set(nodes)
    [asked] = made.fake.asked("sbatch")
    assert "--array=0-2" in asked and "--job-name=lstm-ctc:many" in asked and "first@1, first@2, first@3" in asked
    script = (made.fake.folder / "sbatch.given").read_text()
    assert all(item.result.fingerprint in script for item in done.values())


@pytest.mark.parametrize("leave", [False, True])
def test_a_person_who_interrupts_cancels_the_jobs_or_leaves_them(made: Fixture, leave: bool):
    made.numbers("12")
    made.fake.says("squeue", "12|RUNNING|node1|None\n")
    runner = made.runner(leave=leave)
    executor = runner._executor
    task = Task(
        made.bench.nodes()["first"], made.bench.keys_of().key(made.bench.nodes()["first"], {}), {}, forced=False
    )
    executor.start(task, lambda ended: None)
    for _ in range(200):
        if any("runs on" in line for line in made.said):
            break
        time.sleep(0.05)
    executor.close(interrupted=True)
    assert made.fake.asked("scancel") == ([] if leave else ["12"])
    assert any(("go on in the cluster" if leave else "cancelled") in line for line in made.said)


def test_a_job_of_another_submitter_is_waited_for_and_never_cancelled(made: Fixture):
    task, _ = made.of_another("7")
    ended: list[object] = []
    executor = made.runner()._executor
    executor.start(task, ended.append)
    for _ in range(200):
        if any("goes on as job 7" in line for line in made.said):
            break
        time.sleep(0.05)
    executor.close(interrupted=True)
    assert made.fake.asked("sbatch") == [] and made.fake.asked("scancel") == []


def test_a_job_that_its_submitter_replaced_is_followed_to_the_one_that_stands_for_it(made: Fixture):
    """The other submitter was first to read that its job met another processor, and queued one in its place."""
    task, folder = made.of_another("7")

    def moved(key: str, where: str) -> None:
        made.said.append(where)
        if where == "goes on as job 7, which is in the queue already":
            (folder / "job").write_text("8")
            made.fake.says("squeue", "7|FAILED|node1|None\n8|RUNNING|node2|None\n")
        elif where == "goes on as job 8, which is in the queue already":
            made.make()
            made.fake.says("squeue", "8|COMPLETED|node2|None\n")

    made.watcher.moved = moved
    made.runner().run({"first": task.node})
    assert "job 7 of another command was given up there; looked for again" in made.said
    assert made.fake.asked("sbatch") == []


def test_a_job_of_another_submitter_that_slurm_ended_fails_here_too(made: Fixture):
    task, _ = made.of_another("7")
    made.watcher.moved = lambda key, where: made.fake.says("squeue", "7|TIMEOUT|node1|None\n")
    with pytest.raises(StageFailed, match="time limit"):
        made.runner().run({"first": task.node})
    assert made.fake.asked("sbatch") == []


def test_a_forced_job_that_did_not_make_its_result_brings_none(made: Fixture):
    made.make()
    node = made.bench.nodes()["first"]
    task = Task(node, made.bench.keys_of().key(node, {}), {}, forced=True)
    state, store = JobState("COMPLETED"), made.bench.store()
    assert collected(task, None, state, store) is None
    assert collected(task, Ended(outcome="stored", machine=HERE), state, store) is None
    assert collected(task, Ended(outcome="made", machine=HERE), state, store) is not None


def test_a_result_is_not_recorded_with_a_machine_s_name_that_nobody_asked_for():
    from repro.graph.made_on import made_on

    assert os.uname().nodename not in str(written(made_on()))
    assert b'"name":"node7"' in written(made_on("node7"))


def test_the_page_of_the_campaign_is_drawn_from_what_it_found():
    from tests.campaigns import cluster

    text = cluster.PAGE.read_text("utf-8")
    assert cluster.drawn(text) == text, "python -m tests.campaigns.cluster --page"
