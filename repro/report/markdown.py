"""Escaping for Markdown, so that no value of a record can become markup, or act on the terminal that shows it."""

from __future__ import annotations

import re
from typing import Any

from repro.base.foreign import shown

_LONGEST = 10_000  # characters of one value
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")


def escape(value: Any) -> str:
    """Text as Markdown shows it literally, in a paragraph, a list or a table's cell.

    Line breaks become spaces; control characters and direction marks are spelt out.
    """
    return _SPECIAL.sub(r"\\\1", shown(" ".join(str(value).split()), _LONGEST))
