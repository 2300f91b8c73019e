"""Kaldi's archives of float matrices, written and read by kaldiio; and its text matrix.

kaldiio reads whatever an archive says it holds: pickles and arrays beside matrices, sizes of any number, keys with no
end; and a file's name that holds '|' it runs as a command. So it is given open files alone, never a name, and each
entry of an archive is looked at before kaldiio reads it.

The text matrix is read and written here: kaldiio writes it with other digits than Kaldi, and reads it as int32 where
its first number has no point.
"""

from __future__ import annotations

import io
import os
import struct
from typing import BinaryIO, Iterator, NamedTuple, TextIO, Tuple

import kaldiio
import numpy

from stages.shared.stage import StageError

_HEADER = struct.Struct("<2s3sbibi")  # \0B, `FM `, 4, rows, 4, columns
_HINT = "Make the features again."
_MAX_KEY_BYTES = 256


class Place(NamedTuple):
    """Bytes from the start of an entry: to the matrix, which an index points at, to its values, to its end."""

    matrix: int
    values: int
    end: int


def entry(key: str, matrix: numpy.ndarray) -> bytes:
    """The bytes of one matrix (rows, columns) in an archive, its key included; it is stored as float32."""
    stream = io.BytesIO()
    kaldiio.save_ark(stream, {key: numpy.asarray(matrix, dtype="<f4")})
    return stream.getvalue()


def place(key: str, rows: int, columns: int) -> Place:
    """The `Place` of what `entry` makes of a matrix of this shape."""
    matrix = len(key.encode("utf-8")) + 1
    values = matrix + _HEADER.size
    return Place(matrix, values, values + 4 * rows * columns)


def read_archive(path: str) -> Iterator[Tuple[str, numpy.ndarray]]:
    """Yield (key, matrix (rows, columns) float32, read-only) in the archive's order.

    Raises:
        StageError: naming the file, and the key, where an entry is no whole binary float matrix.
    """
    try:
        stream = open(path, "rb")
    except OSError as error:
        raise StageError("cannot read {}: {}".format(path, error.strerror or error)) from error
    with stream:
        size_bytes = os.fstat(stream.fileno()).st_size
        entries = kaldiio.load_ark(stream)
        while stream.tell() < size_bytes:
            _check_entry(stream, size_bytes, path)
            yield next(entries)


def _check_entry(stream: BinaryIO, size_bytes: int, path: str) -> None:
    """Refuse what follows in the archive unless it is a key and a float matrix; the position stays."""
    start = stream.tell()
    found = stream.read(_MAX_KEY_BYTES + 1 + _HEADER.size)  # a longer key leaves no room for a header
    stream.seek(start)
    key, space, rest = found.partition(b" ")
    try:
        name = key.decode("utf-8")
    except ValueError:
        name = ""
    if not space or not name or not name.isprintable():
        raise StageError("{}: no Kaldi archive, or cut short".format(path), _HINT)
    if len(rest) >= _HEADER.size:
        mark, kind, row_width, rows, column_width, columns = _HEADER.unpack(rest[: _HEADER.size])
        plain = (mark, kind, row_width, column_width) == (b"\0B", b"FM ", 4, 4) and rows >= 0 and columns >= 0
        if plain and start + place(name, rows, columns).end <= size_bytes:
            return
    raise StageError("{}, {}: no whole Kaldi binary float matrix".format(path, name), _HINT)


def write_text_matrix(stream: TextIO, matrix: numpy.ndarray) -> None:
    """Write a float32 matrix as Kaldi's text, 7 significant digits: ` [`, a line per row, ` ]`."""
    lines = ["  " + "".join("{:.7g} ".format(float(value)) for value in row) for row in matrix]
    stream.write(" [\n" + "\n".join(lines) + "]\n")


def read_text_matrix(path: str) -> numpy.ndarray:
    """A matrix (rows, columns) float64 that `write_text_matrix` (or Kaldi) wrote."""
    try:
        with open(path, encoding="ascii") as stream:
            text = stream.read().strip()
        if not (text.startswith("[") and text.endswith("]")):
            raise ValueError("no brackets")
        rows = [[float(word) for word in line.split()] for line in text[1:-1].strip().splitlines()]
        return numpy.array(rows, dtype=numpy.float64).reshape(len(rows), len(rows[0]))
    except (OSError, ValueError, IndexError) as error:
        raise StageError("{}: no Kaldi text matrix: {}".format(path, error)) from error
