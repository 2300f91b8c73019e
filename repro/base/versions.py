"""Versions of driver, firmware and CANN: one order over all the spellings that the vendor uses.

'22.0.4', '23.0.RC1', '23.0.rc1', '24.1.rc2.2', '6.3.RC1', '8.0.RC1.alpha001' and '25.0.rc1.1' occur in public reports.
A release candidate comes before the release without one; a further number after it comes later.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

_NUMBER = r"[0-9]{1,9}"
_FORM = re.compile(
    rf"[vV]?({_NUMBER}(?:\.{_NUMBER})*)(?:[.\-_]?([A-Za-z]+)[.\-_]?([0-9]{{0,9}})((?:\.[A-Za-z]*{_NUMBER})*))?$"
)
_STEPS = {"alpha": 0, "beta": 1, "rc": 2, "": 3, "t": 3, "sp": 4, "spc": 4, "b": 5}


@functools.total_ordering
@dataclass(frozen=True, eq=False)
class Version:
    """A version that compares by its meaning. `text` is as it was spelt."""

    text: str
    _order: tuple[object, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._order == other._order

    def __lt__(self, other: Version) -> bool:
        return self._order < other._order

    def __hash__(self) -> int:
        return hash(self._order)

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Version | None:
    """The version that `text` spells; None where it spells none.

    Trailing zeros count for nothing: 23.0 is 23.0.0. Case counts for nothing: RC1 is rc1.
    """
    spelt = text.strip()
    match = _FORM.match(spelt)
    if match is None:
        return None
    numbers = [int(part) for part in match.group(1).split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    word = (match.group(2) or "").lower()
    if word not in _STEPS:
        return None
    tail = tuple(int(re.sub(r"\D", "", part) or 0) for part in (match.group(4) or "").split(".") if part)
    return Version(spelt, (tuple(numbers), _STEPS[word], int(match.group(3) or 0), tail))


def same(one: str, other: str) -> bool:
    """Whether two spellings name one version; texts that are no versions are compared without regard to case."""
    first, second = parse(one), parse(other)
    if first is None or second is None:
        return one.strip().lower() == other.strip().lower()
    return first == second
