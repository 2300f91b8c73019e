"""Stages as jobs of a real Slurm cluster: the same results as here, whatever happens to nodes, disks and submitters.

    python -m tests.campaigns.cluster            20 kills of each kind
    python -m tests.campaigns.cluster --short    what CI runs: tests/integration/test_slurm.py

Needs root and Debian's slurmd, slurmctld, slurm-client, munge and iproute2. It starts a controller and three nodes of
its own (tests/simulators/slurm/cluster.sh), and prints what it found as JSON: one entry per part, empty where all is as
it must be. The graph is of quick stages; its image is made of this host's Python.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import msgspec

from repro.base.errors import BundleError
from repro.base.paths import Paths
from repro.cluster.task_file import ImageFile, image_file
from repro.container.image import Image
from repro.graph.cache import StatCache
from repro.graph.code import Codes
from repro.graph.keys import Keys
from repro.graph.local import LocalExecutor
from repro.graph.making import Surroundings
from repro.graph.pipeline import ISA_EXACT, Node, Output, Source, StageDefinition
from repro.graph.runner import Runner
from repro.graph.store import Store
from repro.machine import facts
from repro.run.cluster import ClusterOfRun
from tests.integration import _trial

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "simulators" / "slurm" / "cluster.sh"
PROGRAMS = ("slurmd", "slurmctld", "sbatch", "munged", "ip", "unshare", "nsenter")
_STAGE = """
import argparse, hashlib, json, os, time
from pathlib import Path
words = argparse.ArgumentParser()
for name in ("data", "first", "out", "obs", "n", "seconds", "bytes"):
    words.add_argument("--" + name)
given, others = words.parse_known_args()
began = time.monotonic()
digest = hashlib.sha256((given.n or "").encode())
for name in ("data", "first"):
    if getattr(given, name):
        for path in sorted(Path(getattr(given, name)).rglob("*")):
            digest.update(path.read_bytes())
Path(given.out, "half").write_text("this is not all")
while time.monotonic() - began < float(given.seconds or 0):
    time.sleep(0.05)
Path(given.out, "half").unlink()
Path(given.out, "result").write_text(digest.hexdigest())
with open(Path(given.out, "much"), "wb") as stream:
    stream.write(bytes(int(given.bytes or 0)))
