"""Bundles as somebody who tampers would make them, by kind: for install.py, and for every other verifier of ours."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.packing.installer.archive import Archive
from repro.packing.installer.listing import BLOCK_BYTES, PAYLOAD_TYPE, canonical, padding_bytes
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
ODD_NAMES = ["../evil", "tree/../../evil", "/etc/evil", "tree//x", "tree/./x", "tree/x\n", "tree/é", "tree/x ",
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
