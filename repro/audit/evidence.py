"""What an audit reads: a record and the stored results that it names. Every byte is hashed anew, nothing is trusted.

No name that stands in a record becomes a path by itself: files are opened below their folder, without links, of the
listed size at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, TypeVar

from repro.audit.claims import Outcome
from repro.audit.stage_files import StoredResult
from repro.base import confined, typed_json
from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.base.files import sha256_bytes
from repro.base.foreign import shown
from repro.base.paths import Paths
from repro.graph.digests import FileDigest
from repro.record.document import Record
from repro.record.reading import read_record
from repro.record.stages import Stage

T = TypeVar("T")
RECORD = "record.json"
RECEIVED = "results"
_MOST_RECORD_BYTES = 64 * 1024**2
_MOST_FILE_BYTES = 64 * 1024**3
_CHUNK_BYTES = 1 << 20
_ENTRY = {"out", "obs", "result.json"}  # what a stored result holds, and nothing else


@dataclass(frozen=True)
class Stored:
    """One stage's stored result as it lies there; digests are of the bytes read now.

    Attributes:
        told: its result.json.
        outputs, observed: digests of the files of out/ and obs/.
        extra: what lies beside them, and no stage writes.
    """

    folder: Path
    told: StoredResult
    outputs: Mapping[str, FileDigest]
    observed: Mapping[str, FileDigest]
    extra: tuple[str, ...]


@dataclass
class Evidence:
    """A run's record and where its bytes lie.

    Attributes:
        run: the folder that holds record.json and the reports.
        store: the folder of stored results, by fingerprint.
        paths: the checkout that the record is held against: its code, conf, locks and definitions.
        blobs: the layers and configs, by sha256.
        trees: the layers that lie unpacked, by sha256.
    """

    run: Path
    store: Path
    paths: Paths
    blobs: Path
    trees: Path
    raw: bytes
    record: Record
    _stored: dict[str, Stored] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Of record.json's bytes."""
        return sha256_bytes(self.raw)

    @property
    def received(self) -> Optional[Path]:
        """Where the results of a run lie that came in a bundle: beside the record, by the stage's key."""
        folder = self.run / RECEIVED
        return folder if folder.is_dir() and not folder.is_symlink() else None

    def stage(self, key: str) -> Stage:
        """The record's stage of this key.

        Raises:
            VerificationFailed: it has none.
        """
        found = self.record.stage(key)
        if found is None:
            raise VerificationFailed(f"the record has no stage {key}")
        return found

    def stored(self, stage: Stage) -> Stored:
        """The stored result of a stage, every file of it hashed on the first call.

        Raises:
            CouldNotVerify: it is not here.
            VerificationFailed: it holds what no stage writes, or its own account is not readable.
        """
        if stage.key not in self._stored:
            self._stored[stage.key] = _read_stored(self._folder(stage), stage.key)
        return self._stored[stage.key]

    def _folder(self, stage: Stage) -> Path:
        if self.received is not None:
            return self.received / stage.key.replace(":", "-")
        return self.store / stage.fingerprint[:2] / stage.fingerprint

    def has(self, stage: Stage, name: str) -> bool:
        """Whether an output's bytes are here, and are the record's."""
        try:
            listed = stage.outputs.files.get(name)
            return listed is not None and self.stored(stage).outputs.get(name) == FileDigest(
                listed.sha256, listed.size_bytes
            )
        except (CouldNotVerify, VerificationFailed):
            return False

    def file(self, stage: Stage, name: str) -> bytes:
        """A file of a stage's out/, held to the digest that the record gives it.

        Raises:
            CouldNotVerify: it is not here.
            VerificationFailed: its bytes are others, or the record does not list it.
        """
        listed = stage.outputs.files.get(name)
        if listed is None:
            raise VerificationFailed(f"{stage.key}: the record lists no output {name}")
        self.stored(stage)
        try:
            data = confined.read_below(self._folder(stage) / "out", name, listed.size_bytes)
        except FileNotFoundError:
            raise CouldNotVerify(f"{stage.key}: the output {name} is not here") from None
        if sha256_bytes(data) != listed.sha256:
            raise VerificationFailed(
                f"{stage.key}: {name} has sha256 {sha256_bytes(data)}, the record says {listed.sha256}"
            )
        return data

    def observed(self, stage: Stage, name: str) -> bytes:
        """A file of a stage's obs/, held to the digest that the record gives it.

        Raises:
            CouldNotVerify: it is not here, or a later run of the same stage has taken its place.
            VerificationFailed: its bytes are others than its own result.json says.
        """
        stored = self.stored(stage)
        found, told = stored.observed.get(name), stored.told.observations.files.get(name)
        if found is None:
            raise CouldNotVerify(f"{stage.key}: the observation {name} is not here")
        if found.sha256 != told:
            raise VerificationFailed(f"{stage.key}: {name} has sha256 {found.sha256}, not {told}")
        if stored.told.observations != stage.observations:
            raise CouldNotVerify(
                f"{stage.key}: the store holds the observations of another run: this run's {name} is not here"
            )
        data = confined.read_below(stored.folder / "obs", name, found.size_bytes)
        if sha256_bytes(data) != told:  # it was hashed before: these bytes were read anew
            raise VerificationFailed(f"{stage.key}: {name} has sha256 {sha256_bytes(data)}, not {told}")
        return data

    def read(self, stage: Stage, name: str, kind: type[T]) -> T:
        """A JSON file of a stage's out/, as `file`, read strictly."""
        return typed_json.read(self.file(stage, name), kind, what=f"{stage.key}: {name}")