Path(given.obs, "time").write_text(str(time.monotonic() - began))
"""


def is_possible() -> str:
    """Why the campaign cannot run here; '' where it can."""
    if os.geteuid() != 0:
        return "it needs root, for namespaces"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], check=False, capture_output=True)
    return "" if tried.returncode == 0 else "no namespaces can be made here"


@dataclass(frozen=True)
class Site:
    """A shared folder with stages, their image and results."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> Site:
        """Fill a folder."""
        site = cls(folder)
        for name in ("stages", "conf", "data", "blobs"):
            (folder / name).mkdir()
        (folder / "repro").symlink_to(ROOT / "repro")  # jobs start in the checkout
        (folder / "stages" / "__init__.py").touch()
        for name in ("work", "speed"):
            (folder / "stages" / f"{name}.py").write_text(_STAGE)
        (folder / "data" / "wave").write_bytes(b"speech")
        images = [image_file(site.taken(image)) for image in (_trial.image(), _sandbox_image())]
        (folder / "images.json").write_bytes(msgspec.json.encode(images))
        site.settings()
        return site

    def taken(self, image: Image) -> Image:
        """Its layers among this site's blobs."""
        for layer in image.layers:
            shutil.copyfile(layer.path, self.folder / "blobs" / layer.diff_id[7:])
        return image

    def settings(self, **more: object) -> None:
        lines = {"shared": str(self.folder.parent), "local": "/var/tmp/repro", **more}
        text = "\n".join(f"{name} = {json.dumps(value)}" for name, value in lines.items())
        (self.folder / "conf" / "site.toml").write_text(f"[slurm]\n{text}\n")

    @property
    def images(self) -> dict[str, Image]:
        files = msgspec.json.decode((self.folder / "images.json").read_bytes(), type=list[ImageFile])
        return {file.name: file.image(self.folder / "blobs") for file in files}

    def nodes(self, wide: int, seconds: float, size_bytes: int = 0) -> dict[str, Node]:
        """One node, then `wide` beside each other, then one that measures, and one of another exactness."""
        work = StageDefinition("work", "trial", memory_bytes=1 << 30, timeout_s=120)
        speed = replace(work, name="speed", host_bound=True, whole_machine=True)
        first = {"first": Output("first")}
        given = {"seconds": str(seconds), "bytes": str(size_bytes)}
        found = {"first": Node("first", work, {"data": Source("conf", self.folder / "data")}, {"n": "0"})}
        for number in range(wide):
            found[f"wide@{number}"] = Node(f"wide@{number}", work, first, {"n": str(number), **given}, number + 1)
        if wide > 1:
            found["speed"] = Node("speed", speed, first, {"n": "0", "seconds": "2.5"})
            found["isa"] = Node("isa", replace(work, exactness=ISA_EXACT), first, {"n": "isa"})
        return found

    def run(self, results: Path, on: str, nodes: Mapping[str, Node], *, leave: bool = False) -> dict[str, object]:
        """Run a graph here or on the cluster; digests of its results."""
        paths = Paths(self.folder, results)
        site = ClusterOfRun(paths, _say) if on == "slurm" else None
        cache = StatCache(results / "own.sqlite" if site is None else site.local / "digests.sqlite")
        store = Store(paths.store, paths.temporary, cache, shared=site is not None)
        machine = facts.machine() if site is None else site.machine
        keys = Keys(Codes(self.folder, cache), self.images, machine, cache)
        around = Surroundings(paths.code, paths.logs, _Watcher(), facts.given())
        if site is None:
            executor = LocalExecutor(_trial.sandbox(), keys, store, around)
        else:
            executor = site.executor(self.images, keys, store, around, engine="auto", leave=leave)
        with store.in_use():
            done = Runner(executor, keys, store, around).run(nodes)
        return {
            key: {
                "digest": item.result.output_digest,
                "cached": item.cached,
                "on": dict(item.result.observations).get("made_on", {}),
            }
            for key, item in done.items()
        }


def _sandbox_image() -> Image:
    from repro.images.build import build_images
    from repro.images.rootfs import SANDBOX_IMAGE

    made = build_images(Paths.of_checkout({}), [SANDBOX_IMAGE], facts.architecture(), _say, engine_for=_none)
    return made[SANDBOX_IMAGE]


def _none(toolchain: Image):
    raise AssertionError(toolchain)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Watcher:
    def started(self, key: str) -> None: ...

    def moved(self, key: str, where: str) -> None:
        _say(f"{key}: {where}")

    def progress(self, key: str, done: int, total: int, what: str) -> None: ...

    def finished(self, key: str, seconds: float, *, cached: bool) -> None:
        _say(f"{key}: {'stored' if cached else 'done'}")

    def failed(self, key: str) -> None:
        _say(f"{key}: FAILED")


# inside the cluster


