"""Layers unpacked for the embedded sandbox: one folder per image, with a manifest of what was unpacked into it.

What runs is held to its digest: a layer is hashed while it is unpacked, and a folder that exists is held to its
manifest before it is used. The sandbox mounts these folders read-only. An audit gives a folder of its
own, so that everything is unpacked afresh.

ROOTFS/CHAIN_ID/root holds the files, ROOTFS/CHAIN_ID/manifest.json what they are. A folder appears under its chain ID
only when it is complete. ROOTFS/layers holds each layer once; images share its files by hard link.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.files import remove_tree, sha256_bytes, write_atomic
from repro.base.locking import locked
from repro.base.paths import Paths
from repro.base.temporary import clear_dead, temporary_folder
from repro.container.image import Image, Layer
from repro.container.job import Engine
from repro.images.build import build_images
from repro.images.layer_trees import LayerTrees
from repro.images.unpacked import Manifest, check_tree, manifest_of, read_manifest, write_manifest
from repro.machine import facts

SANDBOX_IMAGE = "sandbox"
_LARGE_BYTES = 200 * 1000**2  # unpacking less than this is over before anybody asks
LAYERS = "layers"
"""Of the unpacked images' folder: where each layer lies by itself."""

Say = Callable[[str], None]


def chain_id(layers: Sequence[Layer]) -> str:
    """The OCI chain ID of a list of layers, hex: what names an unpacked root."""
    return chain_of([layer.diff_id for layer in layers])


def chain_of(diff_ids: Sequence[str]) -> str:
    """As `chain_id`, of the layers' digests."""
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = "sha256:" + sha256_bytes(f"{chain} {diff_id}".encode())
    return chain[7:]


class Roots:
    """The unpacked images of one checkout; each is held to its manifest when this object first gives it.

    Args:
        paths: of the checkout.
        say: is told before something large is unpacked.
        tools: the image that `tools` unpacks; None to build it where it is missing.
    """

    def __init__(self, paths: Paths, say: Say = lambda _: None, tools: Image | None = None) -> None:
        self._paths = paths
        self._say = say
        self._known: dict[str, Path] = {}
        self._tools = tools
        self._trees = LayerTrees(paths.rootfs / LAYERS)
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def of(self, image: Image) -> Path:
        """The image's files as one folder, unpacked once.

        Raises:
            VerificationFailed: a layer is not its digest or holds a path that leaves the folder, or the folder was
                changed since it was unpacked.
            CouldNotRun: no space, or the file system does not take what a layer holds.
        """
        chain = chain_id(image.layers)
        with self._lock:
            alone = self._locks.setdefault(chain, threading.Lock())
        with alone:  # a large image is unpacked ahead while stages run in others
            if chain not in self._known:
                self._known[chain] = self._checked(image, chain)
            return self._known[chain]

    def tools(self) -> Path:
        """The unpacked layer that the embedded engine itself comes from, for this machine's architecture.

        Raises:
            CouldNotRun: its locked files are not fetched.
        """
        if self._tools is None:
            architecture = facts.architecture()
            made = build_images(self._paths, [SANDBOX_IMAGE], architecture, lambda _: None, engine_for=_none_needed)
            self._tools = made[SANDBOX_IMAGE]
        return self.of(self._tools)

    def _checked(self, image: Image, chain: str) -> Path:
        folder = self._paths.rootfs / chain
        manifest = read_manifest(folder / "manifest.json")
        if manifest is None:
            self._unpack_into(folder, image)
            return folder / "root"
        try:
            now = check_tree(folder / "root", manifest)
        except VerificationFailed:  # its files are its layers' too
            self._trees.take_changed_away(image.layers)
            raise
        if now is not manifest:
            with contextlib.suppress(OSError):  # a checkout that cannot be written is only slower
                write_atomic(folder / "manifest.json", write_manifest(now))
        return folder / "root"

    def _unpack_into(self, folder: Path, image: Image) -> None:
        clear_dead(folder.parent)
        try:
            with temporary_folder(folder.parent, "unpack") as temporary:
                made = temporary / chain_id(image.layers)
                made.mkdir(mode=0o755)
                manifest = _put_together(image, made / "root", self._trees, self._say)
                write_atomic(made / "manifest.json", write_manifest(manifest))
                os.sync()  # one sync of everything costs less than an fsync per file
                with locked(folder.parent):  # so that nobody takes away what another has just put in place
                    if folder.exists() and read_manifest(folder / "manifest.json") is None:
                        remove_tree(folder)  # as earlier versions unpacked it: nothing says what it should hold
                    with contextlib.suppress(OSError):  # another process was first: its folder is held to its manifest
                        os.rename(made, folder)
        except OSError as error:
            raise CouldNotRun(
                f"cannot unpack image {image.name} into artifacts/rootfs: {error}",
                hint="check free space and permissions of artifacts/; `invoke images.gc` frees what no image needs",
            ) from error
        found = read_manifest(folder / "manifest.json")
        if found is None:
            raise CouldNotRun(f"{folder} could not be put in place", hint="check the permissions of artifacts/rootfs")
        check_tree(folder / "root", found)


def ensure_sandbox_tools(paths: Paths) -> Path:
    """See `Roots.tools`."""
    return Roots(paths).tools()


def _none_needed(toolchain: Image) -> Engine:
    raise AssertionError(f"the sandbox would be compiled in {toolchain.name}, by itself")


def _put_together(image: Image, root: Path, trees: LayerTrees, say: Say) -> Manifest:
    """An image's layers in a new folder, one over the other."""
    root.mkdir(mode=0o755)
    content: dict[str, str] = {}
    size_bytes = sum(layer.size_bytes for layer in image.layers)
    for number, layer in enumerate(image.layers, 1):
        if size_bytes > _LARGE_BYTES:
            say(f"unpacking image {image.name}: layer {number} of {len(image.layers)}, {layer.size_bytes / 1e6:.0f} MB")
        content.update(trees.add_to(root, layer))
    root.chmod(0o755)
    return manifest_of(root, content)
