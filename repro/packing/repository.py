"""The repository's files at a commit, read from git's objects and never from the working tree."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from repro.base import programs
from repro.base.errors import CouldNotRun, UsageError
from repro.packing.inventory import Commit

_FILE, _PROGRAM = "100644", "100755"


@dataclass(frozen=True)
class CommittedFile:
    """One file of a commit."""

    path: str
    data: bytes
    executable: bool


def head(root: Path) -> str:
    """The full ID of the commit that is checked out.

    Raises:
        CouldNotRun: no git, or no checkout.
        UsageError: a file that git knows differs from the commit, so that what is built here is not what it says.
    """
    commit = _git(root, "rev-parse", "--verify", "HEAD").decode().strip()
    changed = _git(root, "status", "--porcelain", "--untracked-files=no").decode(errors="replace").splitlines()
    if changed:
        raise UsageError(
            f"{len(changed)} files differ from commit {commit[:12]}: a bundle holds the repository at a commit",
            detail="\n".join(changed[:20]),
            hint="commit or undo these changes, then pack again",
        )
    return commit


def described(root: Path, commit: str) -> Commit:
    """A commit's time and author, which say when and by whom what is packed was made.

    Raises:
        CouldNotRun: git fails.
    """
    text = _git(root, "show", "--no-patch", "--format=%ct%n%an%n%ae", commit).decode("utf-8", "replace")
    seconds, author, email = text.splitlines()[:3]
    time = datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Commit(commit, time, author, email)


def files_at(root: Path, commit: str) -> list[CommittedFile]:
    """Every file of a commit, sorted by path.

    Raises:
        CouldNotRun: git fails, or the commit holds a link or a submodule.
    """
    entries: list[tuple[str, str, str]] = []
    for line in _git(root, "ls-tree", "-r", "-z", "--full-tree", commit).decode().split("\0")[:-1]:
        about, _, path = line.partition("\t")
        mode, _, name = about.split(" ")
        if mode not in (_FILE, _PROGRAM):
            raise CouldNotRun(f"{path} in commit {commit[:12]} is neither a file nor a program (mode {mode})")
        entries.append((path, mode, name))
    entries.sort()
    contents = _blobs(root, [name for _, _, name in entries])
    return [
        CommittedFile(path, data, mode == _PROGRAM) for (path, mode, _), data in zip(entries, contents)
    ]  # fmt: skip


def _blobs(root: Path, names: Sequence[str]) -> list[bytes]:
    """Contents by object name, read one after the other as git gives them."""
    found = []
    with tempfile.TemporaryFile() as wanted:
        wanted.write("".join(f"{name}\n" for name in names).encode())
        wanted.seek(0)
        command = [_program(), "-C", str(root), "cat-file", "--batch"]
        with subprocess.Popen(command, stdin=wanted, stdout=subprocess.PIPE) as process:
            stream = process.stdout
            assert stream is not None  # it was asked for
            for name in names:
                said, kind, *size = stream.readline().decode().split()
                if (said, kind) != (name, "blob"):
                    raise CouldNotRun(f"git gave {said} ({kind}) where {name} was asked for", hint="run git fsck")
                found.append(stream.read(int(size[0])))
                stream.read(1)
    return found


def _program() -> str:
    found = programs.find("git")
    if found is None:
        raise CouldNotRun("git is missing, and a bundle holds the repository at a commit", hint="install git")
    return str(found)


def _git(root: Path, *words: str) -> bytes:
    done = subprocess.run(
        [_program(), "-C", str(root), *words], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        raise CouldNotRun(
            f"git {words[0]} failed in {root}",
            detail=done.stderr.decode(errors="replace"),
            hint="bundles are packed in a git checkout; an installed bundle can be passed on as the file that it is",
        )
    return done.stdout
