"""What every stage shares: its command line, its errors, its progress lines, and how it writes files.

A stage is a program: `python3 -m stages.NAME --INPUT PATH ... --PARAM VALUE ... --out DIR --obs DIR`.

* `--out` is an existing, empty, writable folder for results: they must depend on nothing but inputs and
  parameters. `--obs` likewise for observations (times, host facts, anything that may differ between two runs).
* Exit code 0: done. 2: wrong command line. 3: the input is refused; the last line on stderr starts with
  `error: ` and further lines with `hint: `. Anything else is a defect, with a traceback.
* Progress goes to stderr as lines `@progress {"done": 3, "total": 10, "what": "features train"}`; the host draws
  them, a person running a stage by hand can read them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from typing import Any, Callable, Iterator, Sequence


class StageError(Exception):
    """The input is refused: one line that names the file or utterance, and what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


EXIT_REFUSED = 3


def parser(module_doc: str | None) -> argparse.ArgumentParser:
    """An argument parser with --out and --obs, described by the stage's docstring."""
    result = argparse.ArgumentParser(
        description=module_doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    result.add_argument("--out", required=True, metavar="DIR", help="empty folder for the results")
    result.add_argument("--obs", required=True, metavar="DIR", help="empty folder for observations")
    return result


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> None:
    """Call `main(arguments)` (a function of the raw argv list) and end the process as the contract says."""
    try:
        main(sys.argv[1:] if arguments is None else arguments)
    except StageError as error:
        for line in error.hint.splitlines():
            print("hint: " + line, file=sys.stderr)
        print("error: " + error.message, file=sys.stderr, flush=True)
        sys.exit(EXIT_REFUSED)


class Progress:
    """Prints a progress line when `advance` is called, at most five per second, and always the last one."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._last_s = 0.0

    def advance(self, count: int = 1) -> None:
        self._done += count
        now_s = time.monotonic()
        if self._done >= self._total or now_s - self._last_s >= 0.2:
            self._last_s = now_s
            line = json.dumps({"done": self._done, "total": self._total, "what": self._what}, sort_keys=True)
            print("@progress " + line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def atomic_file(path: str, mode: str = "wb") -> Iterator[Any]:
    """Open a temporary file beside `path`; rename it over `path` when the block ends well, else remove it."""
    temporary = path + ".tmp"
    encoding = None if "b" in mode else "utf-8"
    newline = None if "b" in mode else "\n"
    try:
        with open(temporary, mode, encoding=encoding, newline=newline) as stream:
            yield stream
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: str, value: Any) -> None:
    """Deterministic JSON for people: sorted keys, two spaces, final newline, no NaN or Infinity."""
    encoder = json.JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_file(path, "w") as stream:
        stream.writelines(encoder.iterencode(value))  # piece by piece: the whole text is many times the value's size
        stream.write("\n")


def read_json(path: str) -> Any:
    """Parse a JSON file, or refuse it by name."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError) as error:
        raise StageError("cannot read {}: {}".format(path, error))
