"""What the campaign on Slurm is made of: a shared folder with quick stages, commands as a person starts them, nodes
that are killed and brought back, and Slurm's own account of its jobs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import msgspec

from repro.base.paths import Paths
from repro.cluster.task_file import ImageFile, image_file
from repro.container.image import Image
from repro.display.console import Console
from repro.graph.cache import StatCache
from repro.graph.code import Codes
from repro.graph.keys import Keys
from repro.graph.local import LocalExecutor
from repro.graph.making import Surroundings
from repro.graph.pipeline import ISA_EXACT, Node, Output, Request, Source, StageDefinition, build_graph
from repro.graph.runner import Runner
from repro.graph.store import Store
from repro.images.build import build_images
from repro.images.layer_tars import write_tar
from repro.images.rootfs import SANDBOX_IMAGE
from repro.machine import facts
from repro.run.cluster import ClusterOfRun
from repro.run.session import Session
from tests.integration import _trial

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "simulators" / "slurm" / "cluster.sh"
SPEECH = ROOT / "tests" / "golden" / "TIMIT"
NODES = ("node1", "node2", "node3")
PROGRAMS = ("slurmd", "slurmctld", "sbatch", "munged", "ip", "unshare", "nsenter")
_STAGE = """
import argparse, hashlib, json, os, time
from pathlib import Path
words = argparse.ArgumentParser()
for name in ("data", "first", "out", "obs", "n", "seconds", "busy", "bytes"):
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
while time.process_time() < float(given.busy or 0):
    hashlib.sha256(bytes(1 << 16))
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
        trial = replace(_trial.image(), name="trial")  # not named after this process
        images = [image_file(site.taken(image)) for image in (trial, _sandbox_image())]
        (folder / "images.json").write_bytes(msgspec.json.encode(images))
        site.settings()
        return site

    def taken(self, image: Image) -> Image:
        """Its layers among this site's blobs."""
        for layer in image.layers:
            write_tar(layer, self.folder / "blobs" / layer.diff_id[7:])
        return image

    def settings(self, **more: object) -> None:
        lines = {"shared": str(self.folder.parent), "local": "/var/tmp/repro", **more}
        lines = {name: value for name, value in lines.items() if value != ""}
        text = "\n".join(f"{name} = {json.dumps(value)}" for name, value in lines.items())
        (self.folder / "conf" / "site.toml").write_text(f"[slurm]\n{text}\n")

    @property
    def images(self) -> dict[str, Image]:
        files = msgspec.json.decode((self.folder / "images.json").read_bytes(), type=list[ImageFile])
        return {file.name: file.image(self.folder / "blobs") for file in files}

    def nodes(self, wide: int, seconds: float, size_bytes: int = 0, busy_s: float = 0.0) -> dict[str, Node]:
        """One node, then `wide` beside each other, then one that measures, and one of another exactness."""
        work = StageDefinition("work", "trial", memory_bytes=1 << 30, timeout_s=120)
        speed = replace(work, name="speed", host_bound=True, whole_machine=True)
        first = {"first": Output("first")}
        given = {"seconds": str(seconds), "bytes": str(size_bytes), "busy": str(busy_s)}
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
        site = ClusterOfRun(paths, say) if on == "slurm" else None
        cache = StatCache(results / "own.sqlite" if site is None else site.local / "digests.sqlite")
        store = Store(paths.store, paths.temporary, cache, shared=site is not None and not site.settings.carried)
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


def prepare(*, whole: bool) -> None:
    """Fetch and build the images that a cluster needs, which has no way out: of a whole run, or the sandbox's alone."""
    session = Session(Paths.of_checkout({}), Console())
    demo = session.paths.data / "demo" / "checkpoint.pth"
    graph = build_graph(Request((4,), data=SPEECH, checkpoint=demo), session.paths.conf, demo) if whole else {}
    session.images({SANDBOX_IMAGE, *(node.stage.image for node in graph.values())}, fetch=True)


def _sandbox_image() -> Image:
    made = build_images(Paths.of_checkout({}), [SANDBOX_IMAGE], facts.architecture(), say, engine_for=_no_engine)
    return made[SANDBOX_IMAGE]


def _no_engine(toolchain: Image):
    raise AssertionError(toolchain)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Watcher:
    def started(self, key: str) -> None: ...

    def moved(self, key: str, where: str) -> None:
        say(f"{key}: {where}")

    def progress(self, key: str, done: int, total: int, what: str) -> None: ...

    def finished(self, key: str, seconds: float, *, cached: bool) -> None:
        say(f"{key}: {'stored' if cached else 'done'}")

    def failed(self, key: str, why: str) -> None:
        say(f"{key}: FAILED")


class Submitter:
    """A command in its own process, as a person starts it; `settings` are words of [slurm] that count more."""

    def __init__(self, site: Site, results: Path, wide: int, seconds: float, *more: str, **settings: str) -> None:
        words = ["--submit", str(site.folder), str(results), str(wide), str(seconds), *more]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaigns.cluster", *words], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env={**os.environ, **{f"SLURM_{k.upper()}": v for k, v in settings.items()}},
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

    def result(self, timeout_s: float = 300) -> dict[str, dict[str, object]]:
        """Of a command that ends well."""
        out, said = self.process.communicate(timeout=timeout_s)
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


def of_queue(form: str, *more: str) -> list[str]:
    text = subprocess.run(["squeue", "-h", "-r", *more, "-o", form], capture_output=True, text=True, check=True).stdout
    return text.split()


def slurmd_of(node: str) -> int:
    return int(Path(f"/run/slurm/{node}.pid").read_text())


def end_node(node: str) -> None:
    """The machine goes, with all that runs on it."""
    os.kill(slurmd_of(node), signal.SIGKILL)
    found = subprocess.run(["ip", "netns", "pids", f"n{node[4:]}"], capture_output=True, text=True, check=True).stdout
    for pid in found.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


@contextlib.contextmanager
def nothing_shared(folders: Sequence[Path]) -> Iterator[None]:
    """Jobs on the nodes see empty folders in their place."""
    with contextlib.ExitStack() as shown:
        for node in NODES:
            inside = ["nsenter", "--mount", "--target", str(slurmd_of(node))]
            for folder in sorted(folders, key=lambda folder: -len(folder.parts)):  # one may lie in another
                subprocess.run([*inside, "mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
                shown.callback(subprocess.run, [*inside, "umount", str(folder)], check=False, stderr=subprocess.DEVNULL)
        yield


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
    for node in NODES:
        with contextlib.suppress(AssertionError):
            wait_until("processes end", lambda node=node: not processes_of(node), 30)
        found += [f"{node}: {words}" for words in processes_of(node)]
    return found


@dataclass(frozen=True)
class Accounted:
    """A job as Slurm's account has it."""

    name: str
    partition: str
    node: str
    state: str
    began: datetime
    ended: datetime


def accounted() -> list[Accounted]:
    path = Path(os.environ["CLUSTER_FOLDER"]) / "jobcomp.log"
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in path.read_text().splitlines()] if path.exists() else []
    return [
        Accounted(
            row["Name"], row["Partition"], row["NodeList"], row["JobState"], datetime.fromisoformat(row["StartTime"]),
            datetime.fromisoformat(row["EndTime"]),
        )
        for row in rows if row["StartTime"] != "Unknown"
    ]  # fmt: skip
