"""`./bootstrap …`: Invoke with this project's exit codes. Plain `invoke …` runs the same tasks with Invoke's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from invoke.config import Config
from invoke.exceptions import Exit, ParseError
from invoke.parser import Parser
from invoke.program import Program

from repro.base.errors import EXIT_USAGE
from repro.base.paths import Paths
from repro.cli import ending


@contextmanager
def _wrong_use() -> Iterator[None]:
    """Invoke ends with 1 on a wrong option, which here means 'not reproduced'; README's table says 2."""
    try:
        yield
    except ParseError as error:
        raise _exit(str(error).rstrip("!?.")) from error
    except ValueError as error:  # int('abc'): Invoke lets it pass
        raise _exit(f"an option that wants a number was given something else: {error}") from error


def _exit(text: str) -> Exit:
    hint = "-> invoke --list shows the commands, invoke --help COMMAND its options"
    return Exit(f"error: {text}\n{hint}", EXIT_USAGE)


class Settings(Config):
    """Invoke's own settings as they come: a file in the user's home or a variable INVOKE_* is another project's."""

    def load_system(self, *_: Any, **__: Any) -> None:
        """Nothing of /etc/invoke.yaml."""

    def load_user(self, *_: Any, **__: Any) -> None:
        """Nothing of ~/.invoke.yaml."""

    def load_project(self, *_: Any, **__: Any) -> None:
        """Nothing of an invoke.yaml beside tasks.py: the checkout has none."""

    def load_shell_env(self) -> None:
        """Nothing of INVOKE_*."""
        self.merge()


class Commands(Program):
    """Invoke's program, with wrong use told apart from a result that was not reproduced."""

    def parse_core(self, argv: list[str] | None) -> None:
        super().parse_core(argv)
        sys.dont_write_bytecode = False  # Invoke sets it; every start would compile repro/ anew

    def _make_parser(self) -> Parser:
        """Of the commands that are named: Invoke copies the options of each one that a parser knows."""
        parser = super()._make_parser()
        if "--complete" not in self.argv:
            named = (each for each in parser.contexts.values() if not {each.name, *each.aliases}.isdisjoint(self.argv))
            parser = Parser(initial=parser.initial, contexts=named)
        return parser

    def parse_core_args(self) -> None:
        with _wrong_use():
            super().parse_core_args()

    def parse_tasks(self) -> None:
        with _wrong_use():
            super().parse_tasks()

    def parse_cleanup(self) -> None:
        with _wrong_use():
            super().parse_cleanup()


def main() -> int:
    """Run the command line against this checkout's tasks.py, wherever the caller's working folder is.

    Returns:
        The exit code, as README's table says.
    """
    ending.insist_on_streams()
    return ending.run(_run)


def _run() -> None:
    program = Commands(
        version="from this checkout", name="Bundle", binary="invoke", binary_names=["invoke", "inv"],
        config_class=Settings,
    )  # fmt: skip
    program.run(["invoke", "--search-root", str(Paths.of_checkout().root), *sys.argv[1:]])
