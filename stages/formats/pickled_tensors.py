"""Reads the tensors of a file that `torch.save` wrote, without PyTorch and without running what the file says.

A .pth file is a pickle, and a pickle is a program. Both of PyTorch's formats are read here, the zip archive (1.6 and
later) and the older sequence of pickles, with an unpickler that knows tensors and plain containers only. Classes that
a reference checkpoint carries beside its weights (`rnn_type: torch.nn.modules.rnn.LSTM`) become inert placeholders;
any other name is refused. NumPy and the standard library suffice, and no size in a damaged file is taken at its word.
"""

from __future__ import annotations

import collections
import io
import pickle
import re
import struct
import sys
import zipfile
from typing import Any, BinaryIO, Callable, NoReturn, Sequence

import numpy

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_DTYPES = {
    "BFloat16Storage": "V2",  # NumPy has no such type: two bytes, refused where a number is needed
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "ShortStorage": "<i2",
}
_INERT_PACKAGES = ("torch.nn", "torch.optim", "numpy")
_INERT_NAMES = (
    ("_codecs", "encode"),  # how Python 3 pickles bytes for a protocol of Python 2's time
    ("argparse", "Namespace"),
    ("torch_npu.npu._format", "Format"),
    ("collections", "defaultdict"),
    ("torch", "device"),
    ("torch", "dtype"),
)
# What PyTorch and torch_npu ask for where a tensor lay on a device whose storage cannot be written as it is.
_DEVICE_NAMES = re.compile(r"torch_npu\.|torch\._utils\._rebuild_(?:device|xla|meta)_tensor")
_TORCH_DTYPES = ("float16", "float32", "float64", "int32", "int64")


StorageOf = Callable[..., numpy.ndarray]
"""Gives the flat array of a storage: (dtype, key, number of values, view of another storage or None)."""


class CheckpointError(Exception):
    """The file is damaged, of another kind, or asks for something other than tensors; one line says what."""


class Inert:
    """Stands for an object that the weights do not need: takes everything, does nothing."""

    def __new__(cls, *_arguments: Any, **_keywords: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *_arguments: Any, **_keywords: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _value: Any) -> None:
        """Accept what a pickle adds to a list-like object."""

    def extend(self, _values: Any) -> None:
        """Accept what a pickle adds to a list-like object."""


class _StorageType:
    def __init__(self, name: str) -> None:
        self.dtype = numpy.dtype(_DTYPES[name])


def _rebuild_tensor(
    storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_rest: Any
) -> numpy.ndarray:
    """A view of a flat storage, as `torch._utils._rebuild_tensor_v2`, its bounds checked. Strides in elements."""
    numbers = (offset,) + tuple(size) + tuple(stride)
    if any(type(number) is not int or number < 0 for number in numbers) or len(size) != len(stride):
        raise CheckpointError("a tensor has the offset, sizes and strides {}, {}, {}".format(offset, size, stride))
    empty = 0 in size
    last = offset + sum((length - 1) * step for length, step in zip(size, stride))
    if not isinstance(storage, numpy.ndarray) or (not empty and last >= storage.size):
        raise CheckpointError("a tensor of shape {} reaches beyond its storage".format(tuple(size)))
    if empty:
        return numpy.empty(size, storage.dtype)
    width = storage.dtype.itemsize
    return numpy.lib.stride_tricks.as_strided(
        storage[offset:], shape=tuple(size), strides=tuple(step * width for step in stride)
    )


def _rebuild_parameter(data: Any, *_rest: Any) -> Any:
    return data


_FUNCTIONS = {
    ("builtins", "frozenset"): frozenset,
    ("builtins", "set"): set,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    # torch_npu writes an NPU's tensor from a copy on the CPU; beside it stands the layout that it had on the chip.
    ("torch_npu.utils.storage", "_rebuild_npu_tensor"): _rebuild_tensor,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, storage_of: StorageOf) -> None:
        super().__init__(stream)
        self._storage_of = storage_of

    def find_class(self, module: str, name: str) -> Any:
        key = ("builtins" if module == "__builtin__" else module, name)
        if key in _FUNCTIONS:
            return _FUNCTIONS[key]
        if module == "torch" and name in _DTYPES:
            return _StorageType(name)
        inside = any(module == package or module.startswith(package + ".") for package in _INERT_PACKAGES)
        if inside or key in _INERT_NAMES or (module == "torch" and name in _TORCH_DTYPES):
            return Inert
        if _DEVICE_NAMES.match(module + "." + name):
            raise CheckpointError(
                "it asks for {}.{}: its tensors lay on a device; save it anew from the CPU, {{'state_dict': "
                "model.cpu().state_dict()}}".format(module, name)
            )
        raise CheckpointError(
            "it asks for {}.{}, which a checkpoint of this model has no use for; it was not run".format(*key)
        )

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "module":
            return pid[1]  # a module's class, with its source text
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _StorageType):
            raise CheckpointError("it refers to something that is not a tensor's storage")
        if type(pid[4]) is not int or pid[4] < 0:
            raise CheckpointError("a storage has {!r} values".format(pid[4]))
        return self._storage_of(pid[1].dtype, str(pid[2]), pid[4], pid[5] if len(pid) > 5 else None)


