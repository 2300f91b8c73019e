"""Several commands at once on one store: nothing that one of them uses goes away, and nothing is half there."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from _graph_cases import Bench

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.locking import locked
from repro.base.paths import Paths
from repro.base.temporary import clear_checkout, clear_dead
from repro.base.temporary_file import temporary_file
from repro.graph.alone import machine, machine_lock
from repro.graph.cache import StatCache
from repro.graph.code import drop_snapshots, read_code, snapshot
from repro.graph.store import Store
from repro.machine.facts import Machine
from repro.run.garbage import collect_garbage


def write_name(job, out: Path, obs: Path, on_line) -> int:
    (out / "result").write_bytes(job.name.encode())
    (obs / "time").write_text("now")
    return 0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, write_name)


def paths_of(bench: Bench) -> Paths:
    return Paths(bench.root)


# garbage collection


def test_garbage_collection_waits_for_a_run_that_uses_what_it_would_remove(bench: Bench):
    paths, said = paths_of(bench), []
    store = Store(paths.store, paths.temporary, StatCache(None))
    waiting = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        waiting.set()

    collector = threading.Thread(target=collect_garbage, args=(paths, say))
    with store.in_use():
        done = bench.runner().run(bench.nodes())
        collector.start()
        assert waiting.wait(30)
        assert done["first"].result.out.is_dir()
    collector.join(30)
    assert "waiting" in said[0] and said[1].startswith("2 results removed")
    assert not done["first"].result.folder.exists()


def test_garbage_collection_keeps_what_records_name_and_bounds_what_was_set_aside(bench: Bench, monkeypatch):
    paths, said = paths_of(bench), []
    done = bench.runner().run(bench.nodes())
    kept = done["first"].result
    run = paths.runs / "20260101T000000Z"
    run.mkdir(parents=True)
    code = bench.keys_of().code("first").digest
    (run / "record.json").touch()
    named = SimpleNamespace(fingerprint=kept.fingerprint, code=code)
    monkeypatch.setattr("repro.run.garbage.load_record", lambda path: SimpleNamespace(stages=[named]))
    (paths.store / "damaged" / "x").mkdir(parents=True)
    collect_garbage(paths, said.append)
    assert [path.name for path in Store(paths.store, paths.temporary, StatCache(None)).entries()] == [kept.fingerprint]
    assert [path.name for path in paths.code.iterdir()] == [code]
    assert sorted(path.name for path in paths.store.iterdir()) == [kept.fingerprint[:2], "last"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"stages": [1]}', '{"stages": [{}]}', "[" * 1000])
def test_a_record_that_cannot_be_read_stops_the_collection(bench: Bench, text: str):
    paths = paths_of(bench)
    done = bench.runner().run(bench.nodes())
    (paths.runs / "r").mkdir(parents=True)
    (paths.runs / "r" / "record.json").write_text(text)
    with pytest.raises(CouldNotRun, match="unknown"):
        collect_garbage(paths, print)
    assert done["first"].result.out.is_dir()


def test_half_a_collected_result_is_no_result(bench: Bench):
    done = bench.runner().run(bench.nodes())
    (done["first"].result.folder / "result.json").unlink()  # what a killed collection leaves first
    again = bench.runner().run(bench.nodes())
    assert not again["first"].cached and again["second"].cached


def test_what_is_set_aside_is_bounded(bench: Bench):
    for _ in range(14):
        done = bench.runner().run({"first": bench.nodes()["first"]})
        result = done["first"].result.out / "result"
        result.chmod(0o644)
        result.write_bytes(b"damaged")
    store = bench.root / "artifacts" / "store"
    assert len(list((store / "damaged").iterdir())) == 10
    assert list((store / "locks").iterdir()) == []


# --force


def test_a_forced_run_leaves_the_outputs_in_place_that_others_are_reading(bench: Bench):
    before = bench.runner().run(bench.nodes())["first"].result
    folder = os.open(before.out, os.O_RDONLY)
    inode = os.fstat(folder).st_ino
    bench.engine.behave = lambda job, out, obs, on_line: (
        (out / "result").write_bytes(job.name.encode()) and (obs / "time").write_text("later") and 0
    )
    after = bench.runner().run(bench.nodes(), force={"first"})["first"].result
    assert os.listdir(folder) == ["result"]
    os.close(folder)
    assert after.out.stat().st_ino == inode
    assert (after.obs / "time").read_text() == "later"
    assert after.observations["files"]["time"] != before.observations["files"]["time"]
    assert bench.runner().run(bench.nodes())["first"].cached


def test_observations_that_do_not_fit_their_result_are_not_believed(bench: Bench):
    result = bench.runner().run(bench.nodes())["first"].result
    (result.obs / "time").chmod(0o644)
    (result.obs / "time").write_text("forged")
    assert not bench.runner().run(bench.nodes())["first"].cached


def test_a_reader_that_meets_half_exchanged_observations_waits_for_the_other_half(bench: Bench):
    store = bench.store()
    result = bench.runner().run(bench.nodes())["first"].result
    aside = result.folder / "aside"
    found = []
    with store.making(result.fingerprint):
        os.rename(result.obs, aside)
        reader = threading.Thread(target=lambda: found.append(bench.store().load(result.fingerprint)))
        reader.start()
        os.rename(aside, result.obs)
    reader.join(30)
    assert found[0] is not None and found[0].output_digest == result.output_digest


def test_every_name_is_made_durable_after_its_rename(bench: Bench, monkeypatch):
    """After a power cut a name is there only if its folder was synced; the file behind it was synced before."""
    pending: set[str] = set()
    renamed: list[str] = []
    real_rename, real_replace, real_fsync = os.rename, os.replace, os.fsync

    def note(target) -> None:
        if ".tmp." not in str(target):
            pending.add(str(Path(target).parent))
            renamed.append(Path(target).name)

    def rename(source, target) -> None:
        real_rename(source, target)
        note(target)

    def replace_(source, target) -> None:
        real_replace(source, target)
        note(target)

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        pending.discard(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", replace_)
    monkeypatch.setattr(os, "fsync", fsync)
    bench.runner().run(bench.nodes())
    bench.runner().run(bench.nodes(), force={"first"})
    assert pending == set()
    assert {"first.json", "obs", "result.json"} <= set(renamed) and sum(len(name) == 64 for name in renamed) == 4


# snapshots of code


def test_a_changed_snapshot_of_code_is_not_run(bench: Bench):
    bench.runner().run(bench.nodes())
    code = bench.root / "artifacts" / "code" / read_code(bench.root, "first").digest
    module = code / "stages" / "first.py"
    module.chmod(0o644)
    module.write_text("raise SystemExit\n")
    (code / "stages" / "json.py").write_text("planted = True\n")
    seen = []

    def look(job, out: Path, obs: Path, on_line) -> int:
        source = next(mount.source for mount in job.mounts if mount.target == "/run/code")
        seen.append(sorted(str(p.relative_to(source)) for p in source.rglob("*.py")))
        seen.append((source / "stages" / "first.py").read_text())
        return write_name(job, out, obs, on_line)

    bench.engine.behave = look
    bench.runner().run(bench.nodes(), force={"first"})
    assert seen == [["stages/__init__.py", "stages/_shared.py", "stages/first.py"], "from stages import _shared\n"]


def test_a_snapshot_that_is_a_link_is_not_followed(bench: Bench, tmp_path: Path):
    code = read_code(bench.root, "first")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / code.digest).symlink_to(tmp_path / "elsewhere")
    assert not snapshot(code, tmp_path / "code", StatCache(None)).is_symlink()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_user_s_umask_decides_no_mode_of_code_or_results(bench: Bench):
    old = os.umask(0o077)
    try:
        bench.runner().run(bench.nodes())
    finally:
        os.umask(old)
    artifacts = bench.root / "artifacts"
    for place in (artifacts, artifacts / "code", artifacts / "store"):
        for path in (place, *place.rglob("*")):
            if path.is_dir():
                assert path.stat().st_mode & 0o777 == 0o755, path
    for path in (*(artifacts / "code").rglob("*.py"), *(artifacts / "store").glob("??/*/*/*")):
        assert path.stat().st_mode & 0o777 == 0o444, path


def test_a_snapshot_of_other_modes_is_made_anew(bench: Bench, tmp_path: Path):
    code = read_code(bench.root, "first")
    made = snapshot(code, tmp_path / "code", StatCache(None))
    made.chmod(0o700)
    assert snapshot(code, tmp_path / "code", StatCache(None)).stat().st_mode & 0o777 == 0o755


def test_the_oldest_snapshots_go(bench: Bench, tmp_path: Path):
    code = read_code(bench.root, "first")
    for number in range(5):
        snapshot(replace(code, digest=f"{number:064x}"), tmp_path / "code", StatCache(None))
        os.utime(tmp_path / "code" / f"{number:064x}", ns=(number, number))
    assert drop_snapshots(tmp_path / "code", {f"{0:064x}"}, most=2) == 2
    assert sorted(int(path.name, 16) for path in (tmp_path / "code").iterdir()) == [0, 3, 4]


def test_the_code_of_all_stages_is_read_at_the_start_of_a_run(bench: Bench):
    """An edit while the first stage runs changes nothing for the second one."""

    def edit(job, out: Path, obs: Path, on_line) -> int:
        (bench.stages / "second.py").write_text("import os\n")
        return write_name(job, out, obs, on_line)

    bench.engine.behave = edit
    before = read_code(bench.root, "second").digest
    assert bench.runner().run(bench.nodes())["second"].result.key["code"] == before


# workspaces


def test_workspaces_are_made_while_others_clear_up(tmp_path: Path):
    store = Store(tmp_path / "store", tmp_path / "tmp", StatCache(None))
    errors: list[BaseException] = []
    over = threading.Event()

    def clear() -> None:
        while not over.is_set():
            clear_dead(tmp_path / "tmp")

    def make() -> None:
        try:
            for _ in range(25):
                work = store.workspace()
                (work.result / "out" / "a").write_bytes(b"x")
                work.close()
        except BaseException as error:  # noqa: BLE001 - asserted to be none
            errors.append(error)

    clearers = [threading.Thread(target=clear) for _ in range(2)]
    makers = [threading.Thread(target=make) for _ in range(3)]
    for thread in (*clearers, *makers):
        thread.start()
    for thread in makers:
        thread.join()
    over.set()
    for thread in clearers:
        thread.join()
    assert errors == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_next_command_removes_every_lock_and_temporary_thing_of_the_dead_and_none_of_the_living(bench: Bench):
    paths = paths_of(bench)
    store = bench.store()
    for folder in (paths.store / "locks", paths.artifacts / "cache" / "parts", paths.data / "sources", paths.code):
        folder.mkdir(parents=True, exist_ok=True)
    dead = [paths.store / "locks" / "a.lock", paths.artifacts / "cache" / "parts" / "b.lock",
            paths.data / "sources" / ".lock.c", paths.code / ".tmp.file.d"]  # fmt: skip
    for path in dead:
        path.touch()
    (paths.code / ".tmp.code.e" / "root").mkdir(parents=True)
    work = store.workspace()
    with store.making("f" * 64), temporary_file(paths.code) as (living, _):
        clear_checkout(paths)
        assert (paths.store / "locks" / f"{'f' * 64}.lock").exists() and living.exists() and work.result.exists()
    work.close()
    assert not any(path.exists() for path in (*dead, paths.code / ".tmp.code.e"))


def test_clearing_up_waits_for_nobody(bench: Bench):
    """A run holds the store for its whole length, and others hold other folders: no command may wait for that."""
    paths = paths_of(bench)
    folders = (paths.store, paths.code, paths.runs, paths.temporary, paths.data, paths.artifacts)
    with contextlib.ExitStack() as held:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder, shared=True))
        clearing = threading.Thread(target=clear_checkout, args=(paths,), daemon=True)
        clearing.start()
        clearing.join(30)
        assert not clearing.is_alive()


def test_a_disk_that_fills_up_while_a_workspace_is_made_leaves_none(bench: Bench, monkeypatch):
    real = Path.mkdir

    def fill_up(path: Path, *arguments, **options) -> None:
        if path.name == "obs":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", fill_up)
    with pytest.raises(OSError, match="No space left"):
        bench.runner().run(bench.nodes())
    assert list((bench.root / "artifacts" / "tmp").iterdir()) == []


# a machine of its own


def test_a_stage_that_measures_runs_beside_no_stage_of_another_process(tmp_path: Path):
    lock, waited = tmp_path / "lock", []
    with machine(lock, alone=False, waiting=lambda: None):
        with machine(lock, alone=False, waiting=lambda: waited.append("shared")):
            pass
        with (
            pytest.raises(CouldNotRun, match="busy"),
            machine(lock, alone=True, waiting=lambda: waited.append("alone"), wait_s=0.0),
        ):
            pass
    with (
        machine(lock, alone=True, waiting=lambda: None),
        machine(lock, alone=False, waiting=lambda: waited.append("shared"), wait_s=0.0),
    ):
        pass  # any other stage goes on in the end
    assert waited == ["alone", "shared"]


def test_the_runner_measures_alone_and_says_that_it_waits(bench: Bench, tmp_path: Path):
    bench.machine_lock = tmp_path / "lock"
    seen, shown = [], []

    def look(job, out: Path, obs: Path, on_line) -> int:
        with (
            contextlib.suppress(CouldNotRun),
            machine(bench.machine_lock, alone=True, waiting=lambda: seen.append((job.name, "busy")), wait_s=0.0),
        ):
            pass
        beside = []
        with machine(bench.machine_lock, alone=False, waiting=lambda: beside.append("no"), wait_s=0.0):
            seen.append((job.name, "beside others" if not beside else "alone"))
        return write_name(job, out, obs, on_line)

    bench.engine.behave = look
    bench.runner().run(bench.nodes(host_bound=True))
    assert seen == [("first", "busy"), ("first", "alone"), ("second", "busy"), ("second", "beside others")]
    bench.machine = Machine("amd64 test", "another machine")
    with contextlib.ExitStack() as other:
        other.enter_context(machine(bench.machine_lock, alone=False, waiting=lambda: None))

        def told(key, done, total, what):
            shown.append(what)
            if "waiting" in what:
                other.close()

        bench.watcher.progress = told
        bench.runner().run({"first": bench.nodes(host_bound=True)["first"]})
    assert any("waiting" in what for what in shown)


def test_no_image_is_made_ready_while_another_process_measures(bench: Bench, tmp_path: Path):
    bench.machine_lock, seen = tmp_path / "lock", []

    def prepare(image) -> None:
        with (
            contextlib.suppress(CouldNotRun),
            machine(bench.machine_lock, alone=True, waiting=lambda: seen.append("busy"), wait_s=0.0),
        ):
            seen.append("not held")

    bench.engine.prepare = prepare
    bench.runner().run(bench.nodes())
    assert seen == ["busy"]


def test_the_lock_lies_where_every_user_may_write(tmp_path: Path):
    (tmp_path / "own").mkdir(mode=0o755)
    (tmp_path / "all").mkdir()
    (tmp_path / "all").chmod(0o1777)
    assert machine_lock((tmp_path / "none", tmp_path / "own", tmp_path / "all"), {}).parent == tmp_path / "all"
    assert machine_lock((tmp_path / "own",), {}) is None
    with machine(None, alone=True, waiting=lambda: pytest.fail("nothing to wait for")):
        pass


def test_a_machine_without_such_locks_measures_all_the_same(tmp_path: Path):
    with machine(tmp_path / "none" / "lock", alone=True, waiting=lambda: pytest.fail("nothing to wait for")):
        pass


@pytest.mark.parametrize("name", ["lock", "lock.gate"])
def test_a_lock_that_is_there_and_cannot_be_opened_stops_a_measurement_and_no_other_stage(tmp_path: Path, name: str):
    (tmp_path / name).symlink_to(name)
    with (
        pytest.raises(CouldNotRun, match="cannot be taken"),
        machine(tmp_path / "lock", alone=True, waiting=lambda: pytest.fail("nothing to wait for")),
    ):
        pass
    with machine(tmp_path / "lock", alone=False, waiting=lambda: pytest.fail("nothing to wait for")):
        pass


# results


def test_a_file_that_no_stage_wrote_damages_its_result(bench: Bench):
    result = bench.runner().run(bench.nodes())["first"].result
    (result.out / "extra").write_bytes(b"planted")
    assert not bench.runner().run(bench.nodes())["first"].cached


def test_a_damaged_result_is_not_accepted_the_second_time_either(bench: Bench):
    result = bench.runner().run(bench.nodes())["first"].result
    (result.out / "result").chmod(0o644)
    (result.out / "result").write_bytes(b"firsT")
    store = bench.store()
    assert store._look(result.fingerprint).__class__.__name__ == "_Damaged"
    assert store._look(result.fingerprint).__class__.__name__ == "_Damaged"
    assert store.load(result.fingerprint) is None
    assert store.load(result.fingerprint) is None


def test_a_result_is_not_shared_between_chips_drivers_instruction_sets_or_hosts(bench: Bench):
    for changed, shared in (
        ({"exactness": "exact per instruction set, else within a tolerance with the same decoded symbols"}, False),
        ({"host_bound": True}, False),
        ({"accelerator": True}, False),
        ({}, True),
    ):
        node = bench.nodes(**changed)["first"]
        fingerprints = set()
        for machine_ in (
            Machine("amd64 test", "this machine", "simulator of Ascend310P3, driver 22.0.4"),
            Machine("amd64 test", "this machine", "Ascend310P3, driver 22.0.4"),
            Machine("amd64 test", "this machine", "Ascend310P3, driver 23.0.rc1"),
            Machine("amd64 other", "another machine", "Ascend310P1, driver 23.0.rc1"),
        ):
            bench.machine = machine_
            fingerprints.add(str(bench.keys_of().key(node, {})))
        wanted = {"accelerator": 4, "host_bound": 2}.get(next(iter(changed), ""), 2 if not shared else 1)
        assert len(fingerprints) == wanted, changed


def test_a_wrong_output_is_never_published_over_a_right_one(bench: Bench):
    before = bench.runner().run(bench.nodes())["first"].result
    bench.engine.behave = lambda job, out, obs, on_line: (out / "result").write_bytes(b"other") and 0
    for _ in range(2):
        with pytest.raises(VerificationFailed):
            bench.runner().run(bench.nodes(), force={"first"})
    assert (before.out / "result").read_bytes() == b"first"
