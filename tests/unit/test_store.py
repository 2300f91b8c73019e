"""The store: atomic, never overwritten, trusting nothing that a stage wrote or that lay around."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from repro.base.confined import TreeLimits
from repro.base.errors import EXIT_COULD_NOT, NonDeterministicResult, VerificationFailed
from repro.base.temporary import clear_dead
from repro.cli.ending import ending_of
from repro.graph.cache import StatCache
from repro.graph.digests import FileDigest, digest_file, digest_folder, digest_of_files, missing_or_changed
from repro.graph.leavings import take_in
from repro.graph.store import Store, Workspace, fingerprint_of

KEY = {"stage": "features", "image": "sha256:00"}
FINGERPRINT = fingerprint_of(KEY)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", tmp_path / "tmp", StatCache(tmp_path / "cache.sqlite"))


def written(store: Store, content: bytes = b"frames", observation: bytes = b"1 s") -> Workspace:
    work = store.workspace()
    (work.result / "out" / "sub").mkdir()
    (work.result / "out" / "sub" / "fbank.ark").write_bytes(content)
    (work.result / "obs" / "time").write_bytes(observation)
    return work


def publish(store: Store, work: Workspace, replace: bool = False):
    try:
        leavings = take_in("features", work.result, (), TreeLimits(), StatCache(None))
        return store.publish(KEY, work, leavings, {"wall_s": 1.0}, replace=replace)
    finally:
        work.close()


def test_a_published_result_is_found_again_with_its_digests(store: Store):
    published = publish(store, written(store))
    found = Store(store.folder, store.folder.parent / "tmp", StatCache(None)).load(FINGERPRINT)
    assert found is not None
    assert found.output_digest == published.output_digest
    assert list(found.outputs) == ["sub/fbank.ark"]
    assert (found.out / "sub" / "fbank.ark").read_bytes() == b"frames"


def test_observations_are_kept_but_no_digest_includes_them(tmp_path: Path, store: Store):
    other = Store(tmp_path / "other", tmp_path / "tmp", StatCache(None))
    one = publish(store, written(store, observation=b"1 s"))
    two = publish(other, written(other, observation=b"2 s"))
    assert one.output_digest == two.output_digest
    assert (two.obs / "time").read_bytes() == b"2 s"


def test_nothing_is_left_in_the_temporary_folder_after_publishing(tmp_path: Path, store: Store):
    publish(store, written(store))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_outputs_are_write_protected(store: Store):
    result = publish(store, written(store))
    assert (result.out / "sub" / "fbank.ark").stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("damage", ["changed", "removed", "truncated"])
def test_a_damaged_result_is_moved_aside_and_not_used(store: Store, damage: str):
    result = publish(store, written(store))
    file = result.out / "sub" / "fbank.ark"
    file.chmod(0o644)
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(b"frameS" if damage == "changed" else b"fra")
    assert store.load(FINGERPRINT) is None
    assert not result.folder.exists()
    assert len(list((store.folder / "damaged").iterdir())) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": {}}'])
def test_a_broken_result_json_is_moved_aside(store: Store, text: str):
    result = publish(store, written(store))
    (result.folder / "result.json").chmod(0o644)
    (result.folder / "result.json").write_text(text)
    assert store.load(FINGERPRINT) is None
    assert not result.folder.exists()


_SHA256 = "0" * 64


@pytest.mark.parametrize(
    "change",
    [
        {"observations": []},
        {"observations": {"files": ["x"]}},
        {"observations": {"files": {"n" * 300: _SHA256}}},
        {"observations": {"files": {"x\0": _SHA256}}},
        {"outputs": {"x\0": {"sha256": _SHA256, "size_bytes": 1}}},
        {"outputs": {"x": {"sha256": 1, "size_bytes": 1}}},
    ],
)
def test_a_result_json_of_other_types_is_moved_aside(store: Store, change):
    result = publish(store, written(store))
    path = result.folder / "result.json"
    path.chmod(0o644)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    assert store.load(FINGERPRINT) is None
    assert not result.folder.exists()


def test_a_folder_in_place_of_result_json_is_moved_aside(store: Store):
    result = publish(store, written(store))
    (result.folder / "result.json").unlink()
    (result.folder / "result.json").mkdir()
    assert store.load(FINGERPRINT) is None
    assert not result.folder.exists()


def test_a_result_under_another_key_s_fingerprint_is_not_believed(store: Store):
    result = publish(store, written(store))
    other = store.path("f" * 64)
    other.parent.mkdir(parents=True, exist_ok=True)
    os.rename(result.folder, other)
    assert store.load("f" * 64) is None


def test_the_loser_of_a_race_with_equal_bytes_takes_the_winner_s_result(store: Store):
    first, second = written(store), written(store)
    one, two = publish(store, first), publish(store, second)
    assert one.folder == two.folder
    assert one.output_digest == two.output_digest


def test_other_bytes_for_the_same_fingerprint_are_an_error_and_both_are_kept(store: Store):
    publish(store, written(store, b"frames"))
    with pytest.raises(NonDeterministicResult) as caught:
        publish(store, written(store, b"Frames"))
    assert "sub/fbank.ark" in caught.value.detail
    found = store.load(FINGERPRINT)
    assert found is not None
    assert (found.out / "sub" / "fbank.ark").read_bytes() == b"frames"
    kept = list((store.folder / "conflicts").glob("*/entry/out/sub/fbank.ark"))
    assert [path.read_bytes() for path in kept] == [b"Frames"]


def test_a_forced_run_with_equal_outputs_brings_its_own_observations(store: Store):
    publish(store, written(store, observation=b"1 s"))
    result = publish(store, written(store, observation=b"2 s"), replace=True)
    assert (result.obs / "time").read_bytes() == b"2 s"


def _symlink(folder: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")


def _folder_link(folder: Path) -> None:
    (folder / "link").symlink_to("/etc", target_is_directory=True)


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def _socket(folder: Path) -> None:
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind("socket")
    finally:
        os.chdir(here)


def _setuid(folder: Path) -> None:
    (folder / "program").write_bytes(b"#!/bin/sh")
    (folder / "program").chmod(0o4755)


@pytest.mark.parametrize("place", ["out", "obs"])
@pytest.mark.parametrize("hostile", [_symlink, _folder_link, _pipe, _socket, _setuid])
def test_what_a_hostile_stage_leaves_is_refused_and_not_stored(store: Store, hostile, place: str):
    work = written(store)
    hostile(work.result / place)
    with pytest.raises(VerificationFailed):
        publish(store, work)
    assert store.load(FINGERPRINT) is None
    assert list(store.entries()) == []


def test_workspaces_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path, store: Store):
    alive = store.workspace()
    dead = tmp_path / "tmp" / ".tmp.work.dead"
    (dead / "result" / "out").mkdir(parents=True)
    assert clear_dead(tmp_path / "tmp") == [dead]
    assert not dead.exists()
    assert alive.result.is_dir()
    alive.close()


def test_garbage_collection_keeps_what_runs_refer_to(store: Store):
    publish(store, written(store))
    assert store.collect_garbage({FINGERPRINT}) == []
    assert store.collect_garbage(set()) == [FINGERPRINT]
    assert store.load(FINGERPRINT) is None


def test_a_folder_s_digest_depends_on_names_contents_and_sizes_alone():
    one = {"b": FileDigest("0" * 64, 1), "a": FileDigest("1" * 64, 2)}
    assert digest_of_files(one) == digest_of_files(dict(reversed(list(one.items()))))
    assert digest_of_files(one) != digest_of_files({**one, "c": FileDigest("2" * 64, 0)})
    assert digest_of_files(one) != digest_of_files({"b": one["a"], "a": one["b"]})


def test_the_stat_cache_sees_a_change_and_survives_being_broken(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "file"
    file.write_bytes(b"one")
    database = tmp_path / "cache.sqlite"
    before = digest_file(file, StatCache(database))
    file.write_bytes(b"two")
    assert digest_file(file, StatCache(database)) != before
    database.write_bytes(b"not a database" * 1000)
    for name in ("cache.sqlite-wal", "cache.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    assert digest_file(file, StatCache(database)).size_bytes == 3


def test_many_files_give_the_same_digests_as_one_by_one(tmp_path: Path):
    for number in range(100):
        (tmp_path / f"{number}").write_bytes(bytes([number]))
    found = digest_folder(tmp_path, StatCache(None), "a folder")
    assert list(found) == sorted(found)
    assert len({digest.sha256 for digest in found.values()}) == 100


def test_files_that_were_found_right_are_not_read_again_until_one_of_them_is_touched(tmp_path: Path, monkeypatch):
    folder, cache = tmp_path / "out", StatCache(tmp_path / "digests.sqlite")
    folder.mkdir()
    (folder / "a").write_bytes(b"one")
    files = digest_folder(folder, StatCache(None), "a folder")
    assert missing_or_changed(folder, files, cache) == []
    with monkeypatch.context() as patched:
        patched.setattr(StatCache, "known", None)  # would fail if it were asked
        assert missing_or_changed(folder, files, cache) == []
    (folder / "a").write_bytes(b"two")
    assert missing_or_changed(folder, files, cache) == ["a has changed"]
    (folder / "a").unlink()
    assert missing_or_changed(folder, files, cache) == ["a is missing"]


@pytest.mark.parametrize("odd", ["folder", "link to itself", "no fingerprint", "no text", "NUL"])
def test_what_stands_in_the_place_of_a_step_s_newest_result_is_no_result(store: Store, odd: str):
    store.remember_last("features", FINGERPRINT)
    assert store.last_of("features") == FINGERPRINT
    place = store.folder / "last" / "features.json"
    place.unlink()
    if odd == "folder":
        place.mkdir()
    elif odd == "link to itself":
        place.symlink_to(place)
    else:
        place.write_bytes({"no fingerprint": b"../../..", "no text": b"\xff", "NUL": b"\0" * 64}[odd])
    assert store.last_of("features") is None


def test_a_folder_in_the_place_of_a_step_s_newest_result_is_named_when_one_is_to_be_noted(store: Store):
    (store.folder / "last" / "features.json").mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as raised:
        store.remember_last("features", FINGERPRINT)
    assert ending_of(raised.value).code == EXIT_COULD_NOT and "features.json" in ending_of(raised.value).text
