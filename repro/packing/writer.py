"""Writing a bundle: one plain tar, or parts of it, every file copied and hashed once, on all processors.

Places are known before contents: a digest has a fixed length, so the list's length, and with it every file's offset,
follows from names and sizes. Files are therefore copied side by side into their places, and the list comes last.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Union

from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.base.files import fsync_folder
from repro.base.temporary import clear_dead
from repro.base.temporary_file import temporary_file
from repro.container.image import Layer
from repro.display.console import Transfer
from repro.images.layer_tars import tar_of
from repro.packing.installer.archive import CHUNK_BYTES, processors
from repro.packing.installer.listing import (
    BLOCK_BYTES,
    LIST_NAME,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    check_paths,
    padding_bytes,
    tar_header,
)
from repro.packing.signing import Signer
from repro.packing.statements import envelope

_NO_DIGEST = "0" * 64
_MOST_PARTS = 999


@dataclass(frozen=True)
class Item:
    """One file to pack.

    Attributes:
        path: in the bundle.
        source: its bytes, or where they lie; of a layer, its tar.
        sha256: hex; '' where it is not known beforehand. A known one is held to.
        in_base: listed, and carried by the earlier bundle alone.
    """

    path: str
    source: Union[bytes, Path, Layer]
    size_bytes: int
    executable: bool = False
    sha256: str = ""
    in_base: bool = False

    @classmethod
    def of_bytes(cls, path: str, data: bytes, *, executable: bool = False) -> Item:
        """A file made in memory."""
        return cls(path, data, len(data), executable, hashlib.sha256(data).hexdigest())

    @classmethod
    def of_file(cls, path: str, source: Path, sha256: str = "") -> Item:
        """A file on this machine."""
        return cls(path, source, source.stat().st_size, sha256=sha256)

    @classmethod
    def of_layer(cls, path: str, layer: Layer) -> Item:
        """The tar of a layer, made again from the unpacked one where it does not lie here."""
        return cls(path, layer, layer.size_bytes, sha256=layer.diff_id[7:])

    def chunks(self) -> Iterator[memoryview]:
        """Its content, each piece good until the next."""
        if isinstance(self.source, bytes):
            yield memoryview(self.source)
            return
        if isinstance(self.source, Layer):
            yield from map(memoryview, tar_of(self.source))
            return
        buffer = memoryview(bytearray(CHUNK_BYTES))
        with open(self.source, "rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                yield buffer[:count]

    @property
    def place(self) -> str:
        """Where its bytes are from, for a person."""
        return str(self.source if isinstance(self.source, Path) else self.path)

    def content(self) -> bytes:
        """The whole of a small one."""
        return b"".join(map(bytes, self.chunks()))


def statement_of(items: Sequence[Item], about: Mapping[str, Any]) -> dict[str, Any]:
    """The list: an in-toto statement whose subjects are the files, in the archive's order."""
    return {
        "_type": STATEMENT_TYPE,
        "predicateType": PREDICATE_TYPE,
        "predicate": dict(about),
        "subject": [
            {
                "name": item.path,
                "digest": {"sha256": item.sha256 or _NO_DIGEST},
                "annotations": {
                    "executable": item.executable,
                    "in_base": item.in_base,
                    "size_bytes": item.size_bytes,
                },
            }
            for item in items
        ],
    }


def hashed(items: Sequence[Item], progress: Transfer) -> list[Item]:
    """The items with their digests, read on all processors; a known digest is checked."""

    def digest(item: Item) -> Item:
        state = hashlib.sha256()
        for chunk in item.chunks():
            state.update(chunk)
            progress.advance(len(chunk))
        return _with_digest(item, state.hexdigest())

    progress.begin(len(items), sum(item.size_bytes for item in items))
    found = _by_size(items, digest)
    return [found[item.path] for item in items]


def _with_digest(item: Item, found: str) -> Item:
    if item.sha256 and found != item.sha256:
        raise VerificationFailed(
            f"{item.place} has sha256 {found}; it should have {item.sha256}",
            hint="remove that file and make it again: images with `invoke images.build`, the rest with `invoke fetch`",
        )
    return replace(item, sha256=found)


def _by_size(items: Sequence[Item], work: Any) -> dict[str, Item]:
    """Do some work for every item side by side, the largest first, so that none is left alone at the end."""
    with ThreadPoolExecutor(processors()) as pool:
        done = pool.map(work, sorted(items, key=lambda item: -item.size_bytes))
        return {item.path: item for item in done}


