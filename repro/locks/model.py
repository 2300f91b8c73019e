"""What a lock holds, as frozen types: files by sha256, and for .debs the evidence that leads to Debian's key."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base.errors import CouldNotRun, UsageError
from repro.base.files import canonical_json, pretty_json, sha256_bytes

FORMAT = 1


@dataclass(frozen=True)
class LockedFile:
    """One file to bring, known by its sha256.

    Attributes:
        name: the file's own name, as its archive or index spells it.
        kind: 'deb', 'wheel' or 'index' (a Packages.xz that a verification reads).
        sha256: hex, no prefix.
        size_bytes: exact.
        entry: where it is locked, for messages: 'debs/base.amd64: libc6 2.36-9'.
        project: package's or wheel's project name.
        version: of the package or the wheel.
        archive: 'debian' or 'debian-security'; empty for wheels.
        path: below the archive's root, 'pool/…' or 'dists/…'; empty for wheels.
        snapshot: date of the Debian snapshot archive that holds it, '20260711T000000Z'; empty for wheels.
    """

    name: str
    kind: str
    sha256: str
    size_bytes: int
    entry: str
    project: str
    version: str
    archive: str = ""
    path: str = ""
    snapshot: str = ""


@dataclass(frozen=True)
class Index:
    """A Packages index, and the signed InRelease that lists it.

    Attributes:
        archive: 'debian' or 'debian-security'.
        suite: 'bookworm', 'bookworm-updates', 'bookworm-security', …
        inrelease: path of the committed InRelease below conf/locks.
        inrelease_sha256: of that file.
        signed_by: fingerprints of the certificates whose signature held when it was locked, sorted.
        path: of the compressed index below the suite's folder, 'main/binary-amd64/Packages.xz'.
        sha256, size_bytes: of the compressed index.
    """

    archive: str
    suite: str
    inrelease: str
    inrelease_sha256: str
    signed_by: tuple[str, ...]
    path: str
    sha256: str
    size_bytes: int

    @property
    def by_hash_path(self) -> str:
        """Where an archive keeps this very index after it has published a newer one."""
        folder = self.path.rpartition("/")[0]
        return f"dists/{self.suite}/{folder}/by-hash/SHA256/{self.sha256}"


@dataclass(frozen=True)
class Deb:
    """One .deb with the verbatim Packages lines that it came from."""

    package: str
    version: str
    architecture: str
    suite: str
    path: str
    sha256: str
    size_bytes: int
    stanza: tuple[str, ...]


@dataclass(frozen=True)
class DebLock:
    """The .debs of one set on one architecture, sorted by package."""

    name: str
    architecture: str
    suite: str
    extends: str
    snapshot: str
    indexes: tuple[Index, ...]
    debs: tuple[Deb, ...]

    @property
    def label(self) -> str:
        """How messages name this lock."""
        return f"debs/{self.name}.{self.architecture}"

    @functools.cached_property
    def files(self) -> tuple[LockedFile, ...]:
        """The .debs as files to fetch."""
        archives = {index.suite: index.archive for index in self.indexes}
        return tuple(
            LockedFile(
                name=deb.path.rpartition("/")[2],
                kind="deb",
                sha256=deb.sha256,
                size_bytes=deb.size_bytes,
                entry=f"{self.label}: {deb.package} {deb.version}",
                project=deb.package,
                version=deb.version,
                archive=archives[deb.suite],
                path=deb.path,
                snapshot=self.snapshot,
            )
            for deb in self.debs
        )

    @property
    def index_files(self) -> tuple[LockedFile, ...]:
        """The Packages indexes as files to fetch, for whoever verifies the chain of signatures."""
        return tuple(
            LockedFile(
                name=f"{index.suite}_{self.architecture}_Packages.xz",
                kind="index",
                sha256=index.sha256,
                size_bytes=index.size_bytes,
                entry=f"{self.label}: the index of {index.suite}",
                project=index.suite,
                version=self.snapshot,
                archive=index.archive,
                path=index.by_hash_path,
                snapshot=self.snapshot,
            )
            for index in self.indexes
        )

    @functools.cached_property
    def digest(self) -> str:
        """Hex sha256 of what determines the bytes: the names and hashes of the files, no evidence, no date."""
        return _digest("debs", self.architecture, self.files)


@dataclass(frozen=True)
class Wheel:
    """One wheel. `tags` are the expanded tags of its file name, sorted."""

    project: str
    version: str
    filename: str
    sha256: str
    size_bytes: int
    tags: tuple[str, ...]


@dataclass(frozen=True)
class WheelLock:
    """The wheels of one set on one architecture, sorted by project; `python` is '3.11', `glibc` is '2.36'."""

    name: str
    architecture: str
    python: str
    glibc: str
    extends: str
    wheels: tuple[Wheel, ...]

    @property
    def label(self) -> str:
        """How messages name this lock."""
        return f"wheels/{self.name}.{self.architecture}"

    @functools.cached_property
    def files(self) -> tuple[LockedFile, ...]:
        """The wheels as files to fetch."""
        return tuple(
            LockedFile(
                name=wheel.filename,
                kind="wheel",
                sha256=wheel.sha256,
                size_bytes=wheel.size_bytes,
                entry=f"{self.label}: {wheel.project} {wheel.version}",
                project=wheel.project,
                version=wheel.version,
            )
            for wheel in self.wheels
        )

    @functools.cached_property
    def digest(self) -> str:
        """Hex sha256 of what determines the bytes: the interpreter, and the names and hashes of the files."""
        return _digest("wheels", f"{self.architecture} {self.python}", self.files)


def _digest(kind: str, platform: str, files: Sequence[LockedFile]) -> str:
    content = {"kind": kind, "platform": platform, "files": sorted([file.name, file.sha256] for file in files)}
    return sha256_bytes(canonical_json(content))


def lock_path(root: Path, kind: str, name: str, architecture: str) -> Path:
    """Where the lock of a set lies in the repository `root`; `kind` is 'debs' or 'wheels'."""
    return root / "conf" / "locks" / kind / f"{name}.{architecture}.json"


def load_deb_lock(root: Path, name: str, architecture: str) -> DebLock:
    """Read the lock of a set of .debs.

    Args:
        root: the repository.
        name: the set, as conf/intents/debs.toml names it.
        architecture: 'amd64' or 'arm64'.

    Raises:
        CouldNotRun: there is no such lock.
        UsageError: the file is not a lock of this format.
    """
    path = lock_path(root, "debs", name, architecture)
    value = _read(path)
    try:
        lock = DebLock(
            name=value["name"],
            architecture=value["architecture"],
            suite=value["suite"],
            extends=value["extends"],
            snapshot=value["snapshot"],
            indexes=tuple(Index(**{**item, "signed_by": tuple(item["signed_by"])}) for item in value["indexes"]),
            debs=tuple(Deb(**{**item, "stanza": tuple(item["stanza"])}) for item in value["debs"]),
        )
        known = {index.suite for index in lock.indexes}
        if (lock.name, lock.architecture) != (name, architecture) or any(deb.suite not in known for deb in lock.debs):
            raise ValueError("its name, architecture or suites contradict each other")
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(path, error) from error
    return lock


def load_wheel_lock(root: Path, name: str, architecture: str) -> WheelLock:
    """Read the lock of a set of wheels. Arguments and errors as `load_deb_lock`."""
    path = lock_path(root, "wheels", name, architecture)
    value = _read(path)
    try:
        lock = WheelLock(
            name=value["name"],
            architecture=value["architecture"],
            python=value["python"],
            glibc=value["glibc"],
            extends=value["extends"],
            wheels=tuple(Wheel(**{**item, "tags": tuple(item["tags"])}) for item in value["wheels"]),
        )
        if (lock.name, lock.architecture) != (name, architecture):
            raise ValueError("its name or architecture contradicts the file's name")
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(path, error) from error
    return lock


def lock_names(root: Path, kind: str) -> tuple[tuple[str, str], ...]:
    """(set, architecture) of every lock of a kind, sorted."""
    folder = root / "conf" / "locks" / kind
    stems = sorted(path.name[: -len(".json")] for path in folder.glob("*.json"))
    return tuple((stem.rpartition(".")[0], stem.rpartition(".")[2]) for stem in stems)


def dump_deb_lock(lock: DebLock) -> bytes:
    """The lock's file: one spelling for one lock."""
    return pretty_json(
        {
            "format": FORMAT,
            "name": lock.name,
            "architecture": lock.architecture,
            "suite": lock.suite,
            "extends": lock.extends,
            "snapshot": lock.snapshot,
            "indexes": [dict(vars(index)) for index in lock.indexes],
            "debs": [dict(vars(deb)) for deb in lock.debs],
        }
    )


def dump_wheel_lock(lock: WheelLock) -> bytes:
    """The lock's file: one spelling for one lock."""
    return pretty_json(
        {
            "format": FORMAT,
            "name": lock.name,
            "architecture": lock.architecture,
            "python": lock.python,
            "glibc": lock.glibc,
            "extends": lock.extends,
            "wheels": [dict(vars(wheel)) for wheel in lock.wheels],
        }
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CouldNotRun(
            f"there is no lock {path.name} in {path.parent}", hint="`invoke lock` writes the locks from conf/intents"
        ) from error
    except ValueError as error:
        raise _malformed(path, error) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise _malformed(path, ValueError(f"its format is not {FORMAT}"))
    return value


def _malformed(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{path} is not a lock: {type(error).__name__}: {error}",
        hint="restore it from the repository, or write it again with `invoke lock`",
    )