def _read_stored(folder: Path, key: str) -> Stored:
    what = f"the stored result of {key}"
    if not folder.is_dir() or folder.is_symlink():
        raise CouldNotVerify(f"{what} is not here")
    tree = confined.list_tree(folder)
    if "result.json" not in tree.files:
        raise CouldNotVerify(f"{what} has no result.json")
    told = typed_json.read(
        confined.read_below(folder, "result.json", _MOST_RECORD_BYTES), StoredResult, what=f"{key}: result.json"
    )
    parts: dict[str, dict[str, FileDigest]] = {"out": {}, "obs": {}}
    extra = [path for path in tree.folders if path.partition("/")[0] not in _ENTRY]
    for path in tree.files:
        part, _, name = path.partition("/")
        if part in parts and name:
            parts[part][name] = digest_below(folder, path)
        elif path != "result.json":
            extra.append(path)
    return Stored(folder, told, parts["out"], parts["obs"], tuple(sorted(extra)))


def digest_below(root: Path, name: str, max_bytes: int = _MOST_FILE_BYTES) -> FileDigest:
    """Digest and size of a plain file below a folder, read now and without following links."""
    digest, size_bytes = hashlib.sha256(), 0
    with confined.open_below(root, name, max_bytes) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return FileDigest(digest.hexdigest(), size_bytes)


def open_run(run: Path, paths: Paths) -> Evidence:
    """Open a run's folder, whose stored results lie in ../../store or beside the record.

    Args:
        run: the folder, or its record.json.
        paths: the checkout that it is held against.

    Raises:
        UsageError: there is no record.
        VerificationFailed: it is not a record; the message names the place.
    """
    folder, raw = _raw_record(run)
    store, record = folder.parent.parent / "store", read_record(raw, what=RECORD)
    return Evidence(folder, store, paths, paths.blobs, paths.layer_trees, raw, record)


def examine_record(outcome: Outcome, run: Path, paths: Paths, name: str = "the record") -> Optional[Evidence]:
    """Claim: what lies there is a record. Returns None where it is not: nothing further can be claimed of it.

    Raises:
        UsageError: there is no record.
    """
    _raw_record(run)
    opened: list[Evidence] = []
    with outcome.examine("schema", f"{name} is a record: strict JSON that fits the published schema") as it:
        opened.append(open_run(run, paths))
        it.evidence.append(f"{RECORD}, sha256 {opened[0].sha256}")
        it.read(name, opened[0].sha256)
    return opened[0] if opened else None


def record_digest(run: Path) -> str:
    """The sha256 of the record's bytes, whatever they hold."""
    return sha256_bytes(_raw_record(run)[1])


def _raw_record(run: Path) -> tuple[Path, bytes]:
    folder = (run.parent if run.name == RECORD else run).resolve()
    try:
        return folder, confined.read_below(folder, RECORD, _MOST_RECORD_BYTES)
    except OSError as error:
        raise UsageError(
            f"{shown(run)} holds no record: {error.strerror}",
            hint="give the folder of a run, such as artifacts/runs/latest; `invoke reproduce` makes one",
        ) from error
