"""A small bundle with every kind of file in it, and the hands of somebody who tampers with it."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from repro.packing.installer.archive import Archive
from repro.packing.installer.listing import BLOCK_BYTES, LIST_NAME, canonical, padding_bytes, tar_header
from repro.packing.installer.provenance import image_statement, lock_digest, run_statement
from repro.packing.script import install_script
from repro.packing.signing import Signer, signer_of
from repro.packing.statements import envelope, signed_files, statement_files
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


LOCK = {"architecture": "amd64", "debs": [{"path": "pool/a/alpha_1_amd64.deb", "sha256": "ab" * 32}]}


def images() -> dict[str, Any]:
    """images.json: one image of one layer, whose lock and blob are in the bundle."""
    layer = {
        "name": "debs:base",
        "diff_id": "sha256:" + hashlib.sha256(noise(70_000, "layer")).hexdigest(),
        "size_bytes": 70_000,
        "made_from": "sha256:" + lock_digest("debs", LOCK),
    }
    config = hashlib.sha256(config_of([layer])).hexdigest()
    ids = {"image_id": "sha256:" + config, "manifest_digest": "sha256:" + "1b" * 32}
    return {"amd64": {"base": {**ids, "layers": [layer]}}}


def config_of(layers: list[dict[str, Any]]) -> bytes:
    """The config of an image, as far as it names its layers."""
    return canonical({"rootfs": {"diff_ids": [layer["diff_id"] for layer in layers], "type": "layers"}})


def record() -> dict[str, Any]:
    """As much of a run's record as its provenance names."""
    return {
        "checkpoint": {"kind": "demo", "sha256": "2a" * 32},
        "data": {"fingerprint": "2b" * 32, "kind": "demo"},
        "identity": {"sha256": "2c" * 32},
        "images": {"base": images()["amd64"]["base"]["image_id"]},
        "request": {"batch_sizes": [8], "decode": {"lm_alpha": 0.1}},
        "stages": [{"code": "2d" * 32, "key": "score@8", "outputs": {"digest": "2e" * 32}}],
        "verdict": {"outcome": "not-comparable"},
    }


def attestations(key: Signer | None) -> dict[str, bytes]:
    """The provenance of the image and of the run, as `bundle.pack` makes it."""
    image = image_statement("amd64", "base", images()["amd64"]["base"], "c" * 40)
    run = run_statement(record(), hashlib.sha256(canonical(record())).hexdigest())
    return {
        name: data
        for stem, statement in (("image-base.amd64", image), ("run-20260101T000000Z", run))
        for name, data in statement_files(stem, envelope(statement, key)).items()
    }


def rebuild(digest: str, result: str = "PASSED", name: str = "image base (amd64)") -> dict[str, Any]:
    """A rebuilder's statement about one image or layer."""
    outcomes = {
        f"{word.lower()}Tests": ["rebuild"] if word == result else [] for word in ("PASSED", "WARNED", "FAILED")
    }
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "subject": [{"name": name, "digest": {"sha256": digest.rpartition(":")[2]}}],
        "predicate": {"result": result, "configuration": [], **outcomes},
    }


def put_beside(bundle: Path, statements: dict[str, dict[str, Any]], key: Signer) -> Path:
    """Write signed statements into the folder beside a bundle."""
    folder = bundle.with_name(bundle.name + ".attestations")
    for name, data in signed_files(statements.items(), key).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


USUAL = signer()


def files(key: Signer | None = USUAL) -> list[Item]:
    """Every kind of file that a bundle has, each with another length, an empty one and one of many blocks included."""
    layer, image = noise(70_000, "layer"), images()["amd64"]["base"]
    contents = {
        "README.txt": b"read me\n",
        **{f"attestations/{name}": data for name, data in attestations(key).items()},
        "images.json": canonical(images()),
        "sbom.cdx.json": b'{"bomFormat":"CycloneDX"}\n',
        LONG: noise(3000, "wheel"),
        "tree/artifacts/cache/sha256/ab/" + "ab" * 32: noise(1024, "deb"),
        "tree/artifacts/oci/blobs/sha256/" + hashlib.sha256(layer).hexdigest(): layer,
        "tree/artifacts/oci/blobs/sha256/" + image["image_id"][7:]: config_of(image["layers"]),
        "tree/artifacts/oci/index.json": b'{"manifests":[]}',
        "tree/artifacts/received/20260101T000000Z/record.json": canonical(record()),
        "tree/conf/locks/debs/base.amd64.json": canonical(LOCK),
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
    return write_bundle(folder / "small.tar", items or files(key), about(key, **changes), key, Silent())[0]


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


def changes(path: Path, count: int) -> Iterator[tuple[str, int, int]]:
    """(what, position, value to XOR) of single-byte changes: every region of a bundle once, then others by chance."""
    regions, chance = layout(path), random.Random(20221101)
    for number in range(count):
        what, offset, length = regions[number] if number < len(regions) else chance.choice(regions)
        yield what, offset + chance.randrange(length), chance.randrange(1, 256)


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
