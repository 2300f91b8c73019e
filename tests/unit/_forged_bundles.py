"""Bundles as somebody who tampers would make them, by kind: for install.py, and for every other verifier of ours."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.packing.installer.archive import Archive
from repro.packing.installer.listing import BLOCK_BYTES, PAYLOAD_TYPE, canonical, padding_bytes
from repro.packing.installer.provenance import image_statement, run_statement
from repro.packing.signing import Signer
from repro.packing.statements import envelope, statement_files
from repro.packing.writer import Item
from tests.unit import _bundle_cases as cases

Member = tuple[tarfile.TarInfo, bytes]
Change = Callable[[dict[str, Any]], None]


# --- members of the archive


def edited(path: Path, change: Callable[[list[Member]], list[Member]]) -> Path:
    """Rewrite the tar behind the list with other members, the list left as it is."""
    archive = Archive(path)
    head = archive.envelope
    archive.close()
    members: list[Member] = []
    with tarfile.open(path, "r:") as source:
        for member in source:
            members.append((member, source.extractfile(member).read() if member.isreg() else b""))
    rest = io.BytesIO()
    for info, data in change(members[1:]):
        rest.write(info.tobuf(tarfile.PAX_FORMAT) + data + bytes(padding_bytes(len(data))))
    return cases.replace_head(path, head, rest.getvalue() + bytes(2 * BLOCK_BYTES))


def _entry(name: str, kind: bytes, target: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


ODD_MEMBERS: dict[str, Callable[[list[Member]], list[Member]]] = {
    "missing": lambda m: m[:3] + m[4:],
    "extra": lambda m: [*m[:3], (tarfile.TarInfo("tree/evil"), b""), *m[3:]],
    "swapped": lambda m: [m[1], m[0], *m[2:]],
    "link": lambda m: [*m[:3], _entry("tree/link", tarfile.SYMTYPE, "/etc"), *m[4:]],
    "hard link": lambda m: [*m[:3], _entry("tree/link", tarfile.LNKTYPE, "/etc/passwd"), *m[4:]],
    "device": lambda m: [*m[:3], _entry("tree/null", tarfile.CHRTYPE), *m[4:]],
    "fifo": lambda m: [*m[:3], _entry("tree/pipe", tarfile.FIFOTYPE), *m[4:]],
    "climbing": lambda m: [*m[:3], _entry("../../evil", tarfile.REGTYPE), *m[4:]],
    "absolute": lambda m: [*m[:3], _entry("/etc/evil", tarfile.REGTYPE), *m[4:]],
    "folder": lambda m: [*m[:3], _entry("tree/folder///", tarfile.DIRTYPE), *m[4:]],
    "quotes": lambda m: [*m[:3], _entry("it's \"\n\x7f", tarfile.REGTYPE), *m[4:]],
    "not ASCII": lambda m: [*m[:3], _entry("tree/\u00e9\u202e\U0001f600", tarfile.REGTYPE), *m[4:]],
}


# --- the list, signed by its owner


def _set(*steps: Any) -> Change:
    """A change of one member of the signed list."""
    *above, last, value = steps

    def change(statement: dict[str, Any]) -> None:
        inside: Any = statement
        for step in above:
            inside = inside[step]
        inside[last] = value

    return change


FILE = ("subject", 2)
NOTES = (*FILE, "annotations")
ABOUT = ("predicate",)
OF_THE_MACHINE = ["made-here", "tree/.venv/bin/python", "tree/repro/__pycache__/x.cpython-311.pyc", "tree/repro/x.PYC",
     "tree/.git/config", "tree/artifacts/store/ab/x", "tree/artifacts/layers/x.json", "tree/artifacts/rootfs/x",
     "tree/artifacts/bundle/images.json", "tree/artifacts", "tree/Artifacts/runs/x", "tree/.pytest_cache/x",
     "tree/conf/site.toml", "tree/data/model-signers.pem", "tree/data/user.lock.json"]  # fmt: skip
ODD_NAMES = [
    *OF_THE_MACHINE, "../evil", "tree/../../evil", "/etc/evil", "tree//x", "tree/./x", "tree/x\n", "tree/é", "tree/x ",
    "tree/x.",
     "C:\\evil", "tree/README.TXT/../x", "TREE/bootstrap", "tree/BOOTSTRAP", "tree/bootstrap", "tree/bootstrap/x",
     "list.dsse.json", "tree", ""]  # fmt: skip
ODD_LISTS: dict[str, Change] = {
    "negative size": _set(*NOTES, "size_bytes", -512),
    "a size that is a truth value": _set(*NOTES, "size_bytes", True),
    "a size that is a text": _set(*NOTES, "size_bytes", "8"),
    "a size past any disk": _set(*NOTES, "size_bytes", 1 << 62),
    "a size of 4,001 digits": _set(*NOTES, "size_bytes", 10**4000),
    "a mode that is a number": _set(*NOTES, "executable", 1),
    "elsewhere as a number": _set(*NOTES, "in_base", 0),
    "a free annotation": _set(*NOTES, "note", "x"),
    "a digest in capitals": _set(*FILE, "digest", "sha256", "A" * 64),
    "a digest too short": _set(*FILE, "digest", "sha256", "a" * 63),
    "a digest too long": _set(*FILE, "digest", "sha256", "a" * 65),
    "a digest with a line end": _set(*FILE, "digest", "sha256", "a" * 64 + "\n"),
    "a digest that is a number": _set(*FILE, "digest", "sha256", 7),
    "no digest": _set(*FILE, "digest", {}),
    "another digest alone": _set(*FILE, "digest", {"sha512": "a" * 128}),
    "a second digest that nobody reads": _set(*FILE, "digest", "md5", "a" * 32),
    "a free member of a file": _set(*FILE, "uri", "x"),
    "a file that is no object": _set(*FILE, "x"),
    "files that are no list": _set("subject", 7),
    "files that are an object": _set("subject", {}),
    "a file's name that is a number": _set(*FILE, "name", 7),
    "files larger than any disk": _set(*NOTES, "size_bytes", (1 << 53) - 1),
    "contents nested too deep": _set(*ABOUT, "contents", {"licence_notes": {}, "x": json.loads("[" * 70 + "]" * 70)}),
    "a free member of the list": _set("comment", "x"),
    "a free member of the predicate": _set(*ABOUT, "comment", "x"),
    "another format": _set(*ABOUT, "format", 2),
    "a format that is a truth value": _set(*ABOUT, "format", True),
    "another predicate": _set("predicateType", "urn:x"),
    "another statement": _set("_type", "urn:x"),
    "a negative part size": _set(*ABOUT, "part_size_bytes", -1),
    "a fraction": _set(*ABOUT, "unpacked_bytes", 0.5),
    "a name that climbs": _set(*ABOUT, "name", "../x"),
    "a name that is a path": _set(*ABOUT, "name", "a/b"),
    "a name that is an option": _set(*ABOUT, "name", "-x"),
    "a hidden name": _set(*ABOUT, "name", ".x"),
    "a base that is no digest": _set(*ABOUT, "base", "../x"),
    "a commit that is a command": _set(*ABOUT, "commit", "; rm"),
    "notes that are no texts": _set(*ABOUT, "contents", "licence_notes", {"cann": 1}),
    **{name: _set(*FILE, "name", name) for name in ODD_NAMES},
}


# --- what stands in the list's place

ODD_PAYLOADS = [
    "[" * 100_000,
    "{}",
    "[]",
    "null",
    '"x"',
    "1",
    "NaN",
    '{"_type":1e999}',
    "\ufeff{}",
    "1" * 2_000_000,
    '{"_type":"x","_type":"x"}',
    '{"predicate":"\\ud800"}',
]


def _second_spelling(text: str) -> str:
    """The same bytes from another text: an unused bit of the last letter set, or more padding where there is none."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    stem = text.rstrip("=")
    return stem[:-1] + letters[letters.index(stem[-1]) + 1] + text[len(stem) :] if stem != text else text + "===="


