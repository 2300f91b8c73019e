"""`invoke lock.verify`: no link of the chain is left out, and an index that cannot be had is not a proof."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from repro.base.errors import CouldNotRun, CouldNotVerify, VerificationFailed
from repro.base.files import write_atomic
from repro.fetching.cache import Cache
from repro.locks.model import dump_deb_lock, lock_path
from repro.resolving import prove
from tests.simulators.archive import sha256
from tests.unit.test_locks_debian import Repository


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository with a committed lock, whose mirror delivers the indexes that are asked for."""
    made = Repository(tmp_path)
    commit(made, made.lock)
    indexes = {sha256(data): data for data in made.indexes.values()}

    def fetch_files(root, files):
        for file in files:
            cache = Cache(root)
            cache.part(file.sha256).parent.mkdir(parents=True, exist_ok=True)
            cache.part(file.sha256).write_bytes(indexes[file.sha256])
            cache.accept(file.sha256)

    monkeypatch.setattr(prove, "fetch_files", fetch_files)
    return made


def commit(repository: Repository, lock) -> None:
    write_atomic(lock_path(repository.root, "debs", lock.name, lock.architecture), dump_deb_lock(lock))


def test_every_lock_is_proven_down_to_its_packages(repository: Repository) -> None:
    said: list[str] = []
    prove.verify_chain(repository.root, said.append)
    assert len(said) == len(repository.lock.indexes)
    assert all(repository.archive.fingerprint in line for line in said)
    assert sum(int(line.split(": ")[1].split()[0]) for line in said) == len(repository.lock.debs)


def test_lines_that_no_index_holds_fail_although_all_else_agrees(repository: Repository) -> None:
    """The link that only the index itself proves."""
    deb = repository.lock.debs[0]
    lines = tuple(line.replace(deb.sha256, "f" * 64) for line in deb.stanza)
    commit(repository, repository.with_deb(sha256="f" * 64, stanza=lines))
    with pytest.raises(VerificationFailed, match="does not hold the lines"):
        prove.verify_chain(repository.root, lambda line: None)


def test_a_lock_of_any_architecture_is_looked_at(repository: Repository) -> None:
    lines = tuple(line.replace(repository.lock.debs[0].sha256, "f" * 64) for line in repository.lock.debs[0].stanza)
    other = dataclasses.replace(repository.with_deb(sha256="f" * 64, stanza=lines), name="another")
    commit(repository, other)
    with pytest.raises(VerificationFailed, match="another"):
        prove.verify_chain(repository.root, lambda line: None)


def test_an_index_that_cannot_be_had_is_no_failed_verification(repository: Repository, monkeypatch) -> None:
    def nothing(root, files):
        raise CouldNotRun("no mirror", hint="name one")

    monkeypatch.setattr(prove, "fetch_files", nothing)
    with pytest.raises(CouldNotVerify, match="was not checked: no mirror"):
        prove.verify_chain(repository.root, lambda line: None)


def test_an_index_that_is_gone_from_the_cache_is_no_failed_verification(repository: Repository, monkeypatch) -> None:
    monkeypatch.setattr(prove, "fetch_files", lambda root, files: None)
    with pytest.raises(CouldNotVerify, match="is not here"):
        prove.verify_chain(repository.root, lambda line: None)


def test_an_index_with_other_bytes_in_the_cache_fails(repository: Repository) -> None:
    wanted = repository.lock.index_files[0]
    fetch_files = prove.fetch_files

    def damaged(root, files):
        fetch_files(root, files)
        path = Cache(root).path(wanted.sha256)
        assert path is not None
        path.write_bytes(b"other")

    pytest.MonkeyPatch().setattr(prove, "fetch_files", damaged)
    try:
        with pytest.raises(VerificationFailed, match="has sha256"):
            prove.verify_chain(repository.root, lambda line: None)
    finally:
        prove.fetch_files = fetch_files
