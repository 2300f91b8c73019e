"""Results by fingerprint: written to a temporary folder, synced, and renamed; never half there, never overwritten.

store/AB/ABCD…/result.json   the key, the digests of outputs and observations
store/AB/ABCD…/out, obs      what the stage wrote
store/last/STEP.json         the fingerprint of a step's newest result
store/locks/ABCD….lock       held by whoever is making that result; goes away with it
store/damaged, conflicts     the newest few results that were wrong, for a person to look at
The folder itself is locked: shared by every run that takes results, alone by whoever removes some.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base import typed_json
from repro.base.errors import CouldNotRun, NonDeterministicResult, VerificationFailed
from repro.base.files import (
    canonical_json,
    fsync_folder,
    make_shared_folder,
    pretty_json,
    remove_tree,
    sha256_bytes,
    write_atomic,
)
from repro.base.locking import Taken, locked, locked_where_possible
from repro.base.strict_json import parse
from repro.base.temporary import TemporaryFolder, temporary_folder
from repro.base.values import RelativePath, Sha256
from repro.graph.cache import StatCache
from repro.graph.digests import FileDigest, digest_of_files, folders_of, missing_or_changed
from repro.graph.leavings import Leavings

_MANY_FILES = 64
_FINGERPRINT = re.compile("[0-9a-f]{64}")
_MOST_SET_ASIDE = 10
# A missing file, and a folder, a link or a name that no stage's result has; any other error is the disk's.
_NOT_AS_STORED = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)


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
    """A temporary folder with out/ and obs/ for a stage, and room beside them that the stage cannot reach."""

    def __init__(self, parent: Path) -> None:
        self._temporary: TemporaryFolder = temporary_folder(parent, "work")
        self.folder = self._temporary.path
        try:
            for name in ("result/out", "result/obs"):
                (self.folder / name).mkdir(parents=True)
        except BaseException:
            self.close()  # a full disk
            raise

    @property
    def result(self) -> Path:
        return self.folder / "result"

    @property
    def log(self) -> Path:
        """Where the host keeps what the stage prints."""
        return self.folder / "stage.log"

    def close(self) -> None:
        """Remove what is left of it."""
        self._temporary.close()


class Store:
    """The folder of results.

    Args:
        folder: of the store.
        temporary: where results are made, on the same file system.
        cache: remembers digests by stat; one without a database hashes every file on each look.
        shared: other machines use it too. Then locks, which may count on one machine alone or be none at all, only
            spare work: of two that make the same result, the later one compares.
    """

    def __init__(self, folder: Path, temporary: Path, cache: StatCache, *, shared: bool = False) -> None:
        self._lock: Callable[..., contextlib.AbstractContextManager[object]] = locked
        if shared:
            self._lock = locked_where_possible
        self.folder = folder
        self._temporary = temporary
        self._cache = cache

    def path(self, fingerprint: str) -> Path:
        return self.folder / fingerprint[:2] / fingerprint

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Held by every run while it takes results and until its record names them: nothing is removed meanwhile.

        Raises:
            CouldNotRun: the file system has no locks, and the store is not `shared`.
        """
        make_shared_folder(self.folder)
        with self._lock(self.folder, shared=True):
            yield

    @contextlib.contextmanager
    def alone(self, say: Callable[[str], None]) -> Iterator[None]:
        """Held while results are removed: waits for the runs that use them, and says so."""
        make_shared_folder(self.folder)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder, wait=False))
            except Taken:
                say("waiting for the runs that are using stored results")
                stack.enter_context(locked(self.folder))
            yield

    def load(self, fingerprint: str) -> Result | None:
        """The result, if it is there and is exactly what was stored; a damaged one is moved aside."""
        result = self._look(fingerprint)
        if isinstance(result, _Damaged):
            with self.making(fingerprint):  # whoever brings new observations to it is done by then
                return self.load_making(fingerprint)
        return result

    def load_making(self, fingerprint: str) -> Result | None:
        """As `load`, for whoever is `making` this result."""
        result = self._look(fingerprint)
        if isinstance(result, _Damaged):
            self._set_aside(self.path(fingerprint))
            return None
        return result

    def _look(self, fingerprint: str) -> Result | _Damaged | None:
        folder = self.path(fingerprint)
        try:
            result = _result(fingerprint, folder, (folder / "result.json").read_bytes())
            changed = missing_or_changed(result.out, result.outputs, self._cache, result.output_digest)
            wrong = changed or self._obs_wrong(result)
        except OSError as error:
            if error.errno not in _NOT_AS_STORED:
                raise
            return _Damaged() if os.path.lexists(folder) else None
        except (VerificationFailed, ValueError, KeyError, TypeError, AttributeError):
            return _Damaged()
        return _Damaged() if wrong else result

    def _obs_wrong(self, result: Result) -> bool:
        expected = result.observations.get("files", {})
        found = {name: FileDigest(sha256, (result.obs / name).lstat().st_size) for name, sha256 in expected.items()
                 if (result.obs / name).exists()}  # fmt: skip
        return len(found) != len(expected) or bool(missing_or_changed(result.obs, found, self._cache))

    def _set_aside(self, folder: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, self._aside("damaged", folder.name) / "entry")

    def _aside(self, kind: str, fingerprint: str) -> Path:
        """A new folder in damaged/ or conflicts/; of those there before, the newest few stay."""
        parent = self.folder / kind
        make_shared_folder(parent)
        _keep_newest(parent, _MOST_SET_ASIDE - 1)
        for number in itertools.count():
            folder = parent / f"{fingerprint[:16]}.{number}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def making(self, fingerprint: str) -> Iterator[None]:
        """Hold the right to make this result; waits while another process makes it."""
        lock = self.folder / "locks" / f"{fingerprint}.lock"
        make_shared_folder(lock.parent)
        with self._lock(lock, create=True):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)  # while it is held: whoever waits sees that the name is gone

    def workspace(self) -> Workspace:
        """A new place to write a result in."""
        make_shared_folder(self._temporary)
        return Workspace(self._temporary)

    def publish(
        self, key: Mapping[str, Any], work: Workspace, leavings: Leavings, observations: Mapping[str, Any], *,
        replace: bool = False,
    ) -> Result:  # fmt: skip
        """Rename what a stage wrote into the store; the caller is `making` its fingerprint.

        Args:
            key: everything that the result depends on.
            work: where the stage wrote.
            leavings: what was found there.
            observations: what the run was like.
            replace: with equal outputs, take the new observations in place of the old (a forced run). The outputs
                stay as they are: another run may be reading them.

        Raises:
            NonDeterministicResult: a result of this fingerprint is there with other bytes; it is kept, and so is
                the new one, beside it.
        """
        fingerprint = fingerprint_of(key)
        document = {
            "key": key,
            "outputs": {p: {"sha256": f.sha256, "size_bytes": f.size_bytes} for p, f in leavings.outputs.items()},
            # The files' digests tie a record to the raw times that its figures were made from.
            "observations": {**observations, "files": {p: f.sha256 for p, f in leavings.observed.items()}},
        }
        (work.result / "result.json").write_bytes(pretty_json(document))
        (work.result / "result.json").chmod(0o444)
        work.result.chmod(0o755)  # containers of other users read it
        _settle(work.result, leavings)
        target = self.path(fingerprint)
        make_shared_folder(target.parent)
        existing = self.load_making(fingerprint)
        if existing is not None:
            if existing.output_digest != digest_of_files(leavings.outputs):
                raise self._conflict(key, existing, leavings.outputs, work)
            if not replace:
                return existing
            _bring_observations(work, target)
            return self._stored(fingerprint)
        try:
            os.rename(work.result, target)
        except OSError:
            existing = self.load_making(fingerprint)
            if existing is None:
                raise
            # Another machine was first, whom the lock does not keep away; or the rename was done, and its answer lost.
            if existing.output_digest != digest_of_files(leavings.outputs):
                raise self._conflict(key, existing, leavings.outputs, work) from None
            return existing
        fsync_folder(target.parent)
        return self._stored(fingerprint)

    def _stored(self, fingerprint: str) -> Result:
        result = self._look(fingerprint)
        if not isinstance(result, Result):
            raise CouldNotRun(
                f"the result {self.path(fingerprint)} was changed while it was stored",
                hint="leave artifacts/store alone while a run is at work; then run the same command again",
            )
        return result

    def remember_last(self, step: str, fingerprint: str) -> None:
        """Note the newest result of a step, so that a plan can say what changed since."""
        make_shared_folder(self.folder / "last")
        write_atomic(self.folder / "last" / f"{step}.json", fingerprint.encode())

    def last_of(self, step: str) -> str | None:
        """The fingerprint of a step's newest result; None where it never ran or something else stands there."""
        try:
            found = (self.folder / "last" / f"{step}.json").read_text(encoding="ascii")
        except OSError as error:
            if error.errno not in _NOT_AS_STORED:
                raise
            return None
        except UnicodeDecodeError:
            return None
        return found if _FINGERPRINT.fullmatch(found) else None

    def _conflict(
        self, key: Mapping[str, Any], existing: Result, outputs: Mapping[str, FileDigest], work: Workspace
    ) -> NonDeterministicResult:
        kept = self._aside("conflicts", existing.fingerprint) / "entry"
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
        """Remove every result whose fingerprint is not in `roots`, and what was set aside; the caller is `alone`.

        Returns:
            The fingerprints that went.
        """
        removed = []
        for folder in self.entries():
            if folder.name not in roots:
                (folder / "result.json").unlink(missing_ok=True)  # first: half of a result is no result
                remove_tree(folder)
                with contextlib.suppress(OSError):  # others lie there still
                    folder.parent.rmdir()
                removed.append(folder.name)
        for kind in ("damaged", "conflicts", "locks"):
            remove_tree(self.folder / kind)
        return removed


