"""The executor for a cluster without a shared folder: each node of the graph is one `srun`, and files go through it.

What a job needs and what it made are sent over srun's own input and output, by digest (`repro.cluster.wire`); a node
keeps what it was sent. What comes back is taken in as any stage's leavings are, and published in this host's store. So
a job lives as long as this command does: one that is interrupted ends its jobs.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, Union, cast

import msgspec

from repro.base.errors import BundleError, CouldNotRun, VerificationFailed
from repro.base.files import pretty_json, sha256_bytes
from repro.cluster import wire
from repro.cluster.ending import error_of_slurm, error_told
from repro.cluster.kit import command, kit
from repro.cluster.resources import resources
from repro.cluster.slurm import JobState
from repro.cluster.submitter import Submitter
from repro.cluster.task_file import InputFile, NodePlace, TaskFile, task_file
from repro.container.image import Layer
from repro.graph import pipeline
from repro.graph.digests import FileDigest
from repro.graph.executor import Ended, Task
from repro.graph.leavings import HOST_LOG, HOST_WATCH, take_in
from repro.graph.making import Done
from repro.graph.pipeline import Source
from repro.graph.sources import THE_FILE, files_of_source
from repro.graph.store import Result, Workspace
from repro.images.layer_tars import tar_of

MODULE = "repro.run.carried_node"
_ONLY_SBATCH = ("--requeue", "--open-mode")
_MOST_AT_ONCE = 64  # each is a process here
_MOST_TRIES = 4
_OBSERVED_FILES, _OBSERVED_BYTES = 2_000, 1 << 30
_END_S = 10.0
_LOST = re.compile(r"node fail|not responding|connection (failure|reset)|Unable to confirm allocation", re.IGNORECASE)
_OF_SLURM = (("TIME LIMIT", "TIMEOUT"), ("oom", "OUT_OF_MEMORY"), ("CANCELLED", "CANCELLED"))
_Sources = dict[str, Union[Path, bytes, Layer]]


@dataclass(eq=False)
class CarryingExecutor(Submitter):
    """See `repro.graph.executor.Executor`: `place.python` is the nodes' own, its other paths are of this host."""

    _running: dict[str, subprocess.Popen[bytes]] = field(init=False, default_factory=dict)
    _numbers: dict[str, str] = field(init=False, default_factory=dict)
    _over: bool = field(init=False, default=False)

    def admits(self, node: pipeline.Node, running: Collection[pipeline.Node]) -> bool:  # noqa: ARG002 - Slurm decides
        """See `Executor`."""
        return len(running) < min(self.cluster.settings.most_jobs, _MOST_AT_ONCE)

    def start(self, task: Task, ended: Callable[[Ended], None]) -> None:
        """See `Executor`."""

        def work() -> None:
            try:
                outcome: Ended = self._made(task)
            except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
                outcome = error
            ended(outcome)

        threading.Thread(target=work, daemon=True).start()

    def close(self, *, interrupted: bool) -> None:  # noqa: ARG002 - no job goes on without this process
        """See `Executor`. Jobs that have not ended are cancelled."""
        self._over = True
        left = dict(self._running)
        with contextlib.suppress(CouldNotRun):
            self.slurm.cancel([self._numbers[key] for key in left if key in self._numbers])
        for process in left.values():
            process.terminate()
        for process in left.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            process.kill()
        if left:
            self.say(f"{len(left)} jobs were cancelled")

    def _made(self, task: Task) -> Done:
        excluded: set[str] = set()
        key = task.node.key
        for attempt in range(1, _MOST_TRIES + 1):
            try:
                found = self._once(task, excluded)
            except _NodeLost as lost:
                if attempt == _MOST_TRIES or self._over:
                    raise
                self.say(f"  {key}: {lost.message}; the job is submitted again")
                continue
            if isinstance(found, Done):
                return found
            excluded.add(found)
            self.around.watcher.moved(key, f"{found} has another processor; queued for others")
        raise CouldNotRun(f"stage {key}: no node has the processor of {self.cluster.measure_on}",
                          hint="name those nodes by partition or constraint in [slurm] of conf/site.toml")  # fmt: skip

    def _once(self, task: Task, excluded: Collection[str]) -> Done | str:
        """One job: its result, or the node that it may not run on."""
        key = task.node.key
        options = [each for each in resources(task.node, self.cluster, excluded) if not each.startswith(_ONLY_SBATCH)]
        options += [f"--job-name=lstm-ctc:{key}", f"--comment=run {self.place.run}: {key}", "--chdir=/", "--quiet"]
        offer, sources = self._offer(task)
        words = command(self.place.python, self.cluster.settings.local, [MODULE, self.cluster.settings.local])
        self.around.watcher.moved(key, "queued")
        with tempfile.TemporaryFile() as said, self._process(key, [*options, *words], said) as process:
            to_node, from_node = cast("BinaryIO", process.stdin), cast("BinaryIO", process.stdout)
            try:
                to_node.write(kit())
                wire.send(to_node, offer)
                return self._talk(task, (to_node, from_node), offer, sources)
            except (BrokenPipeError, wire.ConnectionEnded) as error:
                code = process.wait()
                said.seek(0)
                raise self._why(task, code, said.read().decode("utf-8", "replace")) from error

    @contextlib.contextmanager
    def _process(self, key: str, words: list[str], said: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            [self.slurm.program("srun"), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
        )
        self._running[key] = process
        try:
            yield process
        finally:
            if process.poll() is None and process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()  # a node that waits for more ends
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            process.kill()
            process.wait()
            self._running.pop(key, None)
            self._numbers.pop(key, None)

    def _talk(self, task: Task, streams: tuple[BinaryIO, BinaryIO], offer: wire.Offer, sources: _Sources) -> Done | str:
        to_node, from_node = streams
        key, node = task.node.key, ""
        while True:
            heard = wire.said(from_node, f"what a node says of {key}")
            if isinstance(heard, wire.Lacks):
                node = heard.node
                self._numbers[key] = heard.job
                self.around.watcher.moved(key, f"runs on {node} (job {heard.job})")
                for path in heard.paths:
                    if path not in offer.files:
                        raise VerificationFailed(f"{node} asks for a file that it was not offered", hint="look at it")
                    source = sources[path]
                    data = tar_of(source) if isinstance(source, Layer) else source
                    wire.send_file(to_node, data, offer.files[path])
                to_node.flush()
            elif isinstance(heard, wire.Moved):
                self.around.watcher.progress(key, heard.done, heard.total, heard.what)
            elif heard.ended.outcome == "other processor":
                return node
            elif heard.ended.outcome == "failed" or heard.observed is None:
                raise error_told(heard.ended)
            else:
                result = self._taken(task, from_node, heard, heard.observed)
                return self._done(task, result, heard.ended)

    def _taken(self, task: Task, from_node: BinaryIO, heard: wire.Brought, observed: wire.Observed) -> Result:
        """The result that a node sent: limits and paths first, then every byte, then as every stage's leavings."""
        leaves, key = task.node.stage.leaves, task.node.key
        wire.check_result_paths(heard.files, leaves.entries + _OBSERVED_FILES, leaves.total_bytes + _OBSERVED_BYTES)
        work = self.store.workspace()
        try:
            given = []
            for path, digest in sorted(heard.files.items()):
                own = path in (f"obs/{HOST_LOG}", f"obs/{HOST_WATCH}")
                target = _own_place(work, path) if own else work.result / path
                wire.receive_file(from_node, target, digest)
                given += [target] if own else []
            leavings = take_in(key, work.result, given, leaves, self.keys.cache)
            taken = {f"out/{name}": each for name, each in leavings.outputs.items()}
            taken.update({f"obs/{name}": each for name, each in leavings.observed.items()})
            if taken != heard.files:
                raise VerificationFailed(f"stage {key}: other files arrived than the node named", hint="look at it")
            told = msgspec.to_builtins(observed)
            if leavings.commands is not None:
                told["commands"] = msgspec.to_builtins(leavings.commands)
            with self.store.making(task.fingerprint):
                result = self.store.publish(task.key, work, leavings, told, replace=task.forced)
            self.store.remember_last(key, task.fingerprint)
            return result
        finally:
            work.close()

    def _why(self, task: Task, code: int, said: str) -> BundleError:
        """Of an srun that ended without its job's word."""
        number = self._numbers.get(task.node.key, "not started")
        if _LOST.search(said):
            return _NodeLost(f"the node of job {number} was lost", detail=said[-2000:], hint="`sinfo -R` shows why")
        state = next((state for word, state in _OF_SLURM if word in said), "FAILED")
        log = Path(os.devnull)
        found = error_of_slurm(task, number, JobState(state), code if code > 0 else 0, log)
        return type(found)(found.message, detail=said[-2000:], hint=found.hint) if said else found

    def _offer(self, task: Task) -> tuple[wire.Offer, _Sources]:
        """The task with paths below the node's folder, and where this host has each of its files."""
        stage = task.node.stage
        images = {image.name: image for image in (self.keys.images[stage.image], self.place.sandbox)}
        files: dict[str, FileDigest] = {}
        sources: _Sources = {}
        folders: list[str] = []
        for image in images.values():
            for layer in image.layers:
                path = f"{wire.BLOBS}/{layer.diff_id[7:]}"
                files[path], sources[path] = FileDigest(layer.diff_id[7:], layer.size_bytes), layer
        code = self.keys.code(stage.name)
        for name, data in code.files.items():
            _add(files, sources, f"{wire.RESULTS}/code/{code.digest}/{name}", data)
        for result in task.results.values():
            below = f"{wire.RESULTS}/store/{result.fingerprint[:2]}/{result.fingerprint}"
            folders += [f"{below}/out", f"{below}/obs"]
            for name, digest in result.outputs.items():
                files[f"{below}/out/{name}"], sources[f"{below}/out/{name}"] = digest, result.out / name
            outputs = {name: msgspec.to_builtins(digest) for name, digest in result.outputs.items()}
            document = {"key": result.key, "outputs": outputs, "observations": {}}
            _add(files, sources, f"{below}/result.json", pretty_json(document))
        settings = self.cluster.settings
        place = NodePlace(wire.BLOBS, self.place.engine, settings.local, self.place.accelerator, settings.names)
        document_of_task = task_file(task, images, place)
        inputs = dict(document_of_task.inputs)
        for name, source in task.node.inputs.items():
            if isinstance(source, Source):
                below = f"{wire.SOURCES}/{self.keys.source_digest(source)}"
                found = files_of_source(source.path, self.keys.cache, source.name)
                for path, digest in found.items():
                    at = f"{below}/{path or wire.OWN_FILE}"
                    files[at], sources[at] = digest, source.path / path if path else source.path
                inputs[name] = InputFile(
                    name=source.name, path=f"{below}/{wire.OWN_FILE}" if THE_FILE in found else below
                )
        moved: TaskFile = msgspec.structs.replace(document_of_task, inputs=inputs)
        return wire.Offer(task=moved, files=files, folders=tuple(folders)), sources


class _NodeLost(CouldNotRun):
    """A node failed while a job ran there."""


def _add(files: dict[str, FileDigest], sources: _Sources, path: str, data: bytes) -> None:
    files[path], sources[path] = FileDigest(sha256_bytes(data), len(data)), data


def _own_place(work: Workspace, path: str) -> Path:
    return work.log.with_name(path.rpartition("/")[2])
