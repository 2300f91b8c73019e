"""Where things are: the repository's folders, as one value that is passed along."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import UsageError


def given_path(option: str, text: str) -> Path:
    """A path that a person wrote, absolute, with ~ and ~USER replaced.

    Args:
        option: where it was written, such as '--data', for the message.
        text: the path.

    Raises:
        UsageError: there is no such user, or no file can have such a name.
    """
    try:
        path = Path(text).expanduser().absolute()
        os.stat(path)
    except RuntimeError as error:
        raise UsageError(f"{option} {text}: there is no user of that name", hint="write the path in full") from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
            return path  # absent or closed: whoever opens it says what that means
        raise UsageError(
            f"{option} {text}: no file can have such a name: {_why(error)}", hint="give another path"
        ) from error
    return path


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def _results(text: str) -> Path:
    path = given_path("BUNDLE_RESULTS", text)
    standing = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not standing.is_dir():
        raise UsageError(
            f"BUNDLE_RESULTS={text}: {standing} is not a folder", hint="name a folder; it is made where it is missing"
        )
    return path


@dataclass(frozen=True)
class Paths:
    """The folders of one checkout.

    `artifacts` holds all that is made. Runs, audits and bundles in it cannot be made again byte for byte.

    Attributes:
        root: the checkout.
        elsewhere: in place of artifacts/ for results (store, runs, logs), None for artifacts/ itself: for another
            disk, or for a run that shall not see what earlier ones stored. Images stay in artifacts/.
    """

    root: Path
    elsewhere: Path | None = None

    @classmethod
    def of_checkout(cls, environ: Mapping[str, str] = os.environ) -> Paths:
        """The checkout that this file belongs to; results go where BUNDLE_RESULTS says, if it is set.

        Raises:
            UsageError: BUNDLE_RESULTS names what is no folder, and cannot become one.
        """
        results = environ.get("BUNDLE_RESULTS", "")
        return cls(Path(__file__).resolve().parents[2], _results(results) if results else None)

    def told(self, path: Path) -> str:
        """A path as a person is told it: below the checkout if it lies there."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    @property
    def results(self) -> Path:
        return self.elsewhere or self.artifacts

    @property
    def nodes_mark(self) -> str:
        """Names the folder on a cluster's nodes beside the site's own one; '' for the site's own."""
        return ""

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
    def layer_trees(self) -> Path:
        return self.artifacts / "rootfs" / "layers"

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
