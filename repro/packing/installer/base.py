"""What a difference bundle leaves to an earlier one: files found by digest in that bundle, or in what it installed."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from repro.packing.installer.archive import CHUNK_BYTES, Archive
from repro.packing.installer.listing import INSTALLED, LIST_NAME, Entry, Refused, read_listing

KEPT = "artifacts/bundle"  # where an installed folder keeps its bundle's list


class Bases:
    """Earlier bundles and installed folders, searched by digest. Nothing in them is trusted: every file is hashed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._archives: list[Archive] = []
        self._packed: dict[str, tuple[Archive, int]] = {}
        self._files: dict[str, Path] = {}
        for path in paths:
            kept = path / KEPT / LIST_NAME
            if kept.is_file():
                for entry in read_listing(kept.read_bytes()).entries:
                    if entry.path.startswith(INSTALLED):
                        self._files[entry.sha256] = path / entry.path[len(INSTALLED) :]
                continue
            archive = Archive(path)
            self._archives.append(archive)
            for entry in archive.listing.entries:
                if entry.offset >= 0:
                    self._packed[entry.sha256] = (archive, entry.content)

    def close(self) -> None:
        """Give the earlier bundles' files back."""
        for archive in self._archives:
            archive.close()

    def chunks(self, entry: Entry) -> Optional[Iterator[memoryview]]:
        """A file's content from wherever it is, or None where no base names it."""
        if entry.sha256 in self._packed:
            archive, offset = self._packed[entry.sha256]
            return archive.chunks(offset, entry.size_bytes)
        path = self._files.get(entry.sha256)
        return _file_chunks(path) if path and path.is_file() and not path.is_symlink() else None

    def failures(self, entries: Sequence[Entry]) -> list[str]:
        """Which files of a list no base has as they should be."""
        wrong = []
        for entry in entries:
            if entry.offset >= 0:
                continue
            found = self.chunks(entry)
            if found is None:
                wrong.append(f"{entry.path}: no earlier bundle given has it")
                continue
            digest = hashlib.sha256()
            for chunk in found:
                digest.update(chunk)
            if digest.hexdigest() != entry.sha256:
                wrong.append(f"{entry.path}: the earlier bundle's copy was changed")
        return wrong


def _file_chunks(path: Path) -> Iterator[memoryview]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        while count := os.readv(descriptor, [buffer]):
            yield buffer[:count]
    finally:
        os.close(descriptor)


def require_base(listing_about: dict[str, object], bases: Sequence[Path]) -> None:
    """A difference bundle without its base is no error of the bundle: the base is missing.

    Raises:
        Refused: code 4.
    """
    base = listing_about["base"]
    if base and not bases:
        raise Refused(
            4, f"this is a difference: it needs the bundle whose list has sha256 {base}",
            "name that bundle, or the folder it was installed into: --base PATH",
        )  # fmt: skip
