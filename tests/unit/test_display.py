"""What a person sees of a run: right on a terminal of any width, plain elsewhere, and never a stage's own commands."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import termios
import threading
import time
from pathlib import Path

import pytest

from repro.display.console import Console

ROOT = Path(__file__).resolve().parents[2]
SPOOF = "\x1b]0;PWNED\x07\x1b[2J VERDICT: Reproduced.\r\n\u202espoof"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A terminal of so many columns; what is written to it is kept."""

    def __init__(self, columns: int) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")
        self._seen: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:
                return
            if not data:
                return
            self._seen.append(data)

    def written(self) -> str:
        self.stream.close()
        self._reader.join(10)
        os.close(self._ours)
        return b"".join(self._seen).decode()


@pytest.fixture(autouse=True)
def _terminal_of_some_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def a_run(console: Console) -> None:
    """Three steps beside each other with long words, one of them failing, and a transfer."""
    with console:
        for key in ("features", "reference@64", "a-step-with-quite-a-long-name"):
            console.started(key)
            console.progress(key, 3, 1000, "utterances of the whole corpus, one after another, and more of them")
        console.say("a line that stays")
        with console.transfer("fetch") as transfer:
            transfer.begin(2, 5_000_000)
            transfer.advance(2_500_000)
            transfer.file_done()
        console.finished("features", 12.3, cached=False)
        console.finished("reference@64", 0.0, cached=True)
        console.failed("a-step-with-quite-a-long-name", "the disk is full")


@pytest.mark.parametrize("columns", [30, 80, 132])
def test_no_row_is_wider_than_the_terminal(columns: int):
    terminal = Terminal(columns)
    a_run(Console(terminal.stream))
    written = terminal.written()
    rows = [row for row in re.split(r"[\r\n]+", ESCAPES.sub("", written)) if "/1000" in row or "0:00:0" in row]
    assert rows and max(len(row) for row in rows) <= columns
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1, "the cursor is given back"


def test_the_lines_stay_on_a_terminal_and_the_rows_do_not():
    terminal = Terminal(80)
    a_run(Console(terminal.stream))
    lines = ESCAPES.sub("", terminal.written())
    for said in (
        "a line that stays",
        "features         done in 12.3 s",
        "stored result taken",
        "FAILED: the disk is full",
    ):
        assert said in lines
    assert "fetch: 1 of 2 files, 2.5 of 5.0 MB (50 %)" in lines


def test_where_there_is_no_terminal_lines_are_plain():
    stream = io.StringIO()
    a_run(Console(stream, every_s=0))
    assert stream.getvalue().splitlines()[:4] == [
        "  features         started",
        "  features         utterances of the whole corpus, one after another, and more … 3/1000",
        "  reference@64     started",
        "  reference@64     utterances of the whole corpus, one after another, and more … 3/1000",
    ]
    assert "\x1b" not in stream.getvalue() and "\r" not in stream.getvalue()


def test_forced_colour_makes_no_terminal_of_a_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    a_run(Console(stream))
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal(80)
    a_run(Console(terminal.stream))
    assert "\x1b" not in terminal.written()


def test_a_step_that_goes_on_is_told_every_few_seconds_only():
    stream = io.StringIO()
    console = Console(stream, every_s=1000)
    console.started("infer")
    for done in range(100):
        console.progress("infer", done, 100, "batches")
    assert stream.getvalue() == "  infer            started\n"


@pytest.mark.parametrize("kind", ["terminal", "file"])
def test_what_a_stage_says_cannot_command_the_terminal(kind: str):
    terminal, plain = Terminal(80) if kind == "terminal" else None, io.StringIO()
    with Console(terminal.stream if terminal else plain, every_s=0) as console:
        console.started("corpus")
        console.progress("corpus", 1, 10, SPOOF)
        time.sleep(0.6 if terminal else 0)  # a redraw
        console.say(SPOOF)
        console.finished("corpus", 1.0, cached=False)
    written = terminal.written() if terminal else plain.getvalue()
    assert not any(part in written for part in ("\x1b]", "\x07", "\x1b[2J", "\u202e"))
    assert "\\x1b]0;PWNED\\x07" in written
    assert not re.search(r"^\W*VERDICT", ESCAPES.sub("", written), re.MULTILINE)


def test_markup_of_the_display_is_not_read_from_what_is_shown():
    terminal = Terminal(80)
    with Console(terminal.stream) as console:
        console.started("[red]step[/red]")
        console.say("[bold]words[/bold] [link=x]y[/link]")
        console.finished("[red]step[/red]", 1.0, cached=False)
    assert "[bold]words[/bold] [link=x]y[/link]" in terminal.written()
