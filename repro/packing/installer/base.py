"""What a difference bundle leaves to an earlier one: files found by digest in that bundle, or in what it installed."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from repro.packing.installer.archive import CHUNK_BYTES, Archive
from repro.packing.installer.folder import open_plain, read_kept
from repro.packing.installer.listing import INSTALLED, Entry, Refused


class Bases:
    """Earlier bundles and installed folders, searched by digest. Nothing in them is trusted: every file is hashed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._archives: list[Archive] = []
        self._packed: dict[str, tuple[Archive, int]] = {}
        self._files: dict[str, tuple[Path, str]] = {}
        try:
            for path in paths:
                self._add(path)
        except BaseException:
            self.close()
            raise

    def _add(self, path: Path) -> None:
        kept = read_kept(path)
        if kept is not None:
            for entry in kept.entries:
                if entry.path.startswith(INSTALLED):
                    self._files[entry.sha256] = (path, entry.path[len(INSTALLED) :])
            return
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
        """A file's content from wherever it is, or None where no base has it."""
        if entry.sha256 in self._packed:
            archive, offset = self._packed[entry.sha256]
            return archive.chunks(offset, entry.size_bytes)
        if entry.sha256 not in self._files:
            return None
        descriptor = open_plain(*self._files[entry.sha256])
        return None if descriptor is None else _file_chunks(descriptor)

    def check(self, entries: Sequence[Entry]) -> None:
        """Hold the bases to what a difference leaves to them.

        Raises:
            Refused: code 3, a base's copy was changed; code 4, no base has a file.
        """
        missing, changed = [], []
        for entry in entries:
            if entry.offset >= 0:
                continue
            found = self.chunks(entry)
            if found is None:
                missing.append(f"{entry.path}: no earlier bundle given has it")
                continue
            digest = hashlib.sha256()
            for chunk in found:
                digest.update(chunk)
            if digest.hexdigest() != entry.sha256:
                changed.append(f"{entry.path}: the earlier bundle's copy was changed")
        if changed:
            raise Refused(3, "the earlier bundle was changed", "nothing was installed; get it again", changed + missing)
        if missing:
            raise Refused(4, "the earlier bundle does not hold what this one builds on", "name the right one", missing)


def _file_chunks(descriptor: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        count = os.readv(descriptor, [buffer])
        while count:
            yield buffer[:count]
            count = os.readv(descriptor, [buffer])
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
