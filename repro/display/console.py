"""The one display of a command: steps and transfers as they go on, and lines that stay.

On a terminal what is running has a row each below the lines, no wider than the terminal, redrawn twice a second;
elsewhere a line is printed when something starts, ends, or has gone on for ten seconds more.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Optional, Protocol, TextIO

from repro.base.foreign import shown

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_EVERY_S = 10.0
_REDRAWS_PER_S = 2  # each costs some milliseconds of a core, and something may be timed meanwhile
_LINE_LIMIT = 2_000
_WHAT_LIMIT = 60
_KEY_WIDTH = 16


class Transfer(Protocol):
    """Told how far work with a known size is. Thread-safe; used as a context manager around the work."""

    def begin(self, files_total: int, bytes_total: int) -> None:
        """The size of the work, before its first byte."""

    def advance(self, count_bytes: int) -> None:
        """Bytes that are done; negative where some were given up again."""

    def file_done(self) -> None:
        """One file is complete and verified."""

    def note(self, text: str) -> None:
        """A line that a person should see."""

    def __enter__(self) -> Transfer: ...

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None: ...


@dataclass
class _Row:
    """Something that goes on: how far it is, when that was last told, and its row on a terminal."""

    began_s: float = field(default_factory=time.monotonic)
    told_s: float = field(default_factory=time.monotonic)
    task: TaskID | None = None


class Console:
    """Shows a command's steps and transfers; implements the runner's Watcher. Thread-safe.

    Everything that is shown may come from a stage or a file's name, and is shown escaped.

    Args:
        stream: where to; stderr by default.
        every_s: seconds between two lines on something that goes on, where the stream is no terminal.
    """

    def __init__(self, stream: TextIO | None = None, *, every_s: float = _LINE_EVERY_S) -> None:
        self._stream = stream or sys.stderr
        self._every_s = every_s
        self._terminal = self._stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
        self._lock = threading.RLock()
        self._rows: dict[str, _Row] = {}
        self._bars: Progress | None = None

    def say(self, text: str) -> None:
        """Lines that stay."""
        with self._lock:
            for line in text.splitlines() or [""]:
                self._print(line)

    def started(self, key: str) -> None:
        """A step began."""
        with self._lock:
            self._open(key)
            if not self._terminal:
                self._print(f"  {key:<{_KEY_WIDTH}} started")

    def moved(self, key: str, where: str) -> None:
        """A step that runs elsewhere is now queued, or on another machine; `where` says it."""
        with self._lock:
            if key not in self._rows:
                self._open(key)
            row = self._rows[key]
            if self._bars is not None and row.task is not None:
                self._bars.update(row.task, text=shown(where, _WHAT_LIMIT))
            else:
                self._print(f"  {key:<{_KEY_WIDTH}} {where}")

    def progress(self, key: str, done: int, total: int, what: str) -> None:
        """A step has done so much; `what` is the stage's own word for it."""
        self._tell(key, f"{shown(what, _WHAT_LIMIT)} {done}/{total}", done, total)

    def finished(self, key: str, seconds: float, *, cached: bool) -> None:
        """A step ended well; `cached`: its result was stored."""
        with self._lock:
            self._close(key)
            self._print(f"  {key:<{_KEY_WIDTH}} " + ("stored result taken" if cached else f"done in {seconds:.1f} s"))

    def failed(self, key: str, why: str) -> None:
        """A step ended with an error. All of it is told when the command ends, which may be minutes later."""
        with self._lock:
            self._close(key)
            self._print(f"  {key:<{_KEY_WIDTH}} FAILED: {why}")

    def transfer(self, what: str) -> Transfer:
        """A display for work with a known size; `what` names it, such as 'fetch'."""
        return _Transfer(self, what)

    def close(self) -> None:
        """Remove the rows of what never ended, and give the terminal its cursor back."""
        with self._lock:
            for key in list(self._rows):
                self._close(key)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, key: str) -> None:
        row = self._rows[key] = _Row()
        if self._terminal:
            self._bars = self._bars or _bars(self._stream)
            row.task = self._bars.add_task(shown(key), total=None, text="")

    def _tell(self, key: str, text: str, done: int, total: int) -> None:
        with self._lock:
            row = self._rows.get(key)
            if row is None:
                return
            if self._bars is not None and row.task is not None:
                self._bars.update(row.task, completed=done, total=max(total, 1), text=text)
            elif time.monotonic() - row.told_s >= self._every_s:
                row.told_s = time.monotonic()
                self._print(f"  {key:<{_KEY_WIDTH}} {text}")

    def _close(self, key: str) -> None:
        row = self._rows.pop(key, None)
        if row is None or self._bars is None or row.task is None:
            return
        self._bars.remove_task(row.task)
        if not self._rows:
            self._bars.stop()
            self._bars = None

    def _print(self, line: str) -> None:
        safe = shown(line.expandtabs(), _LINE_LIMIT)
        if self._bars is not None:
            self._bars.console.print(safe, markup=False, highlight=False, soft_wrap=True)
        else:
            self._stream.write(safe + "\n")
            self._stream.flush()


