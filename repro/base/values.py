"""What records and stages' files are made of: the base of their types, and the kinds of text and number in them.

`Optional` means null in JSON; a member whose default is UNSET may be left out, and is left out when it is written.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

_LARGEST = 2**53 - 1  # what every reader of JSON holds exactly

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64, description="sha256, in hex")]
Digest = Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$", max_length=71, description="sha256: and hex")]
ArchiveDigest = Annotated[str, Meta(pattern="^(content|file):[0-9a-f]{64}$", max_length=72)]
Count = Annotated[int, Meta(ge=0, le=_LARGEST)]
Positive = Annotated[int, Meta(ge=1, le=_LARGEST)]
Whole = Annotated[int, Meta(ge=-_LARGEST, le=_LARGEST)]
Real = Annotated[float, Meta(ge=-1e15, le=1e15)]
Amount = Annotated[float, Meta(ge=0, le=1e15, description="a number that is not negative")]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Instant = Annotated[str, Meta(pattern="^20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$", max_length=20)]
Printed = Annotated[str, Meta(pattern=r"^[0-9]{1,12}\.[0-9]{4}$", max_length=17)]
Name = Annotated[str, Meta(pattern="^[a-z][a-z0-9_.-]*$", max_length=100)]
StageKey = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]*(@[0-9]+|:[a-z0-9_.-]+)?$", max_length=100)]
# Below a folder: no component is empty, '.' or '..'.
RelativePath = Annotated[str, Meta(pattern=r"^(?!([\s\S]*/)?\.{0,2}(/|$))", min_length=1, max_length=4096)]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a document: immutable, and nothing in it that its type does not name."""
