"""The statements that a bundle carries, or that lie beside it: who signed each, and whether it fits the bundle.

Each is an in-toto statement in a DSSE envelope, NAME.dsse.json, and lies there once more as a Sigstore bundle,
NAME.sigstore.json, for tools that read those. keys/FINGERPRINT.pem is the public key of another signer than the
bundle's.
"""

import base64
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Optional

from repro.packing.installer.folder import read_plain
from repro.packing.installer.listing import (
    INSTALLED,
    Listing,
    Malformed,
    canonical,
    fingerprint_of,
    opened,
    parsed,
    public_key_of,
    signer_of_payload,
)
from repro.packing.installer.provenance import (
    PROVENANCE,
    first_difference,
    image_statement,
    lock_digest,
    run_statement,
)

ATTESTATIONS = "attestations/"
_BLOBS = f"{INSTALLED}artifacts/oci/blobs/sha256/"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
SUMMARY = "https://slsa.dev/verification_summary/v1"
OUTCOMES = ("PASSED", "WARNED", "FAILED")
REBUILD = "rebuild"  # the one test of a rebuilder's test result
SIGSTORE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_DSSE, _SIGSTORE, _KEYS = ".dsse.json", ".sigstore.json", "keys/"
_MOST_STATEMENT_BYTES = 64 << 20
_MOST_CONFIG_BYTES = 1 << 20  # of an image; what lies beside it in artifacts/oci may be gigabytes
_MOST_FILES = 20_000
_ODD = (ValueError, KeyError, TypeError, AttributeError, IndexError)
Read = Callable[[str], Optional[bytes]]


class Statement(NamedTuple):
    """One statement. `name`: of its file, without the ending. `signer`: the key's fingerprint, '' where nobody signed.
    `sha256`: of the payload."""

    name: str
    signer: str
    document: dict[str, Any]
    sha256: str

    def kind(self) -> str:
        """Its predicate's type."""
        return str(self.document["predicateType"])

    def digests(self) -> dict[str, str]:
        """sha256 -> name, of what it speaks of."""
        return {str(item["digest"]["sha256"]): str(item["name"]) for item in self.document["subject"]}

    def is_rebuild(self) -> bool:
        """Whether it says how a rebuild of one layer or image ended."""
        return self.kind() == TEST_RESULT and len(self.document["subject"]) == 1 and self.tests() == {REBUILD}

    def tests(self, outcomes: Sequence[str] = OUTCOMES) -> set[str]:
        """The names of a test result's tests that had one of some outcomes."""
        lists = (self.document["predicate"].get(f"{word.lower()}Tests", []) for word in outcomes)
        return {str(test) for tests in lists for test in tests}

    def is_consistent(self) -> bool:
        """Whether the result is that of the worst test; a summary's needs only to be one."""
        if self.kind() == SUMMARY:
            return self.result() in ("PASSED", "FAILED")
        worst = next((outcome for outcome in reversed(OUTCOMES) if self.tests([outcome])), "")
        return self.result() == worst != ""

    def result(self) -> str:
        """'PASSED', 'WARNED' or 'FAILED' of a test result, 'PASSED' or 'FAILED' of a summary; '' for other kinds."""
        predicate = self.document["predicate"]
        return str(predicate.get("result") or predicate.get("verificationResult") or "")


class Beside(NamedTuple):
    """Statements that lie beside a bundle. `failures`: what is wrong with their files, a line each. `countersigners`:
    fingerprints of the keys that signed the bundle's list once more."""

    statements: tuple[Statement, ...] = ()
    failures: tuple[str, ...] = ()
    countersigners: tuple[str, ...] = ()


class Checked(NamedTuple):
    """The statements in and beside a bundle. `failures`: what is malformed, unsigned, or contradicts the bundle, a line
    each. `images`: (architecture, name, entry) of each image in images.json."""

    statements: tuple[Statement, ...] = ()
    failures: tuple[str, ...] = ()
    images: tuple[tuple[str, str, dict[str, Any]], ...] = ()


