"""What a finished stage left, taken in. A stage is hostile, so nothing on the host reads its folders before this did.

The folders are listed without following a link, held to the limits that the stage declares, given fixed modes, hashed
through descriptors, and only then read or published. The host's own files join the observations under names that a
stage may not take.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base import typed_json
from repro.base.confined import Tree, TreeLimits, folder_below, list_tree, open_below, read_below
from repro.base.errors import NotPlain, VerificationFailed
from repro.base.strict_json import parse
from repro.graph.cache import StatCache
from repro.graph.commands import Command, CommandsFile
from repro.graph.digests import FileDigest, digest_tree

HOST_LOG, HOST_WATCH = "stage.log", "machine.json"
"""In obs/: what the stage printed, as the host took it down, and what the machine was like while it was measured."""

_COMMANDS = "commands.json"
_COMMANDS_BYTES = 1 << 20
_OBSERVATIONS = TreeLimits(entries=2_000, depth=4, total_bytes=1 << 30)
_HINT = "a stage or its image is broken or hostile; what it left was removed, and nothing of it was kept"


@dataclass(frozen=True)
class Leavings:
    """A finished stage's files, as they were found to be.

    Attributes:
        outputs, observed: digests of the files of out/ and obs/, the host's log among the latter.
        commands: what the stage says of the vendor's tools that it ran; None where it says nothing.
    """

    outputs: Mapping[str, FileDigest]
    observed: Mapping[str, FileDigest]
    commands: tuple[Command, ...] | None = None


def take_in(stage: str, result: Path, given: Sequence[Path], limits: TreeLimits, cache: StatCache) -> Leavings:
    """Check and hash what a stage left; its processes have ended.

    Args:
        stage: its key, for messages.
        result: holds out/ and obs/, where the stage wrote.
        given: the host's own files for obs/, by the names HOST_LOG and HOST_WATCH.
        limits: on out/.
        cache: remembers the digests, so that the store need not read the files again.

    Raises:
        NotPlain: it left a link, a device, a FIFO, an odd name, too much, or something that cannot be read.
        VerificationFailed: its commands.json is not what a stage writes.
        OSError: the disk of the host is full.
    """
    out, obs = result / "out", result / "obs"
    with _named(stage, "out"):
        outputs = _fixed(out, list_tree(out, limits), limits)
    with _named(stage, "obs"):
        observed = list_tree(obs, _OBSERVATIONS)
        for name in (HOST_LOG, HOST_WATCH):
            if name in observed.files or name in observed.folders:
                raise NotPlain(f"{name} is the host's own name")
    for own in given:
        _add(obs, own)
    with _named(stage, "obs"):
        observed = _fixed(obs, list_tree(obs, _OBSERVATIONS), _OBSERVATIONS)
        observed_digests = digest_tree(obs, observed, StatCache(None))
    with _named(stage, "out"):
        output_digests = digest_tree(out, outputs, cache)
    commands = _commands(stage, obs) if _COMMANDS in observed.files else None
    return Leavings(output_digests, observed_digests, commands)


def read_document(folder: Path, name: str, what: str, max_bytes: int = 64 << 20) -> Any:
    """A JSON file of a stage's out/ or obs/, read strictly.

    Args:
        folder: out/ or obs/ of a result.
        name: of the file below it.
        what: names it in messages: 'export: probe.json'.
        max_bytes: the largest size that is read.

    Raises:
        VerificationFailed: it is missing, not a plain file, too large, or not JSON of one meaning.
    """
    try:
        return parse(read_below(folder, name, max_bytes), what=what, max_bytes=max_bytes)
    except OSError as error:
        raise VerificationFailed(f"{what} cannot be read: {error.strerror or error}", hint=_HINT) from error
    except NotPlain as error:
        raise NotPlain(f"{what}: {error.message}", hint=_HINT) from error
    except VerificationFailed as error:
        raise VerificationFailed(error.message, hint=_HINT) from error


@contextlib.contextmanager
def _named(stage: str, part: str) -> Iterator[None]:
    """Say which stage it was, and what to do; what cannot be listed or opened was made so by the stage."""
    try:
        yield
    except NotPlain as error:
        raise NotPlain(f"stage {stage} left in {part}/ what is not taken: {error.message}", hint=_HINT) from error
    except PermissionError as error:
        raise NotPlain(f"stage {stage} left in {part}/ what cannot be read: {error}", hint=_HINT) from error


def _fixed(root: Path, listed: Tree, limits: TreeLimits) -> Tree:
    """Give everything the mode that the store wants (results are read by containers of other users); list again."""
    for name in ("", *listed.folders):
        with folder_below(root, name) as descriptor:
            os.fchmod(descriptor, 0o755)
    for name, file in listed.files.items():
        with open_below(root, name, file.size_bytes) as stream:
            os.fchmod(stream.fileno(), 0o444)
    again = list_tree(root, limits)
    if _contents(again) != _contents(listed):
        raise NotPlain("something changed while it was looked at: a process of the stage is still at work")
    return again


def _contents(tree: Tree) -> tuple[Any, ...]:
    files = {name: (file.inode, file.size_bytes, file.mtime_ns) for name, file in tree.files.items()}
    return files, tree.folders


def _add(obs: Path, own: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with folder_below(obs) as folder:
        os.fchmod(folder, 0o755)
        descriptor = os.open(own.name, flags, 0o444, dir_fd=folder)
    with os.fdopen(descriptor, "wb") as target, open(own, "rb") as source:
        shutil.copyfileobj(source, target)


def _commands(stage: str, obs: Path) -> tuple[Command, ...]:
    """The vendor's tools that the stage ran, held to the type that a record holds: what is stored can be recorded."""
    what = f"stage {stage}: obs/{_COMMANDS}"
    document = read_document(obs, _COMMANDS, what, _COMMANDS_BYTES)
    try:
        return typed_json.convert(document, CommandsFile, what=what).commands
    except VerificationFailed as error:
        raise VerificationFailed(error.message, hint=_HINT) from error
