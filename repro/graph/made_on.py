"""Which machine made a result, as facts: an observation that no digest includes."""

from __future__ import annotations

from typing import Union

from msgspec import UNSET, UnsetType

from repro.base.values import Count, Positive, Strict
from repro.machine import facts


class MadeOn(Strict, frozen=True):
    """The machine that made a result: facts, and its name where a site asks for names.

    Attributes:
        identity: the same for two results of one machine, and says nothing else about it.
    """

    identity: str
    cpu: str
    cores: Positive
    instruction_set: str
    memory_bytes: Count
    name: Union[str, UnsetType] = UNSET


def made_on(name: str = "") -> MadeOn:
    """This machine; `name` is recorded where it is given."""
    here, told = facts.machine(), facts.facts()
    return MadeOn(
        identity=here.identity,
        cpu=str(told["cpu"]),
        cores=int(told["cores"]),
        instruction_set=here.instruction_set,
        memory_bytes=int(told["memory_bytes"]),
        name=name or UNSET,
    )
