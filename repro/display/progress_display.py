"""Shows work with a known size to a person: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Optional, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as _Bars

from repro.display.progress import Progress

_LINE_EVERY_S = 5.0


class LineProgress:
    """Plain lines, for logs and pipes.

    Args:
        what: names the work, 'fetch'.
        stream: where lines go.
        every_s: seconds between two lines.
    """

    def __init__(self, what: str, stream: TextIO, every_s: float = _LINE_EVERY_S) -> None:
        self._what = what
        self._stream = stream
        self._every_s = every_s
        self._lock = threading.Lock()
        self._files = [0, 0]
        self._bytes = [0, 0]
        self._began_s = self._shown_s = time.monotonic()

    def begin(self, files_total: int, bytes_total: int) -> None:
        with self._lock:
            self._files, self._bytes = [0, files_total], [0, bytes_total]
            self._began_s = self._shown_s = time.monotonic()

    def advance(self, count_bytes: int) -> None:
        with self._lock:
            self._bytes[0] += count_bytes
            if time.monotonic() - self._shown_s >= self._every_s:
                self._shown_s = time.monotonic()
                self._print(self._line())

    def file_done(self) -> None:
        with self._lock:
            self._files[0] += 1

    def note(self, text: str) -> None:
        with self._lock:
            self._print(text)

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        with self._lock:
            if self._files[1]:
                self._print(self._line() + ("" if kind else f", {time.monotonic() - self._began_s:.1f} s"))

    def _line(self) -> str:
        done, total = self._bytes
        return (
            f"{self._what}: {self._files[0]} of {self._files[1]} files, "
            f"{done / 1e6:.1f} of {total / 1e6:.1f} MB ({100 * done // max(total, 1)} %)"
        )

    def _print(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class BarProgress:
    """One bar on a terminal: share, bytes, speed, time left. Arguments as `LineProgress`."""

    def __init__(self, what: str, stream: TextIO) -> None:
        self._what = what
        self._files = [0, 0]
        self._task = TaskID(0)
        self._lock = threading.Lock()
        self._bars = _Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream),
        )

    def begin(self, files_total: int, bytes_total: int) -> None:
        self._files = [0, files_total]
        self._task = self._bars.add_task(self._describe(), total=bytes_total)

    def advance(self, count_bytes: int) -> None:
        self._bars.advance(self._task, count_bytes)

    def file_done(self) -> None:
        with self._lock:
            self._files[0] += 1
            self._bars.update(self._task, description=self._describe())

    def note(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def __enter__(self) -> BarProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._bars.stop()

    def _describe(self) -> str:
        return f"{self._what} {self._files[0]}/{self._files[1]} files"


def progress_on(what: str, stream: TextIO | None = None) -> Progress:
    """The progress that fits a stream (stderr by default)."""
    stream = stream or sys.stderr
    if stream.isatty():
        return BarProgress(what, stream)
    return LineProgress(what, stream)
