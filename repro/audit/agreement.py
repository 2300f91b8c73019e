"""Two results of one stage held against each other: the same bytes, within a bound of their own kind, or different.

Bytes of an exact stage must be equal on every machine. A stage that is declared within a tolerance between processors
is held to the bound of each kind of file; a kind that has no bound is left open, and refutes nothing.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import mul, sub
from typing import Any, Union

from repro.audit.leaves import leaves
from repro.audit.stage_files import read_npy
from repro.base import strict_json
from repro.base.errors import VerificationFailed
from repro.base.foreign import shown

IDENTICAL, WITHIN, DIFFERENT, OPEN = "identical", "within tolerance", "different", "not comparable"


@dataclass(frozen=True)
class Tolerance:
    """How far the values of one kind of file may lie apart where processors differ, and why so far.

    Attributes:
        largest, mean: of the differences; absolute, or relative to `Values.scale` where the kind has one.
    """

    largest: float
    mean: float
    reason: str


FEATURES = Tolerance(
    5e-3, 1e-5, "Kaldi's programs use OpenBLAS, which chooses its code by the processor (docs/stages.md)"
)
SUMS = Tolerance(
    1e-5, 1e-5, "sums of features, printed with seven digits; relative, or per summed frame if that is more"
)
LOGPROBS = Tolerance(1e-2, 1e-4, "float32 sums in another order, behind inputs that differ by as much as features do")
FIGURES = Tolerance(1e-2, 1e-2, "figures of agreement, themselves made of such values")


@dataclass(frozen=True)
class Values:
    """A file's content.

    Attributes:
        fixed: everything but the values; must be equal.
        values: what is compared.
        classes: how many values make one frame of classes; 0 where there are no classes.
        scale: per value what a difference is divided by; empty for absolute differences.
    """

    fixed: Any
    values: array[float]
    classes: int = 0
    scale: tuple[float, ...] = ()


@dataclass(frozen=True)
class Difference:
    """How far two files of values lie apart; `symbols` counts the frames whose best class differs."""

    values: int
    largest: float
    mean: float
    symbols: int = 0

    def __str__(self) -> str:
        changed = f", {self.symbols} frames with another best class" if self.symbols else ""
        return f"{self.values} values, largest difference {self.largest:.3g}, mean {self.mean:.3g}{changed}"


class NoValues(VerificationFailed):
    """A kind of file that is compared by its bytes alone."""


def differ(name: str, first: bytes, second: bytes) -> tuple[Difference, Tolerance]:
    """How far two outputs of one name lie apart, and the bound of their kind.

    Raises:
        NoValues: this kind of file holds no values to compare.
        VerificationFailed: they cannot be compared as numbers: other shapes, other text, another format.
    """
    for suffix, (read, tolerance) in _KINDS.items():
        if name.endswith(suffix):
            return _apart(name, read(name, first), read(name, second)), tolerance
    raise NoValues(f"{name} differs in its bytes, and holds no values to compare")


def content_of(name: str, data: bytes) -> Values:
    """What is compared of one output.

    Raises:
        NoValues: this kind of file holds no values to compare.
        VerificationFailed: it cannot be read as its kind.
    """
    for suffix, (read, _) in _KINDS.items():
        if name.endswith(suffix):
            return read(name, data)
    raise NoValues(f"{name} holds no values to compare")


def closeness(name: str, first: bytes, second: bytes) -> dict[str, float]:
    """Cosine, relative Euclidean distance and largest difference of two arrays, as the stage compare defines them."""
    one, two = _npy(name, first), _npy(name, second)
    if one.fixed != two.fixed:
        raise VerificationFailed(f"{name}: shapes {one.fixed} and {two.fixed}")
    _check_finite(name, one, two)
    product, square, other = (
        math.fsum(map(mul, left, right))
        for left, right in ((one.values, two.values), (one.values, one.values), (two.values, two.values))
    )
    apart = array("d", map(sub, one.values, two.values))
    length = math.sqrt(square * other)
    return {
        "cosine": product / length if length else 1.0,
        "relative_euclidean": math.sqrt(math.fsum(map(mul, apart, apart)) / square) if square else 0.0,
        "max_abs": max(map(abs, apart), default=0.0),
    }


def _check_finite(name: str, *files: Values) -> None:
    if not all(math.isfinite(value) for one in files for value in one.values):
        raise VerificationFailed(f"{name} holds values that are not finite")


def _apart(name: str, first: Values, second: Values) -> Difference:
    if first.fixed != second.fixed or len(first.values) != len(second.values):
        raise VerificationFailed(f"{name}: shapes, names or text differ, not only values")
    _check_finite(name, first, second)
    apart = array("d", map(abs, map(sub, first.values, second.values)))
    if first.scale and second.scale:
        scaled = zip(apart, first.scale, second.scale)
        apart = array("d", (distance / max(one, two) for distance, one, two in scaled))
    count = len(apart)
    symbols = _changed_symbols(first.values, second.values, first.classes) if first.classes else 0
    return Difference(count, max(apart, default=0.0), math.fsum(apart) / count if count else 0.0, symbols)


def _changed_symbols(first: array[float], second: array[float], classes: int) -> int:
    changed = 0
    for start in range(0, len(first), classes):
        one, two = first[start : start + classes], second[start : start + classes]
        changed += one.index(max(one)) != two.index(max(two))
    return changed


def _floats(data: bytes) -> array[float]:
    values = array("f", data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _npy(name: str, data: bytes) -> Values:
    shape, values = read_npy(data, name)
    return Values(shape, values, shape[-1] if len(shape) == 3 else 0)


def _bins(name: str, data: bytes) -> Values:
    if len(data) % 4:
        raise VerificationFailed(f"{name} holds no whole number of float32 values")
    return Values(None, _floats(data))


def read_archive(name: str, data: bytes) -> Values:
    """Kaldi's binary archive of float matrices: `ID \\0BFM \\4ROWS\\4COLUMNS` and the values.

    What is fixed of it is a list of (utterance, rows, columns).
    """
    shapes, values, place = [], array("f"), 0
    try:
        while place < len(data):
            space = data.index(b" ", place)
            if data[space + 1 : space + 7] != b"\0BFM \4" or data[space + 11] != 4:
                raise ValueError(f"no float matrix at byte {place}")
            (rows,), (columns,) = struct.unpack_from("<i", data, space + 7), struct.unpack_from("<i", data, space + 12)
            start = space + 16
            place_after = start + 4 * rows * columns
            if rows < 0 or columns < 0 or place_after > len(data):
                raise ValueError(f"a matrix of {rows} x {columns} does not fit")
            shapes.append((data[place:space], rows, columns))
            values.extend(_floats(data[start:place_after]))
            place = place_after
    except (ValueError, IndexError, struct.error) as error:
        raise VerificationFailed(f"{name} is not an archive of Kaldi's: {shown(error, 100)}") from error
    return Values(shapes, values)


def _json(name: str, data: bytes) -> Values:
    found = list(leaves(strict_json.parse(data, what=name)))
    text = [(path, None if isinstance(value, float) else value) for path, value in found]
    return Values(text, array("d", [value for _, value in found if isinstance(value, float)]))


def _cmvn(name: str, data: bytes) -> Values:
    """Kaldi's text of statistics: `[ SUM... COUNT` and `SQUARES... 0 ]`, two rows of one length."""
    try:
        words = data.decode("ascii").replace("[", " ").replace("]", " ").split()
        values = array("d", map(float, words))
    except ValueError as error:
        raise VerificationFailed(f"{name} holds no statistics: {shown(error, 100)}") from error
    width = len(values) // 2
    if len(values) % 2 or not width or not values[width - 1] >= 1:
        raise VerificationFailed(f"{name} holds no two rows of sums and a count of frames")
    frames = values[width - 1]
    return Values(frames, values, 0, tuple(max(abs(value), frames) for value in values))


