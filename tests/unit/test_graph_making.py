"""How one result is made and remembered, part by part: what a container is given, what is told and timed, what a key,
a closure, a snapshot and a store hold."""

from __future__ import annotations

import ast
import contextlib
import itertools
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from _graph_cases import Bench, image

from repro.base import imports
from repro.base.confined import TreeLimits
from repro.base.errors import NonDeterministicResult, NotPlain, UsageError
from repro.base.files import canonical_json, sha256_bytes
from repro.base.imports import Modules, digest_of_closure
from repro.container.job import Mount, Outcome
from repro.engines.npu_access import Access
from repro.graph import code, leavings, making, store
from repro.graph.cache import StatCache
from repro.graph.cann_images import cann_image, host_cann, is_cann
from repro.graph.code import Codes, drop_snapshots, read_code, snapshot
from repro.graph.digests import FileDigest
from repro.graph.made_on import MadeOn, made_on
from repro.graph.making import Done, Maker, Preparation, Surroundings
from repro.graph.pipeline import ISA_EXACT, Node, Output, Source, StageDefinition
from repro.graph.sources import digest_source
from repro.graph.store import Store, fingerprint_of
from repro.machine.facts import Given, Machine

NO_CACHE = StatCache(None)
ACCESS = Access(devices=("/dev/null",), env={"NPU": "1"}, groups=(7,), runtime="ascend")
HERE = MadeOn(identity="i", cpu="c", cores=2, instruction_set="s", memory_bytes=9)


class Watcher:
    def __init__(self) -> None:
        self.told: list[tuple] = []

    def __getattr__(self, name):
        return lambda *given, **named: self.told.append((name, *given, *named.values()))


class Engine:
    """Writes one file, tells progress, and notes what it was given."""

    name = "fake"

    def __init__(self) -> None:
        self.jobs, self.prepared, self.outcome = [], [], Outcome(0, False, 1.23456, {"network": "enforced"})

    def prepare(self, image) -> None:
        self.prepared.append(image)

    def run(self, job, on_line):
        self.jobs.append(job)
        places = {mount.target: mount.source for mount in job.mounts}
        (places["/run/out"] / "made").write_bytes(b"result")
        on_line("stderr", '@progress {"done": 1, "total": 2, "what": "x"}')
        on_line("stdout", "a line")
        return self.outcome