def sigstore_bundle(envelope: bytes) -> bytes:
    """A signed DSSE envelope as a Sigstore bundle (v0.3), the key named by its fingerprint as the hint.

    The signatures name no key: cosign passes over one that is named otherwise than OpenSSH would name its key.
    """
    document = parsed("the envelope", envelope)
    material = {"publicKey": {"hint": document["signatures"][0]["keyid"]}, "tlogEntries": []}
    unnamed = {**document, "signatures": [{**each, "keyid": ""} for each in document["signatures"]]}
    return canonical({"mediaType": SIGSTORE_TYPE, "verificationMaterial": material, "dsseEnvelope": unnamed})


def public_pem_of(key: bytes) -> str:
    """The PEM file of a public key of 32 bytes, in its one spelling."""
    der = bytes.fromhex("302a300506032b6570032100") + key
    return f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"


def read_statement(name: str, envelope: bytes, keys: Mapping[str, bytes]) -> Statement:
    """One statement, its signature checked.

    Args:
        name: of its file, without the ending.
        envelope: DSSE.
        keys: the public keys that may have signed, by fingerprint.

    Raises:
        ValueError: it is malformed, signed by none of the keys, or the signature does not hold.
    """
    try:
        payload, document, signatures = opened("the statement", envelope)

        def key_of(fingerprint: str) -> bytes:
            if fingerprint not in keys:
                raise Malformed(f"the key {ascii(fingerprint)[1:-1]} that it names is not beside it")
            return keys[fingerprint]

        signer = signer_of_payload(signatures, key_of, payload)
        statement = Statement(name, signer, document, hashlib.sha256(payload).hexdigest())
        if not statement.digests() or not isinstance(document["predicate"], dict):
            raise Malformed("it speaks of nothing")
        statement.tests()
    except _ODD as error:
        raise Malformed(_words(error)) from None
    return statement


def read_statements(names: Iterable[str], read: Read, keys: Mapping[str, bytes]) -> tuple[list[Statement], list[str]]:
    """Every statement of a folder, and what is wrong with its files, a line each.

    Args:
        names: of all files in it.
        read: gives a file's content, or None where it cannot be read.
        keys: the public keys that are known without the folder, by fingerprint.
    """
    content, left_bytes = {}, _MOST_STATEMENT_BYTES  # of all together
    for name in sorted(names):
        data = read(name) if left_bytes >= 0 else None
        left_bytes -= len(data or b"")
        content[name] = data if left_bytes >= 0 else None
    failures = [f"{name}: it cannot be read, or is too large" for name, data in content.items() if data is None]
    known, found = dict(keys), []
    for name, data in content.items():
        if name.startswith(_KEYS) and data is not None:
            key = _key_in(data)
            if key is None or name != f"{_KEYS}{fingerprint_of(key)}.pem":
                failures.append(f"{name}: it is not the public key of that fingerprint")
            else:
                known[fingerprint_of(key)] = key
    for name, data in content.items():
        stem = name[: -len(_DSSE)] if name.endswith(_DSSE) else ""
        if data is None or name.startswith(_KEYS) or (not stem and _is_twin(name, content)):
            continue
        try:
            if not stem:
                raise Malformed("it is no statement")
            statement = read_statement(stem, data, known)
            if statement.signer and content.get(stem + _SIGSTORE) != sigstore_bundle(data):
                raise Malformed(f"{stem}{_SIGSTORE} is not the Sigstore bundle of it")
            found.append(statement)
        except ValueError as error:
            failures.append(f"{name}: {error}")
    return found, failures


def _words(error: Exception) -> str:
    """What is wrong, in words of ours: Python's own differ between releases."""
    return ascii(str(error))[1:-1] if isinstance(error, Malformed) else "it is not built as it should be"


def _key_in(pem: bytes) -> Optional[bytes]:
    try:
        key = public_key_of(pem.decode("ascii"))
    except _ODD:
        return None
    return key if public_pem_of(key).encode() == pem else None


def _is_twin(name: str, content: Mapping[str, Optional[bytes]]) -> bool:
    return name.endswith(_SIGSTORE) and name[: -len(_SIGSTORE)] + _DSSE in content


def files_beside(folder: Path) -> list[str]:
    """The names of all files below a folder of statements; none where there is no such folder."""
    names: list[str] = []
    for above, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not os.path.islink(os.path.join(above, name))]
        names += [os.path.relpath(os.path.join(above, name), folder).replace(os.sep, "/") for name in files]
        if len(names) > _MOST_FILES:
            break
    return names[:_MOST_FILES]


