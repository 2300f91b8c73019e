"""How an option of a command is declared: by a class's annotated attribute, with its default and its help.

Not by dataclasses: each of those generates and compiles code of its own, and all forty of these classes are made before
any command.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, ClassVar, NamedTuple

from repro.graph.pipeline import Request

_OF_A_REQUEST = {item.name: item.default for item in fields(Request) if item.default is not MISSING}


class Option(NamedTuple):
    """One option.

    Attributes:
        default: its type is the option's.
        text: its help.
        required: it has to be given, by its place or as `--name`.
        of_request: it is the field of the same name of a run's request.
    """

    default: Any
    text: str
    required: bool = False
    of_request: bool = False


def option(default: int | float | str, text: str) -> Any:
    """An option `--name VALUE`; its default tells its type."""
    return Option(default, text)


def flag(text: str) -> Any:
    """An option without a value, off where it is left out."""
    return Option(default=False, text=text)


def argument(text: str) -> Any:
    """What has to be given, by its place or as `--name`; always text."""
    return Option("", text, required=True)


def of_request(text: str) -> Any:
    """An option that is the field of the same name of a run's request, whose default it has."""
    return Option(None, text, of_request=True)


class Options:
    """The options of a command: those of the bases, then the class's own. A command gets one of these, with values.

    Attributes:
        DECLARED: by name, in the order of the help.
    """

    DECLARED: ClassVar[dict[str, Option]] = {}

    def __init_subclass__(cls) -> None:
        own = {name: item for name, item in vars(cls).items() if isinstance(item, Option)}
        for name, item in own.items():
            own[name] = item._replace(default=_OF_A_REQUEST[name]) if item.of_request else item
            setattr(cls, name, own[name].default)
        declared: dict[str, Option] = {}
        for base in reversed(cls.__mro__[1:]):
            declared.update(getattr(base, "DECLARED", {}))
        cls.DECLARED = {**declared, **own}

    def __init__(self, **values: Any) -> None:
        unknown = set(values) - set(self.DECLARED)
        missing = {name for name, item in self.DECLARED.items() if item.required} - set(values)
        if unknown or missing:
            raise TypeError(f"{type(self).__name__}: unknown {sorted(unknown)}, missing {sorted(missing)}")
        vars(self).update(values)