@pytest.fixture
def made(tmp_path: Path, monkeypatch):
    """A maker of a bench's nodes with everything around it, and a clock that goes on by one second per look."""
    bench = Bench(tmp_path, lambda *_: 0)
    bench.machine = Machine("amd64 test", "this machine", "chip and driver")
    clock = itertools.count(100.0)
    monkeypatch.setattr(making, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    held = []

    @contextlib.contextmanager
    def machine(lock, *, alone, waiting):
        held.append((lock, alone))
        waiting()
        yield

    monkeypatch.setattr(making, "machine", machine)
    watched = []

    class Watch:
        def __init__(self, *given) -> None:
            watched.append(given)

        @contextlib.contextmanager
        def running(self):
            watched.append("running")
            yield
            watched.append("over")

        def document(self):
            return {"seen": 1}

    monkeypatch.setattr(making, "Watch", Watch)
    monkeypatch.setattr(making, "Subject", lambda: "the processor")
    watcher, engine, asked = Watcher(), Engine(), []
    around = Surroundings(
        tmp_path / "code", tmp_path / "logs", watcher, Given(4, 8 * 1024**3), lambda: asked.append(1) or ACCESS,
        "the chips", {"base": (Mount(tmp_path, "/lent"),)}, tmp_path / "lock", HERE, None, 90.0,
    )  # fmt: skip
    maker = Maker(engine, bench.keys_of(), bench.store(), around)
    return SimpleNamespace(bench=bench, maker=maker, engine=engine, watcher=watcher, held=held, watched=watched,
                           asked=asked, lock=tmp_path / "lock", root=tmp_path)  # fmt: skip


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("host_bound", [False, True])
def test_a_result_is_made_once_watched_timed_and_stored_with_what_it_was_like(made, accelerator, host_bound):
    node = made.bench.nodes(host_bound=host_bound, accelerator=accelerator, leaves=TreeLimits(5, 2, 10_000))["first"]
    node = replace(node, key="first@8", sample="repeat 2" if host_bound else "")
    key = made.bench.keys_of().key(node, {})
    done = made.maker.make(node, key, {}, forced=False)
    assert (done.node, done.cached, done.result.key) == (node, False, key)
    (job,) = made.engine.jobs
    assert (job.name, job.argv) == ("first-bs8", node.argv()) and made.engine.prepared == [made.bench.images["base"]]
    assert (job.devices, job.runtime) == (("/dev/null",), "ascend") if accelerator else ((), "")
    assert made.asked == ([1] if accelerator else [])
    places = {mount.target: (mount.source, mount.writable) for mount in job.mounts}
    assert places["/lent"] == (made.root, False) and places["/run/in/data"] == (made.bench.data.resolve(), False)
    assert (job.limits.timeout_s, job.limits.memory_bytes, job.limits.pids) == (3600.0, 8 * 1024**3, 1024)
    assert made.held == [(made.lock, False), (made.lock, host_bound)]
    subject = "the chips" if accelerator else "the processor"
    assert made.watched == ([(subject, node.argv(), 4), "running", "over"] if host_bound else [])
    observed = done.result.observations
    files = {"stage.log", "machine.json"} if host_bound else {"stage.log"}
    assert set(observed.pop("files")) == files == {path.name for path in done.result.obs.iterdir()}
    assert observed == {
        "engine": "fake", "wall_s": 1.235, "limits": {"network": "enforced"},
        "made_on": {"identity": "i", "cpu": "c", "cores": 2, "instruction_set": "s", "memory_bytes": 9},
    }  # fmt: skip
    assert (done.result.obs / "stage.log").read_bytes() == b"a line\n"
    assert made.watcher.told == [
        ("started", "first@8"), ("progress", "first@8", 0, 1, "waiting for other runs on this machine"),
        ("progress", "first@8", 1, 2, "x"),
    ]  # fmt: skip
    # asked at 100; prepared from 101 to 102; started at 103, over at 104
    assert made.maker.preparations == [Preparation("base", 11.0, 1.0)]
    assert (done.started_s, done.seconds) == (13.0, 1.0)
    assert made.bench.store().last_of("first@8") == fingerprint_of(key)
    again = made.maker.make(node, key, {}, forced=False)
    assert again == Done(node, again.result, True, 15.0, 1.0) and len(made.engine.jobs) == 1
    forced = made.maker.make(node, key, {}, forced=True)
    assert not forced.cached and len(made.engine.jobs) == 2 and len(made.engine.prepared) == 1
    assert list((made.root / "artifacts" / "tmp").iterdir()) == [], "no workspace is left"


def test_a_node_after_another_reads_its_results_and_an_image_without_mounts_is_lent_nothing(made):
    nodes = made.bench.nodes()
    first = made.maker.make(nodes["first"], made.bench.keys_of().key(nodes["first"], {}), {}, forced=False).result
    results = {"first": first}
    second = replace(nodes["second"], stage=replace(nodes["second"].stage, image="other"))
    made.maker._keys.images = {**made.bench.images, "other": image("other")}
    made.maker.make(second, made.maker._keys.key(second, results), results, forced=False)
    places = {mount.target: mount.source for mount in made.engine.jobs[1].mounts}
    assert places["/run/in/before"] == first.out and "/lent" not in places and made.engine.jobs[1].image.name == "other"
    assert [each.image for each in made.maker.preparations] == ["base", "other"]


def test_other_bytes_than_before_are_told_by_their_files_and_kept_beside(made):
    node = made.bench.nodes()["first"]
    key = made.bench.keys_of().key(node, {})
    stored = made.maker.make(node, key, {}, forced=False).result
    real = made.engine.run

    def run(job, on_line):
        found = real(job, on_line)
        out = next(mount.source for mount in job.mounts if mount.target == "/run/out")
        for number in range(30):
            (out / f"f{number:02}").write_bytes(b"x")
        return found

    made.engine.run = run
    with pytest.raises(NonDeterministicResult) as caught:
        made.maker.make(node, key, {}, forced=True)
    kept = made.root / "artifacts" / "store" / "conflicts" / f"{stored.fingerprint[:16]}.0" / "entry"
    assert caught.value.message == "stage first gave other bytes than before for the same fingerprint"
    assert caught.value.detail == "\n".join(f"f{number:02}" for number in range(20))
    assert caught.value.hint == f"compare {stored.out} with {kept}/out; the stored result was kept"
    assert (kept / "out" / "f29").exists() and made.bench.store().load(stored.fingerprint) == stored


def test_this_machine_is_told_by_facts_and_by_a_name_where_one_is_given(monkeypatch):
    from repro.graph import made_on as module

    monkeypatch.setattr(module.facts, "machine", lambda: Machine("s", "i"))
    monkeypatch.setattr(module.facts, "facts", lambda: {"cpu": "c", "cores": 2, "memory_bytes": 9, "other": 1})
    assert made_on() == HERE and made_on("node1").name == "node1"


# keys


@pytest.mark.parametrize("exactness", ["exact", ISA_EXACT])
@pytest.mark.parametrize("host_bound", [False, True])
@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("sample", ["", "repeat 2"])
def test_a_key_holds_exactly_what_a_result_depends_on(tmp_path, exactness, host_bound, accelerator, sample):
    bench = Bench(tmp_path, lambda *_: 0)
    bench.machine = Machine("ISA", "HOST", "CHIP")
    stage = StageDefinition("first", "base", exactness, host_bound=host_bound, accelerator=accelerator)
    inputs = {"data": Source("data", bench.data), "x": Output("corpus", "below")}
    node = Node("first@8", stage, inputs, {"bs": "8"}, 8, sample)
    keys = bench.keys_of()
    expected = {
        "format": 1, "stage": "first", "image": bench.images["base"].config_digest, "code": keys.code("first").digest,
        "argv": list(node.argv()), "env": {"PYTHONPATH": "/run/code"},
        "inputs": {"data": digest_source(bench.data, NO_CACHE, "x"), "x": "D"},
        **({"instruction_set": "ISA"} if host_bound or exactness == ISA_EXACT else {}),
        **({"host": "HOST"} if host_bound else {}), **({"sample": sample} if sample else {}),
        **({"accelerator": "CHIP"} if accelerator else {}),
    }  # fmt: skip
    assert keys.key(node, {"corpus": SimpleNamespace(output_digest="D")}) == expected
    (bench.data / "wave").write_bytes(b"changed meanwhile")
    assert keys.source_digest(node.inputs["data"]) == expected["inputs"]["data"], "a run sees one state of its sources"


@pytest.mark.parametrize(
    ("cann", "image_name", "told"),
    [
        ("", "cann", ""), ("8.1.RC1", "cann-8.1.rc1", ""), ("host 8.0.RC1 x", "cann-host-py311", "8.0.RC1 x"),
        ("host 7.0.0 x", "cann-host-py37", "7.0.0 x"), ("host odd", "cann-host-py311", "odd"),
        ("host ", "cann-host ", ""), ("8.0.RC1 x", "cann-8.0.rc1 x", ""),
    ],
)  # fmt: skip
def test_each_cann_has_its_image(cann: str, image_name: str, told: str):
    assert cann_image(cann) == image_name and host_cann(cann) == told
    assert is_cann(image_name) and not is_cann("canned") and not is_cann("base")


# the code of a stage


@pytest.mark.parametrize(
    ("text", "package", "expected"),
    [
        ("import a.b, c\nfrom a import d, e as f", "a.x", {"a.b", "a", "a.d", "a.e"}),
        ("from . import y", "a.x", {"a.x", "a.x.y"}),
        ("from .y import z", "a.x", {"a.x.y", "a.x.y.z"}),
        ("from .. import y\nfrom ..y.v import w", "a.b.x", {"a.b", "a.b.y", "a.b.y.v", "a.b.y.v.w"}),
        ("def f():\n    import a.late", "a", {"a.late"}),
        (
            "try:\n  import a.b\nexcept E:\n  import a.c\nelse:\n  import a.d\nfinally:\n  import a.e\n"
            "with x:\n  import a.f\nfor x in y:\n  import a.g\nelse:\n  import a.h\n"
            "class C:\n  async def f():\n    if x:\n      pass\n    elif y:\n      import a.i\n",
            "a",
            {f"a.{letter}" for letter in "bcdefghi"},
        ),
        ("import ab\nfrom b import a", "a", set()),
    ],
)
def test_what_a_file_imports_of_its_own_package(text: str, package: str, expected: set[str]):
    assert imports._imported(ast.parse(text), package) == expected


class Facts:
    """Remembers as the cache does."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], str] = {}

    def recall(self, kind, key):
        return self.known.get((kind, key))

    def remember(self, kind, key, value):
        self.known[kind, key] = value


def test_a_closure_is_every_file_on_the_way_and_each_is_parsed_once_and_remembered_by_content(tmp_path, monkeypatch):
    files = {
        "p/__init__.py": "", "p/one.py": "import p.sub.two\nimport p.sub.two\nimport json\nfrom p import none",
        "p/sub/__init__.py": "from . import three", "p/sub/two.py": "from .. import one", "p/sub/three.py": "X = 'ä'",
        "p/four.py": "",
    }  # fmt: skip
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    facts = Facts()
    modules = Modules(tmp_path, facts)
    found = modules.closure("p.one")
    assert set(found) == set(files) - {"p/four.py"}
    assert found["p/sub/three.py"].data == "X = 'ä'".encode() and found["p/sub/two.py"].imports == {"p", "p.one"}
    listed = [[path, sha256_bytes(files[path].encode())] for path in sorted(found)]
    assert digest_of_closure(found) == sha256_bytes(canonical_json(listed))
    assert modules.find("p.sub")[0] == "p/sub/__init__.py" and modules.find("p.none") == ("p/none.py", None)
    assert modules.closure("q") == {} and set(modules.closure("p")) == {"p/__init__.py"}
    assert facts.known["imports, version 2, p.sub,", found["p/sub/two.py"].sha256] == "p p.one"
    monkeypatch.setattr(imports.ast, "parse", lambda *_: pytest.fail("it is known"))
    assert Modules(tmp_path, facts).closure("p.one") == found
    (tmp_path / "p" / "one.py").write_text("changed")
    assert modules.closure("p.one") == found, "as it was when first asked for"
    monkeypatch.undo()
    for text in ("def", "\0"):
        (tmp_path / "p" / "one.py").write_text(text)
        for known in (Facts(), None):
            with pytest.raises(UsageError, match=r"^p/one\.py is not valid Python: "):
                Modules(tmp_path, known).closure("p.one")


def test_code_is_read_once_for_a_run_and_its_snapshot_is_what_was_read(tmp_path: Path):
    bench = Bench(tmp_path, lambda *_: 0)
    codes = Codes(tmp_path, NO_CACHE)
    codes.read(["first", "second"])
    before = codes.of("first")
    assert before == read_code(tmp_path, "first") and set(before.files) == {
        "stages/__init__.py", "stages/_shared.py", "stages/first.py"
    }  # fmt: skip
    (bench.stages / "first.py").write_text("changed = 1\n")
    assert codes.of("first") is before and read_code(tmp_path, "first") != before
    with pytest.raises(UsageError, match="there is no stage 'third'"):
        codes.of("third")
    found = snapshot(before, tmp_path / "code", NO_CACHE)
    assert found == tmp_path / "code" / before.digest and list((tmp_path / "code").iterdir()) == [found]
    assert {str(p.relative_to(found)): p.read_bytes() for p in found.rglob("*") if p.is_file()} == before.files
    inode = found.stat().st_ino
    assert snapshot(before, tmp_path / "code", NO_CACHE).stat().st_ino == inode, "it is there"
    assert found.stat().st_mode & 0o777 == 0o755 and (found / "stages/first.py").stat().st_mode & 0o777 == 0o444


def test_a_snapshot_that_another_machine_put_there_first_is_taken_if_it_is_right(tmp_path: Path, monkeypatch):
    Bench(tmp_path, lambda *_: 0)
    before, folder = read_code(tmp_path, "first"), tmp_path / "code"
    real, right = os.rename, [True]

    def rename(old, new):
        if str(old).endswith("root"):
            real(old, new) if right[0] else None
            raise OSError(39, "Directory not empty")
        real(old, new)

    monkeypatch.setattr(code.os, "rename", rename)
    assert snapshot(before, folder, NO_CACHE) == folder / before.digest
    right[0] = False
    (folder / before.digest / "extra").write_text("")
    with pytest.raises(OSError, match="not empty"):
        snapshot(before, folder, NO_CACHE)


def test_of_snapshots_the_oldest_go_and_those_that_are_named_stay(tmp_path: Path):
    assert drop_snapshots(tmp_path / "none", ()) == 0
    names = [letter * 64 for letter in "abcd"]
    for age, name in enumerate((*names, "short")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, ns=(age, age))
    assert drop_snapshots(tmp_path, {names[0]}, most=1) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[0], names[3], "short"]
    assert drop_snapshots(tmp_path, (), most=0) == 2 and drop_snapshots(tmp_path, ()) == 0


# what a stage left, and where it is kept


def test_the_hosts_files_are_added_under_their_own_names_and_a_stage_s_commands_are_typed(tmp_path: Path):
    result = tmp_path / "result"
    for name in ("out", "obs"):
        (result / name).mkdir(parents=True)
    own = tmp_path / "stage.log"
    own.write_bytes(b"log")
    command = {"argv": ["atc"], "exit_code": 0, "wall_s": 1.5}
    (result / "obs" / "commands.json").write_bytes(canonical_json({"commands": [command], "more": 1}))
    found = leavings.take_in("s", result, [own], TreeLimits(), NO_CACHE)
    assert [each.argv for each in found.commands] == [("atc",)]
    assert found.observed["stage.log"] == FileDigest(sha256_bytes(b"log"), 3)
    assert (result / "obs" / "stage.log").stat().st_mode & 0o777 == 0o444 and own.exists()
    for text, why in (
        ("{", "it is not JSON"),
        ('{"commands": [1]}', r"\$\.commands\[0\]"),
        (" " * (1 << 20) + "{}", "expected"),
    ):
        again = tmp_path / why[:5].strip("$.\\ ")
        for name in ("out", "obs"):
            (again / name).mkdir(parents=True)
        (again / "obs" / "commands.json").write_text(text)
        with pytest.raises(Exception, match=rf"^stage s: obs/commands\.json: .*{why}") as caught:
            leavings.take_in("s", again, [], TreeLimits(), NO_CACHE)
        assert caught.value.hint.startswith("a stage or its image is broken or hostile")


def test_what_a_stage_left_unreadable_or_too_large_is_named_with_its_folder(tmp_path, monkeypatch):
    for name in ("out", "obs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_bytes(b"xx")
    with pytest.raises(NotPlain, match=r"^stage s left in out/ what is not taken: more than 1 bytes"):
        leavings.take_in("s", tmp_path, [], TreeLimits(total_bytes=1), NO_CACHE)
    monkeypatch.setattr(leavings, "_OBSERVATIONS", TreeLimits(entries=0))
    with pytest.raises(NotPlain, match=r"^stage s left in obs/ what is not taken: more than 0 files"):
        leavings.take_in("s", tmp_path, [], TreeLimits(), NO_CACHE)
    monkeypatch.undo()
    refused = PermissionError(13, "Permission denied", "f")
    for part, most in (("out", TreeLimits()), ("obs", leavings._OBSERVATIONS)):

        def list_tree(root, limits, part=part, most=most, real=leavings.list_tree):
            if root.name == part:
                assert limits == most
                raise refused
            return real(root, limits)

        monkeypatch.setattr(leavings, "list_tree", list_tree)
        with pytest.raises(NotPlain, match=rf"^stage s left in {part}/ what cannot be read: .*Permission denied"):
            leavings.take_in("s", tmp_path, [], TreeLimits(), NO_CACHE)
        monkeypatch.undo()


@pytest.mark.parametrize("shared", [False, True])
def test_a_store_s_last_results_and_locks_lie_in_their_own_folders(tmp_path: Path, shared: bool):
    kept = Store(tmp_path / "store", tmp_path / "tmp", NO_CACHE, shared=shared)
    fingerprint = "ab" + "1" * 62
    assert kept.path(fingerprint) == tmp_path / "store" / "ab" / fingerprint and kept.last_of("x@8") is None
    kept.remember_last("x@8", fingerprint)
    assert (tmp_path / "store" / "last" / "x@8.json").read_text() == fingerprint == kept.last_of("x@8")
    for odd in ("A" * 64, "1" * 63, "1" * 65, "ä"):
        (tmp_path / "store" / "last" / "x@8.json").write_text(odd)
        assert kept.last_of("x@8") is None
    with kept.making(fingerprint):
        assert [path.name for path in (tmp_path / "store" / "locks").iterdir()] == [f"{fingerprint}.lock"]
    assert list((tmp_path / "store" / "locks").iterdir()) == []
    work = kept.workspace()
    assert work.folder.parent == tmp_path / "tmp" and work.folder.name.startswith(".tmp.work.")
    assert (work.result, work.log) == (work.folder / "result", work.folder / "stage.log")
    assert sorted(path.name for path in work.result.iterdir()) == ["obs", "out"]
    work.close()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert fingerprint_of({"b": 1, "a": "ä"}) == sha256_bytes('{"a":"ä","b":1}'.encode())
    assert store._NOT_AS_STORED[0] == 2