class Submitter:
    """A command in its own process, as a person starts it."""

    def __init__(self, site: Site, results: Path, wide: int, seconds: float, *more: str) -> None:
        words = ["--submit", str(site.folder), str(results), str(wide), str(seconds), *more]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaigns.cluster", *words], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        self.code, self.said = -1, ""

    def wait_for(self, pattern: str) -> str:
        """Read what it says until a line matches; the line's first group."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            found = re.search(pattern, line)
            if found:
                return found[1] if found.groups() else line
        raise AssertionError(f"it ended without {pattern!r}: {self.said}")

    def result(self) -> dict[str, dict[str, object]]:
        """Of a command that ends well."""
        out, said = self.process.communicate(timeout=300)
        self.code, self.said = self.process.returncode, self.said + said
        assert self.code == 0, self.said
        return json.loads(out)

    def error(self) -> str:
        """What it says in the end, of a command that ends with 4."""
        _, said = self.process.communicate(timeout=300)
        self.said += said
        assert self.process.returncode == 4, (self.process.returncode, self.said)
        return self.said


def digests(result: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    return {key: item["digest"] for key, item in result.items()}


def of_queue(form: str) -> list[str]:
    text = subprocess.run(["squeue", "-h", "-r", "-o", form], capture_output=True, text=True, check=True).stdout
    return text.split()


def slurmd_of(node: str) -> int:
    return int(Path(f"/run/slurm/{node}.pid").read_text())


def wait_until(what: str, true, within_s: float = 120.0) -> None:
    until_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.3)


def node_state(node: str) -> str:
    return subprocess.run(["sinfo", "-h", "-n", node, "-o", "%T"], capture_output=True, text=True, check=True).stdout


def bring_back(node: str) -> None:
    """Start a node's slurmd again, and wait until jobs start on it; those it lost are ended by then.

    Its slurmd is dead: told to the controller, which may not have noticed on a busy machine.
    """
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=killed"], check=True)
    subprocess.run([str(SCRIPT), "--start-node", node[4:]], check=True)
    wait_until(f"{node} is not back", lambda: node_state(node).strip() in ("idle", "mixed", "allocated"))


def processes_of(node: str) -> list[str]:
    """Processes of jobs on a node."""
    pids = subprocess.run(["ip", "netns", "pids", f"n{node[4:]}"], capture_output=True, text=True, check=True).stdout
    found = []
    for pid in pids.split():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if not words.startswith("slurmd"):
                found.append(words)
    return found


def nothing_left(results: Path, nodes: Mapping[str, Node]) -> list[str]:
    """Of results, temporary things, tasks and jobs: what should not be there once a run has ended."""
    store = Store(results / "store", results / "tmp", StatCache(None))
    found = [f"{entry.name} is not whole" for entry in store.entries() if store.load(entry.name) is None]
    if len(list(store.entries())) != len(nodes):
        found.append(f"{len(list(store.entries()))} results of {len(nodes)} steps")
    for name in ("conflicts", "damaged"):
        found += [str(path) for path in (results / "store" / name).glob("*")]
    found += [f"task {path.name}" for path in (results / "cluster").glob("*") if len(path.name) >= 64]
    wait_until("jobs stay in the queue", lambda: not of_queue("%i"), 60)
    for node in ("node1", "node2", "node3"):
        with contextlib.suppress(AssertionError):
            wait_until("processes end", lambda node=node: not processes_of(node), 30)
        found += [f"{node}: {words}" for words in processes_of(node)]
    return found


class Campaign:
    """The parts; each gives what is wrong.

    Args:
        site: the shared folder.
        kills: how often a slurmd is killed, and how often a whole node.
    """

    def __init__(self, site: Site, kills: int) -> None:
        self.site, self.kills = site, kills
        self.here = site.run(site.folder / "here", "local", site.nodes(6, 0.2))

    def results(self, name: str) -> Path:
        return self.site.folder / f"results-{name}"

    def identity(self) -> list[str]:
        """The results are a local run's, every step was a job, and a second command takes what is stored."""
        results, nodes = self.results("identity"), self.site.nodes(6, 0.2)
        there = Submitter(self.site, results, 6, 0.2).result()
        wrong = [f"{key} differs" for key in self.here if self.here[key]["digest"] != there[key]["digest"]]
        wrong += [f"{key} was stored" for key, item in there.items() if item["cached"]]
        wrong += [f"{key}: no facts of its machine" for key, item in there.items() if "cpu" not in item["on"]]
        wrong += [f"{key}: names its machine" for key, item in there.items() if "name" in item["on"]]
        again = Submitter(self.site, results, 6, 0.2).result()
        wrong += [f"{key} was made twice" for key, item in again.items() if not item["cached"]]
        return wrong + nothing_left(results, nodes)

    def alone(self) -> list[str]:
        """By Slurm's own account no job ran beside one that measures."""
        wrong, jobs = [], accounted()
        measured = [job for job in jobs if job.name.endswith(":speed")]
        for job in measured:
            beside = [other for other in jobs if other is not job and other.node == job.node]
            beside = [other for other in beside if other.ended > job.began and other.began < job.ended]
            wrong += [f"{other.name} beside {job.name}" for other in beside]
        return wrong if measured else ["nothing was measured"]

    def killed(self) -> list[str]:
        """slurmd is killed with -9 in mid stage, again and again: queued anew, the same result, nothing left."""
        wrong = []
        for turn in range(self.kills):
            results = self.results(f"killed-{turn}")
            command = Submitter(self.site, results, 1, 3.0)
            node = command.wait_for(r"wide@0: runs on (\S+)")
            os.kill(slurmd_of(node), signal.SIGKILL)
            if turn % 2:  # the machine goes, with all that runs on it
                for pid in subprocess.run(
                    ["ip", "netns", "pids", f"n{node[4:]}"], capture_output=True, text=True, check=True
                ).stdout.split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                if node not in command.wait_for(r"was lost|gave the job up"):
                    wrong.append(f"kill {turn}: {node} is not named: {command.said}")
            found = command.result()
            wrong += [
                f"kill {turn}: {key} differs" for key in found if found[key]["digest"] != self.here[key]["digest"]
            ]
            bring_back(node)
            wrong += [f"kill {turn}: {what}" for what in nothing_left(results, self.site.nodes(1, 3.0))]
        return wrong

    def at_once(self) -> list[str]:
        """Two submitters at once make each step once."""
        results, before = self.results("at-once"), len(accounted())
        both = [Submitter(self.site, results, 6, 0.5) for _ in range(2)]
        found = [command.result() for command in both]
        wrong = [f"{key} differs" for key in self.here if digests(found[0])[key] != self.here[key]["digest"]]
        wrong += [] if digests(found[0]) == digests(found[1]) else ["the two differ"]
        made = [job for job in accounted()[before:] if job.name.startswith("lstm-ctc:") and "facts" not in job.name]
        nodes = self.site.nodes(6, 0.5)
        wrong += [] if len(made) == len(nodes) else [f"{len(made)} jobs for {len(nodes)} steps"]
        return wrong + nothing_left(results, nodes)

    def picked_up(self) -> list[str]:
        """A command that is killed leaves its jobs; the same command goes on with them. Ctrl-C cancels them."""
        results, before = self.results("picked-up"), len(accounted())
        command = Submitter(self.site, results, 1, 10.0)
        command.wait_for("wide@0: runs on")
        command.process.kill()
        command.process.wait()
        again = Submitter(self.site, results, 1, 10.0)
        again.wait_for("wide@0: (?:goes on as job|stored)")  # stored, where this machine was slower than the job
        again.result()
        jobs = [job for job in accounted()[before:] if job.name.endswith(":wide@0")]
        wrong = [] if len(jobs) == 1 else [f"{len(jobs)} jobs for one step"]
        wrong += nothing_left(results, self.site.nodes(1, 10.0))
        command = Submitter(self.site, results, 1, 60.0)
        command.wait_for("wide@0: runs on")
        command.process.send_signal(signal.SIGINT)
        command.process.communicate(timeout=60)
        wait_until("the jobs are cancelled", lambda: not of_queue("%i"), 30)
        return wrong

    def full_disk(self) -> list[str]:
        """A shared disk that fills up is named, whether on a node or here; with room, the same command goes on."""
        small = Path(os.environ["CLUSTER_FOLDER"]) / "small"
        results = small / "results"
        self.site.settings(shared="/")
        try:
            said = Submitter(self.site, results, 1, 0.0, str(200 << 20)).error()
            wrong = [] if re.search("No space left|disk is full", said) else [f"not named: {said[-1500:]}"]
            wrong += [] if "Traceback" not in said else [f"a traceback: {said[-1500:]}"]
            subprocess.run(["mount", "-o", "remount,size=1g", str(small)], check=True)
            Submitter(self.site, results, 1, 0.0, str(200 << 20)).result()
        finally:
            self.site.settings()
        return wrong + nothing_left(results, self.site.nodes(1, 0.0))

    def vanished(self) -> list[str]:
        """The node that speeds are measured on is down: said before anything is submitted, by its name."""
        pid = slurmd_of("node3")
        os.kill(pid, signal.SIGKILL)
        wait_until("the node goes down", lambda: "down" in node_state("node3"))
        self.site.settings(measure_on="node3")
        try:
            said = Submitter(self.site, self.results("vanished"), 2, 0.0).error()
        finally:
            self.site.settings()
            bring_back("node3")
        return [] if "node3" in said and "down" in said and "measure_on" in said else [f"not named: {said}"]


