"""The signed list of a bundle: a DSSE envelope around an in-toto statement whose subjects are the bundle's files."""

import base64
import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Optional

from repro.packing.installer.ed25519 import ed25519_holds

FORMAT = 1
LIST_NAME = "list.dsse.json"
INSTALLED = "tree/"  # what lies below it is installed, under the path that follows
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:lstm-ctc-bundle:list:1"
MTIME = 1667260800  # 2022-11-01T00:00:00Z: one time for everything, of no meaning but its constancy
BLOCK_BYTES = 512
_NAME = re.compile(r"[A-Za-z0-9._+@=,~ -]{1,255}")
_MOST_PATH_CHARACTERS = 240
_MOST_DIGITS = 19  # of a number: a longer one costs time that grows with its square
_MOST_BYTES = 1 << 53  # of a file and of the archive: beyond it a browser's numbers are no longer exact
_MOST_DEPTH = 64  # of the list's JSON
_CARRIED = ("cache", "oci", "received", "wheels")  # of artifacts/: a bundle's own; the rest is made on the machine
CACHES = (".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache")
_OF_THE_USER = ("artifacts/oci/.lock", "conf/site.toml", "data/model-signers.pem", "data/user.lock.json")
_WORD = re.compile(r"[0-9a-f]{0,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ENVELOPE = {"payload", "payloadType", "signatures"}
_STATEMENT = {"_type", "predicate", "predicateType", "subject"}
_ABOUT = {"base", "commit", "contents", "format", "name", "part_size_bytes", "public_key", "unpacked_bytes"}
_ABOUT_TOO = {"architectures", "pythons", "runs"}  # may be left out
_SPKI = bytes.fromhex("302a300506032b6570032100")  # what a DER public key of Ed25519 begins with (RFC 8410)


class Refused(Exception):  # noqa: N818 - spelled as the errors of the rest are
    """Why nothing is installed: exit code, what is wrong with what, what to do."""

    def __init__(self, code: int, message: str, hint: str = "", failures: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.failures = tuple(failures)


class Malformed(ValueError):  # noqa: N818 - as above
    """What is wrong with a list or a statement, in words of ours: the page in a browser gives the same ones."""


class Entry(NamedTuple):
    """One file. `offset` is where its header begins in the archive, `content` where its bytes do; both are -1
    for a file that the earlier bundle alone carries."""

    path: str
    sha256: str
    size_bytes: int
    executable: bool
    offset: int
    content: int


class Listing(NamedTuple):
    """The signed list, and what is said about it as a whole. `fingerprint` is '' where nobody signed."""

    entries: tuple[Entry, ...]
    about: dict[str, Any]
    sha256: str
    fingerprint: str
    total_bytes: int


def canonical(value: Any) -> bytes:
    """JSON with one spelling, so that no byte of the list is free to change."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def pae(payload_type: str, payload: bytes) -> bytes:
    """What DSSE signs."""
    return b"DSSEv1 %d %s %d " % (len(payload_type), payload_type.encode(), len(payload)) + payload


def fingerprint_of(public_key: bytes) -> str:
    """Hex sha256 of the DER public key: `openssl pkey -pubin -outform DER | sha256sum` gives the same."""
    return hashlib.sha256(_SPKI + public_key).hexdigest()


def public_key_of(pem: str) -> bytes:
    """The 32 bytes in a PEM public key; ValueError for anything else."""
    match = re.fullmatch(r"-----BEGIN PUBLIC KEY-----\n([A-Za-z0-9+/=\n]+)\n-----END PUBLIC KEY-----\n?", pem)
    der = decoded("the public key", match.group(1).replace("\n", "")) if match else b""
    if len(der) != 44 or der[:12] != _SPKI:
        raise Malformed("not a PEM public key of Ed25519")
    return der[12:]


def decoded(what: str, text: Any) -> bytes:
    """The bytes of a base64 text in its one spelling; ValueError for any other, whatever this Python would accept."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        data = b""
    if not isinstance(text, str) or base64.b64encode(data).decode() != text:
        raise Malformed(f"{what} is not base64 in its one spelling")
    return data


def _any_header(path: str, size_bytes: int, *, executable: bool) -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.mtime, info.mode = size_bytes, MTIME, 0o755 if executable else 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "ascii", "strict")


_SHORT = {executable: _any_header("", 0, executable=executable) for executable in (False, True)}
_SHORT_SUM = {executable: int(header[148:154], 8) - 11 * ord("0") for executable, header in _SHORT.items()}


def tar_header(path: str, size_bytes: int, *, executable: bool) -> bytes:
    """What stands before a file's content: nothing in it but path, size and the executable bit is free.

    512 bytes, or 1536 for a path of more than 100 characters (a pax header comes first).
    """
    if len(path) > 100 or not path.isascii() or size_bytes >= 8**11:
        return _any_header(path, size_bytes, executable=executable)
    # As tarfile would write it, ten times faster: lists name thousands of files, and each is looked at twice.
    name, size, short = path.encode("ascii"), b"%011o" % size_bytes, _SHORT[executable]
    checksum = b"%06o" % (_SHORT_SUM[executable] + sum(name) + sum(size))
    return name + short[len(name) : 124] + size + short[135:148] + checksum + short[154:]


def padding_bytes(size_bytes: int) -> int:
    """Zeros after a file's content."""
    return -size_bytes % BLOCK_BYTES


def _is_of_the_machine(path: str) -> bool:
    """Whether a file would lie where a machine keeps what it made, or its user what he trusts: it would be believed
    there and no comparison with the repository shows it, such as byte code, environments, results, trusted keys."""
    top, _, below = path.lower().partition("/")
    if top + "/" != INSTALLED:
        return path.lower() == "made-here"  # by which an installed folder is known again
    steps = below.split("/")
    if {".git", "__pycache__"} & set(steps) or steps[-1].endswith(".pyc"):
        return True
    if steps[0] == "artifacts" and [*steps, ""][1] not in _CARRIED:
        return True
    return steps[0].startswith(".venv") or steps[0] in CACHES or below in _OF_THE_USER


def check_paths(paths: Iterable[str]) -> Optional[str]:
    """What is wrong with the paths of a list, or None: climbing, absolute, odd, repeated, colliding, nested, or in a
    place of the machine."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        steps = path.split("/")
        bad = [step for step in steps if step in (".", "..") or not _NAME.fullmatch(step) or step[-1] in " ."]
        if bad or len(path) > _MOST_PATH_CHARACTERS:
            return f"the list names the path {path!a}, which is absolute, climbs, or is not portable"
        if _is_of_the_machine(path):
            return f"the list names {path!a}, a place for what is made on the machine or is its user's"
        if path.lower() in files:
            return f"the list names {path!a} twice, or names that differ in case alone"
        files[path.lower()] = path
        for depth in range(1, len(steps)):
            folder = "/".join(steps[:depth])
            if folders.setdefault(folder.lower(), folder) != folder:
                return f"the folders of {path!a} and of another file differ in case alone"
    clash = sorted(set(files) & set(folders))
    return f"{files[clash[0]]!a} is listed as a file and as a folder" if clash else None


def read_listing(envelope: bytes) -> Listing:
    """The list in an envelope, its signature checked with the key that it names; trust in that key is another matter.

    Raises:
        Refused: code 3, the envelope is malformed, not in its one spelling, or the signature does not hold.
    """
    try:
        payload, statement, signatures = opened("the list", envelope, whole_numbers=True)
        about = statement["predicate"]
        _check_about(statement, about)
        entries, end = _entries(statement["subject"], BLOCK_BYTES + len(envelope) + padding_bytes(len(envelope)))
        fingerprint = signer_of_payload(signatures, lambda _: public_key_of(about["public_key"]), payload)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = str(error) if isinstance(error, Malformed) else "it is not built as a list is"
        raise Refused(
            3, f"{LIST_NAME}: {ascii(said)[1:-1]}", "this is not the bundle that was packed: get it again"
        ) from None
    wrong = check_paths([LIST_NAME, *(entry.path for entry in entries)])
    if wrong:
        raise Refused(3, wrong, "whoever signed this list meant harm or made a mistake: do not install it")
    return Listing(entries, about, hashlib.sha256(payload).hexdigest(), fingerprint, end + 2 * BLOCK_BYTES)


def opened(what: str, envelope: bytes, *, whole_numbers: bool = False) -> tuple[bytes, dict[str, Any], Any]:
    """A DSSE envelope around an in-toto statement: the payload, the statement in it, and the signatures, unchecked.

    Args:
        what: the statement's name in messages.
        envelope: DSSE.
        whole_numbers: refuse any other number in the statement.

    Raises:
        ValueError, KeyError, TypeError: it is malformed, or not in its one spelling.
    """
    document = parsed("the envelope", envelope, whole_numbers=True)
    _hold_to("the envelope", document, _ENVELOPE)
    payload = decoded("the payload", document["payload"])
    if canonical({**document, "payloadType": PAYLOAD_TYPE}) != envelope:
        raise Malformed("the envelope is not in its one spelling")
    statement = parsed(what, payload, whole_numbers=whole_numbers)
    _hold_to(what, statement, _STATEMENT)
    if canonical(statement) != payload:
        raise Malformed(f"{what} is not in its one spelling")
    return payload, statement, document["signatures"]


def parsed(what: str, data: bytes, *, whole_numbers: bool = False) -> Any:
    """JSON of numbers of a bounded length, and of a bounded depth.

    Args:
        what: its name in messages.
        data: UTF-8.
        whole_numbers: refuse any other number.

    Raises:
        ValueError: it is not JSON, too deep, or has other numbers.
    """

    def whole(text: str) -> int:
        if len(text) > _MOST_DIGITS:
            raise Malformed(f"a number of {len(text)} digits")
        return int(text)

    def refuse(text: str) -> None:
        raise Malformed(f"{text[:30]} is not a whole number")

    try:
        fraction: Any = refuse if whole_numbers else float
        value = json.loads(data.decode("utf-8"), parse_int=whole, parse_float=fraction, parse_constant=refuse)
    except Malformed:
        raise
    except (ValueError, RecursionError):
        raise Malformed(f"{what} is not JSON") from None
    level = [value]
    for _ in range(_MOST_DEPTH):
        inside = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list)))
        level = [item for items in inside for item in items]
    if level:
        raise Malformed(f"{what} is not JSON")
    return value


def _hold_to(what: str, value: Any, needed: set[str], besides: Iterable[str] = ()) -> None:
    """Members that nobody reads would be free to change: they are refused."""
    found = set(value) if isinstance(value, dict) else set()
    if found - {*besides} != needed:
        odd = sorted(map(str, (found - {*besides}) ^ needed))
        raise Malformed("{} has members too few or too many: {}".format(what, ", ".join(odd) or "it is no object"))


def _check_about(statement: dict[str, Any], about: Any) -> None:
    kinds = (statement["_type"], statement["predicateType"], about["format"])
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE, FORMAT) or type(about["format"]) is not int:
        raise Malformed(f"this is not a list of format {FORMAT}")
    _hold_to("the list's predicate", about, _ABOUT, _ABOUT_TOO)
    for name in ("part_size_bytes", "unpacked_bytes"):
        if type(about[name]) is not int or not 0 <= about[name] < _MOST_BYTES:
            raise Malformed(f"{name} is no proper number")
    name, notes = about["name"], about["contents"]["licence_notes"]
    if not isinstance(name, str) or check_paths([name]) or "/" in name or name[0] in "-.":
        raise Malformed("its name is not a proper one")
    if not all(isinstance(note, str) for note in notes.values()):
        raise Malformed("its licence notes are no texts")
    if not all(_WORD.fullmatch(about[word]) for word in ("base", "commit")):
        raise Malformed("its base or commit is not one")


def _entries(subjects: Any, offset: int) -> tuple[tuple[Entry, ...], int]:
    """The files with their places, and where the archive's end begins."""
    entries: list[Entry] = []
    if not isinstance(subjects, list):
        raise Malformed("its files are no list")
    for item in subjects:
        _hold_to("a file of the list", item, {"annotations", "digest", "name"})
        name, notes = item["name"], item["annotations"]
        if not isinstance(name, str):
            raise Malformed("a file's name is no text")
        _hold_to(f"{name}: its digest", item["digest"], {"sha256"})
        _hold_to(f"{name}: its annotations", notes, {"executable", "in_base", "size_bytes"})
        digest, size = item["digest"]["sha256"], notes["size_bytes"]
        flags = (notes["executable"], notes["in_base"])
        if type(size) is not int or not 0 <= size < _MOST_BYTES or [type(flag) for flag in flags] != [bool, bool]:
            raise Malformed(f"{name} has no proper size or mode")
        if not _SHA256.fullmatch(digest):
            raise Malformed(f"{name} has no proper digest")
        header_bytes = len(tar_header(name, size, executable=flags[0]))
        if flags[1]:
            entries.append(Entry(name, digest, size, flags[0], -1, -1))
            continue
        entries.append(Entry(name, digest, size, flags[0], offset, offset + header_bytes))
        offset += header_bytes + size + padding_bytes(size)
        if offset >= _MOST_BYTES:
            raise Malformed("its files are larger than any disk")
    return tuple(entries), offset


def signer_of_payload(signatures: Any, key_of: Callable[[str], bytes], payload: bytes) -> str:
    """The fingerprint of the one key that signed a payload, '' where nobody did.

    Args:
        signatures: of the envelope.
        key_of: gives the 32 bytes of the public key of a fingerprint.
        payload: of the envelope.

    Raises:
        ValueError, KeyError, TypeError: there are several, one names another key, or it does not hold.
    """
    if signatures == []:
        return ""
    ((keyid, sig),) = [(item["keyid"], item["sig"]) for item in signatures if set(item) == {"keyid", "sig"}]
    public_key, raw = key_of(keyid), decoded("the signature", sig)
    fingerprint = fingerprint_of(public_key)
    if keyid != fingerprint or len(signatures) != 1:
        raise Malformed("the signature names another key")
    if not ed25519_holds(public_key, pae(PAYLOAD_TYPE, payload), raw):
        raise Malformed("the signature does not hold: the content, the key or the signature was changed")
    return fingerprint
