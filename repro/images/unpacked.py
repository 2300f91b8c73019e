"""What an unpacked image holds: a manifest that is written while it is unpacked, and the tree held to it later.

Each file is hashed on its way to the disk. Later a file is taken for what it was as long as its inode, size and times
are the same; after any change (a checkout that was copied, say) it is hashed again, and must be the same bytes.

A layer's folder holds `root`, manifest.json, which never changes, and states.json with the states as they are now: a
further image that shares its files changes these.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from repro.base.errors import VerificationFailed
from repro.base.files import sha256_file, write_atomic
from repro.base.foreign import shown
from repro.base.states import state_from

FORMAT = 1
MANIFEST, STATES, ROOT = "manifest.json", "states.json", "root"
"""What a folder of something unpacked holds."""


@dataclass(frozen=True)
class Unpacked:
    """One path.

    Attributes:
        kind: 'file', 'folder' or 'link'.
        mode: permission bits; a link has none of its own.
        content: a file's sha256, a link's target, '' for a folder.
        state: of a file or link when it was last known to be right, see `state_of`; nothing for a folder, whose times
            change with what is in it.
    """

    kind: str
    mode: int
    content: str
    state: list[int] = field(default_factory=list)


Manifest = dict[str, Unpacked]
"""Every path below the root, with '/', without the root itself."""


def write_manifest(manifest: Manifest) -> bytes:
    """As JSON, in byte order of the paths."""
    rows = [
        [path, entry.kind, entry.mode, entry.content, entry.state]
        for path, entry in sorted(manifest.items(), key=lambda item: os.fsencode(item[0]))
    ]
    return _ascii_json({"format": FORMAT, "paths": rows})


def _ascii_json(value: object) -> bytes:
    """JSON that holds a name of any bytes: those that are no UTF-8 are lone surrogates, which UTF-8 cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read_manifest(path: Path) -> Manifest | None:
    """A manifest as it was written; None where there is none or it is not one of ours."""
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            return None
        return {row[0]: Unpacked(*row[1:]) for row in document["paths"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_layer(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a layer's folder, once, and the states."""
    bare = {path: replace(entry, state=[]) for path, entry in manifest.items()}
    write_atomic(folder / MANIFEST, write_manifest(bare))
    write_states(folder, manifest)


def write_states(folder: Path, manifest: Manifest) -> None:
    """Remember the states of a layer's files; a checkout that cannot be written is only slower."""
    with contextlib.suppress(OSError):
        write_atomic(folder / STATES, _ascii_json({path: entry.state for path, entry in manifest.items()}))


def check_layer(folder: Path) -> Manifest:
    """Hold the folder of an unpacked layer to its manifest, and remember the states.

    Raises:
        FileNotFoundError: there is no such folder, or nothing says what it should hold.
        VerificationFailed: a path was added, removed, or is not what was unpacked; names it.
    """
    manifest = read_manifest(folder / MANIFEST)
    if manifest is None:
        raise FileNotFoundError(f"{folder} has no manifest")
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        states = json.loads((folder / STATES).read_bytes())
        manifest = {path: replace(entry, state=states.get(path, entry.state)) for path, entry in manifest.items()}
    now = check_tree(folder / ROOT, manifest)
    if now is not manifest:
        write_states(folder, now)
    return now


def manifest_of(root: Path, digests: dict[str, str]) -> Manifest:
    """The manifest of a tree that was just written.

    Args:
        root: the tree.
        digests: sha256 of each file by path, as hashed on the way to the disk.
    """
    return {path: _entry(root, path, found, digests.get(path, "")) for path, found in _walk(root)}


def _entry(root: Path, path: str, found: os.stat_result, digest: str) -> Unpacked:
    if stat.S_ISDIR(found.st_mode):
        return Unpacked("folder", stat.S_IMODE(found.st_mode), "")
    if stat.S_ISLNK(found.st_mode):
        return Unpacked("link", 0, os.readlink(root / path), state_from(found))
    return Unpacked("file", stat.S_IMODE(found.st_mode), digest, state_from(found))


def check_tree(root: Path, manifest: Manifest) -> Manifest:
    """Hold a tree to its manifest.

    Returns:
        The manifest with the states as they are now; the given one where nothing changed.

    Raises:
        VerificationFailed: a path was added, removed, or is not what was unpacked; names it.
    """
    if root.is_symlink() or not root.is_dir():
        raise _changed(root, "", "is not the folder that was unpacked")
    seen: Manifest = {}
    changed = False
    for path, found in _walk(root):
        known = manifest.get(path)
        if known is None:
            raise _changed(root, path, "was not unpacked from a layer")
        if known.state and known.state == state_from(found) and _kind(found) == known.kind:
            seen[path] = known
            continue
        now = _entry(root, path, found, sha256_file(root / path) if stat.S_ISREG(found.st_mode) else "")
        if (now.kind, now.mode, now.content) != (known.kind, known.mode, known.content):
            what = "content" if (now.kind, now.mode) == (known.kind, known.mode) else "kind or mode"
            raise _changed(root, path, f"has another {what} than in the layer that it is from")
        changed = changed or now.state != known.state
        seen[path] = now
    if len(seen) != len(manifest):
        raise _changed(root, min(set(manifest) - set(seen)), "is missing: it was unpacked from a layer")
    return seen if changed else manifest


def _changed(root: Path, path: str, what: str) -> VerificationFailed:
    return VerificationFailed(
        f"{shown(str(root / path))} {what}",
        hint=f"somebody changed an unpacked image; remove {root.parent} and run again: it is unpacked anew",
    )


def _kind(found: os.stat_result) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFREG: "file"}
    return kinds.get(stat.S_IFMT(found.st_mode), "something else")


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every path below a folder with its state; nothing is followed.

    Raises:
        VerificationFailed: one is neither file, folder nor link.
    """
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(root / prefix if prefix else root) as entries:
            for entry in entries:
                path = f"{prefix}/{entry.name}" if prefix else entry.name
                found = entry.stat(follow_symlinks=False)
                if _kind(found) == "something else":
                    raise _changed(root, path, "is no file, folder or link")
                if stat.S_ISDIR(found.st_mode):
                    pending.append(path)
                yield path, found
