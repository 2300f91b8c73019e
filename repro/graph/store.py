"""Results by fingerprint: written to a temporary folder, synced, and renamed; never half there, never overwritten.

store/AB/ABCD…/result.json   the key, the digests of outputs and observations
store/AB/ABCD…/out, obs      what the stage wrote
store/locks/ABCD….lock       held by whoever is making that result
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base.errors import NonDeterministicResult
from repro.base.files import canonical_json, fsync_folder, pretty_json, remove_tree, sha256_bytes
from repro.graph.digests import FileDigest, StatCache, digest_folder, digest_of_files, missing_or_changed

_MANY_FILES = 64


def fingerprint_of(key: Mapping[str, Any]) -> str:
    """The fingerprint of a stage's key: sha256 of its canonical JSON."""
    return sha256_bytes(canonical_json(key))


@dataclass(frozen=True)
class Result:
    """A stored result.

    Attributes:
        folder: holds out/ and obs/.
        outputs: digests of the files of out/; `output_digest` is their folder's.
        observations: what the run of the stage was like (seconds, limits, engine); no digest includes it.
    """

    fingerprint: str
    folder: Path
    key: Mapping[str, Any]
    outputs: Mapping[str, FileDigest]
    output_digest: str
    observations: Mapping[str, Any]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def obs(self) -> Path:
        return self.folder / "obs"


class Workspace:
    """A temporary folder with out/ and obs/, locked while its maker lives."""

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="work.", dir=parent))
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        for name in ("result/out", "result/obs"):
            (self.folder / name).mkdir(parents=True)

    @property
    def result(self) -> Path:
        return self.folder / "result"

    def close(self) -> None:
        """Remove what is left of it."""
        remove_tree(self.folder)
        os.close(self._lock)


class Store:
    """The folder of results."""

    def __init__(self, folder: Path, temporary: Path, cache: StatCache) -> None:
        self.folder = folder
        self._temporary = temporary
        self._cache = cache

    def path(self, fingerprint: str) -> Path:
        return self.folder / fingerprint[:2] / fingerprint

    def load(self, fingerprint: str) -> Result | None:
        """The result, if it is there and every output still has its digest; a damaged one is moved aside."""
        folder = self.path(fingerprint)
        try:
            document = json.loads((folder / "result.json").read_bytes())
            outputs = {p: FileDigest(f["sha256"], f["size_bytes"]) for p, f in document["outputs"].items()}
            sound = fingerprint_of(document["key"]) == fingerprint
            result = Result(
                fingerprint, folder, document["key"], outputs, digest_of_files(outputs), document["observations"]
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound or missing_or_changed(folder / "out", outputs, self._cache):
            self._set_aside(folder)
            return None
        return result

    def _set_aside(self, folder: Path) -> None:
        damaged = self.folder / "damaged"
        damaged.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, tempfile.mkdtemp(prefix=folder.name[:16] + ".", dir=damaged) + "/entry")

    @contextlib.contextmanager
    def making(self, fingerprint: str) -> Iterator[None]:
        """Hold the right to make this result; waits while another process makes it."""
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(locks / f"{fingerprint}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def workspace(self) -> Workspace:
        """A new place to write a result in."""
        return Workspace(self._temporary)

    def clean_up(self) -> None:
        """Remove the workspaces of processes that were killed."""
        if not self._temporary.is_dir():
            return
        for folder in sorted(self._temporary.glob("work.*")):
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # its maker is alive
            else:
                remove_tree(folder)
            finally:
                os.close(descriptor)

    def publish(
        self, fingerprint: str, key: Mapping[str, Any], work: Workspace, observations: Mapping[str, Any], replace: bool
    ) -> Result:
        """Digest what a stage wrote and rename it into the store.

        Args:
            fingerprint: of `key`.
            key: everything that the result depends on.
            work: where the stage wrote.
            observations: what the run was like.
            replace: with equal outputs, take the new observations in place of the old (a forced run).

        Raises:
            VerificationFailed: the stage wrote links, devices or setuid files.
            NonDeterministicResult: a result of this fingerprint is there with other bytes; it is kept, and so is
                the new one, beside it.
        """
        _write_protect(work.result)
        outputs = digest_folder(work.result / "out", self._cache, f"the output of stage {key['stage']}")
        observed = digest_folder(work.result / "obs", StatCache(None), f"the observations of stage {key['stage']}")
        document = {
            "key": key,
            "outputs": {p: {"sha256": f.sha256, "size_bytes": f.size_bytes} for p, f in outputs.items()},
            # The files' digests tie a record to the raw times that its figures were made from.
            "observations": {**observations, "files": {p: f.sha256 for p, f in observed.items()}},
        }
        (work.result / "result.json").write_bytes(pretty_json(document))
        (work.result / "result.json").chmod(0o444)
        _settle(work.result)
        target = self.path(fingerprint)
        target.parent.mkdir(parents=True, exist_ok=True)
        existing = self.load(fingerprint)
        if existing is not None:
            if existing.output_digest != digest_of_files(outputs):
                raise self._conflict(key, existing, outputs, work)
            if not replace:
                return existing
            os.rename(existing.folder, work.folder / "replaced")
        os.rename(work.result, target)
        fsync_folder(target.parent)
        result = self.load(fingerprint)
        assert result is not None  # it was renamed there a moment ago, under the lock
        return result

    def _conflict(
        self, key: Mapping[str, Any], existing: Result, outputs: Mapping[str, FileDigest], work: Workspace
    ) -> NonDeterministicResult:
        conflicts = self.folder / "conflicts"
        conflicts.mkdir(parents=True, exist_ok=True)
        kept = Path(tempfile.mkdtemp(prefix=existing.fingerprint[:16] + ".", dir=conflicts)) / "entry"
        os.rename(work.result, kept)
        names = sorted(p for p in {*existing.outputs, *outputs} if existing.outputs.get(p) != outputs.get(p))
        return NonDeterministicResult(
            f"stage {key['stage']} gave other bytes than before for the same fingerprint",
            detail="\n".join(names[:20]),
            hint=f"compare {existing.out} with {kept}/out; the stored result was kept",
        )

    def entries(self) -> Iterator[Path]:
        """The folders of all results."""
        yield from sorted(path for path in self.folder.glob("??/*") if len(path.name) == 64)

    def collect_garbage(self, roots: set[str]) -> list[str]:
        """Remove every result whose fingerprint is not in `roots`; returns what went."""
        removed = []
        for folder in self.entries():
            if folder.name not in roots:
                remove_tree(folder)
                removed.append(folder.name)
        return removed


def _write_protect(folder: Path) -> None:
    for parent, folders, names in os.walk(folder):
        for name in folders:
            path = os.path.join(parent, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755)  # noqa: S103 - results are read by containers of other users
        for name in names:
            path = os.path.join(parent, name)
            if stat.S_ISREG(os.lstat(path).st_mode) and not os.lstat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):
                os.chmod(path, 0o444)


def _settle(folder: Path) -> None:
    """Make everything durable before the rename makes it visible."""
    files = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]
    if len(files) > _MANY_FILES:
        os.sync()  # one sync of everything costs less than an fsync a file
        return
    for path in files:
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
    fsync_folder(folder)
