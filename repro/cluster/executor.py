"""The executor that makes nodes of the graph Slurm's jobs: submitted as they become ready, watched to their end.

Who decides what: the runner, which nodes are ready; Slurm, where and when they run. What a job needs is in its task
file, and its result comes back through the store, where this host holds it to its digests. A job that another submitter
has in the queue for the same result is waited for, not submitted again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro.base.files import make_shared_folder, remove_tree, write_atomic
from repro.base.locking import locked_where_possible
from repro.cluster.ending import collected, error_of_slurm, error_told
from repro.cluster.resources import resources
from repro.cluster.slurm import JobState
from repro.cluster.submitter import Submitter
from repro.cluster.task_file import (
    JOB,
    PROGRESS,
    TASK,
    NodePlace,
    TaskFile,
    read_ended,
    task_file,
    written,
)
from repro.graph import pipeline
from repro.graph.code import snapshot
from repro.graph.executor import Ended, Task
from repro.images.layer_tars import blob_of

_GATHER_S = 0.2  # what becomes ready together is submitted together
_POLL_S = 1.0
_GONE_AFTER = 3  # looks at the queue without the job in it
_MOST_IN_ARRAY = 500
_NAME = "lstm-ctc"
_COMMENT_LIMIT = 200


@dataclass
class _Job:
    """A task that was handed over, and where its job is."""

    task: Task
    ended: Callable[[Ended], None]
    folder: Path
    excluded: set[str] = field(default_factory=set)
    number: str = ""
    own: bool = True
    state: JobState = field(default_factory=lambda: JobState("PENDING"))
    missing: int = 0
    told: str = ""


@dataclass(eq=False)
class SlurmExecutor(Submitter):
    """See `repro.graph.executor.Executor`."""

    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _new: threading.Event = field(init=False, default_factory=threading.Event)
    _ready: list[_Job] = field(init=False, default_factory=list)
    _open: dict[str, _Job] = field(init=False, default_factory=dict)  # by node of the graph, until they end
    _over: threading.Event = field(init=False, default_factory=threading.Event)
    _thread: threading.Thread | None = field(init=False, default=None)

    def admits(self, node: pipeline.Node, running: Collection[pipeline.Node]) -> bool:  # noqa: ARG002 - Slurm decides
        """See `Executor`: as many as one run may have in Slurm's queue."""
        return len(running) < self.cluster.settings.most_jobs

    def start(self, task: Task, ended: Callable[[Ended], None]) -> None:
        """See `Executor`."""
        folder = self.place.folder / (task.fingerprint + (f".forced.{os.urandom(4).hex()}" if task.forced else ""))
        with self._lock:
            self._ready.append(_Job(task, ended, folder))
        self._new.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._go_on, name="slurm", daemon=True)
            self._thread.start()

    def close(self, *, interrupted: bool) -> None:
        """See `Executor`. Jobs that have not ended are cancelled, unless they were to be left running."""
        self._over.set()
        self._new.set()
        with self._lock:
            left = [job for job in self._open.values() if job.own and job.number]
        if left and self.place.leave and interrupted:
            self.say(f"{len(left)} jobs go on in the cluster: the same command picks them up")
        elif left:
            self.slurm.cancel([job.number for job in left])
            self.say(f"{len(left)} jobs were cancelled")

    def _go_on(self) -> None:
        """Submit and watch, until there is nothing more to come."""
        while not self._over.is_set():
            self._new.wait(_POLL_S if self._open else None)
            if self._new.is_set():
                self._new.clear()
                self._over.wait(_GATHER_S)
            with self._lock:
                ready, self._ready = self._ready, []
            try:
                if ready and not self._over.is_set():
                    self._submit(ready)
                if self._open and not self._over.is_set():
                    self._look()
            except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
                with self._lock:
                    jobs, self._open = {job.task.node.key: job for job in (*ready, *self._open.values())}, {}
                for job in jobs.values():
                    job.ended(error)

    # submitting

    def _submit(self, ready: Sequence[_Job]) -> None:
        """Submit what no other submitter has in the queue; what is ready together and alike as one array."""
        make_shared_folder(self.place.folder / "log")
        groups: dict[tuple[str, ...], list[_Job]] = defaultdict(list)
        with self._submitting():
            known = self.slurm.jobs(os.getuid())
            for job in ready:
                if not self._is_stored(job) and not self._attached(job, known):
                    self._write(job)
                    groups[resources(job.task.node, self.cluster, job.excluded)].append(job)
            for options, alike in groups.items():
                for at in range(0, len(alike), _MOST_IN_ARRAY):
                    self._submit_alike(options, alike[at : at + _MOST_IN_ARRAY])

    @contextlib.contextmanager
    def _submitting(self) -> Iterator[None]:
        """One submitter at a time, where locks count; elsewhere the store settles who was first."""
        with locked_where_possible(self.place.folder / "submit.lock", create=True):
            yield

    def _is_stored(self, job: _Job) -> bool:
        """Whether another submitter's job has brought the result since the runner looked."""
        stored = None if job.task.forced else self.store.load(job.task.fingerprint)
        if stored is not None:
            job.ended(self._done(job.task, stored, None))
        return stored is not None

    def _attached(self, job: _Job, known: Mapping[str, JobState]) -> bool:
        """Whether a job for this result is in the queue: of another submitter, or of an earlier command."""
        if job.task.forced:
            return False
        number = _job_in(job.folder)
        if number not in known or known[number].ended:
            return False
        job.number, job.own = number, False
        with self._lock:
            self._open[job.task.node.key] = job
        self._tell(job, f"goes on as job {number}, which is in the queue already")
        return True

    def _write(self, job: _Job) -> None:
        snapshot(self.keys.code(job.task.node.stage.name), self.around.code, self.keys.cache)
        with contextlib.suppress(FileNotFoundError):  # another submitter may remove it where locks do not count
            for earlier in job.folder.glob("*.json"):
                earlier.unlink(missing_ok=True)
        make_shared_folder(job.folder)
        write_atomic(job.folder / TASK, written(self._document(job.task)))

    def _document(self, task: Task) -> TaskFile:
        images = {image.name: image for image in (self.keys.images[task.node.stage.image], self.place.sandbox)}
        blobs = {blob_of(layer).parent for image in images.values() for layer in image.layers}.pop()
        settings = self.cluster.settings
        place = NodePlace(str(blobs), self.place.engine, settings.local, self.place.accelerator, settings.names)
        return task_file(task, images, place)

    def _submit_alike(self, options: Sequence[str], jobs: Sequence[_Job]) -> None:
        place, many = self.place, len(jobs) > 1
        steps = ", ".join(job.task.node.key for job in jobs)
        log = place.folder / "log" / ("%A_%a.log" if many else "%j.log")
        words = [*options, f"--job-name={_NAME}:{'many' if many else jobs[0].task.node.key}", f"--chdir={place.root}"]
        words += [f"--comment={f'run {place.run}: {steps}'[:_COMMENT_LIMIT]}", f"--output={log}", "--export=ALL"]
        words += [f"--array=0-{len(jobs) - 1}"] if many else []
        folders = " ".join(_quoted(job.folder) for job in jobs)
        script = (
            f'#!/bin/sh\nset -- {folders}\nshift "${{SLURM_ARRAY_TASK_ID:-0}}"\n'
            # A list of variables in --export would make Slurm start a login shell on the node for all the others.
            "export LANG=C.UTF-8; unset TMPDIR PYTHONPATH PYTHONHOME BUNDLE_RESULTS\n"
            f'exec {_quoted(Path(place.python))} -m repro.run.on_node "$1"\n'
        )
        number = self.slurm.submit(script, words)
        for at, job in enumerate(jobs):
            job.number, job.own = f"{number}_{at}" if many else number, True
            job.missing, job.state = 0, JobState("PENDING")
            write_atomic(job.folder / JOB, job.number.encode("ascii"))
            with self._lock:
                self._open[job.task.node.key] = job
            self._tell(job, f"queued as job {job.number}")

    # watching

    def _look(self) -> None:
        known = self.slurm.jobs(os.getuid())
        with self._lock:
            jobs = list(self._open.values())
        for job in jobs:
            now = known.get(job.number)
            job.missing = 0 if now else job.missing + 1
            if now is not None:
                self._show(job, now)
                job.state = now
            if (now is not None and now.ended) or job.missing >= _GONE_AFTER:
                with self._lock:
                    del self._open[job.task.node.key]
                threading.Thread(target=self._finish, args=(job,), daemon=True).start()

    def _show(self, job: _Job, now: JobState) -> None:
        before, key = job.state, job.task.node.key
        if before.state in ("RUNNING", "COMPLETING") and now.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD"):
            self.say(f"  {key}: node {before.node} was lost or gave the job up; job {job.number} is queued again")
        if now.state == "RUNNING" and (before.state, before.node) != (now.state, now.node):
            self._tell(job, f"runs on {now.node} (job {job.number})")
        elif now.state == "PENDING" and now.reason not in ("", "Priority", "Resources", "BeginTime", before.reason):
            self._tell(job, f"waits in the queue: {now.reason} (job {job.number})")
        elif now.state == "RUNNING":
            with contextlib.suppress(OSError, ValueError):
                done, total, what = (job.folder / PROGRESS).read_text(encoding="utf-8").split(" ", 2)
                self.around.watcher.progress(key, int(done), int(total), what)

    def _tell(self, job: _Job, text: str) -> None:
        if text != job.told:
            job.told = text
            self.around.watcher.moved(job.task.node.key, text)

    def _finish(self, job: _Job) -> None:
        """What came of a job that has ended, in a thread of its own: a result is read and hashed."""
        try:
            outcome = self._outcome(job)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            outcome = error
        if outcome is not None:
            job.ended(outcome)

    def _outcome(self, job: _Job) -> Ended | None:
        """Its result or its error; None where it was queued anew."""
        ended = read_ended(job.folder, job.number)
        if ended is not None and ended.outcome == "other processor" and job.state.node:
            job.excluded.add(job.state.node)
            self._again(job, f"{job.state.node} has another processor; queued for others")
            return None
        result, log = collected(job.task, ended, job.state, self.store), self._log(job)
        if result is not None:
            with self._submitting():
                remove_tree(job.folder)
                log.unlink(missing_ok=True)
            return self._done(job.task, result, ended)
        if ended is not None and ended.outcome == "failed":
            return error_told(ended)
        if not job.own and job.state.state.startswith("CANCELLED"):
            self._again(job, f"job {job.number} of another command was cancelled; queued anew")
            return None
        if not job.own and ended is None and self._is_replaced(job):
            self._again(job, f"job {job.number} of another command was given up there; looked for again")
            return None
        return error_of_slurm(job.task, job.number, job.state, self.slurm.exit_code(job.number), log)

    def _is_replaced(self, job: _Job) -> bool:
        """Whether the submitter of a job has queued another for the same task, or has ended with it."""
        with self._submitting():
            return _job_in(job.folder) != job.number

    def _log(self, job: _Job) -> Path:
        return self.place.folder / "log" / f"{job.number}.log"

    def _again(self, job: _Job, text: str) -> None:
        self._tell(job, text)
        with self._lock:
            self._ready.append(job)
        self._new.set()


def _job_in(folder: Path) -> str:
    """The number of the job that was last submitted for a task; '' where there is none."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (folder / JOB).read_text(encoding="ascii")
    return ""


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"
