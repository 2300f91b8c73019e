"""What `srun` runs on a node where no folder is shared: files in, one task made, files out (`repro.cluster.wire`).

    python -m repro.run.carried_node LOCAL

The node's folder has the form of a checkout's results, so that `repro.run.on_node` makes the task as it does on a
shared folder: image, code and inputs are held to their digests, and the key is computed anew. What no job used for two
weeks is removed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from repro.base.errors import EXIT_COULD_NOT, EXIT_OK, BundleError, CouldNotRun
from repro.base.files import make_shared_folder, remove_tree, write_atomic
from repro.base.locking import Taken, locked
from repro.base.temporary import clear_dead, temporary_folder
from repro.cluster import wire
from repro.cluster.local import own_folder
from repro.cluster.task_file import TASK, Ended, read_ended, written
from repro.graph.cache import StatCache
from repro.graph.digests import FileDigest, digest_file
from repro.graph.store import Result, Store, fingerprint_of
from repro.run.on_node import make, start_of

_UNUSED_S = 14 * 24 * 3600.0


class Node:
    """This node's folder, and the streams of its job."""

    def __init__(self, local: Path, from_host: BinaryIO, to_host: BinaryIO, environ: Mapping[str, str]) -> None:
        self.root = own_folder(local) / "carried"
        (self.root / "tmp").mkdir(mode=0o755, parents=True, exist_ok=True)
        self._cache = StatCache(self.root.parent / "digests.sqlite")
        results = self.root / wire.RESULTS
        self._store = Store(results / "store", results / "tmp", self._cache)
        self._in, self._out, self._environ = from_host, to_host, environ

    def run(self) -> None:
        """One job."""
        offer = wire.receive(self._in, wire.Offer, "what the host offers")
        with contextlib.suppress(Taken), locked(self.root, wait=False):
            clear_unused(self.root, time.time() - _UNUSED_S)
            clear_dead(self.root / "tmp")
        with locked(self.root, shared=True):
            note_used(self.root, offer.files)
            self._take(offer)
            inputs = {
                name: msgspec.structs.replace(given, path=str(self.root / given.path))
                if isinstance(given.path, str) else given
                for name, given in offer.task.inputs.items()
            }  # fmt: skip
            task = msgspec.structs.replace(offer.task, blobs=str(self.root / offer.task.blobs), inputs=inputs)
            number, _ = start_of(self._environ)
            fingerprint = fingerprint_of(task.key)
            folder = self.root / wire.RESULTS / "cluster" / f"{fingerprint}.{number}"
            make_shared_folder(folder)
            try:
                write_atomic(folder / TASK, written(task))
                make(folder, self._environ, self._tell)
                self._send(fingerprint, read_ended(folder, number))
            finally:
                remove_tree(folder)

    def _tell(self, done: int, total: int, what: str) -> None:
        wire.send(self._out, wire.Moved(done=done, total=total, what=what))

    def _take(self, offer: wire.Offer) -> None:
        """Receive what is not here with its digest; a result's list comes after its files."""
        paths = sorted(offer.files, key=lambda path: (path.endswith("/result.json"), path))
        with locked(self.root / "receiving", create=True):
            whole = {_unit(name) for name in offer.folders if self._has_result(_unit(name), offer.files)}
            for name in offer.folders:
                (self.root / name).mkdir(mode=0o755, parents=True, exist_ok=True)
            paths = [path for path in paths if _unit(path) not in whole]
            lacking = [path for path in paths if not self._has(path, offer.files[path])]
            number, _ = start_of(self._environ)
            node = self._environ.get("SLURMD_NODENAME", "")
            wire.send(self._out, wire.Lacks(job=number, node=node, paths=tuple(lacking)))
            with temporary_folder(self.root / "tmp", "in") as folder:
                for path in lacking:
                    wire.receive_file(self._in, folder / "file", offer.files[path])
                    (folder / "file").chmod(0o444)
                    target = self.root / path
                    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                    os.replace(folder / "file", target)

    def _has_result(self, unit: str, files: wire.Files) -> bool:
        """Whether a result is here as a whole, with its own observations; one with other outputs is removed."""
        found = self._store.load(unit.rpartition("/")[2])
        offered = {path: digest for path, digest in files.items() if path.startswith(f"{unit}/out/")}
        if found is not None and {f"{unit}/out/{name}": each for name, each in found.outputs.items()} == offered:
            return True
        remove_tree(self.root / unit)
        return False

    def _has(self, path: str, digest: FileDigest) -> bool:
        with contextlib.suppress(OSError):
            return digest_file(self.root / path, self._cache) == digest
        return False

    def _send(self, fingerprint: str, ended: Ended | None) -> None:
        if ended is None:
            raise CouldNotRun(f"{self.root} cannot be written", hint="free space there, or set `local` in [slurm]")
        result = self._store.load(fingerprint) if ended.outcome in ("made", "stored") else None
        if result is None:
            wire.send(self._out, wire.Brought(ended=ended))
            return
        files = _files_of(result, self._cache)
        told = {name: result.observations[name] for name in wire.Observed.__struct_fields__}
        observed = msgspec.convert(told, wire.Observed)
        wire.send(self._out, wire.Brought(ended=ended, files=files, observed=observed))
        for path, digest in sorted(files.items()):
            wire.send_file(self._out, result.folder / path, digest)
        self._out.flush()


def _files_of(result: Result, cache: StatCache) -> dict[str, FileDigest]:
    observed = result.observations["files"]
    return {
        **{f"out/{name}": digest for name, digest in result.outputs.items()},
        **{f"obs/{name}": digest_file(result.obs / name, cache) for name in observed},
    }


def _unit(path: str) -> str:
    """What is kept or removed as a whole: a layer, a source, the code of a stage, a result."""
    depth = 4 if path.startswith(f"{wire.RESULTS}/store/") else 3 if path.startswith(wire.RESULTS) else 2
    return "/".join(path.split("/")[:depth])


def note_used(root: Path, paths: Iterable[str]) -> None:
    """Note that a job uses these files. The notes lie beside them: a time of their own would make them look changed."""
    for unit in {_unit(path) for path in paths}:
        note = root / "used" / unit.replace("/", "+")
        note.parent.mkdir(exist_ok=True)
        note.touch()


def clear_unused(root: Path, before_s: float) -> None:
    """Remove what no job used since then; nobody else is at work here."""
    for note in root.glob("used/*"):
        if note.stat().st_mtime < before_s:
            remove_tree(root / note.name.replace("+", "/"))
            note.unlink()


def main(words: Sequence[str]) -> int:
    """See the module."""
    to_host = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed goes into the job's errors
    try:
        Node(Path(words[0]), sys.stdin.buffer, to_host, os.environ).run()
    except (BundleError, OSError) as error:
        print(error.diagnostics() if isinstance(error, BundleError) else error)  # noqa: T201 - the host shows it
        return EXIT_COULD_NOT
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
