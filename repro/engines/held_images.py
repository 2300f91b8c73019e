"""The images that an engine behind Docker's API holds: loaded from our own archive, never pulled, known by digest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from docker.errors import APIError, DockerException, ImageNotFound
from requests.exceptions import RequestException

import docker
from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.pace import time_factor
from repro.container.image import Image

_PATIENCE_S = 5.0
_PAUSE_S = 0.05

ArchiveStream = Callable[[Sequence[Image]], Iterator[bytes]]


class HeldImages:
    """What one engine holds of our images.

    Args:
        title: the engine's name for people.
        archive: gives the bytes of an archive of some images.
        say: is told before an image is loaded, which can take minutes.
    """

    def __init__(self, title: str, archive: ArchiveStream, say: Callable[[str], None] = lambda _: None) -> None:
        self._title = title
        self._say = say
        self._archive = archive
        self._ids: dict[str, str] = {}
        self._locks: dict[str, threading.Lock] = {}

    def forget(self, image: Image) -> None:
        """Ask the engine again, when this image is next wanted."""
        self._ids.pop(image.config_digest, None)

    def id_of(self, api: docker.APIClient, image: Image) -> str:
        """The Id under which the engine holds exactly this image, which is loaded if it was not there.

        Raises:
            VerificationFailed: the engine holds something else, or another image after loading.
            CouldNotRun: it cannot be loaded.
        """
        # One lock per image: a large one is loaded ahead while stages start in others.
        with self._locks.setdefault(image.config_digest, threading.Lock()):
            known = self._ids.get(image.config_digest)
            if known is not None:
                return known
            found = _find(api, image)
            if found is None:
                self._load(api, image)
                found = _find(api, image)
            if found is None:
                raise VerificationFailed(
                    f"{self._title} loaded image {image.name} and knows it neither as {image.config_digest} "
                    f"nor as {image.manifest_digest}",
                    hint="this engine rewrites images on loading; use `--engine sandbox`",
                )
            self._ids[image.config_digest] = found
            return found

    def _load(self, api: docker.APIClient, image: Image) -> None:
        timeout = api.timeout
        api.timeout = None  # type: ignore[assignment]  # storing a layer of 1.5 GB answers nothing for minutes
        said = []
        size_bytes = sum(layer.size_bytes for layer in image.layers)
        self._say(f"loading image {image.name} into {self._title}: {size_bytes / 1e6:.0f} MB")
        try:
            for line in api.load_image(self._archive([image])):  # type: ignore[no-untyped-call]
                said.append(str(line.get("error") or line.get("stream") or "").strip())
        except (DockerException, RequestException) as error:
            raise CouldNotRun(
                f"{self._title} could not load image {image.name}: {error}",
                hint="is its disk full? `docker system df` says what it holds",
            ) from error
        finally:
            api.timeout = timeout
        if _find(api, image) is None and any(said):
            raise CouldNotRun(f"{self._title} did not load image {image.name}", detail="\n".join(said))


def _find(api: docker.APIClient, image: Image) -> str | None:
    """The Id under which the engine holds exactly this image, or None.

    Raises:
        VerificationFailed: something else answers to one of the image's digests.
    """
    for digest in (image.config_digest, image.manifest_digest):
        try:
            found = _inspected(api, digest)
        except ImageNotFound:
            continue
        reported = str(found["Id"])
        layers = list(found["RootFS"].get("Layers") or [])
        if _with_prefix(reported) not in (image.config_digest, image.manifest_digest) or layers != [
            layer.diff_id for layer in image.layers
        ]:
            raise VerificationFailed(
                f"the engine holds something else as {digest}: Id {reported}, layers {', '.join(layers)}",
                hint=f"remove it with `docker image rm {digest}` (or podman) and run again",
            )
        return reported
    return None


def _inspected(api: docker.APIClient, digest: str) -> Mapping[str, Any]:
    """What the engine says of an image.

    Podman also reads all that share its layers, and fails for one that another process is just loading or removing:
    then it is asked again.

    Raises:
        ImageNotFound: the engine does not hold it.
    """
    give_up_s = time.monotonic() + _PATIENCE_S * time_factor()
    while True:
        try:
            return dict(api.inspect_image(digest))  # type: ignore[no-untyped-call]
        except APIError as error:
            if not error.is_server_error() or time.monotonic() > give_up_s:
                raise
        time.sleep(_PAUSE_S)


def _with_prefix(image_id: str) -> str:
    return image_id if image_id.startswith("sha256:") else "sha256:" + image_id
