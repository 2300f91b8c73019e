"""CANN's image for the other architecture: its recipe, and atc with the guide's arguments, under emulation.

The packages are the simulator's, for that architecture. What is proven is what the repository adds: the loader's link
on arm64, the folder of the stub libraries, the record of the installation, and that the recipe runs there at all.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repro.base.paths import Paths
from repro.container.image import Image
from repro.display.console import Console
from repro.graph.pipeline import Request, build_graph, closure
from repro.images.build import build_images
from repro.images.layer_index import known_images
from repro.images.rootfs import Roots
from repro.machine import facts
from repro.machine.emulation import emulation
from repro.run.engine_choice import compiling_engine
from repro.run.request import probe_nodes
from repro.run.session import Session
from tests.integration._ascend import checkout
from tests.integration._runs import GOLDEN, ROOT
from tests.simulators.ascend.packages import write_packages

OTHER = {"amd64": "arm64", "arm64": "amd64"}[facts.architecture()]
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}[OTHER]


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> Paths:
    found = emulation(OTHER)
    if not found.works:
        pytest.skip(f"{found.how}; {found.hint}")
    if not known_images(Paths(ROOT), ["runtime"], OTHER):
        pytest.skip(f"image runtime ({OTHER}) was never built here: `invoke images.build --arch {OTHER}`")
    made = checkout(tmp_path_factory.mktemp("cann"))
    write_packages(made.data / "sources", machine=MACHINE)
    return made


@pytest.fixture(scope="module")
def cann(paths: Paths) -> Image:
    engine_for = compiling_engine(paths)
    return build_images(paths, ["cann"], OTHER, lambda _: None, check_pins=False, engine_for=engine_for)["cann"]


def test_the_recipe_leaves_what_that_architecture_needs(paths: Paths, cann: Image):
    assert cann.architecture == OTHER
    root = Roots(paths).of(cann)
    link = root / "usr" / "lib64" / "ld-linux-aarch64.so.1"
    assert link.is_symlink() is (OTHER == "arm64")
    if OTHER == "arm64":
        assert link.resolve().is_relative_to(root) and link.resolve().is_file()
    toolkit = root / "usr" / "local" / "Ascend" / "ascend-toolkit" / "latest"
    assert (toolkit / f"{MACHINE}-linux" / "devlib").is_dir()


def test_atc_converts_there_with_the_guide_s_arguments(paths: Paths, cann: Image, tmp_path: Path):
    session = Session(paths, Console())
    engine = session.engine("sandbox", fetch=False).engine
    demo = paths.data / "demo" / "checkpoint.pth"
    request = Request((1,), data=GOLDEN / "TIMIT", checkpoint=demo, device="npu", soc_version="Ascend310P3")
    nodes = closure(build_graph(request, paths.conf, demo), ["convert@1"])
    images = session.images({node.stage.image for node in nodes.values()} - {"cann"}, fetch=False)
    runner = session.runner(engine, session.keys({**images, "cann": cann}))
    done = runner.run({**nodes, **probe_nodes(["cann"])})
    probe = json.loads((done["probe:cann"].result.out / "probe.json").read_bytes())
    assert (probe["found"]["cann"], probe["simulator"]) == ("6.3.RC1", True)
    made = done["convert@1"].result
    assert (made.out / "lstm_ctc_bs1.om").stat().st_size > 0
    (command,) = made.observations["commands"]
    assert command["argv"][:3] == ["atc", "--input_format=ND", "--framework=5"] and command["exit_code"] == 0
