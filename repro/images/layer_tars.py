"""The tar of a layer, wherever its bytes lie: a blob of the OCI layout, or made again from the unpacked layer.

The tar is deterministic, so an unpacked layer gives it back to the byte. Whoever reads it here gets the bytes of its
diff ID, or an error: it is hashed while it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.files import atomic_writer, publish_file
from repro.base.system_errors import advice
from repro.base.temporary_file import temporary_file
from repro.container.image import Layer
from repro.images.layers.tree import CHUNK_BYTES, Member, file_chunks, tar_chunks
from repro.images.unpacked import MANIFEST, ROOT, Manifest, check_layer


def is_here(layer: Layer) -> bool:
    """Whether the layer's bytes are on this machine, as a tar or unpacked; whether they are right is not looked at."""
    return layer.path.is_file() or (layer.tree is not None and (layer.tree / MANIFEST).is_file())


def tar_of(layer: Layer) -> Iterator[bytes]:
    """The layer's tar, in pieces, held to its digest.

    Raises:
        CouldNotRun: the layer is not here, or cannot be read.
        VerificationFailed: what lies here has other bytes; raised before the last piece is over. It names the layer,
            and the first changed file of an unpacked one.
    """
    place = layer.path if layer.path.is_file() or layer.tree is None else layer.tree
    hint = f"it was changed after it was built or installed; remove {place} and run `invoke images.build`"
    digest = hashlib.sha256()
    try:
        for chunk in _chunks(layer, place):
            digest.update(chunk)
            yield chunk
    except FileNotFoundError as error:
        raise CouldNotRun(f"layer {layer.name} is not here: {error}", hint="`invoke images.build` makes it") from error
    except OSError as error:
        raise CouldNotRun(f"layer {layer.name} cannot be read: {error}", hint=f"look at {place}") from error
    except VerificationFailed as error:
        raise VerificationFailed(f"layer {layer.name}: {error.message}", hint=hint) from error
    if f"sha256:{digest.hexdigest()}" != layer.diff_id:
        raise VerificationFailed(
            f"layer {layer.name} at {place} has the digest sha256:{digest.hexdigest()}, not {layer.diff_id}", hint=hint
        )


def _chunks(layer: Layer, place: Path) -> Iterator[bytes]:
    if place == layer.path:
        yield from file_chunks(place, layer.size_bytes)
    else:
        yield from tar_chunks(_members(place / ROOT, check_layer(place)))


def _members(root: Path, manifest: Manifest) -> Iterator[Member]:
    """Of an unpacked layer that was just held to its manifest."""
    for path in sorted(manifest, key=os.fsencode):
        entry = manifest[path]
        if entry.kind == "file":
            yield Member(path, "file", entry.mode, "", root / path, entry.state[2])
        else:
            yield Member(path, entry.kind, entry.mode, entry.content, None, 0)


class _Stream(io.RawIOBase):
    """Pieces as a stream."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = filter(None, chunks)
        self._left = memoryview(b"")
        self._given_bytes = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._given_bytes

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if not self._left:
            self._left = memoryview(next(self._chunks, b""))
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        self._given_bytes += count
        return count


@contextlib.contextmanager
def opened(layer: Layer) -> Iterator[BinaryIO]:
    """The layer's tar as a stream that cannot be rewound; what the caller leaves is read as well, to hash it.

    Raises:
        CouldNotRun, VerificationFailed: as `tar_of`, at the latest when the context ends.
    """
    with io.BufferedReader(_Stream(tar_of(layer)), CHUNK_BYTES) as stream:
        yield cast(BinaryIO, stream)
        while stream.read(CHUNK_BYTES):
            pass


def write_tar(layer: Layer, target: Path) -> None:
    """Write the layer's tar into a file, which appears when it is complete and right; raises as `tar_of`."""
    with atomic_writer(target) as stream:
        for chunk in tar_of(layer):
            stream.write(chunk)


def blob_of(layer: Layer) -> Path:
    """The layer's tar among the blobs, for whoever needs a file; made where it is not there. Raises as `tar_of`."""
    if not layer.path.is_file():
        try:
            write_tar(layer, layer.path)
        except OSError as error:
            hint = advice(error, "check artifacts/ and its disk")
            raise CouldNotRun(f"cannot write the tar of layer {layer.name}: {error}", hint=hint) from error
    return layer.path


def write_blob(blobs: Path, chunks: Iterable[bytes]) -> tuple[str, int]:
    """Write a tar among the blobs under its own digest, hashed while it is written.

    Returns:
        The diff ID ('sha256:…') and the size in bytes.
    """
    blobs.mkdir(parents=True, exist_ok=True)
    digest, size_bytes = hashlib.sha256(), 0
    with temporary_file(blobs) as (temporary, stream):
        for chunk in chunks:
            digest.update(chunk)
            size_bytes += len(chunk)
            stream.write(chunk)
        publish_file(temporary, stream, blobs / digest.hexdigest())
    return f"sha256:{digest.hexdigest()}", size_bytes
