"""Where an ONNX file holds its weights, by the standard library alone: for images that have no onnx package.

Reads protobuf's wire format as far as ModelProto.graph.initializer goes: name, data type and raw data of each tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH, _INITIALIZER = 7, 5  # fields of ModelProto and GraphProto
_DATA_TYPE, _NAME, _RAW_DATA = 2, 8, 9  # fields of TensorProto
FLOAT32 = 1
"""TensorProto.DataType.FLOAT."""


@dataclass(frozen=True)
class Tensor:
    """An initializer: its values are the file's bytes from `start` to `stop`, little-endian."""

    name: str
    data_type: int
    start: int
    stop: int


def tensors(data: bytes) -> tuple[Tensor, ...]:
    """The initializers of an ONNX file, in its order.

    Raises:
        ValueError: `data` is not protobuf, or a tensor's values are not raw data.
    """
    found = []
    for field, start, stop in _messages(data, 0, len(data)):
        if field == _GRAPH:
            for inner, begin, end in _messages(data, start, stop):
                if inner == _INITIALIZER:
                    found.append(_tensor(data, begin, end))
    return tuple(found)


def _tensor(data: bytes, start: int, stop: int) -> Tensor:
    name, data_type, place = "", 0, None
    for field, begin, end in _messages(data, start, stop):
        if field == _NAME:
            name = data[begin:end].decode("utf-8")
        elif field == _DATA_TYPE:
            data_type, _ = _varint(data, begin)
        elif field == _RAW_DATA:
            place = begin, end
    if place is None:
        raise ValueError("tensor {!r} holds no raw data".format(name))
    return Tensor(name, data_type, *place)


def _messages(data: bytes, position: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(field, start, stop) of every field of a message."""
    while position < stop:
        key, position = _varint(data, position)
        kind, end = key & 7, position
        if kind == _VARINT:
            _, end = _varint(data, position)
        elif kind == _BYTES:
            length, position = _varint(data, position)
            end = position + length
        elif kind in (_FIXED64, _FIXED32):
            end = position + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError("not protobuf at byte {}".format(position))
        if end > stop:
            raise ValueError("ends before byte {}".format(end))
        yield key >> 3, position, end
        position = end


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """(value, the position behind it)."""
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError("not protobuf at byte {}".format(position))
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