@dataclass(frozen=True)
class _Damaged:
    """In place of a result that is not as it was stored."""


def _result(fingerprint: str, folder: Path, data: bytes) -> Result:
    document = parse(data, what="result.json")
    outputs = typed_json.convert(document["outputs"], dict[RelativePath, FileDigest], what="result.json: outputs")
    observations = document["observations"]
    typed_json.convert(observations.get("files", {}), dict[RelativePath, Sha256], what="result.json: observations")
    if fingerprint_of(document["key"]) != fingerprint:
        raise ValueError("it is another key's")
    return Result(fingerprint, folder, document["key"], outputs, digest_of_files(outputs), observations)


def _bring_observations(work: Workspace, target: Path) -> None:
    """Exchange obs/ and result.json of a stored result for new ones. Who looks in between sees that they do not fit,
    and looks again under the lock that the caller holds."""
    os.rename(target / "obs", work.folder / "old-obs")
    os.rename(work.result / "obs", target / "obs")
    os.replace(work.result / "result.json", target / "result.json")
    fsync_folder(target)


def _keep_newest(parent: Path, most: int) -> None:
    found = sorted(parent.iterdir(), key=lambda path: path.lstat().st_mtime_ns, reverse=True)
    for path in found[most:]:
        with contextlib.suppress(OSError):
            remove_tree(path)


def _settle(result: Path, leavings: Leavings) -> None:
    """Make everything durable before the rename makes it visible."""
    if len(leavings.outputs) + len(leavings.observed) > _MANY_FILES:
        os.sync()  # one sync of everything costs less than one fsync per file
        return
    for part, files in (("out", leavings.outputs), ("obs", leavings.observed)):
        for path in files:
            descriptor = os.open(result / part / path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        for folder in folders_of(files):
            fsync_folder(result / part / folder)
    with open(result / "result.json", "rb") as stream:
        os.fsync(stream.fileno())
    fsync_folder(result)