def respell(document: dict[str, Any], what: str) -> None:
    """Write the same signed list another way, or say more beside it."""
    signature = document["signatures"][0]
    if what == "payload":
        document["payload"] = _second_spelling(document["payload"])
    elif what == "signature":
        signature["sig"] = _second_spelling(signature["sig"])
    elif what == "line end in the payload":
        document["payload"] = document["payload"][:8] + "\n" + document["payload"][8:]
    elif what == "signed twice":
        document["signatures"] *= 2
    else:
        signature["cert"] = "x"


RESPELT = ["payload", "signature", "line end in the payload", "signed twice", "a free member"]


def _respelt(what: str) -> Callable[[Path], bytes]:
    def head(path: Path) -> bytes:
        archive = Archive(path)
        archive.close()
        document = json.loads(archive.envelope)
        respell(document, what)
        return canonical(document)

    return head


def _unsigned(payload: str) -> Callable[[Path], bytes]:
    text = base64.b64encode(payload.encode()).decode()
    return lambda _: canonical({"payload": text, "payloadType": PAYLOAD_TYPE, "signatures": []})


def _signed_as(signatures: Any) -> Callable[[Path], bytes]:
    def head(path: Path) -> bytes:
        archive = Archive(path)
        archive.close()
        return canonical({**json.loads(archive.envelope), "signatures": signatures})

    return head


