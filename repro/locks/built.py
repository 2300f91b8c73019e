"""What determines the bytes of a layer that is compiled, where packages have a lock.

Apart from what compiles it (`repro.images.layers.built`), whose code is part of a layer's key.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from repro.base.files import canonical_json, sha256_bytes
from repro.locks.archives import SourceArchive
from repro.locks.model import LockedFile


@dataclass(frozen=True)
class BuiltLock:
    """What determines a built layer's bytes, in a lock's place.

    Attributes:
        script: content of the recipe's build.sh.
        sources: the archives that it reads.
        toolchain: digest of what the compilers' image is made from.
    """

    name: str
    architecture: str
    script: bytes
    sources: tuple[SourceArchive, ...]
    toolchain: str

    @property
    def files(self) -> tuple[LockedFile, ...]:
        """Those of its archives that are fetched as packages are: Debian's."""
        return tuple(source.locked for source in self.sources if source.locked is not None)

    @functools.cached_property
    def digest(self) -> str:
        """Hex sha256 of recipe, sources and toolchain."""
        return sha256_bytes(
            canonical_json(
                {
                    "kind": "built",
                    "architecture": self.architecture,
                    "script": sha256_bytes(self.script),
                    "sources": {source.name: source.digest for source in self.sources},
                    "toolchain": self.toolchain,
                }
            )
        )
