"""What both inventories say, as values: the writers differ in form alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

APPLICATION, CONTAINER, LIBRARY, SYSTEM = "application", "container", "library", "operating-system"
MODEL, DATA = "machine-learning-model", "data"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Commit:
    """The commit that a bundle is packed at; `time` as 2026-11-28T10:00:00Z."""

    id: str
    time: str
    author: str
    email: str


@dataclass(frozen=True)
class Party:
    """Who made or supplies something; `url` and `email` where they are known."""

    name: str
    url: str = ""
    email: str = ""


class Digests(NamedTuple):
    """Of one file."""

    sha256: str
    sha512: str


def digests_of(path: Path) -> Digests:
    """Both digests of a file, in one reading.

    Raises:
        OSError: it cannot be read.
    """
    both = hashlib.sha256(), hashlib.sha512()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            for each in both:
                each.update(chunk)
    return Digests(both[0].hexdigest(), both[1].hexdigest())


def digests_of_bytes(data: bytes) -> Digests:
    """Both digests of some bytes."""
    return Digests(hashlib.sha256(data).hexdigest(), hashlib.sha512(data).hexdigest())


@dataclass(frozen=True)
class Part:
    """One component.

    Attributes:
        ref: names it in both inventories.
        kind: one of the constants above.
        supplier, maker: who gives it out, and who made it.
        licences: SPDX expressions, each as it is stated somewhere in its bytes; all of them apply.
        copyright: a statement, or where the statements stand.
        digests: of the file that it comes in; None where there is none, or it is named by another digest alone.
        file_name: of that file.
        carried: in the bundle, or only named.
        properties: what no field of the formats holds.
    """

    ref: str
    kind: str
    name: str
    version: str
    supplier: Party
    maker: Party
    licences: tuple[str, ...]
    copyright: str
    digests: Digests | None = None
    file_name: str = ""
    purl: str = ""
    description: str = ""
    carried: bool = True
    properties: dict[str, str] = field(default_factory=dict)

    @property
    def licence(self) -> str:
        """All licences as one SPDX expression."""
        wrapped = [f"({each})" if " OR " in each and len(self.licences) > 1 else each for each in self.licences]
        return " AND ".join(wrapped)


@dataclass(frozen=True)
class Metric:
    """One figure of a run.

    Attributes:
        name: such as 'wer_percent'.
        value: as the record has it.
        scope: the protocol and the batch size.
        lower, upper: of the 95 % interval; None where there is none.
        formula: how it is computed, with its unit.
    """

    name: str
    value: float
    scope: str
    lower: float | None = None
    upper: float | None = None
    formula: str = ""


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model from the run that the bundle carries.

    Attributes:
        model: the part's ref.
        trained_on, tested_on: refs of data sets; '' where it is not known.
        lineage: what was made of it: (name, sha256 of the stage's output), in order.
        limitations: for people.
    """

    model: str
    task: str
    architecture: str
    trained_on: str
    tested_on: str
    training: str
    metrics: tuple[Metric, ...]
    lineage: tuple[tuple[str, str], ...]
    limitations: tuple[str, ...]


@dataclass(frozen=True)
class Inventory:
    """Everything that both documents are written from.

    Attributes:
        root: the bundle itself.
        parts: every other component by its ref.
        contains: per ref, the refs of what lies in it.
        licence_texts: per LicenseRef, what it stands for.
    """

    commit: Commit
    root: Part
    parts: dict[str, Part]
    contains: dict[str, tuple[str, ...]]
    cards: tuple[ModelCard, ...]
    licence_texts: dict[str, str]
