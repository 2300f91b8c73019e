"""What a session and a target are made of: each part is asked for with what it must be given, and each answer told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repro.base.errors import CouldNotRun, EngineUnavailable, UsageError
from repro.base.locking import locked, locked_where_possible
from repro.base.paths import Paths
from repro.container.job import Mount
from repro.graph.pipeline import PINNED_IMAGES, Request
from repro.machine import npu
from repro.run import garbage, session, target
from repro.run.cann_choice import Cann
from repro.run.options import Options
from tests.unit.test_run_wiring import Calls

ALL = tuple(PINNED_IMAGES)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


@pytest.mark.parametrize("fetch", [False, True])
@pytest.mark.parametrize(
    ("name", "coming", "made"),
    [("docker", None, False), ("auto", None, True), ("sandbox", None, True), ("auto", False, True),
     ("sandbox", True, False)],
)  # fmt: skip
def test_an_engine_is_chosen_with_what_the_sandbox_is_made_of_at_hand_and_told(
    monkeypatch, paths, name, coming, made, fetch
):
    said, asked, images = [], [], []
    here = session.Session(paths, SimpleNamespace(say=said.append))
    if coming is not None:
        here.coming = SimpleNamespace(await_any=lambda names: asked.append(names) or coming)
    monkeypatch.setattr(session.Session, "images", lambda self, names, *, fetch: images.append((names, fetch)))
    choice = SimpleNamespace(sentence=lambda: "engine: it", engine=SimpleNamespace(name="it"))
    given = []
    monkeypatch.setattr("repro.run.engine_choice.choose", lambda *told, **named: given.append((told, named)) or choice)
    assert here.engine(name, fetch=fetch) is choice
    assert given == [((name, paths), {"say": here.console.say})] and said == ["engine: it"]
    assert images == ([(["sandbox"], fetch)] if made else []) and asked == ([["sandbox"]] if coming is not None else [])
    assert [phase.name for phase in here.phases.items] == ["choose engine"]
    when_needed = here.engine_when_needed(name, fetch=fetch)
    assert len(given) == 1 and when_needed.choice is None
    assert when_needed.name == "it" and given[1] == given[0] and images == images[:1] * len(images)
    for ask in (here.engine, here.engine_when_needed):
        with pytest.raises(UsageError, match="no engine 'none'"):
            ask("none", fetch=fetch)
    assert len(given) == 2


@pytest.mark.parametrize("missing", [{}, {"0" * 64: "FILE"}])
def test_an_engine_that_cannot_be_used_is_named_before_anything_is_fetched_or_built(monkeypatch, paths, missing):
    done = []
    monkeypatch.setattr(session, "files_needed", lambda *asked: done.append("looked") or missing)
    monkeypatch.setattr(session, "fetch_files", lambda *asked: done.append("fetched"))
    monkeypatch.setattr(session, "build_images", lambda *asked, **named: done.append("built"))

    def first():
        raise EngineUnavailable("Podman is not here")

    coming = session.Session(paths, SimpleNamespace(say=print)).images_coming([], fetch=True, first=first)
    coming.settle()
    assert (str(coming.error), done) == (
        ("Podman is not here", ["looked"]) if missing else ("None", ["looked", "built"])
    )


def test_layers_are_compiled_in_the_engine_that_is_chosen_for_them(monkeypatch, paths):
    monkeypatch.setattr("repro.run.engine_choice.compiling_engine", lambda where: lambda image: (where, image))
    assert session.Session(paths, SimpleNamespace(say=print))._engine_for("IMAGE") == (paths, "IMAGE")


@pytest.mark.parametrize("subject", [None, object()])
def test_a_runner_and_its_executor_are_given_the_same_keys_store_and_surroundings(monkeypatch, paths, subject):
    here = session.Session(paths, SimpleNamespace(say=print))
    monkeypatch.setattr(session, "Subject", lambda: "NOBODY")
    monkeypatch.setattr(session, "LocalExecutor", lambda *given: given)
    monkeypatch.setattr(session, "Runner", lambda *given: given)
    monkeypatch.setattr(session.Session, "surroundings", lambda self, **known: known)
    around = {"access": "ACCESS", "subject": subject or "NOBODY", "mounts": {"cann": ()}}
    executor = ("ENGINE", "KEYS", here.store, around)
    assert here.runner("ENGINE", "KEYS", "ACCESS", subject, {"cann": ()}) == (executor, "KEYS", here.store, around)
    plain = here.runner("ENGINE", "KEYS")[-1]
    assert plain == {"access": session.Access, "subject": "NOBODY", "mounts": {}}


def test_keys_are_of_this_machine_or_of_the_clusters_node(monkeypatch, paths, tmp_path):
    monkeypatch.setattr(session.facts, "machine", lambda accelerator: ("MACHINE", accelerator))
    monkeypatch.setattr(session.facts, "facts", lambda: {"cpu": "this"})
    here = session.Session(paths, SimpleNamespace(say=print))
    keys = here.keys({"base": "IMAGE"}, "chip")
    assert (keys.codes, keys.images, keys.machine, keys.cache) == (
        here.codes, {"base": "IMAGE"}, ("MACHINE", "chip"), here.cache,
    )  # fmt: skip
    assert here.keys({}).machine == ("MACHINE", "") and here.host() == {"cpu": "this"}
    assert here.cache._database == paths.results / "digests.sqlite" and here.store._lock is locked
    opened = []
    settings = SimpleNamespace(carried=False)
    cluster = SimpleNamespace(local=tmp_path / "local", machine="NODE", host={"cpu": "node"}, settings=settings)
    monkeypatch.setattr("repro.run.cluster.ClusterOfRun", lambda *given: opened.append(given) or cluster)
    there = session.Session(paths, here.console, "slurm")
    assert opened == [(paths, here.console.say)] and there.store._lock is locked_where_possible
    settings.carried = True  # then no other machine writes into the store
    assert session.Session(paths, here.console, "slurm").store._lock is locked
    assert (there.keys({}, "chip").machine, there.host()) == ("NODE", {"cpu": "node"})
    assert there.cache._database == tmp_path / "local" / "digests.sqlite"


class Settled:
    """`target.settle` with everything that it asks replaced; `told` holds what each was given."""

    def __init__(self, monkeypatch, paths, **more: Any) -> None:
        self.paths, self.told = paths, Calls(monkeypatch, target)
        chip = SimpleNamespace(card=4, device=1, name="310P3", number=2, soc_version="Ascend310P3")
        self.npu = npu.Npu(**{"product": "Atlas", "driver": "1", "tool": "smi", "chips": (chip,), **more})
        monkeypatch.setattr(target.ascend, "examine", lambda host: self.npu if host is self.host else None)
        chosen = lambda found, devices: found.chips if (found, devices) == (self.npu, (1,)) else None  # noqa: E731
        monkeypatch.setattr(target.ascend, "choose_chips", chosen)
        monkeypatch.setattr(target.ascend, "product_of", lambda *given: self.told.given.update(product=given) or "Duo")
        self.host = npu.Host()
        self.cann = Cann("host 8.0", "cann-host", "8.0", {"told": "1"}, None)
        for name, value in (
            ("choose_cann", self.cann), ("_require_image", None), ("_cost", ["cost"]), ("_misfits", ["misfit"]),
            ("firmware_deviation", ""), ("_pinned_stages", (("features",), ["pinned: features"])),
        ):  # fmt: skip
            self.told.answer(name, value)

    def settle(self, **more: Any) -> target.Target:
        request = Request((8,), device=more.pop("device", "npu"))
        self.options = Options(request, devices=more.pop("devices", (1,)), ascend_host=self.host, **more)
        return target.settle(self.paths, "arm64", self.options)


def test_an_npu_s_target_is_settled_from_chips_cann_and_images(monkeypatch, paths):
    here = Settled(monkeypatch, paths)
    found = here.settle(cann="host")
    told, duo = here.told.given, replace(here.npu, product="Duo")
    assert found == target.Target(
        ("features",), duo, here.npu.chips, "host 8.0", {},
        ("NPU: device 1 (310P3, card 4, chip 2), Duo, driver 1", "cost", "misfit", "pinned: features"),
    )  # fmt: skip
    assert told == {
        "product": (here.host, "smi", here.npu.chips, 4),
        "choose_cann": [(paths, "host", here.host)],
        "_require_image": [(paths, "arm64", "cann-host")],
        "_cost": [(paths, "arm64", "cann-host")],
        "_misfits": [(duo, paths, here.cann)],
        "firmware_deviation": [(duo, paths.conf)],
        "_pinned_stages": [(paths, "arm64", here.options, ("on_ascend", True))],
    }
    here.told.answer("choose_cann", replace(here.cann, folder=Path("/usr/local/Ascend")))
    assert here.settle(cann="host").mounts == {"cann-host": (Mount(Path("/usr/local/Ascend"), "/usr/local/Ascend"),)}


def test_what_is_not_the_pinned_toolchain_is_refused_or_told(monkeypatch, paths):
    here = Settled(monkeypatch, paths)
    with pytest.raises(CouldNotRun, match=r"^this is not the pinned toolchain: --cann host$"):
        here.settle(cann="host", toolchain="pinned")
    here.told.answer("choose_cann", Cann())
    assert here.settle(toolchain="pinned").cann == ""
    here.told.answer("firmware_deviation", "driver 1 is not 2")
    with pytest.raises(CouldNotRun, match=r"^this is not the pinned toolchain: driver 1 is not 2$"):
        here.settle(toolchain="pinned")
    assert "deviates: driver 1 is not 2" in here.settle().said
    on_cpu = here.settle(device="cpu", devices=(), toolchain="pinned")
    assert on_cpu.said == ("deviates: driver 1 is not 2", "pinned: features")
    assert (on_cpu.chips, on_cpu.cann, on_cpu.mounts, on_cpu.npu) == ((), "", {}, here.npu)


def test_a_host_without_an_npu_has_nothing_to_deviate(monkeypatch, paths):
    here = Settled(monkeypatch, paths, product="", driver="", tool="", chips=())
    assert here.npu.present is False
    here.told.answer("firmware_deviation", "nobody asks")
    assert here.settle(device="cpu", devices=()).said == ("pinned: features",)
    assert here.told.given == {"_pinned_stages": [(paths, "arm64", here.options, ("on_ascend", False))]}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"toolchain": "x"}, "--toolchain x is not known"),
        ({"device": "gpu"}, "--device gpu is not available in this version"),
        ({"device": "cpu"}, "--devices is for --device npu"),
        ({"device": "cpu", "devices": (), "cann": "8.0"}, "--cann is for --device npu"),
    ],
)
def test_options_that_no_target_has_are_refused(monkeypatch, paths, more, message):
    with pytest.raises(UsageError) as caught:
        Settled(monkeypatch, paths).settle(**more)
    assert caught.value.message == message


def test_what_does_not_fit_is_told_of_the_cann_that_is_taken(monkeypatch, paths):
    answers = {"firmware": "yes", "cann": "no"}
    given = []
    fit = lambda name: SimpleNamespace(answer=answers[name], __str__=lambda self: name)  # noqa: E731
    monkeypatch.setattr(target, "firmware_fit", lambda *told: given.append(told) or fit("firmware"))
    monkeypatch.setattr(target, "cann_fit", lambda *told: given.append(told) or fit("cann"))
    monkeypatch.setattr(target, "table_cann", lambda conf: f"the table's in {conf}")
    (said,) = target._misfits("NPU", paths, Cann("8.0", "cann-8.0", "8.0", {"told": "1"}))
    assert said.startswith("driver and CANN 8.0 fit each other: ")
    assert given == [("NPU",), ("NPU", paths.conf, "8.0", {"told": "1"})]
    answers.update(firmware="not known", cann="yes")
    (said,) = target._misfits("NPU", paths, Cann())
    assert said.startswith("driver and firmware fit each other: ")
    assert given[-1] == ("NPU", paths.conf, f"the table's in {paths.conf}", {})


@pytest.mark.parametrize("on_ascend", [False, True])
@pytest.mark.parametrize(
    ("toolchain", "asked", "lacking", "taken"),
    [
        ("portable", None, ("kaldi",), ()), ("portable", ("export",), (), ("export",)), ("pinned", None, (), ALL),
        ("auto", ("features",), (), ("features",)), ("pinned", None, ("kaldi",), None),
        ("auto", ("features",), ("kaldi",), None),
        ("auto", None, (), ALL), ("auto", None, ("kaldi",), ("export", "reference")),
        ("auto", None, ("kaldi", "exporter-pinned"), ()),
    ],
)  # fmt: skip
def test_pinned_images_are_taken_as_asked_or_as_far_as_they_can_be_made(
    monkeypatch, paths, toolchain, asked, lacking, taken, on_ascend
):
    given = []
    why = {name: f"image {name}: no source" for name in lacking}
    monkeypatch.setattr(target, "_lacking", lambda *told: given.append(told) or why)
    options = Options(Request((8,)), toolchain=toolchain, pinned=asked)
    if taken is None:
        with pytest.raises(CouldNotRun, match="the pinned toolchain is not complete here") as caught:
            target._pinned_stages(paths, "arm64", options, on_ascend=on_ascend)
        assert caught.value.detail == "image kaldi: no source"
        return
    found, said = target._pinned_stages(paths, "arm64", options, on_ascend=on_ascend)
    assert found == taken
    if toolchain == "auto" and asked is None:
        expected = [f"pinned: {stage} runs in image {PINNED_IMAGES[stage]}" for stage in taken]
        if lacking and (taken or on_ascend):
            expected.append("the pinned toolchain is not complete: " + "; ".join(why.values()))
        assert said == expected
        assert given == [(paths, "arm64", ["exporter-pinned", "kaldi"])]
    else:
        assert said == []
        images = sorted({PINNED_IMAGES[stage] for stage in asked or ALL})
        assert given == ([] if toolchain == "portable" and asked is None else [(paths, "arm64", images)])


def test_a_record_that_cannot_be_read_stops_the_collection_and_is_named(paths):
    folder = paths.runs / "one"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{")
    with pytest.raises(CouldNotRun, match=r"^which results a run refers to is unknown: .*one/record\.json: ") as caught:
        garbage.collect_garbage(paths, print)
    assert caught.value.hint == f"remove the folder {folder}"
