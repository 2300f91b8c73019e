"""A layer from locked wheels: installed by PyPA's installer with a fixed interpreter path, for either architecture."""

from __future__ import annotations

import base64
import io
import warnings
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO

from installer import install
from installer.destinations import WheelDestination
from installer.records import Hash, RecordEntry
from installer.scripts import Script
from installer.sources import WheelFile
from installer.utils import Scheme, construct_record_file

from repro.base.errors import VerificationFailed
from repro.images.layers.tree import Entry, Tree, clean_path

_IGNORED_SUFFIXES = (".pyc", ".pyo")


class _TreeDestination(WheelDestination):
    """Puts a wheel's files into a Tree under the folders that Debian's Python looks in."""

    def __init__(self, tree: Tree, interpreter: str, site_packages: str) -> None:
        self._tree = tree
        self._interpreter = interpreter
        self._folders = {
            "purelib": site_packages,
            "platlib": site_packages,
            "scripts": "usr/local/bin",
            "data": "usr/local",
            "headers": "usr/local/include",
        }

    def _put(self, path: str, source: BinaryIO, *, executable: bool) -> RecordEntry:
        """Add a file; RECORD takes the hash that the tree took."""
        if path in self._tree.entries:
            raise VerificationFailed(f"two wheels of one layer hold the file {path}")
        content = self._tree.add(source)
        self._tree.entries[path] = Entry("file", 0o755 if executable else 0o644, content)
        text = base64.urlsafe_b64encode(bytes.fromhex(content.sha256)).decode().rstrip("=")
        return RecordEntry(path, Hash("sha256", text), content.size_bytes)

    def write_script(self, name: str, module: str, attr: str, section: str) -> RecordEntry:
        script_name, data = Script(name, module, attr, section).generate(self._interpreter, "posix")  # type: ignore[arg-type]
        entry = self._put(f"{self._folders['scripts']}/{script_name}", io.BytesIO(data), executable=True)
        return self._with_path(entry, script_name)

    def write_file(self, scheme: Scheme, path: str | object, stream: BinaryIO, is_executable: bool) -> RecordEntry:
        relative = clean_path(str(path))
        target = f"{self._folders[scheme]}/{relative}"
        if scheme == "scripts":
            data = stream.read()
            if data.startswith(b"#!python"):
                data = b"#!" + self._interpreter.encode() + b"\n" + data.split(b"\n", 1)[1]
            return self._with_path(self._put(target, io.BytesIO(data), executable=True), relative)
        return self._with_path(self._put(target, stream, executable=is_executable), relative)

    @staticmethod
    def _with_path(entry: RecordEntry, path: str) -> RecordEntry:
        return RecordEntry(path, entry.hash_, entry.size)

    def finalize_installation(
        self, scheme: Scheme, record_file_path: str, records: Iterable[tuple[Scheme, RecordEntry]]
    ) -> None:
        kept = sorted(
            ((s, r) for s, r in records if not r.path.endswith(_IGNORED_SUFFIXES)), key=lambda item: item[1].path
        )
        home = self._folders[scheme]
        prefixes = {name: (None if folder == home else f"/{folder}/") for name, folder in self._folders.items()}
        with construct_record_file(kept, lambda name: prefixes[name]) as stream:
            path = f"{self._folders[scheme]}/{clean_path(record_file_path)}"
            self._tree.entries[path] = Entry("file", 0o644, self._tree.add(stream))


def add_wheels(tree: Tree, wheels: Collection[tuple[str, Path]], interpreter: str, site_packages: str) -> None:
    """Install verified wheel files into `tree`.

    Args:
        tree: the layer to be.
        wheels: (wheel file name, file), in any order: they are taken by name. The file itself may have another name.
        interpreter: the path of Python inside the image, for scripts' first lines: '/usr/bin/python3'.
        site_packages: the folder inside the image, 'usr/local/lib/python3.11/dist-packages'.

    Raises:
        VerificationFailed: a wheel is not a wheel, or two wheels hold the same file.
    """
    for filename, path in sorted(wheels):
        destination = _TreeDestination(tree, interpreter, site_packages)
        with zipfile.ZipFile(path) as archive:
            archive.filename = filename  # the cache names files by hash; a wheel's name is part of its meaning
            source = WheelFile(archive)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of .pyc files in a wheel, which a layer never holds
                install(source, destination, additional_metadata={"INSTALLER": b"lstm-ctc-bundle\n"})
    for compiled in [name for name in tree.entries if name.endswith(_IGNORED_SUFFIXES)]:
        del tree.entries[compiled]
