"""A cluster without a shared folder: files go by digest, and what a node sends is taken as any stage's leavings are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _cluster_cases import FakeSlurm
from _graph_cases import Bench

from repro.base.errors import BundleError, CouldNotRun, StageFailed, UsageError, VerificationFailed
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.cluster import kit
from repro.cluster.carried import CarryingExecutor
from repro.cluster.resources import Cluster
from repro.cluster.settings import Settings, load_settings
from repro.cluster.slurm import Slurm
from repro.cluster.submitter import Place
from repro.container.image import Layer
from repro.graph.making import Surroundings
from repro.graph.runner import Runner
from repro.images.oci import compute_image
from repro.machine.facts import Given
from repro.run.carried_node import clear_unused, note_used
from repro.run.cluster import ClusterOfRun

ROOT = Path(__file__).resolve().parents[2]


class Carried:
    """An executor on a bench; srun is `_carried_fake.py`, whose node's disk is `node`."""

    def __init__(self, root: Path, monkeypatch) -> None:
        self.folder, self.node, self.root = root / "slurm", root / "node", root
        self.folder.mkdir()
        self.fake, self.said = FakeSlurm(self.folder, monkeypatch), []
        program = Path(__file__).with_name("_carried_fake.py")
        (self.folder / "bin" / "srun").write_text(
            f'#!/bin/sh\necho "$*" | tr "\\n" " " >> {self.folder}/srun.asked; echo >> {self.folder}/srun.asked\n'
            f'PYTHONPATH={ROOT} exec {sys.executable} {program} {self.folder} "$@"\n'
        )
        self.mode("")
        self.own(root / "bench")

    def own(self, root: Path) -> None:
        """A checkout and a store of this host."""
        root.mkdir()
        self.bench = Bench(root, lambda *_: 0)
        data = b"a layer"
        (root / sha256_bytes(data)).write_bytes(data)
        layer = Layer("files:x", "files", f"sha256:{sha256_bytes(data)}", len(data), root / sha256_bytes(data), "")
        self.bench.images["base"] = compute_image("base", "amd64", [layer], {}, "3.11", "")

    def mode(self, text: str) -> None:
        (self.folder / "mode").write_text(text)

    def run(self):
        keys, store, results = self.bench.keys_of(), self.bench.store(), self.bench.root / "artifacts"
        around = Surroundings(results / "code", results / "logs", self.bench.watcher, Given(1, 1))
        settings = Settings(carried=True, local=str(self.node))
        cluster = Cluster(settings, tuple(Slurm().nodes("")), "node1")
        sandbox, folder = self.bench.images["base"], results / "cluster"
        place = Place("python3", self.bench.root, folder, "sandbox", sandbox, "", "today", leave=False)
        executor = CarryingExecutor(Slurm(), cluster, place, keys, store, around, self.said.append)
        return Runner(executor, keys, store, around).run(self.bench.nodes())

    def left(self) -> list[Path]:
        """Temporary things on both sides."""
        results = self.bench.root / "artifacts"
        return [*results.glob("tmp/*"), *results.glob("store/[cd]*s/*"), *self.node.parent.glob("node.*/carried/tmp/*")]


@pytest.fixture
def carried(tmp_path: Path, monkeypatch) -> Carried:
    return Carried(tmp_path, monkeypatch)


def test_inputs_go_and_results_come_by_digest_and_nothing_is_sent_twice(carried: Carried):
    done = carried.run()
    assert (done["first"].result.out / "result").read_bytes() == b"firstspeech"
    assert (done["second"].result.out / "result").read_bytes() == b"secondfirstspeech"
    assert (done["first"].result.obs / "stage.log").read_text() == "what it printed"
    assert done["first"].result.observations["made_on"]["cpu"] == "a cpu" and done["first"].seconds == 1.5
    first, second = [line.split() for line in (carried.folder / "lacked").read_text().splitlines()]
    assert {path.split("/")[0] for path in first} == {"blobs", "sources", "results"}
    assert [path for path in second if not path.startswith("results/code/")] == [], "the node has all that it made"
    before = [item.result.output_digest for item in done.values()]
    carried.own(carried.root / "again")
    again = carried.run()
    assert [item.result.output_digest for item in again.values()] == before
    assert (carried.folder / "lacked").read_text().splitlines()[2:] == ["", ""]
    assert carried.left() == []


