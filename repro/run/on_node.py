"""What a Slurm job runs on a node of the cluster: one task, made and published there.

    python -m repro.run.on_node TASK_FOLDER    make it; how that ended is left beside the task
    python -m repro.run.on_node --facts        print what this node is, as JSON
    python -m repro.run.on_node --forget LOCAL    remove its folder of a rerun's own
    python -m repro.run.on_node --look TOKEN LOCAL    print what it has and lacks, as JSON: see `repro.cluster.look`

Nothing that the task file says is taken on trust: image, code and inputs are held to their digests here, and the key is
computed from them anew, on this machine. So a result is what its key says, whichever node made it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import EXIT_COULD_NOT, EXIT_OK, BundleError, CouldNotRun, VerificationFailed
from repro.base.files import canonical_json, remove_tree, write_atomic
from repro.base.paths import Paths
from repro.base.system_errors import advice, can_be_mended
from repro.base.temporary import clear_dead
from repro.cluster.ending import exit_code_of
from repro.cluster.local import own_folder
from repro.cluster.look import look
from repro.cluster.task_file import PROGRESS, Ended, EngineFile, TaskFile, read_task, written
from repro.engines.sandbox import SandboxEngine
from repro.graph.alone import machine_lock
from repro.graph.cache import StatCache
from repro.graph.code import Codes
from repro.graph.keys import Keys, difference
from repro.graph.made_on import MadeOn, made_on
from repro.graph.making import Done, Maker, Surroundings
from repro.graph.store import Result, Store
from repro.images.rootfs import SANDBOX_IMAGE, Roots
from repro.machine import facts
from repro.run.engine_choice import Candidate, choose, choose_from
from repro.run.engine_when_needed import EngineWhenNeeded

_OF_A_PROCESSOR = ("instruction_set", "host", "accelerator")
_PROGRESS_EVERY_S = 2.0


@dataclass(frozen=True)
class NodePaths(Paths):
    """A checkout's folders as a node has them: unpacked images lie on the node's own disk."""

    local: Path = Path("/nonexistent")

    @property
    def rootfs(self) -> Path:
        return self.local / "rootfs"


Tell = Callable[[int, int, str], None]


class _Progress:
    """Tells where the stage is, at most every few seconds: it goes over the network; see `Watcher`."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told_s = 0.0

    def started(self, key: str) -> None:
        """Slurm shows it."""

    def moved(self, key: str, where: str) -> None:
        """It does not."""

    def progress(self, key: str, done: int, total: int, what: str) -> None:  # noqa: ARG002 - there is one step
        """Nobody who cannot be told keeps the stage from going on."""
        if time.monotonic() - self._told_s > _PROGRESS_EVERY_S:
            self._told_s = time.monotonic()
            with contextlib.suppress(OSError):
                self._tell(done, total, what)

    def finished(self, key: str, seconds: float, *, cached: bool) -> None:
        """The result shows it."""

    def failed(self, key: str, why: str) -> None:
        """What is left beside the task shows it."""


