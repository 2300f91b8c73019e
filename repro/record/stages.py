"""One stage's result in a record, and every byte that made it, by digest."""

from __future__ import annotations

from typing import Optional, Union

from msgspec import UNSET, UnsetType

from repro.base.values import Count, Name, Positive, RelativePath, Seconds, Sha256, StageKey, Strict
from repro.graph.commands import Command
from repro.graph.made_on import MadeOn


class StageInput(Strict, frozen=True, rename={"origin": "from"}):
    """An input: the stage or the source that it came from, and the digest of its content."""

    origin: str
    digest: Sha256


class OutputFile(Strict, frozen=True):
    """A file of a stage's out/."""

    sha256: Sha256
    size_bytes: Count


class Outputs(Strict, frozen=True):
    """A stage's out/: each file by its path, and the digest of the whole."""

    digest: Sha256
    files: dict[RelativePath, OutputFile]


class StageObservations(Strict, frozen=True):
    """What the run of a stage was like, when its result was made; `files` are digests of its obs/.

    `made_on` stands where results of several machines come together: in runs on a cluster.
    """

    engine: Name
    wall_s: Seconds
    limits: dict[str, str]
    files: dict[RelativePath, Sha256]
    made_on: Union[MadeOn, UnsetType] = UNSET
    commands: Union[tuple[Command, ...], UnsetType] = UNSET


class Stage(Strict, frozen=True):
    """One stage's result, and every byte that made it, by digest."""

    key: StageKey
    name: Name
    batch_size: Optional[Positive]
    fingerprint: Sha256
    image: str
    code: Sha256
    argv: tuple[str, ...]
    inputs: dict[Name, StageInput]
    outputs: Outputs
    exactness: str
    host_bound: bool
    cached: bool
    observations: StageObservations


class Phase(Strict, frozen=True):
    """A part of a run: when it started, counted from the run's start, and how long it took."""

    name: str
    started_s: Seconds
    seconds: Seconds


class Step(Strict, frozen=True):
    """When a stage ran, or was taken from the store (`cached`)."""

    key: StageKey
    started_s: Seconds
    wall_s: Seconds
    cached: bool
