"""What this host and a node say to each other where no folder is shared: lines of JSON, and bytes of files after them.

    host: Offer     the task, and every file that it needs, by path and digest
    node: Lacks     which of them are not on its disk; the host sends their bytes, in this order
    node: Moved     where the stage is, any number of times
    node: Brought   how it ended, and the files of the result; their bytes follow, by path

Each side hashes every byte that it is sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar, Union

import msgspec

from repro.base import typed_json
from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.foreign import shown
from repro.base.values import Count, Name, RelativePath, Seconds, Strict
from repro.cluster.task_file import Ended, TaskFile, written
from repro.graph.digests import FileDigest
from repro.graph.made_on import MadeOn

BLOBS, SOURCES, RESULTS, OWN_FILE = "blobs", "sources", "results", "file"
"""Folders of a node's own disk: layers; inputs from outside the graph, by digest; the node's store and code."""


class ConnectionEnded(CouldNotRun):
    """The other side ended in mid sentence."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the connection ended", hint="run the same command again")


_LINE_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 20
T = TypeVar("T")
Files = dict[RelativePath, FileDigest]


class Offer(Strict, frozen=True):
    """A task whose paths are below the node's folder, and the files that it needs there."""

    task: TaskFile
    files: Files
    folders: tuple[RelativePath, ...]


class Lacks(Strict, frozen=True, tag="lacks"):
    """The job that the node runs, and the files that it lacks."""

    job: str
    node: str
    paths: tuple[RelativePath, ...]


class Moved(Strict, frozen=True, tag="moved"):
    """Where the stage is."""

    done: Count
    total: Count
    what: str


class Observed(Strict, frozen=True):
    """What the run of the stage was like; see `repro.graph.making`."""

    engine: Name
    wall_s: Seconds
    limits: dict[str, str]
    made_on: MadeOn


class Brought(Strict, frozen=True, tag="brought"):
    """How it ended; `files` of out/ and obs/ and `observed` where a result was made."""

    ended: Ended
    files: Files = msgspec.field(default_factory=dict)
    observed: Union[Observed, None] = None


Said = Union[Lacks, Moved, Brought]


def send(stream: BinaryIO, message: msgspec.Struct) -> None:
    """Write a message, at once."""
    stream.write(written(message) + b"\n")
    stream.flush()


def receive(stream: BinaryIO, kind: type[T], what: str) -> T:
    """Read a message.

    Raises:
        ConnectionEnded: it ends before the message does.
        VerificationFailed: it is none.
    """
    line = stream.readline(_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise ConnectionEnded(what)
    return typed_json.read(line, kind, what=what, max_bytes=_LINE_BYTES)


def said(stream: BinaryIO, what: str) -> Said:
    """Read what a node says; see `receive`."""
    return receive(stream, Said, what)  # type: ignore[arg-type] # a union is no type to mypy


def send_file(stream: BinaryIO, source: Path | bytes | Iterator[bytes], digest: FileDigest) -> None:
    """Write a file's bytes: those at a path, given, or made piece by piece.

    Raises:
        VerificationFailed: it became shorter meanwhile.
    """
    if isinstance(source, bytes):
        stream.write(source)
        return
    if isinstance(source, Iterator):
        stream.writelines(source)
        return
    left = digest.size_bytes
    with open(source, "rb") as opened:
        while left:
            chunk = opened.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise VerificationFailed(
                    f"{source} became shorter while it was sent", hint="run the same command again"
                )
            stream.write(chunk)
            left -= len(chunk)


def receive_file(stream: BinaryIO, target: Path, digest: FileDigest) -> None:
    """Read a file's bytes into a new file; folders above it are made.

    Raises:
        ConnectionEnded: it ends before the file does.
        VerificationFailed: the bytes have another digest; no file is left.
    """
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    found, left = hashlib.sha256(), digest.size_bytes
    with open(target, "xb") as opened:
        while left:
            chunk = stream.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise ConnectionEnded(shown(target.name))
            found.update(chunk)
            opened.write(chunk)
            left -= len(chunk)
    if found.hexdigest() != digest.sha256:
        target.unlink()
        raise VerificationFailed(
            f"{shown(target.name)} arrived with another digest",
            hint="run the same command again; if it stays so, look at the node and the network",
        )


def check_result_paths(files: Mapping[str, FileDigest], most: int, most_bytes: int) -> None:
    """Hold the paths of a result to out/ and obs/, and it to its limits, before a byte of it is read.

    Raises:
        VerificationFailed: a path lies elsewhere, or within another one; or it is too much.
    """
    for path in files:
        parts = path.split("/")
        inside = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        if parts[0] not in ("out", "obs") or len(parts) < 2 or inside & files.keys():
            raise VerificationFailed(f"a node names {shown(path)} as a file of its result", hint="look at that node")
    total = sum(each.size_bytes for each in files.values())
    if len(files) > most or total > most_bytes:
        raise VerificationFailed(
            f"a node's result is of {len(files)} files and {total} bytes: more than its stage may leave",
            hint="look at the stage; nothing of it was taken",
        )