def _unpickle(stream: BinaryIO, storage_of: StorageOf) -> Any:
    return _Unpickler(stream, storage_of).load()


def _no_storage(*_arguments: Any) -> NoReturn:
    raise CheckpointError("a storage stands where none belongs")


def _read_zip(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if any(name.endswith("/constants.pkl") for name in members):
            raise CheckpointError("it is a TorchScript program, not a checkpoint")
        for name, member in members.items():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(data):
                # PyTorch stores its members; a compressed one could grow without end.
                raise CheckpointError("its member {} is compressed".format(name))
        roots = [name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(roots) != 1:
            raise CheckpointError("it is a zip file, but not one that PyTorch wrote (no data.pkl)")
        order = roots[0] + "byteorder"
        if order in members and archive.read(order) != b"little":
            raise CheckpointError("it was written on a big-endian machine")
        storages = {}

        def storage_of(dtype: numpy.dtype, key: str, count: int, _view: Any) -> numpy.ndarray:
            if key not in storages:
                name = roots[0] + "data/" + key
                if name not in members:
                    raise CheckpointError("its member {} is missing".format(name))
                if members[name].file_size != count * dtype.itemsize:
                    raise CheckpointError(
                        "its member {} has {} bytes, not {}".format(
                            name, members[name].file_size, count * dtype.itemsize
                        )
                    )
                storages[key] = numpy.frombuffer(archive.read(name), dtype=dtype)
            if storages[key].dtype != dtype:
                raise CheckpointError("storage {} is used with two types".format(key))
            return storages[key]

        return _unpickle(io.BytesIO(archive.read(roots[0] + "data.pkl")), storage_of)


def _read_legacy(data: bytes) -> Any:
    stream = io.BytesIO(data)
    if _unpickle(stream, _no_storage) != _LEGACY_MAGIC or _unpickle(stream, _no_storage) != _LEGACY_PROTOCOL:
        raise CheckpointError("it is a pickle, but not one that PyTorch wrote")
    system = _unpickle(stream, _no_storage)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError("it was written on a big-endian machine")
    storages = {}

    def storage_of(dtype: numpy.dtype, key: str, count: int, view: Any) -> numpy.ndarray:
        if key not in storages:
            if count * dtype.itemsize > len(data):
                raise CheckpointError("storage {} would be larger than the file".format(key))
            storages[key] = numpy.zeros(count, dtype)
        if view is None:
            return storages[key]
        _name, offset, size = view
        return _rebuild_tensor(storages[key], offset, (size,), (1,))

    package = _unpickle(stream, storage_of)
    keys = _unpickle(stream, _no_storage)
    if not isinstance(keys, list) or sorted(str(key) for key in keys) != sorted(storages):
        raise CheckpointError("its list of storages does not fit its tensors")
    for key in keys:
        storage = storages[str(key)]
        header = stream.read(8)
        content = stream.read(storage.nbytes)
        if len(header) < 8 or struct.unpack("<q", header)[0] != storage.size or len(content) < storage.nbytes:
            raise CheckpointError("it ends before its last tensor, or storage {} has another size".format(key))
        storage[:] = numpy.frombuffer(content, storage.dtype)
    return package


def read(data: bytes) -> Any:
    """What `torch.load` would return for the file's bytes, its tensors as NumPy arrays, all else plain or `Inert`.

    Raises:
        CheckpointError: damaged, truncated, of another kind, or asking for code.
    """
    if sys.byteorder != "little":
        raise CheckpointError("this machine is big-endian, which no supported image is")
    try:
        if data.startswith(b"PK\x03\x04"):
            return _read_zip(data)
        if data.startswith(b"\x80"):
            return _read_legacy(data)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged pickle or archive raises anything
        raise CheckpointError("it is damaged or truncated ({}: {})".format(type(error).__name__, error))
    raise CheckpointError("it is not a PyTorch checkpoint: it starts with {!r}".format(data[:8]))
