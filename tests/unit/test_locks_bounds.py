"""Locks and source archives in detail: each field, each spelling, the last allowed and the first that is not."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import hashlib
import json
import lzma
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.base import user_lock
from repro.base.errors import CouldNotRun, CouldNotVerify, UsageError, VerificationFailed
from repro.base.paths import Paths
from repro.locks import archives, model, openpgp
from repro.locks.archives import (
    SourceArchive,
    content_digest,
    copy_verified,
    find_source,
    how_to_get,
    known_source,
    load_sources,
    missing_sources,
    settled,
)
from repro.locks.debian import parse_release, verify_debian_chain
from repro.locks.model import (
    LockedFile,
    Wheel,
    WheelLock,
    dump_deb_lock,
    dump_wheel_lock,
    load_deb_lock,
    load_wheel_lock,
    lock_names,
    lock_path,
)
from repro.resolving import prove
from tests.simulators.archive import Archive
from tests.unit.test_locks_debian import Repository

CONTENT = random.Random(1).randbytes(1_100_000)  # more than one chunk
WHEELS = WheelLock("set", "amd64", "3.11", "2.36", "base", (
    Wheel("one", "1.0", "one-1.0-py3-none-any.whl", "a" * 64, 3, ("py3-none-any",)),
    Wheel("two", "2.0", "two-2.0-py3-none-any.whl", "b" * 64, 4, ("py3-none-any",)),
))  # fmt: skip


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def source(**given) -> SourceArchive:
    known = given if {"sha256", "content_sha256", "first_use"} & set(given) else {"sha256": sha256(CONTENT), **given}
    return SourceArchive(
        **{"name": "thing", "title": "Thing 1.0", "file": "thing-1.0.tar.gz", "licence": "MIT", "page": "a page",
           "urls": (), **known}
    )  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "data" / "sources").mkdir(parents=True)
    (tmp_path / "conf").mkdir()
    return Paths(tmp_path)


def put(paths: Paths, name: str, data: bytes = CONTENT) -> Path:
    path = paths.data / "sources" / name
    path.write_bytes(data)
    return path


def sources_toml(paths: Paths, text: str) -> None:
    (paths.conf / "sources.toml").write_text(text)


# locks as files


def test_a_lock_names_its_files_as_they_are_fetched() -> None:
    made = Archive({"alpha": b"a", "beta": b"b"})
    alpha, beta = made.lock.files
    assert alpha == LockedFile(
        "alpha_1.0+b1_amd64.deb", "deb", sha256(b"a"), 1, "debs/set.amd64: alpha 1:1.0+b1", "alpha", "1:1.0+b1",
        "debian", "pool/main/a/alpha/alpha_1.0+b1_amd64.deb", made.snapshot,
    )  # fmt: skip
    assert (beta.archive, beta.project) == ("debian-security", "beta")
    index, of_security = made.lock.index_files
    signed = made.lock.indexes[0]
    assert index == LockedFile(
        "made_amd64_Packages.xz", "index", signed.sha256, signed.size_bytes, "debs/set.amd64: the index of made",
        "made", made.snapshot, "debian", f"dists/made/main/binary-amd64/by-hash/SHA256/{signed.sha256}", made.snapshot,
    )  # fmt: skip
    assert of_security.archive == "debian-security"
    assert WHEELS.files[0] == LockedFile(
        "one-1.0-py3-none-any.whl", "wheel", "a" * 64, 3, "wheels/set.amd64: one 1.0", "one", "1.0"
    )


def test_the_digest_of_a_lock_is_pinned_and_sees_no_order() -> None:
    content = {
        "kind": "wheels", "platform": "amd64 3.11",
        "files": [["one-1.0-py3-none-any.whl", "a" * 64], ["two-2.0-py3-none-any.whl", "b" * 64]],
    }  # fmt: skip
    expected = sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
    assert WHEELS.digest == dataclasses.replace(WHEELS, wheels=WHEELS.wheels[::-1]).digest == expected
    debs = Archive({"alpha": b"a"}).lock
    content = {"kind": "debs", "platform": "amd64", "files": [[debs.files[0].name, sha256(b"a")]]}
    assert debs.digest == sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def test_locks_are_listed_by_set_and_architecture_and_a_set_s_name_may_hold_dots(tmp_path: Path) -> None:
    assert lock_path(tmp_path, "debs", "z", "amd64") == tmp_path / "conf" / "locks" / "debs" / "z.amd64.json"
    for name in ("z", "a.b"):
        lock_path(tmp_path, "debs", name, "amd64").parent.mkdir(parents=True, exist_ok=True)
        lock_path(tmp_path, "debs", name, "amd64").write_bytes(b"")
    (tmp_path / "conf" / "locks" / "debs" / "notes.txt").write_bytes(b"")
    assert lock_names(tmp_path, "debs") == (("a.b", "amd64"), ("z", "amd64")) and lock_names(tmp_path, "wheels") == ()


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        ("debs", {"name": "other"}, "ValueError: its name, architecture or suites contradict each other"),
        ("debs", {"architecture": "arm64"}, "ValueError: its name, architecture or suites contradict each other"),
        (
            "debs",
            {"debs": [{"suite": "another"}]},
            "ValueError: its name, architecture or suites contradict each other",
        ),
        ("debs", {"extends": None}, "KeyError: 'extends'"),
        ("debs", {"debs": [{"surplus": 1}]}, "TypeError: .*surplus"),
        ("debs", {"indexes": [{"signed_by": None}]}, "KeyError: 'signed_by'"),
        ("debs", {"format": 2}, "ValueError: its format is not 1"),
        ("wheels", {"name": "other"}, "ValueError: its name or architecture contradicts the file's name"),
        ("wheels", {"architecture": "arm64"}, "ValueError: its name or architecture contradicts the file's name"),
        ("wheels", {"wheels": [{"tags": None}]}, "KeyError: 'tags'"),
        ("wheels", {"wheels": [{"tags": 3}]}, "TypeError: 'int' object is not iterable"),
        ("wheels", {"python": None}, "KeyError: 'python'"),
    ],
)
def test_a_lock_that_contradicts_itself_or_lacks_something_is_refused_by_its_path_and_reason(
    tmp_path: Path, kind: str, change: dict, why: str
) -> None:
    dumped = {"debs": dump_deb_lock(Archive({"alpha": b"a", "beta": b"b"}).lock), "wheels": dump_wheel_lock(WHEELS)}
    load = {"debs": load_deb_lock, "wheels": load_wheel_lock}[kind]
    document = json.loads(dumped[kind])
    path = lock_path(tmp_path, kind, "set", "amd64")
    path.parent.mkdir(parents=True)
    path.write_bytes(dumped[kind])
    assert load(tmp_path, "set", "amd64").label == f"{kind}/set.amd64"
    for name, value in change.items():
        at = document
        if isinstance(value, list):
            at, ((name, value),) = document[name][0], value[0].items()
        at.pop(name, None)
        if value is not None:
            at[name] = value
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=f"^{re.escape(str(path))} is not a lock: {why}"):
        load(tmp_path, "set", "amd64")


def test_an_absent_lock_is_named_with_its_folder(tmp_path: Path) -> None:
    for kind, load in (("debs", load_deb_lock), ("wheels", load_wheel_lock)):
        with pytest.raises(CouldNotRun, match=f"^there is no lock none.arm64.json in {tmp_path}/conf/locks/{kind}$"):
            load(tmp_path, "none", "arm64")
    path = lock_path(tmp_path, "debs", "bad", "amd64")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff{")
    with pytest.raises(UsageError, match=f"{path} is not a lock: (UnicodeDecodeError|JSONDecodeError): "):
        load_deb_lock(tmp_path, "bad", "amd64")
    with pytest.raises(UsageError, match="its format is not 1"):
        model._read(Path(json_file(tmp_path, [1])))


def json_file(folder: Path, document: object) -> str:
    path = folder / "document.json"
    path.write_text(json.dumps(document))
    return str(path)


# the chain to Debian's key


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.mark.parametrize(
    ("digest", "size", "path"),
    [
        ("0" * 63, "1", "a"), ("0" * 65, "1", "a"), ("A" * 64, "1", "a"), ("0" * 64, "-1", "a"), ("0" * 64, "²", "a"),
        ("0" * 64, "1.5", "a"), ("0" * 64, "", ""),
    ],
)  # fmt: skip
def test_an_entry_of_a_release_that_is_no_hash_size_and_path_is_named(digest: str, size: str, path: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"bad entry in the SHA256 list: {digest} {size} {path}".rstrip())):
        parse_release(f"Origin: x\nSHA256:\n {digest} {size} {path}\n")


def test_a_release_without_a_list_lists_nothing_and_its_fields_are_texts() -> None:
    release = parse_release(f"Codename: made\nSHA256:\n {'0' * 64} 0 a\n")
    assert release.sha256 == {"a": (0, "0" * 64)} and dict(release.fields) == {"Codename": "made"}
    assert parse_release("Codename: made\n").sha256 == {}


def test_an_index_may_hold_other_versions_of_a_locked_package(repository: Repository) -> None:
    """The lines of another version count for nothing, wherever they stand; those of the lock must be there."""
    index, deb = repository.lock.indexes[0], repository.lock.debs[0]
    own = "\n".join(deb.stanza)
    older = own.replace("1:1.0+b1", "1:0.9").replace(deb.sha256, "e" * 64)

    def chain(text: str):
        data = lzma.compress(text.encode())
        listing = f"Codename: {index.suite}\nSHA256:\n {sha256(data)} {len(data)} {index.path}\n"
        release = repository.archive.sign(listing)
        repository.release.write_bytes(release)
        changed = dataclasses.replace(
            index, sha256=sha256(data), size_bytes=len(data), inrelease_sha256=sha256(release)
        )
        repository.indexes[sha256(data)] = data
        return repository.verify(dataclasses.replace(repository.lock, indexes=(changed, *repository.lock.indexes[1:])))

    for text in (f"{older}\n\n{own}\n", f"{own}\n\n\n{older}\n", own):
        assert [link.debs for link in chain(text)] == [1, 2]
    with pytest.raises(
        VerificationFailed,
        match=r"^debs/set.amd64: the signed index of made does not hold the lines of alpha 1:1.0\+b1$",
    ):
        chain(f"{older}\n")
    data = b"no xz at all"
    listing = f"Codename: {index.suite}\nSHA256:\n {sha256(data)} {len(data)} {index.path}\n"
    release = repository.archive.sign(listing)
    repository.release.write_bytes(release)
    changed = dataclasses.replace(index, sha256=sha256(data), size_bytes=len(data), inrelease_sha256=sha256(release))
    repository.indexes[sha256(data)] = data
    with pytest.raises(VerificationFailed, match="the index of made cannot be read: Input format not supported"):
        repository.verify(dataclasses.replace(repository.lock, indexes=(changed,)))


def test_what_contradicts_the_lock_is_told_with_both_sides(repository: Repository, monkeypatch) -> None:
    index = repository.lock.indexes[0]

    def refused(lock) -> str:
        with pytest.raises(VerificationFailed) as caught:
            verify_debian_chain(repository.root, lock, None)
        return caught.value.message

    def with_index(**change):
        return dataclasses.replace(repository.lock, indexes=(dataclasses.replace(index, **change),))

    key = repository.archive.fingerprint
    head = "debs/set.amd64: made.InRelease"
    assert refused(with_index(inrelease_sha256="0" * 64)) == (
        f"{head} has sha256 {index.inrelease_sha256}, the lock says {'0' * 64}"
    )
    assert refused(with_index(suite="other")) == f"{head} speaks of made, not of other"
    assert refused(with_index(size_bytes=1)) == (
        f"{head} lists {index.path} as {(index.size_bytes, index.sha256)}, the lock as {(1, index.sha256)}"
    )
    assert refused(with_index(path="none")).startswith(f"{head} lists none as None, the lock as ")
    assert refused(with_index(signed_by=())) == f"{head} is signed by {key}; the lock says nobody"
    assert refused(with_index(signed_by=("1", "2"))) == f"{head} is signed by {key}; the lock says 1, 2"
    deb = repository.lock.debs[0]
    assert refused(repository.with_deb(size_bytes=9)) == (
        "debs/set.amd64: alpha: the lock says Size 9, its Packages lines 10"
    )
    assert refused(repository.with_deb(stanza=deb.stanza[1:])).endswith("Package alpha, its Packages lines None")
    signed = repository.archive.sign("Codename: made\nSHA256:\n 1 2 3\n")
    assert refused(repository.with_release(signed)) == f"{head}: bad entry in the SHA256 list: 1 2 3"


def test_signers_are_told_in_one_spelling_and_order_and_a_text_that_nobody_signed_is_refused(tmp_path, monkeypatch):
    pysequoia = pytest.importorskip("pysequoia")
    keyring = tmp_path / "ring.gpg"
    keyring.write_bytes(Archive({"a": b""}).keyring)
    seen = {}

    def verify(*, bytes, store):
        seen.update(data=bytes, certificates=store(["a key"]))
        return result

    monkeypatch.setattr(pysequoia, "verify", verify)
    result = SimpleNamespace(
        bytes="ä".encode(), valid_sigs=[SimpleNamespace(certificate=c) for c in ("BB", "AA", "bb")]
    )
    assert openpgp.verify_cleartext(b"data", keyring, "a file") == openpgp.Signed("ä", ("aa", "bb"))
    assert seen["data"] == b"data" and len(seen["certificates"]) == 1
    result.valid_sigs = []
    with pytest.raises(VerificationFailed, match=r"^a file carries no signature by a key of ring\.gpg$"):
        openpgp.verify_cleartext(b"data", keyring, "a file")
    result = SimpleNamespace(bytes=None, valid_sigs=[SimpleNamespace(certificate="aa")])
    assert openpgp.verify_cleartext(b"data", keyring, "a file").text == ""
    result.bytes = b"\xff"
    with pytest.raises(VerificationFailed, match=r"^a file is not signed by a key of ring\.gpg: 'utf-8' codec"):
        openpgp.verify_cleartext(b"data", keyring, "a file")


def test_why_nothing_was_checked_is_told_for_each_reason(tmp_path: Path) -> None:
    head = "^the signature of a file was not checked: "
    with pytest.raises(CouldNotVerify, match=f"{head}no keyring {tmp_path}/none: No such file or directory$"):
        openpgp.verify_cleartext(b"", tmp_path / "none", "a file")
    (tmp_path / "ring").write_bytes(b"no keys at all")
    with pytest.raises(CouldNotVerify, match=f"{head}{tmp_path}/ring holds no keys: .+") as caught:
        openpgp.verify_cleartext(b"", tmp_path / "ring", "a file")
    assert "None" not in caught.value.message
    assert openpgp._reason(ValueError()) == "ValueError"
    assert openpgp._reason(ValueError("one\n two \x1b Stack backtrace: three")) == "one two \\x1b"
    assert openpgp._reason(ValueError("x" * 301)) == "x" * 300 + "…"


def test_every_lock_is_proven_in_one_order_and_what_could_not_be_had_is_passed_on(tmp_path, monkeypatch) -> None:
    repository = Repository(tmp_path)
    for name in ("set", "another"):
        lock = dataclasses.replace(repository.lock, name=name)
        path = lock_path(tmp_path, "debs", name, "amd64")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dump_deb_lock(lock))
    by_digest = {sha256(data): data for data in repository.indexes.values()}
    asked: list[LockedFile] = []
    monkeypatch.setattr(prove, "Cache", lambda root: SimpleNamespace(read=lambda file: by_digest[file.sha256]))
    monkeypatch.setattr(prove, "fetch_files", lambda root, files: asked.extend(files) or root)
    said: list[str] = []
    prove.verify_chain(tmp_path, said.append)
    key = repository.archive.fingerprint
    assert said == [
        f"debs/{name}.amd64: {count} packages proven by {suite}, signed by {key}"
        for name in ("another", "set") for suite, count in (("made", 1), ("made-security", 2))
    ]  # fmt: skip
    assert [file.entry.partition(":")[0] for file in asked] == ["debs/another.amd64"] * 2 + ["debs/set.amd64"] * 2

    def fetch_files(root, files):
        assert root == tmp_path and len(files) == 4
        raise CouldNotRun("no mirror", detail="each of them", hint="name one")

    monkeypatch.setattr(prove, "fetch_files", fetch_files)
    with pytest.raises(CouldNotVerify) as caught:
        prove.verify_chain(tmp_path, said.append)
    assert (caught.value.detail, caught.value.hint) == ("each of them", "name one")


# source archives


@pytest.mark.parametrize(("suffix", "pack"), [
    ("t.gz", gzip.compress), ("t.tgz", gzip.compress), ("t.xz", lzma.compress), ("t.bz2", bz2.compress), ("t", bytes),
])  # fmt: skip
def test_content_is_known_in_every_packing_and_a_damaged_one_is_known_by_nothing(tmp_path, suffix, pack):
    path = tmp_path / suffix
    data = pack(CONTENT)  # once: gzip writes the time into it
    path.write_bytes(data)
    assert content_digest(path) == sha256(CONTENT)
    packed = source(content_sha256=sha256(CONTENT))
    assert packed.accepts(path) and packed.digest_of(path) == sha256(CONTENT) and packed.digest.startswith("content:")
    assert source().digest == f"file:{sha256(CONTENT)}" and source().digest_of(path) == sha256(data)
    path.write_bytes(data[:-20])
    assert not packed.accepts(path) and content_digest(path) in ("", sha256(CONTENT[:-20]))
    path.unlink()
    assert content_digest(path) == "" and not packed.accepts(path) and not source().accepts(path)


FULL = {"title": "T", "file": "f", "licence": "MIT", "page": "p", "urls": ["u", "v"], "sha256": "1"}
DEBIAN = {"debian": "pool/f", "size_bytes": 3, "snapshot": "20260101T000000Z"}


def table(**given) -> str:
    return "[a]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in given.items() if value is not None)


def test_a_list_of_sources_is_taken_as_it_stands(paths: Paths) -> None:
    sources_toml(paths, table(**FULL, **DEBIAN, also=["g"], versioned=True))
    known = load_sources(paths.conf)["a"]
    assert known == SourceArchive("a", "T", "f", "MIT", "p", ("u", "v"), "1", also=("g",), versioned=True, **DEBIAN)
    assert known.locked == LockedFile(
        "f", "source", "1", 3, "sources: T", "a", "", "debian", "pool/f", "20260101T000000Z"
    )
    sources_toml(paths, table(**FULL))
    assert load_sources(paths.conf)["a"] == SourceArchive("a", "T", "f", "MIT", "p", ("u", "v"), "1")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({**DEBIAN, "snapshot": None}, "of Debian's needs debian, size_bytes, snapshot and sha256"),
        ({"snapshot": "x"}, "of Debian's needs debian, size_bytes, snapshot and sha256"),
        ({**DEBIAN, "sha256": None, "content_sha256": "1"}, "of Debian's needs"),
        ({"sha256": None}, "needs one of sha256, content_sha256 and first_use"),
        ({"content_sha256": "1"}, "needs one of sha256, content_sha256 and first_use"),
        ({"first_use": True}, "needs one of sha256, content_sha256 and first_use"),
        ({"title": None}, "is not complete: .*title"),
        ({"urls": None}, "is not complete: .*urls"),
        ({"urls": 3}, "is not complete: 'int' object is not iterable"),
        ({"surplus": 1}, "may hold accept, also, content_sha256, .* and nothing else"),
    ],
)
def test_a_slip_in_the_list_of_sources_is_named(paths: Paths, change: dict, why: str) -> None:
    sources_toml(paths, table(**{**FULL, **change}))
    with pytest.raises(UsageError, match=rf"^conf/sources\.toml: \[a\] {why}"):
        load_sources(paths.conf)


def test_an_archive_of_a_version_is_found_by_any_of_its_names_in_any_case_and_in_their_order(paths: Paths) -> None:
    template = source(
        name="tool", title="Tool {version}", file="Tool_{version}.run", also=("tool-{version}.zip",), versioned=True,
        first_use=True,
    )  # fmt: skip
    known = {"tool": template, "other@1": source(name="other@1")}
    tool = known_source(known, "tool@8.0")
    assert tool == dataclasses.replace(
        template, name="tool@8.0", title="Tool 8.0", file="Tool_8.0.run", also=("tool-8.0.zip",), versioned=False
    )
    assert known_source(known, "tool") is template and known_source(known, "other@1") is known["other@1"]
    for name in ("other@2", "none", "none@1", "@1"):
        with pytest.raises(UsageError, match=rf"^conf/sources\.toml has no \[{name}\]$") as caught:
            known_source(known, name)
        assert caught.value.hint == "known: other@1, tool"
    put(paths, "a-readme")
    assert find_source(paths, tool) is None
    second = put(paths, "TOOL-8.0.ZIP")
    assert find_source(paths, tool) == second
    first = put(paths, "TOOL_8.0.RUN")
    assert find_source(paths, tool) == first
    assert find_source(paths, dataclasses.replace(tool, name="tool")) is None, "only a version is found in any case"
    assert how_to_get(tool) == "get Tool_8.0.run (or tool-8.0.zip) from a page and put it into data/sources"
    zipped = dataclasses.replace(tool, zip_sha256="1")
    assert how_to_get(zipped).startswith("get Tool_8.0.run (or Tool_8.0.zip, or tool-8.0.zip) from")
    assert how_to_get(source()) == "get thing-1.0.tar.gz from a page and put it into data/sources"


def test_a_file_is_found_by_its_name_first_its_zip_next_and_its_digest_last(paths: Paths) -> None:
    vendor = source(file="thing.run", first_use=True, zip_sha256=sha256(CONTENT))
    (paths.data / "sources" / "thing.run").mkdir()  # a folder is no file
    assert find_source(paths, vendor) is None
    renamed = put(paths, "z-other.zip")
    put(paths, "a.zip", b"another")
    put(paths, "a.txt")
    assert find_source(paths, vendor) == renamed
    zipped = put(paths, "thing.zip", b"any bytes: what is found by name is not hashed here")
    assert find_source(paths, vendor) == zipped
    (paths.data / "sources" / "thing.run").rmdir()
    named = put(paths, "thing.run", b"any")
    assert find_source(paths, vendor) == named
    plain = source(file="none", first_use=True, sha256=sha256(CONTENT))
    assert find_source(paths, plain) == paths.data / "sources" / "a.txt", "the first by name of equal ones"
    assert find_source(Paths(paths.root / "elsewhere"), source()) is None


def test_what_an_archive_is_held_to_is_told_as_it_is(paths: Paths) -> None:
    vendor = source(first_use=True, zip_sha256=sha256(CONTENT), file="thing.run")
    assert settled(paths, source()) == source() and settled(paths, vendor).sha256 == ""
    put(paths, "thing.run", b"run")
    seen = settled(paths, vendor)
    assert (seen.sha256, seen.trust) == (sha256(b"run"), "trusted on first use: recorded in data/user.lock.json")
    assert user_lock.read(paths)["sources"] == {"thing.run": sha256(b"run")}
    (paths.data / "sources" / "thing.run").unlink()
    assert settled(paths, vendor).sha256 == sha256(b"run")
    put(paths, "thing.zip")
    assert (settled(paths, vendor).sha256, settled(paths, vendor).trust) == (
        sha256(CONTENT), "pinned in conf/sources.toml")  # fmt: skip
    unzipped = source(first_use=True, file="other.zip")
    put(paths, "other.zip", b"a zip of no published digest")
    assert settled(paths, unzipped).sha256 == sha256(b"a zip of no published digest")


def test_only_what_a_person_must_bring_is_missing(paths: Paths) -> None:
    tables = [
        table(**{**FULL, **DEBIAN}),
        *(table(**{**FULL, "file": name}).replace("[a]", f"[{name}]") for name in "bc"),
    ]
    sources_toml(paths, "".join(tables))
    put(paths, "c")
    assert [each.name for each in missing_sources(paths, ("a", "b", "c"))] == ["b"]
    with pytest.raises(UsageError, match="none"):
        missing_sources(paths, ("none",))


def test_what_is_copied_is_what_was_hashed_and_what_is_refused_says_why(paths: Paths, monkeypatch) -> None:
    target = paths.root / "copy.tar"
    packed = source(content_sha256=sha256(CONTENT))
    put(paths, packed.file, gzip.compress(CONTENT))
    copy_verified(paths, packed, target)
    assert gzip.decompress(target.read_bytes()) == CONTENT
    target.unlink()

    def refused(archive: SourceArchive):
        with pytest.raises(VerificationFailed) as caught:
            copy_verified(paths, archive, target)
        assert [path.name for path in paths.root.iterdir() if path.is_file()] == []
        return caught.value

    get = "remove the file; get thing-1.0.tar.gz from a page and put it into data/sources"
    put(paths, packed.file, gzip.compress(b"other"))
    head = "data/sources/thing-1.0.tar.gz is not Thing 1.0: "
    found = refused(packed)
    assert found.message == (
        f"{head}its content has sha256 {sha256(b'other')}, and conf/sources.toml says {sha256(CONTENT)}"
    )
    assert found.hint == get
    put(paths, packed.file, b"other")
    assert refused(packed).message.startswith(f"{head}its content has sha256 (not readable), and conf/sources.toml")
    assert refused(source()).message == (
        f"{head}it has sha256 {sha256(b'other')}, and conf/sources.toml says {sha256(CONTENT)}"
    )
    user_lock.first_seen(paths, "sources", packed.file, sha256(CONTENT))
    found = refused(source(first_use=True))
    assert found.message.endswith(f"and data/user.lock.json says {sha256(CONTENT)}")
    assert found.hint == f"{get}; if it was replaced on purpose, remove thing-1.0.tar.gz from the lock"
    (paths.data / "sources" / packed.file).unlink()
    with pytest.raises(CouldNotRun, match=r"^Thing 1\.0 is not in data/sources$"):
        copy_verified(paths, source(accept=""), target)
    with pytest.raises(CouldNotRun, match="only for a user who accepts Huawei's licence"):
        copy_verified(paths, source(accept="CANN"), target)


def test_a_file_that_is_asked_for_again_is_hashed_once_and_a_changed_one_anew(paths: Paths, monkeypatch) -> None:
    hashed: list[Path] = []
    real = archives.sha256_file
    monkeypatch.setattr(archives, "sha256_file", lambda path: hashed.append(path) or real(path))
    path = put(paths, "renamed")
    for _ in range(2):
        assert find_source(paths, source()) == path
    assert hashed == [path]
    put(paths, "renamed", CONTENT[:-1])
    assert find_source(paths, source()) is None and hashed == [path, path]
