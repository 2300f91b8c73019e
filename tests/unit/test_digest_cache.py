"""The cache of digests never ends a command: it goes on without, says so once, and gives the same digests."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from repro.graph import cache as caching
from repro.graph.cache import StatCache
from repro.graph.digests import FileDigest, digest_file, digest_folder, missing_or_changed

ROOT = Path(__file__).resolve().parents[2]
ONE = FileDigest("7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed", 3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"one")
    return tmp_path / "data" / "a"


def goes_on_without(cache: StatCache, said: list[str], file: Path) -> None:
    assert digest_file(file, cache) == digest_file(file, cache) == ONE
    cache.remember("kind", "key", "value")
    assert cache.recall("kind", "key") is None
    assert len(said) == 1 and "cannot be used" in said[0]


def full(tmp_path: Path) -> Path:
    return Path("/dev/full/digests.sqlite")


def below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"")
    return tmp_path / "file" / "digests.sqlite"


def a_folder(tmp_path: Path) -> Path:
    (tmp_path / "digests.sqlite").mkdir()
    return tmp_path / "digests.sqlite"


@pytest.mark.parametrize("place", [full, below_a_file, a_folder])
def test_a_database_that_cannot_be_opened_is_done_without(tmp_path: Path, file: Path, place):
    said: list[str] = []
    goes_on_without(StatCache(place(tmp_path), said.append), said, file)


def test_a_file_system_without_locks_is_done_without(tmp_path: Path, file: Path, monkeypatch):
    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    said: list[str] = []
    goes_on_without(StatCache(tmp_path / "digests.sqlite", said.append), said, file)


def test_a_lock_that_another_process_holds_is_not_waited_for(tmp_path: Path, file: Path, monkeypatch):
    monkeypatch.setattr(caching, "_BUSY_S", 0.05)
    said: list[str] = []
    cache = StatCache(tmp_path / "digests.sqlite", said.append)
    other = sqlite3.connect(tmp_path / "digests.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    goes_on_without(cache, said, file)
    other.close()


@pytest.mark.parametrize(
    "error",
    [sqlite3.OperationalError("database or disk is full"), sqlite3.OperationalError("disk I/O error"),
     sqlite3.DatabaseError("database disk image is malformed")],
)  # fmt: skip
def test_trouble_in_the_middle_of_a_run_is_done_without(tmp_path: Path, file: Path, error: sqlite3.Error):
    said: list[str] = []
    cache = StatCache(tmp_path / "digests.sqlite", said.append)

    class Broken:
        def execute(self, *_: object) -> None:
            raise error

        def close(self) -> None: ...

    cache._connection = Broken()
    goes_on_without(cache, said, file)
    again: list[str] = []
    assert digest_file(file, StatCache(tmp_path / "digests.sqlite", again.append)) == ONE
    assert again == []  # a damaged database was cleared away


def test_a_database_that_cannot_grow_is_done_without(tmp_path: Path, file: Path):
    program = (
        "import resource, sys; from pathlib import Path; from repro.graph.cache import StatCache\n"
        "from repro.graph.digests import digest_file\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "said = []\n"
        f"cache = StatCache(Path({str(tmp_path / 'full.sqlite')!r}), said.append)\n"
        f"print(digest_file(Path({str(file)!r}), cache).sha256, len(said))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [ONE.sha256, "1"], done.stderr


def test_first_starts_at_once_share_one_database(tmp_path: Path, file: Path, monkeypatch):
    monkeypatch.setattr(caching, "_TRIES", 1000)  # a disk may take longer than a user is made to wait
    (tmp_path / "digests.sqlite").write_bytes(b"no database" * 500)  # each of them finds it broken
    said: list[str] = []
    start = threading.Barrier(8)

    def first() -> None:
        start.wait()
        digest_file(file, StatCache(tmp_path / "digests.sqlite", said.append))

    threads = [threading.Thread(target=first) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == []
    connection = sqlite3.connect(tmp_path / "digests.sqlite")
    assert connection.execute("SELECT count(*) FROM files").fetchone() == (1,)


def test_a_restored_modification_time_deceives_nobody(tmp_path: Path, file: Path):
    cache = StatCache(tmp_path / "digests.sqlite")
    files = digest_folder(file.parent, cache, "a folder")
    assert missing_or_changed(file.parent, files, cache) == []
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert missing_or_changed(file.parent, files, cache) == ["a has changed"]
    assert digest_file(file, cache) != ONE


def test_a_file_that_nobody_listed_is_found_in_a_folder_known_to_be_right(tmp_path: Path, file: Path):
    cache = StatCache(tmp_path / "digests.sqlite")
    files = digest_folder(file.parent, cache, "a folder")
    assert missing_or_changed(file.parent, files, cache) == []
    (file.parent / "extra").write_bytes(b"x")
    assert missing_or_changed(file.parent, files, cache) == ["extra is not one of its files"]


def test_a_link_in_place_of_a_folder_or_file_is_wrong_though_it_leads_to_right_bytes(tmp_path: Path, file: Path):
    cache = StatCache(tmp_path / "digests.sqlite")
    files = digest_folder(file.parent, cache, "a folder")
    (tmp_path / "other").symlink_to(file.parent)
    assert missing_or_changed(tmp_path / "other", files, cache) == ["the folder is a link"]
    file.rename(tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    assert missing_or_changed(file.parent, files, cache) == ["a is a symbolic link, not a plain file"]
