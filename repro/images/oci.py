"""The OCI layout in artifacts/oci, and the archive that every engine loads.

The archive is an OCI layout that also holds docker's manifest.json: Docker's classic store and Podman read the
latter, Docker's containerd store the former. Layers appear once, however many images share them. In artifacts/oci the
tar of a layer appears only where somebody needs it as a file: `repro.images.layer_tars`.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from repro.base import strict_json, typed_json
from repro.base.architecture import by_name
from repro.base.errors import VerificationFailed
from repro.base.files import canonical_json, sha256_bytes, write_atomic
from repro.base.locking import locked
from repro.base.paths import Paths
from repro.base.values import Digest
from repro.container.image import Image, Layer
from repro.images.layer_tars import tar_of
from repro.images.layers.tree import SOURCE_DATE_EPOCH

CREATED = "2022-11-01T00:00:00Z"  # SOURCE_DATE_EPOCH in the config's spelling
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_NAME = "org.opencontainers.image.ref.name"


def compute_image(
    name: str, architecture: str, layers: Sequence[Layer], env: dict[str, str], python: str, description: str
) -> Image:
    """The image's config and manifest and their digests: pure, so that anyone can compute them again."""
    config = canonical_json(
        {
            **by_name(architecture).oci_platform,
            "created": CREATED,
            "config": {
                "Env": [f"{key}={value}" for key, value in sorted(env.items())],
                "Labels": {
                    "org.opencontainers.image.description": description,
                    "org.opencontainers.image.title": f"lstm-ctc-bundle/{name}",
                },
                "WorkingDir": "/tmp",  # noqa: S108 - inside the container
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": CREATED, "created_by": f"{layer.name} {layer.made_from}"} for layer in layers],
        }
    )
    config_digest = "sha256:" + sha256_bytes(config)
    manifest = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": {"mediaType": _CONFIG_TYPE, "digest": config_digest, "size": len(config)},
            "layers": [
                {"mediaType": _LAYER_TYPE, "digest": layer.diff_id, "size": layer.size_bytes} for layer in layers
            ],
        }
    )
    return Image(
        name=name,
        architecture=architecture,
        layers=tuple(layers),
        config=config,
        config_digest=config_digest,
        manifest=manifest,
        manifest_digest="sha256:" + sha256_bytes(manifest),
        env=dict(env),
        python=python,
    )


def _descriptor(image: Image) -> dict[str, Any]:
    return {
        "mediaType": _MANIFEST_TYPE,
        "digest": image.manifest_digest,
        "size": len(image.manifest),
        "platform": by_name(image.architecture).oci_platform,
        "annotations": {
            "io.containerd.image.name": f"docker.io/{image.reference}",
            _NAME: f"{image.name}-{image.architecture}",
        },
    }


def _index(descriptors: Iterable[dict[str, Any]]) -> bytes:
    ordered = sorted(descriptors, key=lambda d: str(d["annotations"][_NAME]))
    return canonical_json(
        {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": ordered}
    )


def layout_files(images: Iterable[Image]) -> dict[str, bytes]:
    """The small files of an OCI layout that holds just these images, by name: its version and its index."""
    return {"oci-layout": _LAYOUT, "index.json": _index(_descriptor(image) for image in images)}


class _Listed(msgspec.Struct, frozen=True):
    digest: Digest
    annotations: dict[str, str]


class _Index(msgspec.Struct, frozen=True):
    manifests: tuple[_Listed, ...]


def listed(paths: Paths) -> list[dict[str, Any]]:
    """What the layout's index lists: a descriptor for the newest image of each name and architecture.

    Raises:
        VerificationFailed: the index is damaged.
    """
    index = paths.oci / "index.json"
    if not index.exists():
        return []
    try:
        document = strict_json.parse(index.read_bytes(), what=str(index))
        found = typed_json.convert(document, _Index, what=str(index))
        if not all(_NAME in each.annotations for each in found.manifests):
            raise VerificationFailed(f"{index}: an image has no name")
    except VerificationFailed as error:
        hint = "remove it: the next `invoke images.build` lists the images again"
        raise VerificationFailed(error.message, hint=hint) from error
    return list(document["manifests"])


def publish(paths: Paths, image: Image) -> None:
    """Add the image to the layout: config and manifest as blobs, its entry in index.json in place of an older one."""
    paths.blobs.mkdir(parents=True, exist_ok=True)
    for digest, data in ((image.config_digest, image.config), (image.manifest_digest, image.manifest)):
        blob = paths.blobs / digest[7:]
        if not blob.exists():
            write_atomic(blob, data)
    paths.oci.mkdir(parents=True, exist_ok=True)
    with locked(paths.oci / ".lock", create=True):
        index, mine = paths.oci / "index.json", _descriptor(image)
        kept = [d for d in listed(paths) if d["annotations"][_NAME] != mine["annotations"][_NAME]]
        updated = _index([*kept, mine])
        if not index.exists() or index.read_bytes() != updated:
            write_atomic(paths.oci / "oci-layout", _LAYOUT)
            write_atomic(index, updated)


def docker_archive_stream(images: Sequence[Image]) -> Iterator[bytes]:
    """The hybrid archive of some images, as chunks: deterministic, never whole in memory or on disk.

    Yields:
        A tar that is an OCI layout and a docker-archive at once.

    Raises:
        CouldNotRun, VerificationFailed: as `repro.images.layer_tars.tar_of`.
    """
    blobs: dict[str, Layer | bytes] = {}
    for image in images:
        blobs[image.config_digest] = image.config
        blobs[image.manifest_digest] = image.manifest
        for layer in image.layers:
            blobs[layer.diff_id] = layer
    docker_manifest = [
        {
            "Config": f"blobs/sha256/{image.config_digest[7:]}",
            "RepoTags": [image.reference],
            "Layers": [f"blobs/sha256/{layer.diff_id[7:]}" for layer in image.layers],
        }
        for image in images
    ]
    yield from _member("oci-layout", _LAYOUT)
    yield from _member("index.json", _index(_descriptor(image) for image in images))
    yield from _member("manifest.json", canonical_json(docker_manifest))
    for digest in sorted(blobs):
        yield from _member(f"blobs/sha256/{digest[7:]}", blobs[digest])
    yield b"\0" * 2 * tarfile.BLOCKSIZE


def _member(name: str, content: Layer | bytes) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    info.mtime = SOURCE_DATE_EPOCH
    info.size = len(content) if isinstance(content, bytes) else content.size_bytes
    yield info.tobuf(tarfile.PAX_FORMAT)
    yield from (content,) if isinstance(content, bytes) else tar_of(content)
    if info.size % tarfile.BLOCKSIZE:
        yield b"\0" * (tarfile.BLOCKSIZE - info.size % tarfile.BLOCKSIZE)
