"""Tars and their members, for tests of `audit.explain`."""

from __future__ import annotations

import io
import tarfile

from repro.audit.explain.sides import TarSide

LINK = {"type": tarfile.SYMTYPE}


def put(name: str, data: bytes = b"", **fields) -> tuple[str, bytes, dict]:
    return name, data, fields


def archive(*members) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data, fields in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def side(*members, before: bytes = b"") -> TarSide:
    data = archive(*members)
    return TarSide(io.BytesIO(before + data + b"behind"), len(before), len(data), "a tar")
