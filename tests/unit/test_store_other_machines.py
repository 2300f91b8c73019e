"""A store that other machines use too: whole results or none, whatever locks mean there, and nobody's work removed."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest
from _graph_cases import Bench

from repro.base import temporary_file
from repro.base.errors import CouldNotRun, NonDeterministicResult
from repro.base.temporary import clear_dead, temporary_folder
from repro.graph.code import read_code, snapshot
from repro.graph.store import Store


def write_name(job, out: Path, obs: Path, on_line) -> int:
    (out / "result").write_bytes(job.name.encode())
    return 0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path, write_name)
    made.shared = True
    return made


@pytest.fixture
def no_locks(monkeypatch):
    """A file system mounted without locks."""

    def flock(_descriptor, _kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def locks_of_one_machine(monkeypatch):
    """Locks are given, and keep nobody on another machine away (NFS mounted with local_lock=all)."""
    monkeypatch.setattr(fcntl, "flock", lambda _descriptor, _kind: None)


def beaten_by(bench: Bench, monkeypatch, content: bytes) -> None:
    """While `first` runs here, another machine publishes its result, between our last look and our rename."""
    nodes = {"first": bench.nodes()["first"]}
    real, beaten = os.rename, []

    def rename(source, target):
        if len(Path(target).name) == 64 and "store" in Path(target).parts and not beaten:
            beaten.append(target)
            bench.engine.behave = lambda job, out, obs, on_line: (out / "result").write_bytes(content) and 0
            bench.runner().run(nodes)
        return real(source, target)

    monkeypatch.setattr(os, "rename", rename)


def test_of_two_machines_that_make_one_result_the_later_takes_the_earlier_s(
    bench: Bench, monkeypatch, locks_of_one_machine
):
    beaten_by(bench, monkeypatch, b"first")
    done = bench.runner().run({"first": bench.nodes()["first"]})
    assert (done["first"].result.out / "result").read_bytes() == b"first"
    assert len(list(bench.store().entries())) == 1
    assert list((bench.root / "artifacts" / "tmp").iterdir()) == []


def test_of_two_machines_that_make_different_bytes_of_one_result_the_later_says_so_and_keeps_both(
    bench: Bench, monkeypatch, locks_of_one_machine
):
    beaten_by(bench, monkeypatch, b"other")
    with pytest.raises(NonDeterministicResult):
        bench.runner().run({"first": bench.nodes()["first"]})
    [entry] = bench.store().entries()
    assert (entry / "out" / "result").read_bytes() == b"other"
    [kept] = (bench.root / "artifacts" / "store" / "conflicts").iterdir()
    assert (kept / "entry" / "out" / "result").read_bytes() == b"first"


def test_a_shared_store_works_without_locks_and_a_store_of_one_machine_asks_for_them(bench: Bench, no_locks):
    with bench.store().in_use():
        done = bench.runner().run(bench.nodes())
    assert [item.cached for item in done.values()] == [False, False]
    assert list((bench.root / "artifacts" / "tmp").iterdir()) == []
    own = Store(bench.root / "own", bench.root / "tmp", bench.keys_of().cache)
    with pytest.raises(CouldNotRun, match="no file locks"), own.in_use():
        pass


def test_what_another_machine_s_living_command_made_is_not_removed(tmp_path: Path, monkeypatch):
    """Its lock does not count here: only its machine knows whether its owner lives."""
    monkeypatch.setattr(temporary_file, "machine_mark", lambda: "0123456789ab")
    theirs = temporary_folder(tmp_path, "work")
    monkeypatch.undo()
    os.close(theirs._descriptor)  # as if the lock were not seen from here
    theirs._descriptor = -1
    assert clear_dead(tmp_path) == [] and theirs.path.is_dir()
    os.utime(theirs.path, (0, 0))  # no stage may run that long
    assert clear_dead(tmp_path) == [theirs.path]


def test_a_snapshot_of_code_that_another_machine_put_in_place_first_is_taken(
    bench: Bench, tmp_path: Path, monkeypatch, locks_of_one_machine
):
    code, cache = read_code(bench.root, "second"), bench.keys_of().cache
    real, beaten = os.rename, []

    def rename(source, target):
        if not beaten:
            beaten.append(target)
            snapshot(code, tmp_path / "code", cache)
        return real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    assert snapshot(code, tmp_path / "code", cache).name == code.digest
    assert [path.name for path in (tmp_path / "code").iterdir()] == [code.digest]
