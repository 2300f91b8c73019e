"""Shows a run to a person: one line a step; on a terminal also a live line with what is running."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

_LINE_EVERY_S = 10.0
_REDRAW_EVERY_S = 0.1


class Console:
    """Prints steps as they start, go on and end; implements the runner's Watcher.

    On a terminal the running steps share one line that is redrawn; elsewhere a running step says where it is every
    ten seconds.
    """

    def __init__(self, stream: TextIO | None = None, width: int = 100) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._width = width
        self._lock = threading.Lock()
        self._running: dict[str, tuple[float, str]] = {}
        self._shown_s: dict[str, float] = {}
        self._drawn_s = 0.0

    def say(self, text: str) -> None:
        """One line of its own."""
        with self._lock:
            self._print(text)

    def started(self, key: str) -> None:
        with self._lock:
            self._running[key] = (time.monotonic(), "")
            self._shown_s[key] = time.monotonic()
            if self._live:
                self._draw(force=True)
            else:
                self._print(f"  {key:<16} started")

    def progress(self, key: str, done: int, total: int, what: str) -> None:
        with self._lock:
            if key not in self._running:
                return
            share = f"{what} {done}/{total}"
            self._running[key] = (self._running[key][0], share)
            if self._live:
                self._draw()
            elif time.monotonic() - self._shown_s[key] >= _LINE_EVERY_S:
                self._shown_s[key] = time.monotonic()
                self._print(f"  {key:<16} {share}")

    def finished(self, key: str, seconds: float, cached: bool) -> None:
        with self._lock:
            self._running.pop(key, None)
            self._print(f"  {key:<16} " + ("stored result taken" if cached else f"done in {seconds:.1f} s"))
            if self._live:
                self._draw(force=True)

    def failed(self, key: str) -> None:
        with self._lock:
            self._running.pop(key, None)
            self._print(f"  {key:<16} FAILED")

    def _print(self, text: str) -> None:
        if self._live:
            self._stream.write("\r\x1b[K")
        self._stream.write(text + "\n")
        self._stream.flush()

    def _draw(self, force: bool = False) -> None:
        now_s = time.monotonic()
        if not force and now_s - self._drawn_s < _REDRAW_EVERY_S:
            return
        self._drawn_s = now_s
        parts = [f"{key} {share or 'running'} ({now_s - since_s:.0f} s)" for key, (since_s, share) in
                 sorted(self._running.items())]  # fmt: skip
        self._stream.write("\r\x1b[K" + "  ".join(parts)[: self._width])
        self._stream.flush()
