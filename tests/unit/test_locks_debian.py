"""The chain from an archive's key to a .deb's hash: each link broken in turn."""

from __future__ import annotations

import dataclasses
import lzma
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.locks.debian import (
    KEPT_FIELDS,
    fields_of,
    kept_lines,
    keyring_path,
    parse_release,
    stanzas,
    verify_debian_chain,
)
from repro.locks.model import DebLock, load_deb_lock, lock_names
from repro.locks.openpgp import verify_cleartext
from tests.simulators.archive import Archive, sha256

ROOT = Path(__file__).resolve().parents[2]


class Repository:
    """A repository that holds a made archive's key, InReleases and lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.archive = Archive({"alpha": b"a" * 10, "beta": b"b" * 20, "gamma": b"g" * 30})
        self.lock = self.archive.lock
        keyring_path(root).parent.mkdir(parents=True)
        keyring_path(root).write_bytes(self.archive.keyring)
        self.release = root / "conf" / "locks" / self.lock.indexes[0].inrelease
        self.release.parent.mkdir(parents=True)
        for suite, data in self.archive.releases.items():
            (self.release.parent / f"{suite}.InRelease").write_bytes(data)
        self.indexes = {
            sha256(data): data for path, data in self.archive.contents.items() if path.endswith("Packages.xz")
        }

    def verify(self, lock: DebLock | None = None):
        return verify_debian_chain(self.root, lock or self.lock, lambda file: self.indexes[file.sha256])

    def with_release(self, data: bytes) -> DebLock:
        """The lock with another InRelease for its first suite, consistently so."""
        self.release.write_bytes(data)
        index = dataclasses.replace(self.lock.indexes[0], inrelease_sha256=sha256(data))
        return dataclasses.replace(self.lock, indexes=(index, *self.lock.indexes[1:]))

    def with_deb(self, **change) -> DebLock:
        debs = (dataclasses.replace(self.lock.debs[0], **change), *self.lock.debs[1:])
        return dataclasses.replace(self.lock, debs=debs)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_a_whole_chain_is_proven_suite_by_suite(repository: Repository) -> None:
    links = repository.verify()
    assert [(link.suite, link.debs) for link in links] == [("made", 1), ("made-security", 2)]
    assert {link.signers for link in links} == {(repository.archive.fingerprint,)}


def test_an_inrelease_with_one_bit_flipped_fails(repository: Repository) -> None:
    data = bytearray(repository.release.read_bytes())
    data[60] ^= 1
    with pytest.raises(VerificationFailed):
        repository.verify(repository.with_release(bytes(data)))


def test_an_inrelease_that_is_not_the_locked_one_fails(repository: Repository) -> None:
    repository.release.write_bytes(repository.archive.sign("Codename: made\n"))
    with pytest.raises(VerificationFailed, match="the lock says"):
        repository.verify()


def test_an_inrelease_by_a_stranger_fails(repository: Repository) -> None:
    stranger = Archive({"alpha": b"a" * 10})
    with pytest.raises(VerificationFailed, match="not signed by a key"):
        repository.verify(repository.with_release(stranger.releases["made"]))


def test_text_before_the_signed_message_is_not_believed(repository: Repository) -> None:
    signed = repository.archive.sign("Codename: made\n")
    listing = repository.release.read_bytes().split(b"\n\n", 1)[1].split(b"-----BEGIN PGP SIG")[0]
    with pytest.raises(VerificationFailed):
        repository.verify(repository.with_release(listing + b"\n" + signed))


def test_an_inrelease_of_another_suite_fails(repository: Repository) -> None:
    with pytest.raises(VerificationFailed, match="speaks of made-security"):
        repository.verify(repository.with_release(repository.archive.releases["made-security"]))


def test_an_index_that_the_inrelease_does_not_list_fails(repository: Repository) -> None:
    text = f"Codename: made\nSHA256:\n {'0' * 64} 1 main/binary-amd64/Packages.xz\n"
    with pytest.raises(VerificationFailed, match="lists main/binary-amd64/Packages"):
        repository.verify(repository.with_release(repository.archive.sign(text)))


def test_a_deb_whose_hash_was_changed_in_the_lock_fails(repository: Repository) -> None:
    with pytest.raises(VerificationFailed, match="alpha: the lock says SHA256"):
        repository.verify(repository.with_deb(sha256="f" * 64))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"package": "other"}, "Package"),
        ({"version": "9"}, "Version"),
        ({"architecture": "arm64"}, "Architecture"),
        ({"path": "pool/main/o/other.deb"}, "Filename"),
        ({"size_bytes": 11}, "Size"),
        ({"stanza": ()}, "Package"),
    ],
)
def test_a_field_of_the_lock_that_its_signed_lines_do_not_say_fails(repository: Repository, change, field) -> None:
    with pytest.raises(VerificationFailed, match=f"the lock says {field} "):
        repository.verify(repository.with_deb(**change))


@pytest.mark.parametrize("signers", [(), ("f" * 40,)])
def test_a_lock_that_names_other_signers_than_those_who_signed_fails(repository: Repository, signers) -> None:
    index = dataclasses.replace(repository.lock.indexes[0], signed_by=signers)
    lock = dataclasses.replace(repository.lock, indexes=(index, *repository.lock.indexes[1:]))
    with pytest.raises(VerificationFailed, match="the lock says"):
        repository.verify(lock)


def test_a_deb_whose_lines_were_changed_with_it_fails(repository: Repository) -> None:
    lines = tuple(line.replace(repository.lock.debs[0].sha256, "f" * 64) for line in repository.lock.debs[0].stanza)
    with pytest.raises(VerificationFailed, match="does not hold the lines of alpha"):
        repository.verify(repository.with_deb(sha256="f" * 64, stanza=lines))


def test_lines_that_stand_in_two_stanzas_prove_nothing(repository: Repository) -> None:
    alpha, beta = repository.lock.debs[0], repository.lock.debs[1]
    mixed = (*alpha.stanza[:3], *beta.stanza[3:])
    change = {"stanza": mixed, "path": beta.path, "sha256": beta.sha256, "size_bytes": beta.size_bytes}
    with pytest.raises(VerificationFailed, match="does not hold the lines of alpha"):
        repository.verify(repository.with_deb(**change))


def test_an_index_with_other_bytes_fails(repository: Repository) -> None:
    with pytest.raises(VerificationFailed, match="the index of made has sha256"):
        verify_debian_chain(repository.root, repository.lock, lambda _file: lzma.compress(b"other"))


def test_what_the_openpgp_library_says_is_one_line_without_its_stack(repository: Repository, monkeypatch) -> None:
    pysequoia = pytest.importorskip("pysequoia")

    def fail(**_arguments):
        raise Exception("Malformed\x1b[31m message\n\nStack backtrace:\n   0: anyhow::error\n   1: core::ops")

    monkeypatch.setattr(pysequoia, "verify", fail)
    with pytest.raises(VerificationFailed) as caught:
        repository.verify()
    assert caught.value.message.endswith("Malformed\\x1b[31m message") and caught.value.message.isprintable()


def test_without_indexes_all_but_their_links_is_proven(repository: Repository) -> None:
    assert len(verify_debian_chain(repository.root, repository.lock, None)) == 2


def test_a_missing_keyring_could_not_be_verified_and_is_not_a_failure(repository: Repository) -> None:
    keyring_path(repository.root).unlink()
    with pytest.raises(CouldNotVerify, match="no keyring"):
        repository.verify()


def test_a_keyring_that_holds_no_keys_could_not_be_verified(repository: Repository) -> None:
    keyring_path(repository.root).write_bytes(b"no keys at all")
    with pytest.raises(CouldNotVerify):
        repository.verify()


def test_a_missing_inrelease_could_not_be_verified(repository: Repository) -> None:
    repository.release.unlink()
    with pytest.raises(CouldNotVerify, match="cannot be read"):
        repository.verify()


def test_a_missing_openpgp_library_could_not_be_verified(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pysequoia", None)
    with pytest.raises(CouldNotVerify, match="pysequoia"):
        repository.verify()


@pytest.mark.parametrize("data", [b"", b"Codename: made\n", b"-----BEGIN PGP SIGNED MESSAGE-----\n"])
def test_an_unsigned_text_fails(repository: Repository, data: bytes) -> None:
    with pytest.raises(VerificationFailed):
        verify_cleartext(data, keyring_path(repository.root), "InRelease")


@pytest.mark.parametrize(("name", "architecture"), lock_names(ROOT, "debs"))
def test_the_committed_locks_lead_to_debians_own_keys(name: str, architecture: str) -> None:
    lock = load_deb_lock(ROOT, name, architecture)
    links = verify_debian_chain(ROOT, lock, None)
    assert sum(link.debs for link in links) == len(lock.debs)
    documented = (ROOT / "conf" / "keys" / "README.md").read_text("utf-8").replace(" ", "").lower()
    for link, index in zip(links, lock.indexes):
        assert link.signers == index.signed_by
        assert all(signer in documented for signer in link.signers)


NAMES = st.text(st.sampled_from("abcdefghij-+.0123456789"), min_size=1, max_size=12)
HASHES = st.text(st.sampled_from("0123456789abcdef"), min_size=64, max_size=64)


@given(st.dictionaries(NAMES, st.tuples(st.integers(0, 10**12), HASHES), max_size=6), NAMES)
def test_a_release_is_read_as_it_is_written(listed: dict[str, tuple[int, str]], codename: str) -> None:
    lines = [f" {digest} {size:>16} {path}" for path, (size, digest) in listed.items()]
    text = "\n".join(["Origin: Debian", "MD5Sum:", " 0 0 x", "SHA256:", *lines, f"Codename: {codename}"])
    release = parse_release(text)
    assert release.sha256 == listed
    assert release.fields["Codename"] == codename


@pytest.mark.parametrize("line", [" zz 1 a", " " + "0" * 64 + " x a", " " + "0" * 64 + " 1", " a b c d"])
def test_a_release_with_a_malformed_entry_is_not_read(line: str) -> None:
    with pytest.raises(ValueError):
        parse_release(f"SHA256:\n{line}\n")


def test_a_release_that_lists_a_path_twice_is_not_read() -> None:
    with pytest.raises(ValueError, match="bad entry"):
        parse_release(f"SHA256:\n {'0' * 64} 1 a\n {'1' * 64} 1 a\n")


STANZAS = st.lists(
    st.dictionaries(st.sampled_from([*KEPT_FIELDS, "Description", "Tag"]), NAMES, min_size=1), min_size=1, max_size=5
)


@given(STANZAS, st.booleans())
def test_a_packages_file_is_read_stanza_by_stanza(packages: list[dict[str, str]], folded: bool) -> None:
    fold = "\n folded: line" if folded else ""
    text = "\n\n".join("\n".join(f"{key}: {value}{fold}" for key, value in p.items()) for p in packages) + "\n"
    found = list(stanzas(text))
    assert [fields_of(stanza) for stanza in found] == [{k: f"{v}{fold}" for k, v in p.items()} for p in packages]
    for stanza, package in zip(found, packages):
        assert kept_lines(stanza) == tuple(f"{k}: {v}" for k, v in package.items() if k in KEPT_FIELDS)
