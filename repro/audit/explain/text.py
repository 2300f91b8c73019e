"""What makes two texts differ: each line's parts that builds are known to vary, tried one after the other."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from repro.audit.explain import causes
from repro.base.foreign import shown

_MOST_LINES = 20_000  # pairs of differing lines
_LINE = 1 << 16  # characters of a line
_SHOWN = 48  # characters of a line
_CLOSE = 1e-3  # relative: more than the last digits of any computation here
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?"
_TIME = re.compile(
    rf"\d{{4}}-\d{{2}}-\d{{2}}(?:[T ]{_CLOCK}(?: ?Z|(?: ?[+-]\d{{2}}:?\d{{2}}))?)?"
    rf"|(?:{_DAY},? )?(?:{_MONTH} +\d{{1,2}}|\d{{1,2}} {_MONTH}),?(?: {_CLOCK})?(?: [A-Z]{{2,5}}| [+-]\d{{4}})?"
    rf"(?: \d{{4}})?(?: {_CLOCK})?(?: [A-Z]{{2,5}}| [+-]\d{{4}})?"
    rf"|{_CLOCK}|\b1[0-9]{{9}}(?:\.\d+)?\b"
)
_LOCALE = re.compile(
    r"\b(?:LANG|LANGUAGE|LC_[A-Z]+)=\S*|\b[a-z]{2}_[A-Z]{2}(?:\.[\w-]+)?(?:@\w+)?\b|\bC\.(?:UTF-8|utf8)\b"
    r"|\b(?:POSIX|ANSI_X3\.4-1968|US-ASCII|ISO-8859-\d+|UTF-8|utf-8)\b"
)
_RANDOM = re.compile(
    r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b|\b(?:[0-9a-f]{16,}|[0-9A-F]{16,})\b|0x[0-9a-f]{6,}\b"
    r"|\btmp[._]?[A-Za-z0-9_]{6,12}\b|\b(?:cc|pip-|build-env-|pip-[a-z]+-)(?=[A-Za-z]*\d|[a-z]*[A-Z])[A-Za-z0-9_]{6,8}\b"
)
_VERSION = re.compile(r"(?<![\w.])v?(?:\d+:)?\d+(?:\.\d+)+[\w.+~-]*|(?<=[-_])\d+(?:\.\d+)+[\w.+~]*")
_PATH = re.compile(r"(?:/[\w.+@~%:-]+){2,}/?")
_FLOAT = re.compile(r"(?<![\w.])[-+]?\d+\.\d{4,}(?:[eE][-+]?\d+)?(?![\w.])|(?<![\w.])[-+]?\d+\.\d+[eE][-+]?\d+(?!\w)")
_COMMA = re.compile(r"(?<=\d),(?=\d)")
_PATTERNS = (
    (causes.LOCALE, _LOCALE), (causes.TIME, _TIME), (causes.RANDOM, _RANDOM), (causes.VERSION, _VERSION),
    (causes.PATH, _PATH),
)  # fmt: skip


def causes_of_line(one: str, two: str) -> set[str]:
    """The causes that, together, explain how two lines differ; empty where nothing known does."""
    if one == two or max(len(one), len(two)) > _LINE:
        return set()
    if _COMMA.sub(".", one) == _COMMA.sub(".", two):
        return {causes.LOCALE}
    found: set[str] = set()
    if _close_numbers(one, two):
        found.add(causes.FLOAT)
        one, two = _FLOAT.sub("\0", one), _FLOAT.sub("\0", two)
    for cause, pattern in _PATTERNS:
        if one == two:
            break
        if pattern.findall(one) != pattern.findall(two):
            found.add(cause)
        one, two = pattern.sub("\0", one), pattern.sub("\0", two)
    return found if one == two else set()


def _close_numbers(one: str, two: str) -> bool:
    first, second = _FLOAT.findall(one), _FLOAT.findall(two)
    if first == second or len(first) != len(second):
        return False
    return all(math.isclose(float(a), float(b), rel_tol=_CLOSE, abs_tol=1e-12) for a, b in zip(first, second))


def causes_of_text(one: bytes, two: bytes) -> tuple[set[str], str]:
    """The causes that explain how two texts differ, and the place of the first difference.

    Returns:
        The causes, empty where nothing known explains it; the place, '' where a byte's offset says more.
    """
    first, second = _decoded(one), _decoded(two)
    if first is None or second is None:
        latin = {data.decode("latin-1") for data, text in ((one, first), (two, second)) if text is None}
        return ({causes.LOCALE}, "another encoding of the same text") if latin & {first, second} else (set(), "")
    left, right = first.splitlines(), second.splitlines()
    start = _first_differing(left, right)
    place = f"line {start + 1}" + _told(left[start : start + 1], right[start : start + 1])
    if Counter(left) == Counter(right):
        return ({_order_of(left, right)}, f"{place}: the same lines in another order") if left != right else (
            {causes.LOCALE}, "other line ends")  # fmt: skip
    if len(left) != len(right):
        return set(), place
    pairs = [(a, b) for a, b in zip(left, right) if a != b]
    found: set[str] = set()
    if len(pairs) > _MOST_LINES:
        return set(), f"{place}: {len(pairs)} lines differ"
    for a, b in pairs:
        explained = causes_of_line(a, b)
        if not explained:
            return set(), place
        found |= explained
    return found, place


def _told(one: Sequence[str], two: Sequence[str]) -> str:
    """The parts of two lines around the first difference, for a person."""
    if not one or not two:
        return ""
    start = max(0, _first_differing(one[0], two[0]) - _SHOWN // 3)
    return " " + " / ".join(repr(shown(line[0][start : start + _SHOWN])) for line in (one, two))


def _first_differing(one: Sequence[str], two: Sequence[str]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, two)) if a != b), min(len(one), len(two)))


def _order_of(one: Sequence[str], two: Sequence[str]) -> str:
    """Two orders of lines: of two locales where both are sorted, else of whatever listed them."""
    orders = [sorted(one), sorted(one, key=lambda line: (re.sub(r"\W", "", line).casefold(), line))]
    return causes.LOCALE if list(one) in orders and list(two) in orders else causes.ORDER


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
