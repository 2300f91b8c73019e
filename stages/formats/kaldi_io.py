"""Kaldi's files, as far as the pipeline needs them: binary float matrices in an archive, its index, a text matrix.

Formats: kaldi-matrix.cc and kaldi-table. An archive is a run of `KEY SPACE` and an object; a binary float matrix is
`\\0B`, `FM `, and rows and columns as `\\4` + int32, then the values by row, all little-endian.
"""

import collections
import struct

import numpy

from stages.shared.stage import StageError

# Bytes from the start of an entry of an archive: to the matrix, which an index points at, to its values, to its end.
Place = collections.namedtuple("Place", "matrix values end")

_MATRIX_HEADER = struct.Struct("<2s3sbibi")
_MAX_KEY_BYTES = 256
_MAX_MATRIX_BYTES = 1 << 30


def write_matrix(stream, key, matrix):
    """Append one matrix (rows, columns), stored as float32; returns the offset that an index gives for it."""
    offset = stream.tell() + place(key, *matrix.shape).matrix
    stream.write(entry(key, matrix))
    return offset


def entry(key, matrix):
    """The bytes of one matrix (rows, columns) in an archive, its key included."""
    header = _MATRIX_HEADER.pack(b"\0B", b"FM ", 4, matrix.shape[0], 4, matrix.shape[1])
    return b"".join((key.encode("utf-8"), b" ", header, numpy.ascontiguousarray(matrix, dtype="<f4").data))


def place(key, rows, columns):
    """The `Place` of what `entry` makes of a matrix of this shape."""
    matrix = len(key.encode("utf-8")) + 1
    values = matrix + _MATRIX_HEADER.size
    return Place(matrix, values, values + 4 * rows * columns)


def read_matrix(stream, name):
    """The matrix (rows, columns) float32 that begins at the stream's position; StageError, with `name`, if broken."""
    header = stream.read(_MATRIX_HEADER.size)
    if len(header) == _MATRIX_HEADER.size:
        mark, kind, row_width, rows, column_width, columns = _MATRIX_HEADER.unpack(header)
        plain = (mark, kind, row_width, column_width) == (b"\0B", b"FM ", 4, 4) and rows >= 0 and columns >= 0
        if plain and rows * columns * 4 <= _MAX_MATRIX_BYTES:
            data = stream.read(rows * columns * 4)
            if len(data) == rows * columns * 4:
                return numpy.frombuffer(data, "<f4").reshape(rows, columns).astype(numpy.float32)
    raise StageError("{}: no whole Kaldi binary float matrix".format(name), "Make the features again.")


def read_archive(path):
    """Yield (key, matrix float32) in the archive's order; StageError naming the file, and the key, if it is broken."""
    try:
        stream = open(path, "rb")
    except OSError as error:
        raise StageError("cannot read {}: {}".format(path, error.strerror or error)) from error
    with stream:
        while True:
            key = _read_key(stream, path)
            if key is None:
                return
            yield key, read_matrix(stream, "{}, {}".format(path, key))


def write_text_matrix(stream, matrix):
    """Write a float32 matrix as Kaldi's text, 7 significant digits: ` [`, a line a row, ` ]`."""
    lines = ["  " + "".join("{:.7g} ".format(float(value)) for value in row) for row in matrix]
    stream.write(" [\n" + "\n".join(lines) + "]\n")


def read_text_matrix(path):
    """A matrix that `write_text_matrix` (or Kaldi) wrote, float64."""
    try:
        with open(path, encoding="ascii") as stream:
            text = stream.read().strip()
        if not (text.startswith("[") and text.endswith("]")):
            raise ValueError("no brackets")
        rows = [[float(word) for word in line.split()] for line in text[1:-1].strip().splitlines()]
        return numpy.array(rows, dtype=numpy.float64).reshape(len(rows), len(rows[0]))
    except (OSError, ValueError, IndexError) as error:
        raise StageError("{}: no Kaldi text matrix: {}".format(path, error)) from error


def _read_key(stream, path):
    key = b""
    while len(key) <= _MAX_KEY_BYTES:
        byte = stream.read(1)
        if byte == b" " and key:
            try:
                return key.decode("utf-8")
            except UnicodeDecodeError:
                break
        if byte == b"" and not key:
            return None
        if byte in (b"", b" ", b"\n", b"\0"):
            break
        key += byte
    raise StageError("{}: no Kaldi archive, or cut short".format(path), "Make the features again.")
