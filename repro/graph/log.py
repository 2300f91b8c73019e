"""What a stage prints: kept in a file, its progress shown, its error and hints picked out. All of it is hostile.

Nothing of it is shown or kept as it came: control characters are escaped, lines and their number are bounded in bytes.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.base.errors import VerificationFailed
from repro.base.foreign import shown
from repro.base.strict_json import parse

_TAIL_LINES = 20
_MOST_BYTES = 16 * 1024 * 1024
_LINE_CHARACTERS = 16_384
_MOST_HINTS = 8
_SHOWN_CHARACTERS = 2_000
_CUT = b"[the log was cut here: 16 MiB]\n"
_PROGRESS = "@progress "
_PROGRESS_BYTES = 1_000
_MOST_STEPS = 10**12

OnProgress = Callable[[int, int, str], None]


@dataclass
class Said:
    """What a stage said of its end.

    Attributes:
        error: its last line that began with 'error: '; '' for none.
        hints: its lines that began with 'hint: ', the first few of them.
        tail: its last lines.
    """

    error: str = ""
    hints: list[str] = field(default_factory=list)
    tail: collections.deque[str] = field(default_factory=lambda: collections.deque(maxlen=_TAIL_LINES))


class StageLog:
    """Takes a stage's output line by line.

    Args:
        path: the file that keeps it, which must not exist; at most 16 MiB, so that a stage cannot fill the disk.
        on_progress: called with (done, total, what); `what` is safe to show.

    Attributes:
        said: what the lines so far say.
    """

    def __init__(self, path: Path, on_progress: OnProgress) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._stream = os.fdopen(os.open(path, flags, 0o644), "wb")
        self._on_progress = on_progress
        self._left_bytes = _MOST_BYTES
        self.said = Said()

    def __enter__(self) -> StageLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def line(self, stream: str, text: str) -> None:
        """One line of 'stdout' or 'stderr', as the engine read it."""
        if stream == "stderr":
            if text.startswith(_PROGRESS) and self._progress(text[len(_PROGRESS) :]):
                return
            if text.startswith("error: "):
                self.said.error = shown(text[len("error: ") :], _SHOWN_CHARACTERS)
            elif text.startswith("hint: ") and len(self.said.hints) < _MOST_HINTS:
                self.said.hints.append(shown(text[len("hint: ") :], _SHOWN_CHARACTERS))
        safe = "\t".join(shown(part, _LINE_CHARACTERS) for part in text[: 2 * _LINE_CHARACTERS].split("\t"))
        self.said.tail.append(safe[:_SHOWN_CHARACTERS])
        self._keep(safe.encode("utf-8") + b"\n")

    def _keep(self, data: bytes) -> None:
        if self._left_bytes <= 0:
            return
        self._left_bytes -= len(data)
        self._stream.write(data if self._left_bytes > 0 else _CUT)

    def _progress(self, text: str) -> bool:
        try:
            fields = parse(text.encode("utf-8", "surrogateescape"), what="progress", max_bytes=_PROGRESS_BYTES)
        except (VerificationFailed, UnicodeEncodeError):
            return False
        if not isinstance(fields, dict) or not _is_count(fields.get("done")) or not _is_count(fields.get("total")):
            return False
        if not isinstance(fields.get("what"), str):
            return False
        self._on_progress(fields["done"], fields["total"], shown(fields["what"], 40))
        return True


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST_STEPS
