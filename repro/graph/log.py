"""What a stage prints: kept in a file, its progress lines shown, its error and hints picked out by pattern."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable
from pathlib import Path

_TAIL_LINES = 20
_MOST_BYTES = 16 * 1024 * 1024
_PROGRESS = "@progress "


class StageLog:
    """Takes a stage's output line by line.

    Args:
        path: the file that keeps it; at most 16 MiB, so that a stage that babbles cannot fill the disk.
        on_progress: called with (done, total, what).
    """

    def __init__(self, path: Path, on_progress: Callable[[int, int, str], None]) -> None:
        self._stream = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
        self._on_progress = on_progress
        self._left_bytes = _MOST_BYTES
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self.error = ""
        self.hints: list[str] = []

    def __enter__(self) -> StageLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def line(self, stream: str, text: str) -> None:
        """One line of 'stdout' or 'stderr'."""
        if stream == "stderr" and text.startswith(_PROGRESS) and self._progress(text[len(_PROGRESS) :]):
            return
        if stream == "stderr" and text.startswith("error: "):
            self.error = text[len("error: ") :]
        elif stream == "stderr" and text.startswith("hint: "):
            self.hints.append(text[len("hint: ") :])
        self._tail.append(text)
        if self._left_bytes > 0:
            self._left_bytes -= len(text) + 1
            self._stream.write(text + "\n" if self._left_bytes > 0 else "[the log was cut here: 16 MiB]\n")

    def _progress(self, text: str) -> bool:
        try:
            fields = json.loads(text)
            self._on_progress(int(fields["done"]), int(fields["total"]), str(fields["what"]))
        except (ValueError, KeyError, TypeError):
            return False
        return True

    def tail(self) -> list[str]:
        """The last lines."""
        return list(self._tail)
