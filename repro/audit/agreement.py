"""Two results of one stage held against each other: the same bytes, within a tolerance, or different, and where."""

from __future__ import annotations

import json
import math
import struct
import sys
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import mul, sub
from pathlib import Path
from typing import Any, Optional

from repro.audit import scoring
from repro.audit.leaves import leaves
from repro.base.errors import VerificationFailed


@dataclass(frozen=True)
class Tolerance:
    """How far values may lie apart where instruction sets differ, and why so far."""

    largest: float
    mean: float
    reason: str


FEATURES = Tolerance(5e-3, 1e-5, "the C library's float32 logarithm differs between machines (docs/stages.md)")
LOGPROBS = Tolerance(1e-2, 1e-4, "float32 sums in another order, behind inputs that differ by as much as features do")
FIGURES = Tolerance(1e-2, 1e-2, "figures of agreement, themselves made of such values")


def tolerance_of(stage: str) -> Tolerance | None:
    """What a stage's values are held to where its bytes differ; None for a stage whose bytes must not differ."""
    known = {"features": FEATURES, "batches": FEATURES, "infer": LOGPROBS, "reference": LOGPROBS, "compare": FIGURES}
    return known.get(stage)


@dataclass(frozen=True)
class Difference:
    """How far two files of float32 values lie apart; `symbols` counts the frames whose best class differs."""

    values: int
    largest: float
    mean: float
    symbols: int = 0

    def __str__(self) -> str:
        changed = f", {self.symbols} frames with another best class" if self.symbols else ""
        return f"{self.values} values, largest difference {self.largest:.3g}, mean {self.mean:.3g}{changed}"


def differ(name: str, first: bytes, second: bytes) -> Difference:
    """How far two outputs of one name lie apart.

    Raises:
        VerificationFailed: they cannot be compared as numbers: other shapes, other text, another format.
    """
    for suffix, read in _READERS.items():
        if name.endswith(suffix):
            return _apart(name, read(name, first), read(name, second))
    raise VerificationFailed(f"{name} differs in its bytes, and holds no values to compare")


def closeness(name: str, first: bytes, second: bytes) -> dict[str, float]:
    """Cosine, relative Euclidean distance and largest difference of two arrays, as the stage compare defines them."""
    one, two = _npy(name, first), _npy(name, second)
    if one[0] != two[0]:
        raise VerificationFailed(f"{name}: shapes {one[0]} and {two[0]}")
    product, square, other = (
        math.fsum(map(mul, left, right)) for left, right in ((one[1], two[1]), (one[1], one[1]), (two[1], two[1]))
    )
    apart = array("d", map(sub, one[1], two[1]))
    length = math.sqrt(square * other)
    return {
        "cosine": product / length if length else 1.0,
        "relative_euclidean": math.sqrt(math.fsum(map(mul, apart, apart)) / square) if square else 0.0,
        "max_abs": max(map(abs, apart), default=0.0),
    }


Values = tuple[Any, "array[float]", int]
"""Everything but the values (to be equal), the values, and how many make one frame of classes (0: none)."""


def _apart(name: str, first: Values, second: Values) -> Difference:
    if first[0] != second[0] or len(first[1]) != len(second[1]):
        raise VerificationFailed(f"{name}: shapes, names or text differ, not only values")
    if not all(map(math.isfinite, first[1])) or not all(map(math.isfinite, second[1])):
        raise VerificationFailed(f"{name} holds values that are not finite")
    apart = array("d", map(abs, map(sub, first[1], second[1])))
    count = len(apart)
    symbols = _changed_symbols(first[1], second[1], first[2]) if first[2] else 0
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
    shape, values = scoring.read_npy(data, name)
    return shape, values, shape[-1] if len(shape) == 3 else 0


def _bins(name: str, data: bytes) -> Values:
    if len(data) % 4:
        raise VerificationFailed(f"{name} holds no whole number of float32 values")
    return None, _floats(data), 0


def _ark(name: str, data: bytes) -> Values:
    """Kaldi's binary archive of float matrices: `ID \\0BFM \\4ROWS\\4COLUMNS` and the values."""
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
        raise VerificationFailed(f"{name} is not an archive of Kaldi's: {error}") from error
    return shapes, values, 0


def _json(name: str, data: bytes) -> Values:
    try:
        found = list(leaves(json.loads(data)))
    except ValueError as error:
        raise VerificationFailed(f"{name} is not JSON: {error}") from error
    text = [(path, None if isinstance(value, float) else value) for path, value in found]
    return text, array("f", [value for _, value in found if isinstance(value, float)]), 0


def _text(_name: str, data: bytes) -> Values:
    words = data.decode("utf-8", "replace").split()
    values, shape = array("f"), []
    for word in words:
        try:
            values.append(float(word))
            shape.append("")
        except ValueError:
            shape.append(word)
    return shape, values, 0


_READERS: Mapping[str, Callable[[str, bytes], Values]] = {
    ".npy": _npy,
    ".bin": _bins,
    ".ark": _ark,
    ".json": _json,
    "cmvn.txt": _text,
}


@dataclass(frozen=True)
class Compared:
    """One output file of two runs. `verdict` is 'identical', 'within tolerance', 'different' or 'not here'."""

    name: str
    verdict: str
    detail: str


def compare_file(
    name: str, stage: str, first: Optional[Path], second: Optional[Path], same_bytes: bool, same_processor: bool
) -> Compared:
    """Compare one output.

    Args:
        name: the file's path in the stage's out/.
        stage: the stage's name: it says what is tolerated.
        first, second: the files; None where one is not here.
        same_bytes: whether the records give both the same digest.
        same_processor: whether both were made with one instruction set: then bytes must be equal.
    """
    if same_bytes:
        return Compared(name, "identical", "")
    if first is None or second is None or not first.is_file() or not second.is_file():
        return Compared(name, "not here", "the bytes differ, and one of them is not here to say by how much")
    tolerance = tolerance_of(stage)
    try:
        found = differ(name, first.read_bytes(), second.read_bytes())
    except VerificationFailed as error:
        return Compared(name, "different", error.message)
    if tolerance is None or same_processor:
        why = "this stage's bytes must be equal" + (" on one instruction set" if tolerance else "")
        return Compared(name, "different", f"{found}; {why}")
    within = found.largest <= tolerance.largest and found.mean <= tolerance.mean
    limit = f"tolerance {tolerance.largest:g}, mean {tolerance.mean:g}: {tolerance.reason}"
    return Compared(name, "within tolerance" if within else "different", f"{found}; {limit}")
