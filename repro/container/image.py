"""What an image is: layers and a config, with identities that are computed, never asked of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layer:
    """One deterministic, uncompressed tar; its bytes lie at `path`, or are made again from `tree`, or both.

    Attributes:
        name: for people, such as 'debs:base'.
        kind: 'debs', 'wheels', 'files' or 'built'.
        diff_id: 'sha256:…' of the tar; as layers are stored uncompressed, also its blob digest.
        size_bytes: of the tar.
        path: where the tar lies on this machine if it does, in the OCI layout's blobs.
        made_from: digest of the lock (or tree) that it was built from, for people and the record.
        tree: where it lies unpacked if it does; `repro.images.layer_tars` gives its tar.
    """

    name: str
    kind: str
    diff_id: str
    size_bytes: int
    path: Path
    made_from: str
    tree: Path | None = None


@dataclass(frozen=True)
class Image:
    """Layers plus config, for one architecture ('amd64' or 'arm64').

    `config_digest` is what Docker's classic store and Podman call the ID, `manifest_digest` what Docker's
    containerd store calls it; both 'sha256:…'. `config` and `manifest` are the exact bytes they are taken of.
    `config_digest` is "the image ID" wherever the project shows one.
    """

    name: str
    architecture: str
    layers: tuple[Layer, ...]
    config: bytes
    config_digest: str
    manifest: bytes
    manifest_digest: str
    env: Mapping[str, str]
    python: str

    @property
    def reference(self) -> str:
        """The tag that the archive carries: a label for people; containers start by Id, never by it."""
        return f"lstm-ctc-bundle/{self.name}:{self.config_digest[7:19]}"
