"""Layers unpacked one by one, each once: images that have a layer in common have its files in common, by hard link.

FOLDER/DIFF_ID/root holds a layer's files, FOLDER/DIFF_ID/manifest.json what they are. A build puts a layer there; one
that came as a tar (in a bundle, from a cluster) is unpacked there when it is first needed. Nothing writes through a
shared file: the sandbox mounts what it runs read-only, and putting an image together replaces a file that an upper
layer brings, and never opens it. A file that somebody changes differs from the manifest of every image that has it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import shutil
import tarfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.files import remove_tree
from repro.base.foreign import shown
from repro.base.locking import locked
from repro.base.temporary import clear_dead, temporary_folder
from repro.container.image import Layer
from repro.images.layer_tars import opened
from repro.images.layers.tree import CHUNK_BYTES, STREAM_BYTES, Entry, Tree, clean_path, tar_mode
from repro.images.unpacked import ROOT, Manifest, check_layer, manifest_of, write_layer, write_states

_BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE)
_WRONG_LAYER = "the file was changed after it was built or installed; remove it and run `invoke images.build`"


class LayerTrees:
    """The unpacked layers of one folder. Thread-safe; each is held to its manifest when this object first uses it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Manifest] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def add_to(self, root: Path, layer: Layer) -> dict[str, str]:
        """Put a layer's files over what is in `root`.

        Returns:
            By path, each file's sha256, a link's target, '' for a folder.

        Raises:
            VerificationFailed: the layer is not its digest, its files were changed, or they do not go over the others.
            OSError: no space, or the file system does not take what it holds.
        """
        with self._lock:
            alone = self._locks.setdefault(layer.diff_id, threading.Lock())
        with alone:  # linking changes the state that a file is known by
            folder = self._folder / layer.diff_id[7:]
            manifest = self._known.get(layer.diff_id) or self._held(folder, layer)
            _link(layer, folder / ROOT, manifest, root)
            content = {path: entry.content for path, entry in manifest.items()}
            self._known[layer.diff_id] = linked = manifest_of(folder / ROOT, content)
            write_states(folder, linked)
        return content

    def _held(self, folder: Path, layer: Layer) -> Manifest:
        """The manifest of the layer's folder, which is unpacked where it is not there or not what was unpacked.

        Nothing runs in that folder; an image that has a changed file of it is refused when it is next held to its own.
        """
        manifest = sound(folder)
        if manifest is not None:
            return manifest
        if self._is_alone(layer):
            return self._sound_or_taken_away(layer)
        clear_dead(self._folder)
        with temporary_folder(self._folder, "unpack") as temporary:
            made = temporary / folder.name
            made.mkdir(mode=0o755)
            return publish_layer(made, unpack_layer(layer, made / ROOT), folder)

    def _is_alone(self, layer: Layer) -> bool:
        """Whether the folder here is all that there is of a layer."""
        return layer.tree == self._folder / layer.diff_id[7:] and not layer.path.is_file()

    def _sound_or_taken_away(self, layer: Layer) -> Manifest:
        """Remove the changed folder of a layer that nothing else gives back, so that it counts as not built.

        Returns:
            The manifest, where another process has built the layer meanwhile.
        """
        folder = self._folder / layer.diff_id[7:]
        hint = "run the same command again: the layer is built anew from its locked files"
        with locked(self._folder):
            try:
                return check_layer(folder)
            except FileNotFoundError as error:
                remove_tree(folder)
                raise CouldNotRun(f"layer {layer.name} is not here any more: {error}", hint=hint) from error
            except VerificationFailed as error:
                remove_tree(folder)
                raise VerificationFailed(f"layer {layer.name} was removed: {error.message}", hint=hint) from error

    def take_changed_away(self, layers: Iterable[Layer]) -> None:
        """Remove the folders of those layers whose files were changed and that nothing but their build gives back."""
        for layer in layers:
            if self._is_alone(layer):
                with contextlib.suppress(CouldNotRun, VerificationFailed, OSError):  # the caller's error says more
                    self._sound_or_taken_away(layer)


def sound(folder: Path) -> Manifest | None:
    """The manifest of a layer's folder that is what was unpacked; None of any other."""
    try:
        return check_layer(folder)
    except (OSError, VerificationFailed):
        return None


def publish_layer(made: Path, manifest: Manifest, folder: Path) -> Manifest:
    """Put a layer's folder in place, complete and on the disk.

    Args:
        made: holds its root; on the same file system.
        manifest: of that root.
        folder: named after the diff ID that the caller has computed; one that is there and holds the same stays.

    Returns:
        The manifest of what is there then.
    """
    write_layer(made, manifest)
    os.sync()  # one sync of everything costs less than an fsync per file
    with locked(folder.parent):
        others = sound(folder)  # another process may have been first
        if others is not None and _told(others) == _told(manifest):
            return others
        remove_tree(folder)
        os.rename(made, folder)
        return manifest


def _told(manifest: Manifest) -> dict[str, tuple[str, int, str]]:
    """A manifest without the states."""
    return {path: (entry.kind, entry.mode, entry.content) for path, entry in manifest.items()}


