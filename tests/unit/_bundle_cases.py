"""A small bundle with every kind of file in it, and the hands of somebody who tampers with it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from repro.packing.installer.archive import Archive
from repro.packing.installer.listing import BLOCK_BYTES, LIST_NAME, canonical, padding_bytes, tar_header
from repro.packing.script import install_script
from repro.packing.signing import Signer, envelope, signer_of
from repro.packing.writer import Item, write_bundle

LONG = "tree/artifacts/wheels/" + "a_wheel_with_a_long_name" * 4 + "-1.0-cp311-cp311-manylinux_2_17_x86_64.whl"


class Silent:
    """No progress."""

    def begin(self, files_total, bytes_total): ...

    def advance(self, count_bytes): ...

    def file_done(self): ...

    def note(self, text): ...


def signer(seed: int = 1) -> Signer:
    return signer_of(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def noise(size: int, seed: str) -> bytes:
    return hashlib.shake_256(seed.encode()).digest(size)


def files() -> list[Item]:
    """Every kind of file that a bundle has, each with another length, an empty one and one of many blocks included."""
    layer = noise(70_000, "layer")
    contents = {
        "README.txt": b"read me\n",
        "attestations/image-base.amd64.dsse.json": envelope({"_type": "x"}, signer()),
        "images.json": b"{}\n",
        "sbom.cdx.json": b'{"bomFormat":"CycloneDX"}\n',
        LONG: noise(3000, "wheel"),
        "tree/artifacts/cache/sha256/ab/" + "ab" * 32: noise(1024, "deb"),
        "tree/artifacts/oci/blobs/sha256/" + hashlib.sha256(layer).hexdigest(): layer,
        "tree/artifacts/oci/index.json": b'{"manifests":[]}',
        "tree/artifacts/received/20260101T000000Z/record.json": b'{"verdict":{"outcome":"not-comparable"}}\n',
        "tree/conf/locks/debs/base.amd64.json": b"{}\n",
        "tree/data/demo/checkpoint.pth": noise(5000, "weights"),
        "tree/empty": b"",
        "tree/requirements/host.txt": b"invoke==1\n",
    }
    items = [Item.of_bytes("install.py", install_script(), executable=True)]
    items += [Item.of_bytes(path, data) for path, data in contents.items()]
    items.append(Item.of_bytes("tree/bootstrap", b"#!/bin/sh\nexit 0\n", executable=True))
    return items


def about(key: Signer | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "name": "small",
        "commit": "c" * 40,
        "part_size_bytes": 0,
        "unpacked_bytes": 0,
        "public_key": key.public_pem if key else "",
        "base": "",
        "contents": {"licence_notes": {}},
        **changes,
    }


def pack(folder: Path, items: list[Item] | None = None, key: Signer | None = None, **changes: Any) -> Path:
    """Write a bundle signed by `key` (the usual one by default); returns its first file."""
    key = key or signer()
    return write_bundle(folder / "small.tar", items or files(), about(key, **changes), key, Silent())[0]


def layout(path: Path) -> list[tuple[str, int, int]]:
    """(what, offset, length) of every region of a bundle of one file: headers, contents, paddings and the end."""
    archive = Archive(path)
    head = len(archive.envelope)
    regions = [("list header", 0, BLOCK_BYTES), ("list", BLOCK_BYTES, head)]
    regions.append(("padding of the list", BLOCK_BYTES + head, padding_bytes(head)))
    for entry in archive.listing.entries:
        regions.append((f"header of {entry.path}", entry.offset, entry.content - entry.offset))
        regions.append((f"content of {entry.path}", entry.content, entry.size_bytes))
        regions.append((f"padding of {entry.path}", entry.content + entry.size_bytes, padding_bytes(entry.size_bytes)))
    regions.append(("end", archive.listing.total_bytes - 2 * BLOCK_BYTES, 2 * BLOCK_BYTES))
    archive.close()
    return [region for region in regions if region[2]]


def resigned(path: Path, change: Callable[[dict[str, Any]], None], key: Signer) -> Path:
    """A bundle of one file with its list changed and signed anew, as an owner of a key who means harm could."""
    archive = Archive(path)
    statement = json.loads(base64.b64decode(json.loads(archive.envelope)["payload"]))
    rest = path.read_bytes()[BLOCK_BYTES + len(archive.envelope) + padding_bytes(len(archive.envelope)) :]
    archive.close()
    change(statement)
    statement["predicate"]["public_key"] = key.public_pem
    return replace_head(path, envelope(statement, key), rest)


def replace_head(path: Path, head: bytes, rest: bytes) -> Path:
    path.write_bytes(tar_header(LIST_NAME, len(head), executable=False) + head + bytes(padding_bytes(len(head))) + rest)
    return path


def recanonical(document: dict[str, Any]) -> bytes:
    return canonical(document)