def read_beside(listing: Listing, folder: Path, keys: Mapping[str, bytes]) -> Beside:
    """What lies in a folder of statements beside a bundle; nothing, where there is no such folder."""
    found, wrong = read_statements(
        files_beside(folder), lambda name: _read_beside(folder, name), {**keys, **_key_of(listing)}
    )
    again = {statement.signer for statement in found if statement.sha256 == listing.sha256}
    return Beside(
        tuple(statement for statement in found if statement.sha256 != listing.sha256),
        tuple(f"{folder.name}/{ascii(line)[1:-1]}" for line in wrong),
        tuple(sorted(again - {"", listing.fingerprint})),
    )


def _read_beside(folder: Path, name: str) -> Optional[bytes]:
    if os.open in os.supports_dir_fd:
        return read_plain(folder, name, _MOST_STATEMENT_BYTES)
    path = folder / name  # Windows: only its owner puts links there
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST_STATEMENT_BYTES:
        return None
    return path.read_bytes()


def check_statements(listing: Listing, read: Read, beside: Beside, keys: Mapping[str, bytes]) -> Checked:
    """Read every statement in a bundle, and hold these and those beside it to what the bundle's own files say.

    Args:
        listing: of the bundle, whose bytes were verified.
        read: gives the content of a listed file, or None where the bundle does not carry it.
        beside: what lies beside it.
        keys: public keys by fingerprint, beside those in the bundle.
    """
    inside = [entry.path[len(ATTESTATIONS) :] for entry in listing.entries if entry.path.startswith(ATTESTATIONS)]
    large = {entry.path for entry in listing.entries if entry.size_bytes > _MOST_STATEMENT_BYTES}

    def bounded(path: str) -> Optional[bytes]:
        return b"" if path in large else read(path)  # what no memory need hold is malformed, whatever it is

    carried, wrong = read_statements(inside, lambda name: bounded(ATTESTATIONS + name), {**keys, **_key_of(listing)})
    statements = [*carried, *beside.statements]
    failures = [*(ATTESTATIONS + line for line in wrong), *beside.failures]
    try:
        facts = _Facts(listing, bounded)
    except Malformed as error:
        return Checked(tuple(statements), (*failures, str(error)))
    for statement in statements:
        try:
            wrong_here = facts.contradiction(statement)
        except _ODD as error:
            wrong_here = f"it cannot be held to the bundle: {_words(error)}"
        if wrong_here:
            failures.append(f"{statement.name}: {wrong_here}")
    return Checked(tuple(statements), (*failures, *facts.failures()), tuple(facts.images))


def _key_of(listing: Listing) -> dict[str, bytes]:
    """The key that the list names, by its fingerprint."""
    pem = listing.about["public_key"]
    return {fingerprint_of(key): key for key in [public_key_of(pem)]} if pem else {}


