"""What a stage says of the vendor's tools that it ran: the same type for a stage's commands.json and for a record."""

from __future__ import annotations

import msgspec

from repro.base.values import Seconds, Strict, Whole


class Command(Strict, frozen=True):
    """A command of the vendor's tools that a stage ran."""

    argv: tuple[str, ...]
    exit_code: Whole
    wall_s: Seconds


class CommandsFile(msgspec.Struct, frozen=True):
    """A stage's obs/commands.json, as far as a record takes it over; a stage may write more there."""

    commands: tuple[Command, ...]
