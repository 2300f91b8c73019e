"""A terminal as a reader of a guide has it: one shell, in which one block of commands follows the other."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ONE_BLOCK = "failed=0; trap 'failed=$?' ERR; . {commands} >{output} 2>&1; trap - ERR; echo $failed >&3\n"


@dataclass(frozen=True)
class Said:
    """What a block ended with, and all that it printed."""

    exit_code: int
    output: str


class Terminal:
    """A bash that goes on between blocks: its folder, its variables and its environment stay.

    Args:
        before: words before the shell's, such as those that take the network away and make it another user's.
        place: the folder to start in.
        environment: of the shell, all of it.
        scratch: a folder for the blocks and their outputs, which the shell's user can read and write.
    """

    def __init__(self, before: Sequence[str], place: Path, environment: dict[str, str], scratch: Path) -> None:
        self.environment = environment
        self._scratch = scratch
        self._number = 0
        self._reports, theirs = os.pipe()
        shell = ["bash", "-c", f"exec 3>&{theirs} {theirs}>&- && exec bash --norc --noprofile"]
        self._process = subprocess.Popen(
            [*before, *shell], cwd=place, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, pass_fds=[theirs], start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def run(self, commands: str, timeout_s: float) -> Said:
        """Run a block to its end.

        Raises:
            TimeoutError: it did not end; the text is what it had printed.
        """
        self._number += 1
        file, output = self._scratch / f"block.{self._number}", self._scratch / f"output.{self._number}"
        file.write_text(commands, "utf-8")
        stream = self._process.stdin
        assert stream is not None  # it was asked for
        stream.write(_ONE_BLOCK.format(commands=file, output=output).encode())
        stream.flush()
        reports = select.poll()
        reports.register(self._reports, select.POLLIN)
        ready = reports.poll(timeout_s * 1000)
        report = os.read(self._reports, 16).decode().strip() if ready else ""
        said = output.read_text("utf-8", "replace") if output.exists() else ""
        if not report:
            raise TimeoutError(f"{'the shell ended' if ready else 'no end'} after:\n{commands}\n{said}")
        return Said(int(report), said)

    def close(self) -> None:
        """End the shell and what it started."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._reports)
