"""Where two outputs of one name begin to differ, for a person: the utterance, the frame, the line or the byte."""

from __future__ import annotations

import re
from collections.abc import Mapping

from repro.audit.agreement import Values, content_of
from repro.audit.stage_files import COLUMNS
from repro.base.errors import VerificationFailed
from repro.base.foreign import shown
from repro.record.stage_files import ROWS

Utterances = Mapping[tuple[int, int], str]
"""Names by batch and by row in it, as a manifest of stage batches has them."""

_BATCH = re.compile(r"inputs_(\d+)(?:_0\.npy|\.bin)$")
_LINE_BYTES = 1 << 16  # of a text file's line that is looked at


def first_place(name: str, first: bytes, second: bytes, utterances: Utterances) -> str:
    """Where the two begin to differ.

    Args:
        name: the file's path in the stage's out/.
        first, second: bytes that are not equal.
        utterances: of the run's batches of that size; may be empty.
    """
    byte = _first_byte(first, second)
    try:
        one, two = content_of(name, first), content_of(name, second)
    except VerificationFailed:
        return _in_text(first, second, byte)
    if one.fixed != two.fixed or len(one.values) != len(two.values):
        return f"byte {byte}"
    at = next((n for n, (a, b) in enumerate(zip(one.values, two.values)) if a != b), None)
    if at is None:
        return f"byte {byte}"  # two spellings of one value
    return f"{_position(name, one, at, utterances)}: {one.values[at]:.9g} and {two.values[at]:.9g}"


def _first_byte(first: bytes, second: bytes) -> int:
    return next((n for n, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))


def _in_text(first: bytes, second: bytes, byte: int) -> str:
    line = first.count(b"\n", 0, byte) + 1
    start = first.rfind(b"\n", 0, byte) + 1
    try:
        texts = [data[start : start + _LINE_BYTES].split(b"\n", 1)[0].decode("utf-8") for data in (first, second)]
    except UnicodeDecodeError:
        return f"byte {byte}"
    return f"line {line}: {shown(texts[0], 80)!r} and {shown(texts[1], 80)!r}"


def _position(name: str, one: Values, at: int, utterances: Utterances) -> str:
    """The utterance, frame and value of the value number `at`."""
    if name.endswith(".ark"):
        for key, rows, columns in one.fixed:
            if at < rows * columns:
                return f"utterance {shown(key.decode('utf-8', 'replace'))}, frame {at // columns}, value {at % columns}"
            at -= rows * columns
    batch = _BATCH.search(name)
    if batch and name.endswith(".bin"):
        row, rest = divmod(at, ROWS * COLUMNS)
        frame, value = divmod(rest, COLUMNS)
        return f"{_spoken(utterances, int(batch[1]), row)}, frame {frame}, value {value}"
    if batch and one.classes:
        _, rows, classes = one.fixed
        frame, rest = divmod(at, rows * classes)
        row, value = divmod(rest, classes)
        return f"{_spoken(utterances, int(batch[1]), row)}, frame {frame}, class {value}"
    return f"value {at}"


def _spoken(utterances: Utterances, batch: int, row: int) -> str:
    known = utterances.get((batch, row))
    if not utterances:
        return f"row {row}"
    return f"utterance {shown(known)}" if known else f"row {row}, which is padding"
