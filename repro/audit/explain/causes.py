"""The causes of differences, and what each says of whether a build alone can have made it."""

from __future__ import annotations

TIME = "time"
OWNER = "owner"
MODE = "mode"
ORDER = "order"
PATH = "path of the build"
BYTE_CODE = "byte code"
COMPRESSION = "compression header"
LOCALE = "locale"
RANDOM = "random id"
VERSION = "package version"
FLOAT = "floating point's last digits"
TARGET = "link target"
KIND = "kind of file"
MISSING = "only on one side"
SETTING = "setting"
FORM = "form of the archive"
FOREIGN = "foreign bytes"

OF_BUILDS = frozenset({TIME, OWNER, ORDER, PATH, BYTE_CODE, COMPRESSION, LOCALE, RANDOM, FLOAT, FORM})
"""What a build varies by itself. A forger can imitate each: the locked sources decide where they are at hand."""
