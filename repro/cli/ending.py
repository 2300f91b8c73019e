"""How a command ends: one table from what was raised to a message and an exit code, as README's table says."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import EXIT_COULD_NOT, EXIT_DEFECT, EXIT_INTERRUPTED, EXIT_OK, EXIT_READER_GONE, BundleError
from repro.base.foreign import shown
from repro.base.system_errors import advice, can_be_mended

_ROOT = Path(__file__).resolve().parents[2]
_MESSAGE_LIMIT = 2_000


@dataclass(frozen=True)
class Ending:
    """How a command ends: its exit code, and what is printed on stderr ('' for nothing)."""

    code: int
    text: str


def ending_of(error: BaseException) -> Ending:
    """The ending that fits what was raised; whatever nobody foresaw is a defect, with its place in the code."""
    if isinstance(error, BundleError):
        return Ending(error.exit_code, error.diagnostics())
    if isinstance(error, KeyboardInterrupt):
        text = "\ninterrupted; what was finished is kept: the same command goes on from there"
        return Ending(EXIT_INTERRUPTED, text)
    if isinstance(error, BrokenPipeError) and _reader_gone():
        return Ending(EXIT_READER_GONE, "")
    if isinstance(error, MemoryError):
        return Ending(EXIT_COULD_NOT, f"error: this process got no more memory\n-> {advice(OSError(errno.ENOMEM, ''))}")
    system = _system_error(error)
    if system is not None:
        return Ending(EXIT_COULD_NOT, f"error: {shown(system, _MESSAGE_LIMIT)}\n-> {advice(system)}")
    return Ending(EXIT_DEFECT, _defect(error))


def _system_error(error: BaseException) -> OSError | None:
    """The system's error that `error` is, or that an import of a module was ended by."""
    if isinstance(error, OSError) and can_be_mended(error):
        return error
    return _system_error(error.__cause__) if isinstance(error, ImportError) and error.__cause__ else None


def _defect(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"  {_place(frame.filename)}:{frame.lineno}, in {frame.name}" for frame in frames]
    what = shown(f"{type(error).__name__}: {error}", _MESSAGE_LIMIT)
    return "\n".join([
        f"error: a defect of this program: {what}", *lines,
        "-> please report it to whoever maintains this checkout, with these lines and what `invoke doctor` prints",
    ])  # fmt: skip


def _place(filename: str) -> str:
    """A source file as it is told to others: below the checkout, or below the place where packages lie."""
    path = Path(filename)
    if "site-packages" in path.parts:
        return Path(*path.parts[path.parts.index("site-packages") + 1 :]).as_posix()
    return path.relative_to(_ROOT).as_posix() if path.is_relative_to(_ROOT) else path.name


def _reader_gone() -> bool:
    """Whether nobody reads stdout or stderr any more, as in `invoke --list | head -1`."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def tell(error: BaseException) -> int:
    """Print what `error` means, behind all that was printed before and in one piece; returns the exit code."""
    ending = ending_of(error)
    if ending.text:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            print(ending.text + "\n", end="", file=sys.stderr, flush=True)
    return ending.code


def insist_on_streams() -> None:
    """Open what the caller closed of stdin, stdout and stderr (`2>&-`), or the next file opened takes its place.

    What is printed there is lost, as its caller asked.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - os knows no other way
        if getattr(sys, name) is None:
            stream = open(descriptor, "r" if descriptor == 0 else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def run(action: Callable[[], None]) -> int:
    """Carry out a command; returns its exit code, with everything printed or lost."""
    code = EXIT_OK
    try:
        action()
    except SystemExit as ended:
        code = _code(ended)
    except BaseException as error:  # noqa: BLE001 - the last place where an error can get its message and its code
        code = tell(error)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:  # nobody reads, or the disk that stdout goes to is full
        code = code or tell(error)
        _drop_output()
    return code


def _code(ended: SystemExit) -> int:
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or EXIT_OK
    with contextlib.suppress(OSError):  # nobody reads, or the disk that stderr goes to is full
        print(ended.code, file=sys.stderr)
    return EXIT_COULD_NOT


def _drop_output() -> None:
    """Let what Python still holds for stdout and stderr go nowhere, or its last flush ends the process with 120."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
