"""What every command that runs stages needs: paths, digests, store, images, an engine, a runner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from repro.base.paths import Paths
from repro.container.image import Image
from repro.container.job import Engine, Mount
from repro.display.console import Console
from repro.engines.npu_access import Access
from repro.fetching import fetch_files
from repro.graph.alone import machine_lock
from repro.graph.cache import StatCache
from repro.graph.code import Codes
from repro.graph.keys import Keys
from repro.graph.local import LocalExecutor
from repro.graph.making import Surroundings
from repro.graph.runner import Runner
from repro.graph.store import Store
from repro.images.arrivals import Arrivals
from repro.images.build import Beside, build_images, files_needed
from repro.images.coming import ComingImages, Ready
from repro.images.rootfs import SANDBOX_IMAGE
from repro.locks.model import LockedFile
from repro.machine import facts
from repro.machine.watching import Subject
from repro.record.stages import Phase
from repro.run.engine_when_needed import AUTO, EngineWhenNeeded, check_name
from repro.run.options import LOCAL, SLURM

if TYPE_CHECKING:
    from repro.run.cluster import ClusterOfRun
    from repro.run.engine_choice import Choice


def span(name: str, started_s: float, seconds: float) -> Phase:
    """A part of a run as the record has it, to the millisecond."""
    return Phase(name=name, started_s=round(started_s, 3), seconds=round(seconds, 3))


class Phases:
    """Where the time went, second by second, for the report. A phase may lie within another one."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.items: list[Phase] = []
        self.layers: list[Phase] = []

    def layer(self, name: str, began_s: float, seconds: float) -> None:
        """Note that a layer was built, from `began_s` of the monotonic clock on."""
        self.layers.append(span(name, began_s - self.began_s, seconds))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began_s = time.monotonic()
        try:
            yield
        finally:
            self.items.append(span(name, began_s - self.began_s, time.monotonic() - began_s))

    def total_s(self) -> float:
        return round(time.monotonic() - self.began_s, 3)


@dataclass
class Session:
    """What every command that runs stages needs, made step by step and only as far as needed."""

    paths: Paths
    console: Console
    on: str = LOCAL
    phases: Phases = field(default_factory=Phases)
    coming: ComingImages | None = None

    def __post_init__(self) -> None:
        self.architecture = facts.architecture()
        self.cluster = self._opened_cluster() if self.on == SLURM else None
        local = self.paths.results if self.cluster is None else self.cluster.local
        self.cache = StatCache(local / "digests.sqlite", self.console.say)
        self.codes = Codes(self.paths.root, self.cache)
        shared = self.cluster is not None and not self.cluster.settings.carried
        self.store = Store(self.paths.store, self.paths.temporary, self.cache, shared=shared)

    def _opened_cluster(self) -> ClusterOfRun:
        from repro.run.cluster import ClusterOfRun  # noqa: PLC0415 - imported by runs on a cluster only

        return ClusterOfRun(self.paths, self.console.say)

    def host(self) -> Mapping[str, str | int]:
        """Facts of the machine that the run is of: this one, or the cluster's node that speeds are measured on."""
        return facts.facts() if self.cluster is None else self.cluster.host

    def images(self, names: Collection[str], *, fetch: bool) -> dict[str, Image]:
        """The images, fetched and built as far as they are missing."""
        return self.images_coming(sorted(names), fetch=fetch).finish()

    def images_coming(
        self, names: Sequence[str], *, fetch: bool, first: Callable[[], object] = lambda: None
    ) -> ComingImages:
        """The images as they become ready: each layer is built when its files are there, in the order of `names`.

        Args:
            names: of the images.
            fetch: whether the network may be used.
            first: called before anything is fetched or built; not where everything is there.
        """
        arrivals = Arrivals()

        def make(ready: Ready) -> None:
            with self.phases.phase("build layers"):
                missing = files_needed(self.paths, names, [self.architecture])
                if missing:
                    first()
                needed = missing if fetch else {}
                threading.Thread(target=self._fetch, args=(needed, arrivals), name="fetch", daemon=True).start()
                build_images(
                    self.paths, names, self.architecture, self.console.say, engine_for=self._engine_for,
                    beside=Beside(self.phases.layer, ready, arrivals),
                )  # fmt: skip

        return ComingImages(names, make, arrivals.end)

    def _fetch(self, files: Mapping[str, LockedFile], arrivals: Arrivals) -> None:
        """Bring files, if there are any to bring, and say that nothing more will come."""
        error: BaseException | None = None
        try:
            with self.phases.phase("fetch"):
                if files:
                    fetch_files(self.paths.root, files.values(), self.console.transfer("fetch"), arrivals)
        except BaseException as failure:  # noqa: BLE001 - raised where the layers are built
            error = failure
        arrivals.end(error)

    def _engine_for(self, toolchain: Image) -> Engine:
        from repro.run.engine_choice import compiling_engine  # noqa: PLC0415 - Docker's client: 0.2 s

        return compiling_engine(self.paths)(toolchain)

    def keys(self, images: Mapping[str, Image], accelerator: str = "") -> Keys:
        machine = facts.machine(accelerator) if self.cluster is None else self.cluster.machine
        return Keys(self.codes, images, machine, self.cache)

    def engine(self, name: str, *, fetch: bool) -> Choice:
        """The engine asked for; what the sandbox itself is made of is brought first, for it may be the one."""
        check_name(name)
        if name in (AUTO, SANDBOX_IMAGE) and (self.coming is None or not self.coming.await_any([SANDBOX_IMAGE])):
            self.images([SANDBOX_IMAGE], fetch=fetch)
        from repro.run.engine_choice import choose  # noqa: PLC0415 - Docker's client: 0.2 s

        with self.phases.phase("choose engine"):
            choice = choose(name, self.paths, say=self.console.say)
        self.console.say(choice.sentence())
        return choice

    def engine_when_needed(self, name: str, *, fetch: bool) -> EngineWhenNeeded:
        """As `engine`, but chosen only when a stage really runs."""
        check_name(name)
        return EngineWhenNeeded(lambda: self.engine(name, fetch=fetch))

    def runner(
        self,
        engine: Engine,
        keys: Keys,
        access: Callable[[], Access] = Access,
        subject: Subject | None = None,
        mounts: Mapping[str, tuple[Mount, ...]] | None = None,
    ) -> Runner:
        around = self.surroundings(access=access, subject=subject or Subject(), mounts=mounts or {})
        return Runner(LocalExecutor(engine, keys, self.store, around), keys, self.store, around)

    def surroundings(self, **known: Any) -> Surroundings:
        """What a run has around it; `known` names more of it."""
        return Surroundings(
            code=self.paths.code,
            logs=self.paths.logs,
            watcher=self.console,
            given=facts.given(),
            machine_lock=machine_lock(),
            images=self.coming,
            began_s=self.phases.began_s,
            **known,
        )