def place(tree: Tree, root: Path) -> Manifest | None:
    """Rename a tree's contents to their places below a new folder.

    Returns:
        The manifest; None where the file system did not take everything as it is: a name, a mode, a link.

    Raises:
        VerificationFailed: a path lies behind another one that is no folder, or leaves the folder.
        OSError: no space, or the disk fails.
    """
    entries = tree.whole()
    for path in entries:
        parent = posixpath.dirname(path)
        if clean_path(path) != path or (parent and entries[parent].kind != "folder"):
            raise VerificationFailed(f"a layer holds the path {shown(path)}, which does not lie in its folders")
    wanted = {path: _wanted(entry) for path, entry in entries.items()}
    try:
        _place(entries, root)
        manifest = manifest_of(root, {path: content for path, (_, _, content) in wanted.items()})
    except (OSError, VerificationFailed) as error:
        if isinstance(error, OSError) and error.errno in _BROKEN:
            raise
        return None
    return manifest if _told(manifest) == wanted else None


def _wanted(entry: Entry) -> tuple[str, int, str]:
    """Kind, mode and content of an entry as a manifest has them."""
    content = entry.content.sha256 if entry.content is not None else entry.target
    return entry.kind, 0 if entry.kind == "link" else tar_mode(entry.kind, entry.mode), content


def _place(entries: Mapping[str, Entry], root: Path) -> None:
    root.mkdir()
    root.chmod(0o755)
    placed: set[Path] = set()
    for path, entry in entries.items():
        target, content = root / path, entry.content
        if entry.kind == "folder":
            target.mkdir()
        elif entry.kind == "link":
            target.symlink_to(entry.target)
            continue
        elif os.path.lexists(target):
            raise FileExistsError(f"{target} stands there under another name")
        elif content is not None and content.path in placed:  # a hard link of a package
            shutil.copyfile(content.path, target)
        elif content is not None:
            os.rename(content.path, target)
            content.path = target
            placed.add(target)
        target.chmod(tar_mode(entry.kind, entry.mode) | (0o700 if entry.kind == "folder" else 0))


def _link(layer: Layer, source: Path, manifest: Manifest, root: Path) -> None:
    """Each path of a layer into `root`: folders anew, files as further names of the same ones."""
    sound = {""}
    for path, entry in sorted(manifest.items()):
        target = root / path
        _check_parent(layer, root, path, sound)
        if entry.kind == "folder":
            if not target.is_symlink():  # a folder over a link of the merged /usr: the link's target is that folder
                target.mkdir(exist_ok=True)
                target.chmod(entry.mode)
            continue
        if target.is_dir() and not target.is_symlink():
            raise VerificationFailed(f"layer {layer.name}: {shown(path)} stands where a folder is", hint=_WRONG_LAYER)
        target.unlink(missing_ok=True)
        if entry.kind == "link":
            target.symlink_to(entry.content)
            continue
        try:
            os.link(source / path, target)
        except OSError:  # a file system without hard links, or a file that has as many as it takes
            shutil.copyfile(source / path, target)
            target.chmod(entry.mode)


def _check_parent(layer: Layer, root: Path, path: str, sound: set[str]) -> None:
    """Refuse what lies behind a link; `sound` remembers the folders that are none."""
    parent, found = posixpath.dirname(path), []
    while parent not in sound:
        if (root / parent).is_symlink():
            raise VerificationFailed(f"layer {layer.name}: {shown(path)} lies behind the symbolic link {shown(parent)}")
        found.append(parent)
        parent = posixpath.dirname(parent)
    sound.update(found)


def unpack_layer(layer: Layer, root: Path) -> Manifest:
    """Unpack a layer into a new folder, hashed on the way.

    Raises:
        CouldNotRun: the layer is not here.
        VerificationFailed: its bytes are not its digest, or it holds what no layer holds.
        OSError: no space, or the file system does not take what it holds.
    """
    root.mkdir(mode=0o755)
    digests: dict[str, str] = {}
    with opened(layer) as stream:
        _unpack(layer, stream, root, digests)
    root.chmod(0o755)
    return manifest_of(root, digests)


def _unpack(layer: Layer, stream: BinaryIO, root: Path, digests: dict[str, str]) -> None:
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=STREAM_BYTES) as archive:
            sound = {""}
            for member in archive:
                _unpack_member(layer, archive, member, root, digests, sound)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise VerificationFailed(f"layer {layer.name} is not a tar: {shown(error)}", hint=_WRONG_LAYER) from error


def _unpack_member(
    layer: Layer,
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    root: Path,
    digests: dict[str, str],
    sound: set[str],
) -> None:
    path = clean_path(member.name)
    if path != member.name.rstrip("/"):
        raise VerificationFailed(f"layer {layer.name} holds the path {shown(member.name)}")
    target = root / path
    _check_parent(layer, root, path, sound)  # a folder stays one: nothing below is put in a folder's place
    if member.isdir():
        if not target.is_symlink():  # a folder over a link of the merged /usr: the link's target is that folder
            target.mkdir(exist_ok=True)
            target.chmod(member.mode | 0o700)
        return
    if member.issparse() or member.size > layer.size_bytes or (member.issym() and not member.linkname):
        raise VerificationFailed(f"layer {layer.name}: {shown(path)} is no member that we write", hint=_WRONG_LAYER)
    if target.is_dir() and not target.is_symlink():
        raise VerificationFailed(f"layer {layer.name}: {shown(path)} stands where a folder is", hint=_WRONG_LAYER)
    if target.is_symlink() or target.exists():
        target.unlink()
    digests.pop(path, None)
    if member.issym():
        target.symlink_to(member.linkname)
    elif member.isreg():
        source = archive.extractfile(member)
        assert source is not None  # a regular member always has content
        digest = hashlib.sha256()
        with open(target, "xb") as stream:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                stream.write(chunk)
            os.fchmod(stream.fileno(), member.mode & 0o777)
        digests[path] = digest.hexdigest()
    else:
        raise VerificationFailed(f"layer {layer.name}: {shown(path)} is neither file, folder nor symbolic link")
