"""Where things are: the repository's folders, as one value that is passed along."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The folders of one checkout. `artifacts` holds all that is made and is safe to delete."""

    root: Path

    @classmethod
    def of_checkout(cls) -> Paths:
        """The checkout that this file belongs to."""
        return cls(Path(__file__).resolve().parent.parent)

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def oci(self) -> Path:
        return self.artifacts / "oci"

    @property
    def blobs(self) -> Path:
        return self.oci / "blobs" / "sha256"

    @property
    def layer_index(self) -> Path:
        return self.artifacts / "layers"

    @property
    def rootfs(self) -> Path:
        return self.artifacts / "rootfs"

    @property
    def store(self) -> Path:
        return self.artifacts / "store"

    @property
    def runs(self) -> Path:
        return self.artifacts / "runs"

    @property
    def temporary(self) -> Path:
        return self.artifacts / "tmp"

    @property
    def conf(self) -> Path:
        return self.root / "conf"

    @property
    def docker(self) -> Path:
        return self.root / "docker"

    @property
    def data(self) -> Path:
        return self.root / "data"
