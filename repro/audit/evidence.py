"""What an audit reads: a record and the stored results that it names. Every byte is hashed anew, nothing is trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.graph.cache import StatCache
from repro.graph.digests import FileDigest, digest_folder

RECORD = "record.json"
RECEIVED = "results"


@dataclass(frozen=True)
class Stored:
    """One stage's stored result as it lies there; digests are of the bytes read now.

    Attributes:
        document: result.json: key, outputs, observations.
        outputs, observed: digests of the files of out/ and obs/.
    """

    folder: Path
    document: Mapping[str, Any]
    outputs: Mapping[str, FileDigest]
    observed: Mapping[str, FileDigest]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def obs(self) -> Path:
        return self.folder / "obs"


@dataclass
class Evidence:
    """A run's record and where its bytes lie.

    Attributes:
        run: the folder that holds record.json and the reports.
        store: the folder of stored results, by fingerprint.
        paths: the checkout that the record is held against: its code, conf, locks and definitions.
        blobs: the layers and configs, by sha256.
    """

    run: Path
    store: Path
    paths: Paths
    blobs: Path
    raw: bytes
    record: dict[str, Any]
    _stored: dict[str, Stored] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Of record.json's bytes."""
        return sha256_bytes(self.raw)

    def stored(self, fingerprint: str) -> Stored:
        """The stored result of a fingerprint, every file of it hashed on the first call.

        Raises:
            CouldNotVerify: it is not here.
            VerificationFailed: it holds what no stage writes, or its own account is not readable.
        """
        if fingerprint not in self._stored:
            self._stored[fingerprint] = self._read(fingerprint)
        return self._stored[fingerprint]

    def _read(self, fingerprint: str) -> Stored:
        folder = self._folder(fingerprint)
        if not folder.is_dir():
            raise CouldNotVerify(f"the stored result {fingerprint[:16]} is not here")
        try:
            document = parse_json((folder / "result.json").read_bytes(), f"result.json of {fingerprint[:16]}")
        except FileNotFoundError:
            raise CouldNotVerify(f"the stored result {fingerprint[:16]} has no result.json") from None
        if not isinstance(document, dict) or not isinstance(document.get("key"), dict):
            raise VerificationFailed(f"result.json of {fingerprint[:16]} holds no key")
        digests = {}
        for name in ("out", "obs"):
            part = folder / name
            no_cache = StatCache(None)
            digests[name] = digest_folder(part, no_cache, f"{name}/ of {fingerprint[:16]}") if part.is_dir() else {}
        return Stored(folder, document, digests["out"], digests["obs"])

    def _folder(self, fingerprint: str) -> Path:
        """In a store by fingerprint; in a run that came in a bundle by the stage's key, beside the record."""
        received = self.run / RECEIVED
        if not received.is_dir():
            return self.store / fingerprint[:2] / fingerprint
        keys = [str(stage["key"]) for stage in self.record["stages"] if stage["fingerprint"] == fingerprint]
        name = keys[0].replace(":", "-") if keys else fingerprint
        if "/" in name or name.startswith("."):
            raise VerificationFailed(f"the record has a stage of the key {name!r}")
        return received / name

    def file(self, stage: Mapping[str, Any], name: str) -> bytes:
        """A file of a stage's out/, held to the digest that the record gives it.

        Raises:
            CouldNotVerify: it is not here.
            VerificationFailed: its bytes are others, or the record does not list it.
        """
        listed = stage["outputs"]["files"].get(name)
        if listed is None:
            raise VerificationFailed(f"{stage['key']}: the record lists no output {name}")
        try:
            data = (self.stored(stage["fingerprint"]).out / name).read_bytes()
        except FileNotFoundError:
            raise CouldNotVerify(f"{stage['key']}: the output {name} is not here") from None
        if sha256_bytes(data) != listed["sha256"]:
            raise VerificationFailed(
                f"{stage['key']}: {name} has sha256 {sha256_bytes(data)}, the record says {listed['sha256']}"
            )
        return data

    def json(self, stage: Mapping[str, Any], name: str) -> Any:
        """A JSON file of a stage's out/, as `file`."""
        return parse_json(self.file(stage, name), f"{stage['key']}: {name}")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def parse_json(data: bytes, what: str) -> Any:
    """Parse JSON strictly: a name that stands twice in an object would be read differently by different readers.

    Raises:
        VerificationFailed: it is not JSON.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise VerificationFailed(f"{what} is not strict JSON: {error}") from error


def open_run(run: Path, paths: Paths) -> Evidence:
    """Open a run's folder, whose stored results lie in ../../store or beside the record.

    Args:
        run: the folder, or its record.json.
        paths: the checkout that it is held against.

    Raises:
        UsageError: there is no record.
        VerificationFailed: the record is not JSON of a record's kind.
    """
    folder = (run.parent if run.name == RECORD else run).resolve()
    try:
        raw = (folder / RECORD).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{run} holds no record: {error.strerror}",
            hint="give the folder of a run, such as artifacts/runs/latest; `invoke reproduce` makes one",
        ) from error
    record = parse_json(raw, RECORD)
    if not isinstance(record, dict):
        raise VerificationFailed(f"{RECORD} is no JSON object")
    return Evidence(folder, folder.parent.parent / "store", paths, paths.blobs, raw, record)