ODD_HEADS: dict[str, Callable[[Path], bytes]] = {
    **{f"respelt: {what}": _respelt(what) for what in RESPELT},
    **{f"payload {payload[:40]}": _unsigned(payload) for payload in ODD_PAYLOADS},
    **{f"signatures {odd!r}": _signed_as(odd) for odd in ({}, [{}], [None], [7], ["keyid"], "x", None, [[]], 7)},
    "not JSON": lambda _: b"{",
    "a byte that is not UTF-8": lambda _: b'"\xff"',
    "a list": lambda _: b"[]",
}


# --- statements

KEY = cases.signer().fingerprint
IMAGE = cases.images()["amd64"]["base"]
BLOBS = "tree/artifacts/oci/blobs/sha256/"


def packed(folder: Path, **replaced: bytes | None) -> Path:
    """A bundle with some files replaced, or left out where None; '__' in a name stands for '/'."""
    changed = {name.replace("__", "/"): data for name, data in replaced.items()}
    items = [item for item in cases.files() if item.path not in changed]
    items += [Item.of_bytes(path, data) for path, data in changed.items() if data is not None]
    return cases.pack(folder, items)


def attested(stem: str, statement: dict[str, Any], signer: Signer | None = None) -> dict[str, bytes]:
    found = statement_files(stem, envelope(statement, signer or cases.signer()))
    return {f"attestations/{name}": data for name, data in found.items()}


