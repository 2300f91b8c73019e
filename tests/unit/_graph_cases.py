"""A tiny graph, an engine that computes in this process, and images that hold nothing: for the runner's tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from repro.container.image import Image
from repro.container.job import Job, OnLine, Outcome
from repro.graph.cache import StatCache
from repro.graph.code import Codes
from repro.graph.keys import Keys
from repro.graph.local import LocalExecutor
from repro.graph.making import Surroundings
from repro.graph.pipeline import Node, Output, Source, StageDefinition
from repro.graph.runner import Runner
from repro.graph.store import Store
from repro.images.coming import ComingImages
from repro.machine.facts import Given, Machine

MACHINE = Machine(instruction_set="amd64 test", identity="this machine")


def image(name: str = "base", config_digest: str = "sha256:" + "1" * 64) -> Image:
    return Image(name, "amd64", (), b"{}", config_digest, b"{}", "sha256:" + "2" * 64, {}, "3.11")


class FakeEngine:
    """Runs a Python function in place of a container, and holds each job to what a stage may be given.

    `behave(job, out, obs, on_line)` returns the exit code.
    """

    name = "fake"

    def __init__(self, behave: Callable[[Job, Path, Path, OnLine], int]) -> None:
        self.behave = behave
        self.ran: list[str] = []
        self.prepared: list[str] = []
        self._lock = threading.Lock()

    def prepare(self, image: Image) -> None:
        self.prepared.append(image.name)

    def run(self, job: Job, on_line: OnLine) -> Outcome:
        with self._lock:
            self.ran.append(job.name)
        assert {mount.target for mount in job.mounts if mount.writable} == {"/run/out", "/run/obs"}, (
            "inputs are read-only"
        )
        assert job.env == {"PYTHONPATH": "/run/code"} and not (
            job.devices or job.groups or job.shares_ipc or job.runtime
        )
        assert job.limits.timeout_s > 0 and 0 < job.limits.memory_bytes <= 16 * 1024**3 and job.limits.pids == 1024
        places = {mount.target: mount.source for mount in job.mounts}
        code = self.behave(job, places["/run/out"], places["/run/obs"], on_line)
        return Outcome(code, False, 0.01, {"network": "enforced"})

    def facts(self) -> dict[str, str]:
        return {}


class SilentWatcher:
    def started(self, key: str) -> None: ...

    def moved(self, key: str, where: str) -> None: ...

    def progress(self, key: str, done: int, total: int, what: str) -> None: ...

    def finished(self, key: str, seconds: float, *, cached: bool) -> None: ...

    def failed(self, key: str, why: str) -> None: ...


class Bench:
    """A checkout with two stages, `first` and `second`, and everything around them."""

    def __init__(self, root: Path, behave: Callable[[Job, Path, Path, OnLine], int]) -> None:
        self.root = root
        self.stages = root / "stages"
        self.stages.mkdir()
        (self.stages / "__init__.py").write_text("")
        (self.stages / "_shared.py").write_text("X = 1\n")
        (self.stages / "first.py").write_text("from stages import _shared\n")
        (self.stages / "second.py").write_text("import json\n")
        self.data = root / "data"
        self.data.mkdir()
        (self.data / "wave").write_bytes(b"speech")
        self.engine = FakeEngine(behave)
        self.images: Mapping[str, Image] = {"base": image()}
        self.machine = MACHINE
        self.watcher = SilentWatcher()
        self.machine_lock: Path | None = None
        self.shared = False  # other machines use the store too

    def nodes(self, **definition: object) -> dict[str, Node]:
        first = Node("first", StageDefinition("first", "base", **definition), {"data": Source("data", self.data)})
        second = Node("second", StageDefinition("second", "base"), {"before": Output("first")}, {"bs": "8"})
        return {"first": first, "second": second}

    def store(self) -> Store:
        cache = StatCache(self.root / "artifacts" / "digests.sqlite")
        return Store(self.root / "artifacts" / "store", self.root / "artifacts" / "tmp", cache, shared=self.shared)

    def keys_of(self) -> Keys:
        cache = StatCache(self.root / "artifacts" / "digests.sqlite")
        return Keys(Codes(self.root, cache), self.images, self.machine, cache)

    def runner(self) -> Runner:
        keys = self.keys_of()
        artifacts, given = self.root / "artifacts", Given(cores=2, memory_bytes=16 * 1024**3)
        coming = self.images if isinstance(self.images, ComingImages) else None
        around = Surroundings(
            artifacts / "code", artifacts / "logs", self.watcher, given, machine_lock=self.machine_lock, images=coming
        )
        store = self.store()
        return Runner(LocalExecutor(self.engine, keys, store, around), keys, store, around)