class NodeRun:
    """One task on this node.

    Args:
        folder: of the task, RESULTS/cluster/FINGERPRINT.
        environ: Slurm's words for this job.
        tell: is told where the stage is.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], tell: Tell) -> None:
        self.task: TaskFile = read_task(folder)
        root, results = Paths.of_checkout({}).root, folder.parents[1]
        local = own_folder(Path(self.task.local))
        elsewhere = None if results == root / "artifacts" else results
        self._paths = NodePaths(root, elsewhere, local)
        self._cache = StatCache(local / "digests.sqlite", _say)
        self._store = Store(self._paths.store, self._paths.temporary, self._cache, shared=True)
        self._images = {each.name: each.image(Path(self.task.blobs)) for each in self.task.images}
        self.here: MadeOn = made_on(_node_name(environ) if self.task.names else "")
        self._maker: Maker | None = None
        self._engine = EngineWhenNeeded(lambda: choose_from(self.task.engine, {self.task.engine: self._candidate}))
        self._around = Surroundings(
            code=self._paths.code,
            logs=self._paths.logs,
            watcher=_Progress(tell),
            given=given_here(environ),
            machine_lock=machine_lock(),
            made_on=self.here,
        )

    def make(self) -> Ended:
        """Make the task, and publish its result.

        Raises:
            BundleError: it failed, or the node does not find what the task names.
        """
        node, results = self.task.graph_node(), self._results()
        keys = self._keys()
        key = keys.key(node, results)
        if key != self.task.key:
            wrong = [name for name in {*key, *self.task.key} if key.get(name) != self.task.key.get(name)]
            if set(wrong) <= set(_OF_A_PROCESSOR) and not node.stage.host_bound:
                return Ended(outcome="other processor", machine=self.here)
            raise VerificationFailed(
                f"stage {node.key}: this node finds something else than the task names: "
                + "; ".join(difference(self.task.key, key) or sorted(wrong)),
                hint="run the same command again; if it stays so, this node sees other files in the shared folder",
            )
        for place in (self._paths.temporary, self._paths.code):
            clear_dead(place)
        with self._store.in_use():
            maker = Maker(self._engine, keys, self._store, self._around)
            done = maker.make(node, key, results, forced=self.task.forced)
        return self._ended(done, sum(each.seconds for each in maker.preparations))

    def _ended(self, done: Done, prepared_s: float) -> Ended:
        choice = self._engine.choice
        return Ended(
            outcome="stored" if done.cached else "made",
            machine=self.here,
            engine=None
            if choice is None
            else EngineFile(name=choice.engine.name, facts=dict(choice.availability.facts)),
            seconds=round(done.seconds, 3),
            prepared_s=round(prepared_s, 3),
        )

    def _results(self) -> dict[str, Result]:
        found = {}
        for name, fingerprint in self.task.fingerprints().items():
            result = self._store.load(fingerprint)
            if result is None:
                raise CouldNotRun(
                    f"stage {self.task.node}: the result of {name} is not in the store as this node sees it",
                    hint="is the same shared folder mounted on every node? Then run the same command again",
                )
            found[name] = result
        return found

    def _keys(self) -> Keys:
        snapshot = self._paths.code / str(self.task.key["code"])
        return Keys(Codes(snapshot, self._cache), self._images, facts.machine(self.task.accelerator), self._cache)

    def _candidate(self) -> Candidate:
        if self.task.engine != SANDBOX_IMAGE:
            choice = choose(self.task.engine, self._paths, say=_say)
            return Candidate(choice.availability, choice.engine)
        roots = Roots(self._paths, _say, self._images[SANDBOX_IMAGE])
        engine = SandboxEngine(roots.tools, roots.of)
        return Candidate(engine.probe(), engine)


def given_here(environ: Mapping[str, str]) -> facts.Given:
    """What Slurm gave this job of the machine; it need not enforce it."""
    given = facts.given()
    cores, mib = _number(environ, "SLURM_CPUS_ON_NODE"), _number(environ, "SLURM_MEM_PER_NODE")
    return facts.Given(
        cores=min(given.cores, cores or given.cores),
        memory_bytes=min(given.memory_bytes, (mib << 20) or given.memory_bytes),
    )


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _node_name(environ: Mapping[str, str]) -> str:
    return environ.get("SLURMD_NODENAME") or platform.node()


def start_of(environ: Mapping[str, str]) -> tuple[str, str]:
    """This job's number, and which of its starts this is."""
    number = environ.get("SLURM_JOB_ID", "0")
    if environ.get("SLURM_ARRAY_JOB_ID"):
        number = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    return number, environ.get("SLURM_RESTART_COUNT", "0")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - into the job's log


def _failed(error: Exception, here: MadeOn) -> Ended:
    if isinstance(error, BundleError):
        return Ended(
            outcome="failed", machine=here, error=(error.message, error.detail, error.hint), code=error.exit_code
        )
    what = f"{type(error).__name__}: {error}"
    hint = advice(error) if isinstance(error, OSError) else "this is a defect: please report it with the job's log"
    return Ended(outcome="failed", machine=here, error=(what, "", hint), code=EXIT_COULD_NOT)


def make(folder: Path, environ: Mapping[str, str], tell: Tell) -> int:
    """Make the task in a folder; returns the job's exit code. How it ended is written beside the task."""
    try:
        try:
            ended = NodeRun(folder, environ, tell).make()
        except Exception as error:  # noqa: BLE001 - whoever waits for the job is told
            _say(str(error))
            ended = _failed(error, made_on())
            if isinstance(error, OSError) and can_be_mended(error):
                with contextlib.suppress(OSError):
                    _leave(folder, environ, ended)
                return exit_code_of(error)
        _leave(folder, environ, ended)
    except OSError as error:  # the shared folder is full, or gone
        _say(str(error))
        return exit_code_of(error)
    return EXIT_OK if ended.outcome in ("made", "stored") else EXIT_COULD_NOT


def _leave(folder: Path, environ: Mapping[str, str], ended: Ended) -> None:
    write_atomic(folder / f"{'.'.join(start_of(environ))}.json", written(ended))


def main(words: Sequence[str]) -> int:
    """See the module."""
    if list(words) == ["--facts"]:
        told = {"machine": vars(facts.machine()), "host": facts.facts()}
        sys.stdout.buffer.write(canonical_json(told) + b"\n")
        return EXIT_OK
    if words[0] == "--look":
        sys.stdout.buffer.write(written(look(Path(words[1]), Path(words[2]))) + b"\n")
        return EXIT_OK
    if words[0] == "--forget":
        remove_tree(own_folder(Path(words[1])))
        return EXIT_OK
    folder = Path(words[0]).absolute()

    def tell(done: int, total: int, what: str) -> None:
        write_atomic(folder / PROGRESS, f"{done} {total} {what}".encode("utf-8", "replace"))

    return make(folder, os.environ, tell)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
