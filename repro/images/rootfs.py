"""Layers unpacked for the embedded sandbox: one folder a chain of layers, each sharing its parent's files by hard link.

The sandbox mounts these folders read-only. A folder appears under its chain ID only when it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import posixpath
import shutil
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.files import remove_tree, sha256_bytes
from repro.base.paths import Paths
from repro.container.image import Image, Layer
from repro.container.job import Engine
from repro.images.build import build_images
from repro.images.layers.tree import clean_path
from repro.machine import facts

SANDBOX_IMAGE = "sandbox"
_UNPACKING = ".unpack."
_LOCKED_WITHIN_S = 60.0  # a folder is locked a moment after it is made


def chain_id(layers: Sequence[Layer]) -> str:
    """The OCI chain ID of a list of layers, hex: what names an unpacked root."""
    chain = layers[0].diff_id
    for layer in layers[1:]:
        chain = "sha256:" + sha256_bytes(f"{chain} {layer.diff_id}".encode())
    return chain[7:]


def ensure_rootfs(paths: Paths, image: Image) -> Path:
    """The image's files as one folder, unpacked once.

    Raises:
        VerificationFailed: a layer's tar holds a path that leaves the folder.
        CouldNotRun: no space, or the file system does not take what a layer holds.
    """
    return _ensure(paths, image.layers)


def ensure_sandbox_tools(paths: Paths) -> Path:
    """The unpacked layer that the embedded engine itself comes from, for this machine's architecture.

    Raises:
        CouldNotRun: its locked files are not fetched.
    """
    image = build_images(paths, [SANDBOX_IMAGE], facts.architecture(), lambda _: None, engine_for=_none_needed)
    return ensure_rootfs(paths, image[SANDBOX_IMAGE])


def _none_needed(toolchain: Image) -> Engine:
    raise AssertionError(f"the sandbox would be compiled in {toolchain.name}, by itself")


def _ensure(paths: Paths, layers: Sequence[Layer]) -> Path:
    target = paths.rootfs / chain_id(layers)
    if target.is_dir():
        return target
    parent = _ensure(paths, layers[:-1]) if len(layers) > 1 else None
    paths.rootfs.mkdir(parents=True, exist_ok=True)
    _remove_left_over(paths.rootfs)
    temporary = Path(tempfile.mkdtemp(prefix=_UNPACKING, dir=paths.rootfs))
    lock = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = temporary / "root"
        if parent is not None:
            shutil.copytree(parent, root, symlinks=True, copy_function=os.link)
        else:
            root.mkdir()
        _unpack(layers[-1], root)
        root.chmod(0o755)
        os.sync()  # one sync of everything costs less than an fsync a file
        try:
            os.rename(root, target)
        except OSError:
            if not target.is_dir():  # another process was first: its folder is as good as ours
                raise
    except OSError as error:
        raise CouldNotRun(
            f"cannot unpack layer {layers[-1].name} into artifacts/rootfs: {error}",
            hint="check free space and permissions of artifacts/; it is safe to delete",
        ) from error
    finally:
        remove_tree(temporary)
        os.close(lock)
    return target


def _remove_left_over(folder: Path) -> None:
    """Remove what killed processes were unpacking: folders that nobody has locked, a while after they were made."""
    for left in folder.glob(_UNPACKING + "*"):
        with contextlib.suppress(OSError):  # its owner is alive, or another process was first
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(descriptor).st_mtime > _LOCKED_WITHIN_S:
                    remove_tree(left)
            finally:
                os.close(descriptor)


def _unpack(layer: Layer, root: Path) -> None:
    with tarfile.open(layer.path, "r:") as archive:
        for member in archive:
            path = clean_path(member.name)
            if path != member.name.rstrip("/"):
                raise VerificationFailed(f"layer {layer.name} holds the path {member.name!r}")
            target = root / path
            _check_parent(layer, root, path)
            if member.isdir():
                if target.is_symlink():
                    continue  # a folder over a link of the merged /usr: the link's target is that folder
                target.mkdir(exist_ok=True)
                target.chmod(member.mode | 0o700)
                continue
            if target.is_symlink() or target.exists():
                target.unlink()  # never write through: the file is shared with the parent's folder
            if member.issym():
                target.symlink_to(member.linkname)
            elif member.isreg():
                source = archive.extractfile(member)
                assert source is not None  # a regular member always has content
                with open(target, "xb") as stream:
                    shutil.copyfileobj(source, stream, 1 << 20)
                    os.fchmod(stream.fileno(), member.mode & 0o777)
            else:
                raise VerificationFailed(f"layer {layer.name}: {path} is neither file, folder nor symbolic link")


def _check_parent(layer: Layer, root: Path, path: str) -> None:
    parent = posixpath.dirname(path)
    while parent:
        if (root / parent).is_symlink():
            raise VerificationFailed(f"layer {layer.name}: {path} lies behind the symbolic link {parent}")
        parent = posixpath.dirname(parent)