@pytest.mark.parametrize(
    "mode", ["above", "elsewhere", "within a file", "too much", "other bytes", "an odd name", "asks for more"]
)
def test_what_a_node_sends_is_hostile_until_it_was_looked_at(carried: Carried, mode: str):
    carried.mode(mode)
    with pytest.raises(VerificationFailed):
        carried.run()
    assert not list((carried.bench.root / "artifacts" / "store").glob("??/*")) and carried.left() == []
    carried.mode("")
    assert carried.run()  # the same command, once the node is well


@pytest.mark.parametrize(
    ("mode", "kind", "said"),
    [("fails", VerificationFailed, "the stage says no"), ("time", StageFailed, "at its time limit")],
)
def test_a_job_that_failed_is_told_in_its_own_words_or_slurm_s(carried: Carried, mode: str, kind, said: str):
    carried.mode(mode)
    with pytest.raises(kind, match=said) as caught:
        carried.run()
    assert isinstance(caught.value, BundleError) and caught.value.hint


def test_a_node_that_is_lost_is_said_and_its_job_submitted_again(carried: Carried):
    carried.mode("lost")
    assert carried.run()
    assert any("was lost" in line and "submitted again" in line for line in carried.said)


def test_a_node_with_another_processor_is_left_out_the_next_time(carried: Carried):
    carried.mode("other processor")
    assert carried.run()
    asked = carried.fake.asked("srun")
    assert "--exclude" not in asked[0] and "--exclude=node1" in asked[1]
    assert not any("--requeue" in line or "--open-mode" in line for line in asked)  # no words of srun's


def test_what_no_job_used_for_long_is_removed_as_a_whole(tmp_path: Path):
    for path in ("blobs/aa", "results/store/ab/abcd/out/x", "results/code/cc/stages/x.py", "sources/dd/file"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("x")
        note_used(tmp_path, [path])
    note = tmp_path / "used" / "results+store+ab+abcd"
    os.utime(note, (1, 1))
    clear_unused(tmp_path, time.time() - 100)
    assert not (tmp_path / "results/store/ab/abcd").exists() and not note.exists()
    assert all((tmp_path / path).exists() for path in ("blobs/aa", "results/code/cc/stages/x.py", "sources/dd/file"))


# what a node is sent before anything else


def started(folder: Path, words: list[str], given: bytes) -> subprocess.CompletedProcess[bytes]:
    without_packages = str(getattr(sys, "_base_executable", sys.executable))  # not this environment's
    asked = kit.command(without_packages, str(folder / "own"), words)
    return subprocess.run(asked, input=given, capture_output=True, check=False, cwd="/", env={"PATH": "/usr/bin:/bin"})


def test_a_node_needs_python_and_nothing_of_ours(tmp_path: Path):
    done = started(tmp_path, ["repro.run.on_node", "--facts"], kit.kit() + b"what comes after is the program's")
    assert done.returncode == 0 and b'"instruction_set"' in done.stdout, done.stderr
    [place] = tmp_path.glob("own.*/kits/*")
    assert place.name == sha256_bytes(kit.kit()) and (place / "msgspec").is_dir()
    assert not any("pytest" in path.name for path in place.iterdir())


def test_a_program_that_arrives_otherwise_or_late_is_not_run(tmp_path: Path):
    broken = bytearray(kit.kit())
    broken[5000] ^= 1
    assert b"another digest" in started(tmp_path, ["repro.run.on_node", "--facts"], bytes(broken)).stderr
    assert b"did not arrive" in started(tmp_path, ["repro.run.on_node", "--facts"], kit.kit()[:5000]).stderr
    (tmp_path / f"own.{os.getuid()}").symlink_to("/")
    assert b"not this user's own" in started(tmp_path, ["repro.run.on_node", "--facts"], kit.kit()).stderr


def test_either_a_folder_is_shared_or_files_are_carried(tmp_path: Path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "site.toml").write_text(f'[slurm]\ncarried = true\nlocal = "{tmp_path}/own"\n')
    with pytest.raises(UsageError, match="either"):
        load_settings(tmp_path / "conf" / "site.toml", {"SLURM_SHARED": "/srv"})
    site = ClusterOfRun(Paths(tmp_path), print, {})
    site.check_sources(with_data_elsewhere().values())
    assert site.settings.python == "python3"


def with_data_elsewhere():
    bench = Bench.__new__(Bench)
    bench.data = Path("/etc")
    return bench.nodes()


def test_a_cluster_without_srun_is_told_so(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CouldNotRun, match="srun"):
        Slurm().srun([], [])