Reader = Callable[[str, bytes], Values]
_KINDS: Mapping[str, tuple[Reader, Tolerance]] = {
    ".npy": (_npy, LOGPROBS),
    ".bin": (_bins, FEATURES),
    ".ark": (read_archive, FEATURES),
    "cmvn.txt": (_cmvn, SUMS),
    "compare.json": (_json, FIGURES),
}


@dataclass(frozen=True)
class Compared:
    """One output file of two runs; `verdict` is IDENTICAL, WITHIN, DIFFERENT or OPEN."""

    name: str
    verdict: str
    detail: str


def compare_bytes(name: str, first: bytes, second: bytes, why_equal: str) -> Compared:
    """Compare one output of two runs.

    Args:
        name: the file's path in the stage's out/.
        first, second: its bytes.
        why_equal: why the bytes must be equal; '' where the stage's values may differ between the two machines.
    """
    if first == second:
        return Compared(name, IDENTICAL, "")
    found: Union[Difference, str]
    try:
        found, tolerance = differ(name, first, second)
    except NoValues as error:
        return (
            Compared(name, DIFFERENT, f"{error.message}; {why_equal}")
            if why_equal
            else Compared(name, OPEN, f"{error.message}; this stage's bytes may differ between processors")
        )
    except VerificationFailed as error:
        return Compared(name, DIFFERENT, error.message)
    if why_equal:
        return Compared(name, DIFFERENT, f"{found}; {why_equal}")
    within = found.largest <= tolerance.largest and found.mean <= tolerance.mean
    limit = f"tolerance {tolerance.largest:g}, mean {tolerance.mean:g}: {tolerance.reason}"
    return Compared(name, WITHIN if within else DIFFERENT, f"{found}; {limit}")