def contradictions() -> dict[str, tuple[dict[str, bytes | None], str]]:
    """What a signer who means harm, or made a mistake, could have packed, and what is said of it."""
    image = image_statement("amd64", "base", IMAGE, "c" * 40)
    run = run_statement(cases.record(), hashlib.sha256(canonical(cases.record())).hexdigest())

    def changed(statement: dict[str, Any], *place: str | int) -> dict[str, Any]:
        copy = json.loads(json.dumps(statement))
        inside = copy
        for step in place[:-1]:
            inside = inside[step]
        inside[place[-1]] = "9" * 64
        return copy

    lock = {**cases.LOCK, "debs": [{"path": "pool/b/beta_1_amd64.deb", "sha256": "cd" * 32}]}
    result = cases.rebuild(IMAGE["image_id"])
    deps = ("predicate", "buildDefinition", "resolvedDependencies")
    return {
        "another lock": (attested("image-base.amd64", changed(image, *deps, 1, "digest", "sha256")),
                         "contradicts images.json and the commit: predicate.buildDefinition.resolvedDependencies[1]"),
        "another commit": (attested("image-base.amd64", changed(image, *deps, 0, "digest", "gitCommit")),
                           "contradicts images.json and the commit"),
        "another image": (attested("image-base.amd64", changed(image, "subject", 0, "digest", "sha256")),
                          "contradicts images.json and the commit: subject[0].digest.sha256"),
        "a lock that the layer is not made from": ({"tree/conf/locks/debs/base.amd64.json": canonical(lock)},
                                                   "layer debs:base (amd64) is not made from conf/locks/debs/base"),
        "other data": (attested("run-20260101T000000Z", changed(run, *deps, 1, "digest", "sha256")),
                       "record.json: predicate.buildDefinition.resolvedDependencies[1].digest.sha256"),
        "other code": (attested("run-20260101T000000Z", changed(run, *deps, 3, "digest", "sha256")), "record.json"),
        "another output": (attested("run-20260101T000000Z", changed(run, "subject", 1, "digest", "sha256")),
                           "record.json: subject[1].digest.sha256"),
        "another record": (attested("run-20260101T000000Z", changed(run, "subject", 0, "digest", "sha256")),
                           "it speaks of a record with sha256 9999"),
        "no Sigstore bundle": ({"attestations/image-base.amd64.sigstore.json": None}, "not the Sigstore bundle of it"),
        "another's Sigstore bundle": (
            {"attestations/image-base.amd64.sigstore.json": cases.attestations(cases.signer())[
                "run-20260101T000000Z.sigstore.json"]},
            "not the Sigstore bundle of it"),
        "provenance of another signer": (
            {**attested("image-base.amd64", image, cases.signer(2)),
             f"attestations/keys/{cases.signer(2).fingerprint}.pem": cases.signer(2).public_pem.encode()},
            "not signed by the key that signed the list"),
        "a signer whose key is not there": (attested("image-base.amd64", image, cases.signer(2)), "is not beside it"),
        "another's key": ({f"attestations/keys/{KEY}.pem": cases.signer(2).public_pem.encode()}, "not the public key"),
        "nobody's": (statement_of_nobody(image), "not signed by the key that signed the list"),
        "another kind": (attested("x", {**result, "predicateType": "https://example.org/x"}), "nothing here reads"),
        "an audit of another run": (attested("audit", audit("8" * 64)), "it speaks of record.json sha256 8888"),
        "a result that is not its tests'": (
            attested("audit", {**result, "predicate": {**result["predicate"], "failedTests": ["x"]}}),
            "not that of its tests"),
        "a layer that the image's config does not name": (
            {"images.json": canonical({"amd64": {"base": {
                **IMAGE, "layers": [{**IMAGE["layers"][0], "diff_id": "sha256:" + "9" * 64}]}}})},
            "images.json: image base (amd64) has other layers than its config"),
        "a config that is none": (
            {BLOBS + IMAGE["image_id"][7:]: b"7"}, "images.json: image base (amd64) has other layers than its config"),
        "an image without its config": (
            {BLOBS + IMAGE["image_id"][7:]: None}, "images.json: image base (amd64) has no config in artifacts/oci"),
        "a layer of other bytes": ({BLOBS + IMAGE["layers"][0]["diff_id"][7:]: b"7"}, "its bytes have another digest"),
        "no list of images": ({"images.json": b"[]"}, "images.json is not a list of images"),
        "an image without an ID": ({"images.json": b'{"amd64":{"base":{}}}'}, "images.json is not a list of images"),
        "an ID that is a number": (
            {"images.json": canonical({"amd64": {"base": {**IMAGE, "image_id": 7}}})}, "a name is not text"),
        "a lock of no form": ({"tree/conf/locks/debs/base.amd64.json": b"7"}, "is not made from conf/locks/debs/base"),
        "no statement": ({"attestations/notes.txt": b"hello"}, "it is no statement"),
        "no envelope": ({"attestations/x.dsse.json": b"{}"}, "attestations/x.dsse.json"),
    }  # fmt: skip


def statement_of_nobody(statement: dict[str, Any]) -> dict[str, bytes | None]:
    return {"attestations/image-base.amd64.dsse.json": envelope(statement, None),
            "attestations/image-base.amd64.sigstore.json": None}  # fmt: skip


def audit(record_sha256: str) -> dict[str, Any]:
    """What an audit that found everything in order says."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "subject": [{"name": "record.json", "digest": {"sha256": record_sha256}}],
        "predicate": {"result": "PASSED", "configuration": [], "passedTests": ["score@8"], "warnedTests": [],
                      "failedTests": []},
    }  # fmt: skip
