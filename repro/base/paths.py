"""Where things are: the repository's folders, as one value that is passed along."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The folders of one checkout. `artifacts` holds all that is made and is safe to delete.

    Attributes:
        root: the checkout.
        elsewhere: in place of artifacts/ for results (store, runs, logs), None for artifacts/ itself: for another
            disk, or for a run that shall not see what earlier ones stored. Images stay in artifacts/.
    """

    root: Path
    elsewhere: Path | None = None

    @classmethod
    def of_checkout(cls, environ: Mapping[str, str] = os.environ) -> Paths:
        """The checkout that this file belongs to; results go where BUNDLE_RESULTS says, if it is set."""
        results = environ.get("BUNDLE_RESULTS", "")
        return cls(Path(__file__).resolve().parents[2], Path(results).absolute() if results else None)

    @property
    def results(self) -> Path:
        return self.elsewhere or self.artifacts

    @property
    def code(self) -> Path:
        return self.results / "code"

    @property
    def logs(self) -> Path:
        return self.results / "logs"

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
        return self.results / "store"

    @property
    def runs(self) -> Path:
        return self.results / "runs"

    @property
    def temporary(self) -> Path:
        return self.results / "tmp"

    @property
    def conf(self) -> Path:
        return self.root / "conf"

    @property
    def docker(self) -> Path:
        return self.root / "docker"

    @property
    def data(self) -> Path:
        return self.root / "data"
