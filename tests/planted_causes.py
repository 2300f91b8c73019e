"""A layer, and the same layer with fourteen causes of a difference planted, each in a file of its own."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path

TEXT = "opt/planted"
_FLOATS = struct.pack("<8f", *(0.1 * n + 0.3 for n in range(8)))


def npy(values: bytes) -> bytes:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({len(values) // 4},), }}"
    padded = head.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode() + values


def zipped(data: bytes, mtime: int, level: int = 9) -> bytes:
    target = io.BytesIO()
    with gzip.GzipFile("", "wb", level, target, mtime) as stream:
        stream.write(data)
    return target.getvalue()


# What both sides hold beside the layer, and what the second one holds in its place.
FIRST = {
    "time": b"plain\n",
    "owner": b"plain\n",
    "mode": b"plain\n",
    "build-path.txt": b"compiled in /build/first/src/kaldi with -O2\n",
    "stamp.txt": b"Built on Nov 28 2026 10:17:57, 1700000000\n",
    "module.pyc": b"\xa7\r\r\n\0\0\0\0" + struct.pack("<I", 1700000000) + b"\x10\0\0\0" + b"code" * 40,
    "changelog.gz": zipped(b"a change\n" * 50, 1),
    "names.txt": "Főtanúsítvány\nLANG=C.UTF-8\n".encode(),
    "id.txt": b"session 6fa459ea-ee8a-3ca4-894e-db77e160355e, tmpab12cd34\n",
    "status": b"Package: bash\nVersion: 5.2.15-2+b2\nArchitecture: amd64\n",
    "weights.npy": npy(_FLOATS),
}
SECOND = {
    **FIRST,
    "build-path.txt": b"compiled in /home/somebody/kaldi with -O2\n",
    "stamp.txt": b"Built on Dec  1 2026 09:01:02, 1700100000\n",
    "module.pyc": FIRST["module.pyc"].replace(struct.pack("<I", 1700000000), struct.pack("<I", 1700000007)),
    "changelog.gz": zipped(b"a change\n" * 50, 2),
    "names.txt": "Főtanúsítvány\nLANG=hu_HU.ISO-8859-2\n".encode(),
    "id.txt": b"session 16fd2706-8baf-433b-82eb-8c7fada847da, tmpzz98yx76\n",
    "status": b"Package: bash\nVersion: 5.2.15-2+b7\nArchitecture: amd64\n",
    "weights.npy": npy(struct.pack("<f", 0.30000004) + _FLOATS[4:]),
}
CAUSES = {
    "opt/planted/time": "time",
    "opt/planted/owner": "owner",
    "opt/planted/mode": "mode",
    "opt/planted/build-path.txt": "path of the build",
    "opt/planted/stamp.txt": "time",
    "opt/planted/module.pyc": "byte code",
    "opt/planted/changelog.gz": "compression header",
    "opt/planted/names.txt": "locale",
    "opt/planted/id.txt": "random id",
    "opt/planted/status": "package version",
    "opt/planted/weights.npy": "floating point's last digits",
    "opt/planted/link": "link target",
    "opt/planted/added": "only on one side",
}  # and the order of two paths, and foreign bytes in a program: see `plant`


def plant(layer: Path, program: str, first: Path, second: Path) -> dict[str, str]:
    """Write both layers.

    Args:
        layer: a tar that is copied into both.
        program: the path of an ELF file in it, of whose code 16 bytes are overwritten in the second.
        first, second: the files to write.

    Returns:
        The cause of each path that differs.
    """
    with tarfile.open(layer) as source:
        members = source.getmembers()
        code = _code_at(source, program)
        _write(source, members, FIRST, first, program, None)
        _write(source, [*members[:-2], members[-1], members[-2]], SECOND, second, program, code)
    return {**CAUSES, program: "foreign bytes", members[-2].name.rstrip("/"): "order"}


def _code_at(source: tarfile.TarFile, program: str) -> int:
    """A place in the section .text: the entry point of a program that is loaded as it lies in the file (PIE)."""
    stream = source.extractfile(program)
    assert stream is not None
    head = stream.read(64)
    assert head[:4] == b"\x7fELF"
    return struct.unpack_from("<Q", head, 24)[0]


def _write(source, members, planted, target: Path, program: str, code) -> None:
    changed = code is not None
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            data = source.extractfile(member).read() if member.isreg() else None
            if changed and member.name == program:
                data = data[:code] + b"\xcc" * 16 + data[code + 16 :]
            archive.addfile(member, None if data is None else io.BytesIO(data))
        for name, data in [*planted.items(), *([("added", b"extra")] if changed else [])]:
            info = tarfile.TarInfo(f"{TEXT}/{name}")
            info.size, info.mtime = len(data), 1000
            if changed and name == "time":
                info.mtime = 2000
            if changed and name == "owner":
                info.uid, info.uname = 1000, "somebody"
            if changed and name == "mode":
                info.mode = 0o600
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo(f"{TEXT}/link")
        link.type, link.linkname = tarfile.SYMTYPE, "status" if not changed else "/etc/passwd"
        archive.addfile(link)
