"""Escaping for Markdown, so that no value of a record can become markup."""

from __future__ import annotations

import re
from typing import Any

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")


def escape(value: Any) -> str:
    """Text as Markdown shows it literally, in a paragraph, a list or a table's cell; line breaks become spaces."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))