@dataclass(frozen=True)
class Accounted:
    """A job as Slurm's account has it."""

    name: str
    node: str
    state: str
    began: datetime
    ended: datetime


def accounted() -> list[Accounted]:
    path = Path(os.environ["CLUSTER_FOLDER"]) / "jobcomp.log"
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in path.read_text().splitlines()] if path.exists() else []
    return [
        Accounted(
            row["Name"], row["NodeList"], row["JobState"], datetime.fromisoformat(row["StartTime"]),
            datetime.fromisoformat(row["EndTime"]),
        )
        for row in rows if row["StartTime"] != "Unknown"
    ]  # fmt: skip


PARTS = ("identity", "killed", "at_once", "picked_up", "full_disk", "vanished", "alone")


def inside(folder: Path, kills: int, parts: list[str]) -> dict[str, object]:
    """All parts, in a cluster that runs."""
    campaign = Campaign(Site.made(folder), kills)
    found: dict[str, object] = {}
    for name in parts:
        began_s = time.monotonic()
        try:
            found[name] = getattr(campaign, name)()
        except (AssertionError, BundleError, subprocess.SubprocessError) as error:
            found[name] = [f"{type(error).__name__}: {error}"]
        _say(f"== {name}: {found[name] or 'as it must be'}, {time.monotonic() - began_s:.0f} s")
    return found


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """Readable by other users, as a shared folder is."""
    with tempfile.TemporaryDirectory(prefix="cluster-campaign-") as name:
        os.chmod(name, 0o755)
        (Path(name) / "site").mkdir()
        yield Path(name) / "site"