class _Output:
    """The parts being written, addressed as one file. Nothing has its name before everything is written."""

    def __init__(self, target: Path, total_bytes: int, part_size_bytes: int) -> None:
        count = -(-total_bytes // part_size_bytes) if part_size_bytes else 1
        if count > _MOST_PARTS:
            raise UsageError(f"--part-size makes {count} parts; {_MOST_PARTS} is the most", hint="choose larger parts")
        self.names = [target] if not part_size_bytes else [
            target.with_name(f"{target.name}.{number:03d}") for number in range(1, count + 1)
        ]  # fmt: skip
        self._size_bytes = part_size_bytes or total_bytes
        self._folder = target.parent
        self._temporary: list[Path] = []
        self._descriptors: list[int] = []
        self._files = contextlib.ExitStack()
        clear_dead(target.parent)
        try:
            for number in range(count):
                path, stream = self._files.enter_context(temporary_file(target.parent))
                descriptor = stream.fileno()
                self._descriptors.append(descriptor)
                self._temporary.append(path)
                length = min(self._size_bytes, total_bytes - number * self._size_bytes)
                os.posix_fallocate(descriptor, 0, length)
        except BaseException:
            self.discard()
            raise

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            number, inside = divmod(offset, self._size_bytes)
            done = os.pwrite(self._descriptors[number], view[: self._size_bytes - inside], inside)
            offset, view = offset + done, view[done:]

    def publish(self) -> list[Path]:
        for descriptor in self._descriptors:
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        for temporary, name in zip(self._temporary, self.names):
            os.replace(temporary, name)
        fsync_folder(self._folder)
        self.discard()
        return self.names

    def discard(self) -> None:
        self._files.close()
        self._descriptors, self._temporary = [], []


def write_bundle(
    target: Path, items: Sequence[Item], about: Mapping[str, Any], signer: Signer | None, progress: Transfer
) -> list[Path]:
    """Write the bundle and sign its list.

    Args:
        target: NAME.tar; parts are NAME.tar.001 and so on.
        items: the files, in the archive's order.
        about: what the list says of the bundle as a whole, 'part_size_bytes' (0 for one file) among it.
        signer: None for a bundle that nobody vouches for.
        progress: told of every byte.

    Returns:
        The files written.

    Raises:
        UsageError: a path cannot be packed, or the parts are too small or too many.
        VerificationFailed: a file is not what its digest says.
        CouldNotRun: a file changed while it was read.
    """
    layout = _Layout(items, about, signer)
    target.parent.mkdir(parents=True, exist_ok=True)
    output = _Output(target, layout.end + 2 * BLOCK_BYTES, int(about["part_size_bytes"]))
    try:
        carried = [item for item in items if not item.in_base]
        progress.begin(len(carried), sum(item.size_bytes for item in carried))
        done = _by_size(carried, lambda item: _copy(item, layout.offsets[item.path], output, progress))
        head = envelope(statement_of([done.get(item.path, item) for item in items], about), signer)
        output.write(0, tar_header(LIST_NAME, len(head), executable=False) + head + bytes(padding_bytes(len(head))))
        output.write(layout.end, bytes(2 * BLOCK_BYTES))
        _remove_stale(target, output.names)
        return output.publish()
    except BaseException:
        output.discard()
        raise


class _Layout:
    """Where each file's header begins, known before any content is."""

    def __init__(self, items: Sequence[Item], about: Mapping[str, Any], signer: Signer | None) -> None:
        wrong = check_paths([LIST_NAME, *(item.path for item in items)])
        if wrong:
            raise UsageError(wrong.replace("the list names", "a bundle cannot hold"), hint="rename that file")
        head_bytes = len(envelope(statement_of(items, about), signer))
        self.offsets: dict[str, int] = {}
        self.end = BLOCK_BYTES + head_bytes + padding_bytes(head_bytes)
        if 0 < about["part_size_bytes"] < self.end:
            raise UsageError(f"--part-size must be {self.end} bytes or more: the list stands in the first part")
        for item in items:
            if not item.in_base:
                self.offsets[item.path] = self.end
                header_bytes = len(tar_header(item.path, item.size_bytes, executable=item.executable))
                self.end += header_bytes + item.size_bytes + padding_bytes(item.size_bytes)


def _copy(item: Item, offset: int, output: _Output, progress: Transfer) -> Item:
    """Write one file into its place, and hold it to the size and digest that it was listed with."""
    header = tar_header(item.path, item.size_bytes, executable=item.executable)
    digest = hashlib.sha256()
    output.write(offset, header)
    position = offset + len(header)
    end_of_content = position + item.size_bytes
    for chunk in item.chunks():
        if position + len(chunk) > end_of_content:
            raise CouldNotRun(f"{item.place} grew while it was packed", hint="pack again when nothing writes")
        digest.update(chunk)
        output.write(position, chunk)
        position += len(chunk)
        progress.advance(len(chunk))
    if position != end_of_content:
        raise CouldNotRun(f"{item.place} shrank while it was packed", hint="pack again when nothing writes")
    output.write(position, bytes(padding_bytes(item.size_bytes)))
    progress.file_done()
    return _with_digest(item, digest.hexdigest())


def _remove_stale(target: Path, names: Sequence[Path]) -> None:
    """Parts of an earlier packing under the same name would be one part too many."""
    for path in [target, *target.parent.glob(f"{target.name}.[0-9][0-9][0-9]")]:
        if path not in names:
            path.unlink(missing_ok=True)