def _bars(stream: TextIO) -> Progress:
    """Rows on a terminal, started. Rich is loaded where there is one to draw on: it takes a tenth of a second."""
    from rich.console import Console as RichConsole  # noqa: PLC0415 - rich: 0.1 s, for terminals alone
    from rich.console import ConsoleDimensions  # noqa: PLC0415 - rich: 0.1 s, for terminals alone
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - rich: 0.1 s, for terminals alone
    from rich.table import Column  # noqa: PLC0415 - rich: 0.1 s, for terminals alone

    class Terminal(RichConsole):
        """Asks the stream that is drawn on for its size; rich asks whichever of stdin, stdout and stderr has one."""

        @property  # type: ignore[misc]
        def size(self) -> ConsoleDimensions:
            found = os.get_terminal_size(stream.fileno())
            return ConsoleDimensions(found.columns or 80, found.lines or 25)

    def cut() -> Column:
        return Column(no_wrap=True, overflow="ellipsis")

    bars = Progress(
        TextColumn("  {task.description}", markup=False, table_column=cut()),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[text]}", markup=False, table_column=cut()),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        console=Terminal(file=stream, highlight=False),
        refresh_per_second=_REDRAWS_PER_S,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    bars.start()
    return bars


class _Transfer:
    """A transfer in a console; see `Transfer`."""

    def __init__(self, console: Console, what: str) -> None:
        self._console = console
        self._what = what
        self._lock = threading.Lock()
        self._files = [0, 0]
        self._bytes = [0, 0]
        self._began_s = time.monotonic()

    def begin(self, files_total: int, bytes_total: int) -> None:
        with self._lock:
            self._files, self._bytes = [0, files_total], [0, bytes_total]
            self._began_s = time.monotonic()
        self._console._open(self._what)

    def advance(self, count_bytes: int) -> None:
        with self._lock:
            self._bytes[0] += count_bytes
            (done, total), text = self._bytes, self._text()
        self._console._tell(self._what, text, done, total)

    def file_done(self) -> None:
        with self._lock:
            self._files[0] += 1

    def note(self, text: str) -> None:
        self._console.say(text)

    def __enter__(self) -> _Transfer:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], *_: object) -> None:
        self._console._close(self._what)
        if self._files[1]:
            seconds = "" if kind else f", {time.monotonic() - self._began_s:.1f} s"
            self._console.say(f"{self._what}: {self._text()}{seconds}")

    def _text(self) -> str:
        done, total = self._bytes
        return (
            f"{self._files[0]} of {self._files[1]} files, {done / 1e6:.1f} of {total / 1e6:.1f} MB "
            f"({100 * done // max(total, 1)} %)"
        )