def run(*, kills: int, parts: list[str], timeout_s: float) -> dict[str, object]:
    """Start a cluster, run the parts in it, end it."""
    with shared_folder() as folder:
        done = subprocess.run(
            [str(SCRIPT), "-n", "3", sys.executable, "-m", "tests.campaigns.cluster", "--inside", str(folder),
             "--kills", str(kills), "--parts", ",".join(parts)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=True,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "CLUSTER_NODE_MB": "6000"},
        )  # fmt: skip
        return json.loads(done.stdout)


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--short", action="store_true")
    words.add_argument("--kills", type=int, default=0)
    words.add_argument("--parts", default=",".join(PARTS))
    words.add_argument("--inside", type=Path)
    words.add_argument("--submit", nargs="+")
    given = words.parse_args()
    if given.submit:
        folder, results, wide, seconds, *more = given.submit
        site = Site(Path(folder))
        try:
            nodes = site.nodes(int(wide), float(seconds), int(more[0]) if more else 0)
            print(json.dumps(site.run(Path(results), "slurm", nodes)))
        except BundleError as error:
            _say(error.diagnostics())
            return error.exit_code
        return 0
    parts = [name for name in given.parts.split(",") if name]
    if given.inside:
        try:
            print(json.dumps(inside(given.inside, given.kills, parts)))
        finally:
            _trial.clean_up()
        return 0
    found = run(kills=given.kills or (2 if given.short else 20), parts=parts, timeout_s=7200)
    print(json.dumps(found, indent=2))
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
