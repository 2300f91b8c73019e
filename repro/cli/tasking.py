"""What makes tasks.py thin: a command's options from their declaration, its errors as messages and exit codes."""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from invoke.collection import Collection
from invoke.tasks import Task

from repro.base.errors import EXIT_NOT_REPRODUCED
from repro.base.foreign import shown
from repro.base.paths import Paths
from repro.base.temporary import clear_checkout
from repro.base.utf8 import insist_on_utf8
from repro.cli.declaring import Options
from repro.cli.ending import insist_on_streams, tell
from repro.display.console import Console

_RESULT_LIMIT = 1_000_000  # characters
_COLLECT_AFTER = 100_000  # objects: the usual 700 come up a thousand times while modules and records are read
Given = TypeVar("Given", bound=Options)


@dataclass(frozen=True)
class Here:
    """What a command works on: the checkout, and the display for what happens in it."""

    paths: Paths
    console: Console


Body = Callable[[Given, Here], None]


class Commands:
    """The commands as Invoke's collections; a name such as 'images.build' makes the collections above it."""

    def __init__(self) -> None:
        for name in [name for name in os.environ if name.startswith("INVOKE_")]:
            del os.environ[name]  # settings of Invoke for other projects: a strange one would end a command
        self.root = Collection()
        self._below = {"": self.root}

    def command(self, name: str, options: type[Given], *, default: bool = False) -> Callable[[Body[Given]], None]:
        """Add a command.

        Args:
            name: as typed, with the names of its collections before it.
            options: the class of its options (repro.cli.options); the command gets one of these, and where it works.
            default: it is what the collection's own name means.

        Returns:
            A decorator for the command's function, whose docstring is its help.
        """

        def add(body: Body[Given]) -> None:
            above, _, last = name.rpartition(".")
            self._collection(above).add_task(_task(body, options), last, default=default)

        return add

    def _collection(self, name: str) -> Collection:
        if name not in self._below:
            above, _, last = name.rpartition(".")
            self._below[name] = Collection(last)
            self._collection(above).add_collection(self._below[name])
        return self._below[name]


def _task(body: Body[Given], options: type[Given]) -> Task[Any]:
    """Invoke reads names, types and defaults of options from a signature, so one is made of the declaration."""

    @reporting
    def run(_context: object, **values: Any) -> None:
        with _collecting_rarely(), Console() as console:
            body(options(**values), Here(Paths.of_checkout(), console))

    empty = inspect.Parameter.empty
    parameters = [inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=empty if item.required else item.default)
        for name, item in options.DECLARED.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__doc__ = body.__doc__
    texts = {name.strip("_").replace("_", "-"): item.text for name, item in options.DECLARED.items()}
    return Task(run, help=texts, auto_shortflags=False)


@contextlib.contextmanager
def _collecting_rarely() -> Iterator[None]:
    """The garbage collector at the pace of a command; whoever calls one in a longer process gets its own back."""
    before = gc.get_threshold()
    gc.set_threshold(_COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def reporting(task: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors into a message on stderr and an exit code, as README's table says."""

    @functools.wraps(task)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        insist_on_streams()
        insist_on_utf8()
        try:
            clear_checkout(Paths.of_checkout())
            return task(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, it gets its message and its exit code
            sys.exit(tell(error))
        except KeyboardInterrupt as error:
            sys.exit(tell(error))

    return wrapped


def show(what: object) -> None:
    """Print a result, on stdout. What a stage, a record or a bundle put into it cannot command the terminal."""
    print(shown(str(what).expandtabs(), _RESULT_LIMIT, lines=True))


def exit_with_verdict(outcome: str) -> None:
    """Exit 1 when a comparison was made and contradicts; otherwise the run is a success."""
    if outcome == "not-reproduced":
        sys.exit(EXIT_NOT_REPRODUCED)
