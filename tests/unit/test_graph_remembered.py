"""What is hashed and what is remembered of it, the user's speech, the machine's lock: each at its bounds."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.base.confined import PlainFile, list_tree
from repro.base.errors import CouldNotRun, NotPlain, UsageError
from repro.base.files import sha256_bytes
from repro.graph import alone, cache, digests, sources
from repro.graph.alone import machine, machine_lock
from repro.graph.cache import StatCache
from repro.graph.digests import FileDigest, digest_file, digest_folder, digest_tree, folders_of, missing_or_changed
from repro.graph.sources import digest_source

NO_CACHE = StatCache(None)


def test_a_file_of_several_chunks_is_hashed_whole_whatever_its_name_leads_through(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_CHUNK_BYTES", 7)
    (tmp_path / "f").write_bytes(b"0123456789" * 5)
    (tmp_path / "way").symlink_to("f")
    expected = FileDigest(sha256_bytes(b"0123456789" * 5), 50)
    known = StatCache(tmp_path / "db")
    assert digest_file(tmp_path / "way", known) == expected == digest_file(tmp_path / "f", NO_CACHE)
    monkeypatch.setattr(digests, "open_below", lambda *_: pytest.fail("it is known by its inode"))
    (tmp_path / "f").rename(tmp_path / "g")
    found = list_tree(tmp_path).files["g"] if not (tmp_path / "way").unlink() else None
    assert known.known(replace(found, ctime_ns=found.ctime_ns + 1)) is None
    monkeypatch.undo()
    for odd, why in (("/dev/null", "a character device"), (str(tmp_path), "a folder")):
        with pytest.raises(NotPlain, match=why):
            digest_file(Path(odd), NO_CACHE)


@pytest.mark.parametrize("count", [15, 16, 40])
def test_few_files_or_many_are_all_hashed_in_order(tmp_path: Path, count: int):
    for number in range(count):
        (tmp_path / f"f{number:02}").write_bytes(bytes([number]))
    found = digest_tree(tmp_path, list_tree(tmp_path), NO_CACHE)
    assert list(found) == [f"f{number:02}" for number in range(count)]
    assert found == {f"f{n:02}": FileDigest(sha256_bytes(bytes([n])), 1) for n in range(count)}


@pytest.mark.parametrize(("size", "meanwhile"), [(3, b"more"), (3, b""), (20, b"")])
def test_a_file_that_is_not_what_was_listed_or_changes_meanwhile_is_refused(tmp_path, monkeypatch, size, meanwhile):
    monkeypatch.setattr(digests, "_CHUNK_BYTES", 7)
    path = tmp_path / "a"
    path.write_bytes(b"x" * size)
    listed = list_tree(tmp_path)
    path.write_bytes(b"y" * size)
    os.utime(path, ns=(1, 1))
    with pytest.raises(NotPlain, match=r"^a was changed after it was listed$"):
        digest_tree(tmp_path, listed, NO_CACHE)
    with pytest.raises(NotPlain, match=r"^it: a was changed after it was listed$"):
        monkeypatch.setattr(digests, "list_tree", lambda *_: listed)
        digest_folder(tmp_path, NO_CACHE, "it")
    real = digests.open_below

    @contextlib.contextmanager
    def open_below(*given):
        with real(*given) as stream:
            read = stream.read

            def changed(most):
                data = read(most)
                with open(path, "ab" if meanwhile else "wb") as other:
                    other.write(meanwhile)
                return data

            yield SimpleNamespace(fileno=stream.fileno, read=changed)

    monkeypatch.setattr(digests, "open_below", open_below)
    noted = StatCache(tmp_path / "db")
    with pytest.raises(NotPlain, match=r"^a was changed while it was read$"):
        digest_file(path, noted)
    assert noted.known(listed.files["a"]) is None


def test_a_folder_that_cannot_be_read_is_told_with_its_name_and_what_to_do(tmp_path: Path):
    with pytest.raises(CouldNotRun, match=r"^cannot read the data: .*No such file or directory") as caught:
        digest_folder(tmp_path / "none", NO_CACHE, "the data")
    assert caught.value.hint == "check the path"
    (tmp_path / "x").symlink_to("y")
    with pytest.raises(NotPlain, match=r"^the data: x is a symbolic link"):
        digest_folder(tmp_path, NO_CACHE, "the data")


@given(st.lists(st.sampled_from(["a", "a/b", "a/b/c", "d/e/f", "g"]), unique=True))
def test_folders_of_files_are_all_above_them(names):
    above = {""} | {str(parent) for name in names for parent in Path(name).parents if str(parent) != "."}
    assert folders_of(names) == sorted(above)


def test_what_is_wrong_with_a_folder_is_told_file_by_file(tmp_path: Path):
    for name in ("kept", "changed", "gone", "in/deep"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    files = digest_folder(tmp_path, NO_CACHE, "it")
    assert missing_or_changed(tmp_path, files, NO_CACHE) == []
    (tmp_path / "changed").write_bytes(b"other")
    (tmp_path / "gone").unlink()
    (tmp_path / "more").write_bytes(b"")
    expected = ["more is not one of its files", "gone is missing", "changed has changed"]
    assert missing_or_changed(tmp_path, files, NO_CACHE) == expected
    assert missing_or_changed(tmp_path / "none", files, NO_CACHE) == [
        f"[Errno 2] No such file or directory: '{tmp_path}/none'"
    ]
    (tmp_path / "pipe").symlink_to("x")
    assert missing_or_changed(tmp_path, files, NO_CACHE) == ["pipe is a symbolic link, not a plain file"]


def test_what_was_found_right_is_remembered_by_every_stat_of_it(tmp_path: Path, monkeypatch):
    folder = tmp_path / "f"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "a").write_bytes(b"one")
    files, known = digest_folder(folder, NO_CACHE, "it"), StatCache(tmp_path / "db")
    assert missing_or_changed(folder, files, known) == []
    monkeypatch.setattr(digests, "_examined", lambda *_: iter(["looked at"]))
    assert missing_or_changed(folder, files, known) == []
    for change in (
        lambda: (folder / "in" / "a").chmod(0o600), lambda: (folder / "in").chmod(0o700),
        lambda: (folder / "in" / "b").write_bytes(b""), lambda: os.utime(folder, ns=(1, 1)),
    ):  # fmt: skip
        monkeypatch.undo()
        (folder / "in" / "b").unlink(missing_ok=True)
        assert missing_or_changed(folder, files, known) == []
        change()
        monkeypatch.setattr(digests, "_examined", lambda *_: iter(["looked at"]))
        assert missing_or_changed(folder, files, known) == ["looked at"]
    assert missing_or_changed(tmp_path / "none", files, known) == ["looked at"]


def file_of(**changed) -> PlainFile:
    return PlainFile(**{"size_bytes": 1, "mode": 2, "inode": 3, "device": 4, "mtime_ns": 5, "ctime_ns": 6, **changed})


def test_a_digest_is_known_for_exactly_the_stat_that_it_was_noted_with(tmp_path: Path):
    known = StatCache(tmp_path / "new" / "db")
    assert known.known(file_of()) is None
    known.note(file_of(), "digest")
    for again in (known, StatCache(tmp_path / "new" / "db")):
        assert again.known(file_of()) == again.known(file_of(mode=9)) == "digest", "a mode is no content"
        for name in ("size_bytes", "inode", "device", "mtime_ns", "ctime_ns"):
            assert again.known(file_of(**{name: 9})) is None
    known.note(file_of(size_bytes=7), "newer")
    assert known.known(file_of()) is None and known.known(file_of(size_bytes=7)) == "newer"
    known.remember("a kind", "a key", "1")
    known.remember("a kind", "a key", "2")
    known.remember("a", "kind a key", "3")
    assert known.recall("a kind", "a key") == "3" and known.recall("a kind", "another") is None
    nothing = StatCache(None)
    nothing.note(file_of(), "digest")
    nothing.remember("a", "b", "c")
    assert nothing.known(file_of()) is nothing.recall("a", "b") is None


def test_a_damaged_database_is_made_anew_with_what_lies_beside_it_and_other_trouble_is_told_once(tmp_path, monkeypatch):
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"db{suffix}").write_bytes(b"no database at all" * 100)
    said: list[str] = []
    known = StatCache(tmp_path / "db", said.append)
    known.note(file_of(), "digest")
    assert known.known(file_of()) == "digest" and said == []
    connection = sqlite3.connect(tmp_path / "db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    closed = []
    for error, stays in ((sqlite3.DatabaseError("malformed"), False), (sqlite3.OperationalError("full"), True)):
        known = StatCache(tmp_path / "db", said.append)
        known._connection.close()

        def execute(*_, error=error):
            raise error

        known._connection = SimpleNamespace(execute=execute, close=lambda: closed.append(1))
        assert known.recall("a", "b") is None and known.recall("a", "b") is None
        assert said.pop() == f"the cache of digests {tmp_path}/db cannot be used ({error}): files are hashed anew"
        assert (tmp_path / "db").exists() is stays and said == []
    assert closed == [1, 1]
    monkeypatch.setattr(cache, "_connected", lambda _: (_ for _ in ()).throw(sqlite3.OperationalError("locked")))
    StatCache(tmp_path / "db", said.append)
    assert said == [f"the cache of digests {tmp_path}/db cannot be used (locked): files are hashed anew"]


@pytest.mark.parametrize(("tries", "taken"), [(1, True), (49, True), (50, False)])
def test_the_lock_for_opening_is_asked_for_fifty_times(tmp_path, monkeypatch, tries, taken):
    waited, left = [], [tries]

    @contextlib.contextmanager
    def locked(folder, *, wait):
        assert (folder, wait) == (tmp_path, False)
        if left[0]:
            left[0] -= 1
            raise cache.Taken("busy")
        yield

    monkeypatch.setattr(cache, "locked", locked)
    monkeypatch.setattr(cache.time, "sleep", waited.append)
    said: list[str] = []
    StatCache(tmp_path / "db", said.append)
    assert (said == []) is taken and waited == [0.1] * min(tries, 49)


# sources


def test_speech_is_looked_for_below_train_and_test_in_whatever_case_and_one_folder_further_down(tmp_path, monkeypatch):
    def speech(root: Path, *names: str) -> Path:
        for name in names:
            (root / name / "d").mkdir(parents=True)
            (root / name / "d" / "x.wav").write_text(name.lower())
        return root

    def digest(root: Path, what: str = "data") -> str:
        return digest_source(root, NO_CACHE, what)

    plain = speech(tmp_path / "plain", "train", "test")
    expected = digest(plain)
    assert digest(plain, "data set") == expected == digest_source(plain, NO_CACHE, "another")
    (plain / "notes").write_text("beside")
    assert digest(plain) == expected != digest_source(plain, NO_CACHE, "another")
    assert digest(speech(tmp_path / "below" / "plain", "train", "test").parent) != expected, "paths are of the whole"
    both = speech(tmp_path / "both" / "one", "train", "test").parent
    before = digest(both)
    speech(both / "two", "train", "test")
    assert digest(both) != before, "of two candidates none is taken: all is"
    half = speech(tmp_path / "half", "train")
    (half / "notes").write_text("beside")
    (half / "pipe").symlink_to("x")
    assert digest(half) != digest(speech(tmp_path / "other half", "train")), (
        "without TEST all plain files are looked at"
    )
    twice = speech(tmp_path / "twice", "train", "Train", "test")
    with pytest.raises(UsageError, match=rf"^data: both Train and train lie in {tmp_path}/twice$") as caught:
        digest(twice)
    assert caught.value.hint == "remove one of them"
    monkeypatch.setattr(sources, "_MOST_ENTRIES", 4)
    assert digest(plain) == expected
    monkeypatch.setattr(sources, "_MOST_ENTRIES", 3)
    with pytest.raises(UsageError, match=r"^data: more than 3 files$") as caught:
        digest(plain)
    assert caught.value.hint == "give TIMIT's own folder"
    monkeypatch.undo()
    monkeypatch.setattr(sources, "_MOST_DEPTH", 1)
    assert digest(plain) == expected
    (plain / "test" / "d" / "deeper").mkdir()
    with pytest.raises(UsageError, match=r"^data: test/d/deeper: folders lie more than 1 deep$"):
        digest(plain)
    monkeypatch.undo()
    (plain / "test" / "way").symlink_to("d")
    with pytest.raises(UsageError, match=rf"^data: {plain}/test/way is a symbolic link$") as caught:
        digest(plain)
    assert caught.value.hint.startswith("copy the data in place of linking it")


def test_a_source_that_cannot_be_read_is_told_with_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"weights")
    assert digest_source(tmp_path / "f", NO_CACHE, "checkpoint") == sha256_bytes(b"weights")
    monkeypatch.setattr(sources, "digest_file", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(CouldNotRun, match=r"^cannot read checkpoint: \[Errno 5\] Input/output error$") as caught:
        digest_source(tmp_path / "f", NO_CACHE, "checkpoint")
    assert "dmesg" in caught.value.hint
    with pytest.raises(CouldNotRun, match=rf"^checkpoint is neither a file nor a folder: {tmp_path}/none$"):
        digest_source(tmp_path / "none", NO_CACHE, "checkpoint")


# a machine's lock


def test_a_lock_is_named_by_the_environment_or_lies_in_the_first_open_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert machine_lock((), {"BUNDLE_MACHINE_LOCK": "x"}) == tmp_path / "x" and machine_lock((), {}) is None
    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(0o666)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert (
        machine_lock((tmp_path / "file", tmp_path / "open"), {}) == tmp_path / "open" / "lstm-ctc-bundle.machine.lock"
    )


@pytest.mark.parametrize("alone_", [True, False])
def test_whoever_waits_looks_twice_a_second_until_its_time_is_up(tmp_path, monkeypatch, alone_):
    clock, slept, waited = itertools.count(), [], []
    monkeypatch.setattr(alone, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=slept.append))
    lock = tmp_path / "lock"
    held = machine(lock, alone=True, waiting=lambda: None, wait_s=1)
    with held:
        next(clock)
        if alone_:
            with (
                pytest.raises(
                    CouldNotRun, match=r"^other runs kept this machine busy: a speed is measured only"
                ) as caught,
                machine(lock, alone=True, waiting=lambda: waited.append(1), wait_s=3),
            ):
                pass
            assert caught.value.hint.endswith(f"(lock: {lock}.gate)")
        else:
            with machine(lock, alone=False, waiting=lambda: waited.append(1), wait_s=3):
                pass
    assert slept == [0.5] * 3 and waited == [1] * 4
    assert not list(tmp_path.glob("none*")) and alone.WAIT_S == 3600.0
