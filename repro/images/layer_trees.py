"""Layers unpacked one by one, each once: images that have a layer in common have its files in common, by hard link.

FOLDER/DIFF_ID/root holds a layer's files, FOLDER/DIFF_ID/manifest.json what they are. Nothing writes through a shared
file: the sandbox mounts what it runs read-only, and putting an image together replaces a file that an upper layer
brings, and never opens it. A file that somebody changes differs from the manifest of every image that has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import shutil
import tarfile
import threading
from pathlib import Path
from typing import IO, BinaryIO, cast

from repro.base.errors import VerificationFailed
from repro.base.files import remove_tree, write_atomic
from repro.base.foreign import shown
from repro.base.locking import locked
from repro.base.temporary import clear_dead, temporary_folder
from repro.container.image import Layer
from repro.images.layers.tree import clean_path
from repro.images.unpacked import Manifest, check_tree, manifest_of, read_manifest, write_manifest

_CHUNK_BYTES = 1 << 20
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
            _link(layer, folder / "root", manifest, root)
            content = {path: entry.content for path, entry in manifest.items()}
            self._known[layer.diff_id] = linked = manifest_of(folder / "root", content)
            with contextlib.suppress(OSError):  # a checkout that cannot be written is only slower
                write_atomic(folder / "manifest.json", write_manifest(linked))
        return content

    def _held(self, folder: Path, layer: Layer) -> Manifest:
        """The manifest of the layer's folder, which is unpacked where it is not there or not what was unpacked.

        Nothing runs in that folder; an image that has a changed file of it is refused when it is next held to its own.
        """
        manifest = _sound(folder)
        if manifest is not None:
            return manifest
        clear_dead(self._folder)
        with temporary_folder(self._folder, "unpack") as temporary:
            made = temporary / folder.name
            made.mkdir(mode=0o755)
            manifest = unpack_layer(layer, made / "root")
            write_atomic(made / "manifest.json", write_manifest(manifest))
            os.sync()  # one sync of everything costs less than an fsync per file
            with locked(self._folder):
                others = _sound(folder)  # another process may have been first
                if others is None:
                    remove_tree(folder)
                    os.rename(made, folder)
                return others or manifest


def _sound(folder: Path) -> Manifest | None:
    """The manifest of a layer's folder that is what was unpacked; None of any other."""
    manifest = read_manifest(folder / "manifest.json")
    if manifest is None:
        return None
    try:
        return check_tree(folder / "root", manifest)
    except VerificationFailed:
        return None


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
        VerificationFailed: its bytes are not its digest, or it holds what no layer holds.
        OSError: no space, or the file system does not take what it holds.
    """
    root.mkdir(mode=0o755)
    digests: dict[str, str] = {}
    with open(layer.path, "rb") as blob:
        _unpack(layer, blob, root, digests)
    root.chmod(0o755)
    return manifest_of(root, digests)


class _Hashed:
    """Reads a stream through and digests what was read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        return data

    def hexdigest(self) -> str:
        """Of the whole stream: what was not read is read now."""
        while self.read(_CHUNK_BYTES):
            pass
        return self._digest.hexdigest()


def _unpack(layer: Layer, blob: IO[bytes], root: Path, digests: dict[str, str]) -> None:
    hashed = _Hashed(blob)
    try:
        with tarfile.open(fileobj=cast(BinaryIO, hashed), mode="r|", bufsize=_CHUNK_BYTES) as archive:
            for member in archive:
                _unpack_member(layer, archive, member, root, digests)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise VerificationFailed(f"layer {layer.name} is not a tar: {shown(error)}", hint=_WRONG_LAYER) from error
    found = f"sha256:{hashed.hexdigest()}"
    if found != layer.diff_id:
        raise VerificationFailed(
            f"layer {layer.name} at {layer.path} has the digest {found}, not {layer.diff_id}", hint=_WRONG_LAYER
        )


def _unpack_member(
    layer: Layer, archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, digests: dict[str, str]
) -> None:
    path = clean_path(member.name)
    if path != member.name.rstrip("/"):
        raise VerificationFailed(f"layer {layer.name} holds the path {shown(member.name)}")
    target = root / path
    _check_parent(layer, root, path, {""})
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
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                stream.write(chunk)
            os.fchmod(stream.fileno(), member.mode & 0o777)
        digests[path] = digest.hexdigest()
    else:
        raise VerificationFailed(f"layer {layer.name}: {shown(path)} is neither file, folder nor symbolic link")