class _Facts:
    """What a bundle's own files say."""

    def __init__(self, listing: Listing, read: Read) -> None:
        self._listing = listing
        self._read = read
        self._digests = {entry.sha256: entry.path for entry in listing.entries}
        self._blobs = {entry.path[len(_BLOBS) :]: entry for entry in listing.entries if entry.path.startswith(_BLOBS)}
        self.images = images_of(read)
        self._inside = {listing.sha256, *self._digests}
        for image in (image for _, _, image in self.images):
            self._inside |= {image["image_id"][7:], image["manifest_digest"][7:]}
            self._inside |= {layer["diff_id"][7:] for layer in image["layers"]}

    def failures(self) -> list[str]:
        """What of the images is not what its digest says: bytes of artifacts/oci, configs, and the locks of layers."""
        found: dict[str, None] = {}
        for digest, entry in self._blobs.items():
            if digest != entry.sha256:
                found[f"{entry.path}: its bytes have another digest"] = None
        for architecture, name, image in self.images:
            wrong = self._wrong_config(image)
            if wrong:
                found[f"images.json: image {ascii(name)[1:-1]} ({ascii(architecture)[1:-1]}) {wrong}"] = None
        for architecture, _, image in self.images:
            for layer in image["layers"]:
                kind, _, name = layer["name"].partition(":")
                data = self._read(f"{INSTALLED}conf/locks/{kind}/{name}.{architecture}.json")
                if data is not None and layer["made_from"] != "sha256:" + _digest_of_lock(kind, data):
                    found["images.json: layer {} ({}) is not made from conf/locks/{}/{}.{}.json".format(
                        layer["name"], architecture, kind, name, architecture)] = None  # fmt: skip
        return list(found)

    def _wrong_config(self, image: dict[str, Any]) -> str:
        """What contradicts an image's ID, which is the digest of a config that names the layers; '' for nothing."""
        entry = self._blobs.get(image["image_id"][7:])
        if entry is None or entry.size_bytes > _MOST_CONFIG_BYTES:
            return "has no config in artifacts/oci"
        data = self._read(entry.path)
        if data is None:
            return ""  # it lies in an earlier bundle
        try:
            layers = parsed("a config", data)["rootfs"]["diff_ids"]
        except _ODD:
            layers = None
        return "" if layers == [layer["diff_id"] for layer in image["layers"]] else "has other layers than its config"

    def contradiction(self, statement: Statement) -> str:
        """What contradicts a statement; '' where nothing does."""
        kind = statement.kind()
        if kind == PROVENANCE:
            return self._provenance(statement)
        if kind not in (TEST_RESULT, SUMMARY):
            return f"it is of a kind that nothing here reads: {kind!a}"
        if not statement.signer:
            return "nobody signed it"
        if not statement.is_consistent():
            return "its result is not that of its tests"
        if statement.is_rebuild() or (self._inside | self._outputs()) & set(statement.digests()):
            return ""  # a rebuild of what is not in this bundle counts for nothing, and is no fault
        sha256, name = next(iter(statement.digests().items()))
        return f"it speaks of {ascii(name)[1:-1]} sha256 {ascii(sha256)[1:-1]}, which is not in this bundle"

    def _outputs(self) -> set[str]:
        """The digests that the carried records give for the outputs of stages."""
        found: set[str] = set()
        for entry in self._listing.entries:
            data = self._read(entry.path) if entry.path.endswith("/record.json") else None
            with suppress(*_ODD):  # of what is no record, nothing is known
                subjects = run_statement(parsed("the record", data), "")["subject"] if data is not None else []
                found |= {item["digest"]["sha256"] for item in subjects}
        return found - {""}

    def _provenance(self, statement: Statement) -> str:
        if statement.signer != self._listing.fingerprint:
            return "it is not signed by the key that signed the list"
        build = statement.document["predicate"]["buildDefinition"]
        if build["buildType"].endswith(":image:1"):
            asked = build["externalParameters"]
            where = asked["architecture"], asked["image"]
            image = next((image for *place, image in self.images if tuple(place) == where), None)
            if image is None:
                return f"images.json has no image {where[1]!a} for {where[0]!a}"
            made, source = image_statement(*where, image, self._listing.about["commit"]), "images.json and the commit"
        else:
            sha256 = statement.document["subject"][0]["digest"]["sha256"]
            path = self._digests.get(sha256, "")
            if not path.endswith("/record.json"):
                return f"it speaks of a record with sha256 {ascii(sha256)[1:-1]}, which is not in this bundle"
            data = self._read(path)
            if data is None:
                return ""  # it lies in an earlier bundle
            made, source = run_statement(parsed("the record", data), sha256), path
        different = first_difference(statement.document, made)
        return f"it contradicts {source}: {different}" if different else ""


def _digest_of_lock(kind: str, data: bytes) -> str:
    """'' for what is no lock, which nothing is made from."""
    try:
        return lock_digest(kind, parsed("a lock", data))
    except _ODD:
        return ""


def images_of(read: Read) -> list[tuple[str, str, dict[str, Any]]]:
    """(architecture, name, entry) of each image in images.json.

    Raises:
        ValueError: it is no list of images.
    """
    data = read("images.json")
    try:
        document = parsed("images.json", data) if data is not None else {}
        found = [(arch, name, image) for arch, images in document.items() for name, image in images.items()]
        for _, _, image in found:
            digests = [image["image_id"], image["manifest_digest"]]
            for layer in image["layers"]:
                digests += [layer["diff_id"], layer["made_from"], layer["name"]]
            if not all(isinstance(digest, str) for digest in digests):
                raise Malformed("a digest or a name is not text")
        return found
    except _ODD as error:
        raise Malformed(f"images.json is not a list of images: {_words(error)}") from None
