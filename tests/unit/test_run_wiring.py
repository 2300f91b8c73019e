"""What a run hands from one part to the next: each call is held to what it must be given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repro.base.errors import FetchError
from repro.base.paths import Paths
from repro.graph.pipeline import Request
from repro.record.document import Host
from repro.run import garbage, plan, reproduce, session, target

DIGESTS = object()


class Calls:
    """Stands in for functions: notes what each was given, and answers as it was told."""

    def __init__(self, monkeypatch, module: Any) -> None:
        self._monkeypatch, self._module = monkeypatch, module
        self.given: dict[str, list[tuple[Any, ...]]] = {}

    def answer(self, name: str, value: Any) -> None:
        def call(*arguments, **named):
            self.given.setdefault(name, []).append((*arguments, *named.items()))
            return value

        self._monkeypatch.setattr(self._module, name, call)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


@pytest.mark.parametrize("force", [False, True])
def test_a_run_goes_from_target_and_request_to_graph_execution_record_and_reports(monkeypatch, paths, force):
    calls, console = Calls(monkeypatch, reproduce), object()
    nodes = {"corpus": 1, "score@8": 2}
    used = []

    class Store:
        def in_use(self):
            used.append("held")
            return session.contextmanager(lambda: iter([None]))()

    held = SimpleNamespace(paths=paths, cache=DIGESTS, store=Store())
    options = SimpleNamespace(force=force, on="slurm")
    for name, value in (
        ("Session", held), ("now", "NOW"), ("aim", "TARGET"), ("resolve", ("REQUEST", "WEIGHTS")),
        ("graph_of", nodes), ("execute", "EXECUTED"), ("record_of", "RECORD"), ("write_run", None),
    ):  # fmt: skip
        calls.answer(name, value)
    assert reproduce.reproduce(options, paths, console) == "RECORD" and used == ["held"]
    assert calls.given == {
        "Session": [(paths, console, "slurm")],
        "now": [()],
        "aim": [(options, held)],
        "resolve": [(options, paths, DIGESTS, "TARGET")],
        "graph_of": [("REQUEST", paths)],
        "execute": [(held, options, "TARGET", nodes, set(nodes) if force else set())],
        "record_of": [(held, reproduce.Asked("TARGET", "REQUEST", "WEIGHTS"), "EXECUTED", "NOW")],
        "write_run": [(paths, "RECORD")],
    }


def test_a_plan_is_of_the_same_graph_with_its_troubles_first(monkeypatch, paths):
    calls, console = Calls(monkeypatch, plan), object()
    held = SimpleNamespace(paths=paths, cache=DIGESTS)
    for name, value in (
        ("check_name", None), ("Session", held), ("aim", "TARGET"), ("resolve", ("REQUEST", "WEIGHTS")),
        ("graph_of", "NODES"), ("plan_steps", (["trouble"], {"corpus": "stored", "score@8": "run"})),
    ):  # fmt: skip
        calls.answer(name, value)
    options = SimpleNamespace(engine="docker", force=True, on="slurm")
    assert plan.plan(options, paths, console) == ["trouble", "corpus           stored", "score@8          run"]
    assert calls.given == {
        "check_name": [("docker",)],
        "Session": [(paths, console, "slurm")],
        "aim": [(options, held)],
        "resolve": [(options, paths, DIGESTS, "TARGET")],
        "graph_of": [("REQUEST", paths)],
        "plan_steps": [(held, "TARGET", "NODES", ("force", True))],
    }


@pytest.mark.parametrize("force", [False, True])
def test_what_stands_in_the_way_is_said_of_every_image_and_step(monkeypatch, paths, force):
    calls = Calls(monkeypatch, plan)
    nodes = {
        name: SimpleNamespace(stage=SimpleNamespace(image=image))
        for name, image in (("b", "y"), ("a", "x"), ("c", "x"))
    }
    asked = []
    held = SimpleNamespace(
        paths=paths, architecture="arm64", store="STORE", keys=lambda *given: asked.append(given) or "KEYS"
    )
    for name, value in (
        ("known_images", "IMAGES"), ("cannot_run", {"x": "no emulator"}), ("describe_missing", ["missing"]),
        ("_plan_of", "run"),
    ):  # fmt: skip
        calls.answer(name, value)
    lines, steps = plan.plan_steps(held, SimpleNamespace(accelerator="chip"), nodes, force=force)
    assert lines == ["cannot run: no emulator", f"-> {plan.HINT}", "missing"] and steps == dict.fromkeys(nodes, "run")
    assert calls.given == {
        "known_images": [(paths, ["x", "y"], "arm64")],
        "cannot_run": [(held, nodes, nodes if force else ())],
        "describe_missing": [(paths, ["x", "y"], "arm64")],
        "_plan_of": [(node, "KEYS", "STORE", {}, ("force", force)) for node in nodes.values()],
    }
    assert asked == [("IMAGES", "chip")]
    calls.answer("cannot_run", {})
    assert plan.plan_steps(held, SimpleNamespace(accelerator=""), nodes)[0] == ["missing"]


def done_of(image: str) -> SimpleNamespace:
    return SimpleNamespace(node=SimpleNamespace(stage=SimpleNamespace(image=image)))


@pytest.mark.parametrize(
    ("data", "matches", "kind"), [(None, True, "demo"), (Path("/d"), True, "timit"), (Path("/d"), False, "user")]
)
@pytest.mark.parametrize(
    ("device", "npu_simulated", "probe_simulated", "recorded"),
    [("cpu", True, True, "cpu"), ("npu", False, False, "npu"), ("npu", True, False, "npu-simulator"),
     ("npu", False, True, "npu-simulator")],
)  # fmt: skip
def test_a_record_is_made_of_what_was_asked_found_and_done(
    monkeypatch, paths, data, matches, kind, device, npu_simulated, probe_simulated, recorded
):
    calls = Calls(monkeypatch, reproduce)
    done = {"corpus": done_of("base"), "score@8": done_of("base"), "export": done_of("exporter"),
            "probe:base": done_of("base"), "probe:exporter": done_of("exporter")}  # fmt: skip
    probes = {
        "probe:base": SimpleNamespace(simulator=False, found={"python": "3"}),
        "probe:exporter": SimpleNamespace(
            simulator=probe_simulated, found={"cann": "6.3", "cann innerversion": "I", "cann drivers": "D"}
        ),
    }
    read = []

    def read_output(item, name, type_):
        (step,) = [key for key, each in done.items() if each is item]
        read.append((step, name, type_.__name__))
        return SimpleNamespace(timit=SimpleNamespace(matches=matches)) if name == "summary.json" else probes[step]

    monkeypatch.setattr(reproduce, "read_output", read_output)
    monkeypatch.setattr(reproduce.npu, "facts", lambda *given: {"driver": given})
    monkeypatch.setattr(reproduce.host_fits, "facts", lambda *given: {"fits": given})
    monkeypatch.setattr(reproduce.msgspec, "convert", lambda value, type_: (type_, value))
    monkeypatch.setattr(reproduce.toolchain, "load_components", lambda conf: ("COMPONENTS", conf))
    monkeypatch.setattr(reproduce.toolchain, "compare", lambda *given: given)
    monkeypatch.setattr(
        reproduce.toolchain, "name_of", lambda pinned, cann, rows, excepted: (pinned, cann, rows, excepted("ROW"))
    )
    for name, value in (
        ("load_published", "TABLE"), ("is_excepted", "EXCEPTED"), ("engine_used", "ENGINE"),
        ("_observations", "OBSERVED"), ("sources_of", "SOURCES"), ("make_record", "RECORD"),
    ):  # fmt: skip
        calls.answer(name, value)
    request = Request((8,), data=data, device=device, pinned=("export",), cann="8.0")
    aimed = SimpleNamespace(npu=SimpleNamespace(simulator=npu_simulated), chips=("CHIP",))
    executed = SimpleNamespace(images={"base": "B", "exporter": "E", "unused": "U"}, done=done, choice="CHOICE")
    held = SimpleNamespace(paths=paths, architecture="arm64", host=lambda: {"cpu": "C"})
    assert reproduce.record_of(held, reproduce.Asked(aimed, request, "WEIGHTS"), executed, "NOW") == "RECORD"

    ((parts, made_of, table),) = calls.given["make_record"]
    npu_facts = {"driver": (aimed.npu, ("CHIP",))}
    installed = {reproduce.host_fits.INNER: "I", reproduce.host_fits.DRIVERS: "D"}
    host = (Host, {"cpu": "C", **npu_facts, "fits": (aimed.npu, paths.conf, "6.3", installed)})
    rows = (("COMPONENTS", paths.conf), {"base": probes["probe:base"], "exporter": probes["probe:exporter"]}, npu_facts)
    assert (made_of, table) == (done, "TABLE") and calls.given["load_published"] == [(paths.conf / "published.toml",)]
    assert parts.request.device == recorded and parts.request.batch_sizes == (8,) and parts.data_kind == kind
    assert parts.host == host and parts.toolchain == rows
    assert parts.toolchain_name == (("export",), "8.0", rows, "EXCEPTED")
    assert calls.given["is_excepted"] == [("ROW", host, "TABLE")]
    assert (parts.checkpoint, parts.engine, parts.observations, parts.sources) == (
        "WEIGHTS", "ENGINE", "OBSERVED", "SOURCES",
    )  # fmt: skip
    assert parts.images == {"base": "B", "exporter": "E"} and list(parts.images) == ["base", "exporter"]
    assert calls.given["engine_used"] == [("CHOICE", done)]
    assert calls.given["_observations"] == [("NOW", held, executed)]
    assert calls.given["sources_of"] == [(paths, parts.images, "arm64")]
    corpus = [("corpus", "summary.json", "CorpusFile")] if data else []
    assert read == [(f"probe:{name}", "probe.json", "ProbeFile") for name in ("base", "exporter")] + corpus


def test_without_a_probe_of_cann_the_tables_is_asked_about(monkeypatch, paths):
    monkeypatch.setattr(reproduce.host_fits, "facts", lambda *given: given)
    monkeypatch.setattr(reproduce.host_fits, "table_cann", lambda conf: ("TABLE'S", conf))
    probes = {"base": SimpleNamespace(found={"python": "3"})}
    nothing = {reproduce.host_fits.INNER: "", reproduce.host_fits.DRIVERS: ""}
    given = reproduce._fits(SimpleNamespace(npu="NPU"), paths, probes)
    assert given == ("NPU", paths.conf, ("TABLE'S", paths.conf), nothing)


@pytest.mark.parametrize(("missing", "fetch", "fetched"), [({"a": 1}, True, 1), ({"a": 1}, False, 0), ({}, True, 0)])
def test_images_are_fetched_where_asked_and_built_for_this_machine(monkeypatch, paths, missing, fetch, fetched):
    calls = Calls(monkeypatch, session)
    console = SimpleNamespace(say=print, transfer=lambda name: ("TRANSFER", name))
    here = session.Session(paths, console)
    for name, value in (("files_needed", missing), ("fetch_files", None)):
        calls.answer(name, value)

    def build_images(*given, **named):
        calls.given["build_images"] = [(*given, named["engine_for"], named["beside"])]
        for name in given[1]:
            named["beside"].ready(SimpleNamespace(name=name))
        named["beside"].arrivals.wait()

    monkeypatch.setattr(session, "build_images", build_images)
    assert list(here.images({"b", "a"}, fetch=fetch)) == ["a", "b"]
    assert calls.given["files_needed"] == [(paths, ["a", "b"], [here.architecture])]
    ((*given, engine_for, beside),) = calls.given["build_images"]
    assert given == [paths, ["a", "b"], here.architecture, console.say]
    assert (engine_for, beside.timed) == (here._engine_for, here.phases.layer)
    assert len(calls.given.get("fetch_files", [])) == fetched
    if fetched:
        ((root, files, transfer, receiver),) = calls.given["fetch_files"]
        assert (root, list(files), transfer, receiver) == (paths.root, [1], ("TRANSFER", "fetch"), beside.arrivals)
    assert sorted(phase.name for phase in here.phases.items) == ["build layers", "fetch"]


def test_what_fetching_fails_of_is_what_waiting_for_images_raises(monkeypatch, paths):
    calls = Calls(monkeypatch, session)
    here = session.Session(paths, SimpleNamespace(say=print, transfer=lambda name: name))
    calls.answer("files_needed", {"a": 1})
    monkeypatch.setattr(session, "fetch_files", lambda *_: (_ for _ in ()).throw(FetchError("no source")))
    monkeypatch.setattr(session, "build_images", lambda *_, beside, **__: beside.arrivals.wait())
    with pytest.raises(FetchError, match="no source"):
        here.images({"a"}, fetch=True)


def test_what_is_lacking_for_images_is_said_of_those_that_are_not_there(monkeypatch, paths):
    why = {"a": "no source", "b": "", "c": "no licence"}
    monkeypatch.setattr(target, "load_definition", lambda folder, name: (folder, name))
    monkeypatch.setattr(
        target, "why_left_out", lambda where, definition, architecture: why[definition[1]]
        if (where, definition[0], architecture) == (paths, paths.docker, "arm64") else "wrong"
    )  # fmt: skip
    monkeypatch.setattr(target, "known_images", lambda where, names, architecture: names == ["c"])
    assert target._lacking(paths, "arm64", ["a", "b", "c"]) == {"a": "image a: no source"}


def test_garbage_is_collected_in_this_checkouts_store(monkeypatch, paths):
    (paths.store / "ab" / ("ab" + "1" * 62)).mkdir(parents=True)
    (paths.store / "ab" / ("ab" + "1" * 62) / "file").write_bytes(b"x" * 2_000_000)
    (paths.code / ("c" * 64)).mkdir(parents=True)
    (paths.code / ("c" * 64) / "file").write_bytes(b"x" * 3_000_000)
    said = []
    garbage.collect_garbage(paths, said.append)
    assert not (paths.store / "ab").exists() and list(paths.code.iterdir()) == []
    assert said == ["1 results removed, 0 kept for the runs in artifacts/runs; 1 snapshots of code removed; 5 MB freed"]
