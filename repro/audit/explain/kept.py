"""Both sides of a layer or image that came out otherwise: kept beside an audit's page, and explained in it."""

from __future__ import annotations

import contextlib
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from repro.audit.explain.command import part_lines
from repro.audit.explain.comparison import compare
from repro.audit.explain.sides import TarSide
from repro.audit.explain.subjects import Blob, Part, opened, same_members, tar_of_digest
from repro.audit.leaves import differences
from repro.base import strict_json
from repro.base.confined import read_below
from repro.base.errors import VerificationFailed
from repro.base.files import pretty_json, sha256_bytes, write_atomic
from repro.base.paths import Paths
from repro.base.strict_json import MAX_BYTES
from repro.container.image import Image, Layer
from repro.images.layer_tars import blob_of

_COPIED = ("debs", "wheels", "files")


@dataclass(frozen=True)
class Kept:
    """Where differences are kept.

    Attributes:
        paths: whose artifacts/oci holds what is claimed, if anything does.
        folder: a folder per layer goes in here.
    """

    paths: Paths
    folder: Path

    def layer(self, built: Layer, claimed: str) -> list[str]:
        """Keep both sides, and say why they differ.

        Args:
            built: what this audit made.
            claimed: the digest that it should have.

        Returns:
            Lines for a page; the whole is in explanation.json.
        """
        folder = self.folder / built.name.replace(":", "-")
        _keep(blob_of(built), folder / f"built-{built.diff_id[7:19]}.tar")
        with ExitStack() as stack:
            try:
                known = tar_of_digest(self.paths, claimed[7:], stack)
            except VerificationFailed as error:
                return [f"{error.message}; what was built is kept in {folder.name}/"]
            if not known.is_file() or known.is_symlink():
                return [
                    f"the bytes of {claimed} are not here to compare with; what was built is kept in {folder.name}/"
                ]
            one, two = (opened(self.paths, str(path), stack) for path in (known, built.path))
            assert isinstance(one, Blob) and isinstance(two, Blob)  # both are files
            if f"sha256:{one.sha256}" != claimed:
                return [f"artifacts/oci holds other bytes than {claimed}: what was built is kept in {folder.name}/"]
            _keep(known, folder / f"claimed-{claimed[7:19]}.tar")
            sides = [TarSide(blob.stream, 0, blob.size_bytes, blob.name) for blob in (one, two)]
            truth = sides[1] if built.kind in _COPIED else None
            findings = compare(sides[0], sides[1], truth)
            name = f"layer {built.name}, A claimed, B built again"
            part = Part(name, tuple(findings)) if findings else same_members(name, one, two)
        write_atomic(folder / "explanation.json", pretty_json(part.as_json()))
        return [*part_lines(part), f"both sides, and the whole explanation: {folder.name}/"]

    def image(self, built: Image, claimed: str) -> list[str]:
        """Keep both configs of an image, and say in which settings they differ; arguments as `layer`."""
        folder = self.folder / f"image-{built.name}"
        write_atomic(folder / f"built-{built.config_digest[7:19]}.json", built.config)
        try:
            config = read_below(self.paths.blobs, claimed[7:], MAX_BYTES)
        except FileNotFoundError:
            return [f"the config {claimed} is not here to compare with; the one built is kept in {folder.name}/"]
        if f"sha256:{sha256_bytes(config)}" != claimed:
            return [f"artifacts/oci holds another config than {claimed}; the one built is kept in {folder.name}/"]
        write_atomic(folder / f"claimed-{claimed[7:19]}.json", config)
        one, two = (strict_json.parse(data, what=f"the config of {built.name}") for data in (config, built.config))
        return [*differences(one, two, "config"), f"both configs: {folder.name}/"]


def _keep(source: Path, target: Path) -> None:
    """A second name for a file, or a copy on another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
