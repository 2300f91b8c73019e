"""One digest for every exact stage on golden's corpus, on every processor: held to tests/data/exact_digests.json.

Fails with the step, and the first file that differs. Natively; natively with MKL, NumPy and the C library told to use
their oldest code; under QEMU with old and new models of both vendors, so that no library can look at the true
processor; in the arm64 images, which need no compiler. What multiplies a network's weights, or runs PyTorch, takes an
emulator minutes: those stages run natively here, the kernels without each vector instruction in
tests/unit/test_network.py, and in the arm64 image in test_emulated_images.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from repro.base.paths import Paths
from repro.container.job import Engine
from repro.display.console import Console
from repro.fetching import fetch_all
from repro.graph.pipeline import EXACT
from repro.images.build import build_images
from repro.machine import facts
from repro.machine.emulation import emulation
from repro.run.engine_choice import compiling_engine
from repro.run.session import Session
from tests.integration._everywhere import LESS, SIZE, STAGES, Way, digest, digests_of, graph, run
from tests.integration._runs import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]
LISTED = json.loads((ROOT / "tests" / "data" / "exact_digests.json").read_bytes())["stages"]
LIGHT = ("corpus", "lm", "features", f"batches@{SIZE}", f"score@{SIZE}")
IMAGES, SETS = ("base", "features"), ("debs/base", "wheels/base", "wheels/features")


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    return Session(Paths(ROOT, tmp_path_factory.mktemp("results")), Console())


@pytest.fixture(scope="module")
def engine(session) -> Engine:
    return session.engine("sandbox", fetch=True).engine


@pytest.fixture(scope="module")
def native(session, engine, tmp_path_factory) -> Mapping[str, Path]:
    """The out/ folders of a native run, by step."""
    work, found = tmp_path_factory.mktemp("native"), {}
    for step in STAGES:
        found[step] = run(session, engine, Way("native"), step, found, work)
    return found


def hold(way: Way, step: str, found: Path, native: Path) -> None:
    """Fail with the first file that differs."""
    if digest(found) != LISTED[step]["digest"]:
        ours, theirs = digests_of(found), digests_of(native)
        first = next((name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)), "no file")
        pytest.fail(f"{step} {way.name}: {digest(found)}, listed is {LISTED[step]['digest']}; from native: {first}")


def test_the_list_is_of_every_exact_stage_of_the_graph(session):
    nodes = graph(session)
    exact = {key for key, node in nodes.items() if node.stage.exactness == EXACT and not node.stage.host_bound}
    assert set(LISTED) == set(STAGES) == exact


@pytest.mark.parametrize("step", STAGES)
def test_this_processor_gives_the_listed_digests(native, step):
    hold(Way("native"), step, native[step], native[step])


def test_libraries_told_to_use_less_of_the_processor_change_no_byte(session, engine, native, tmp_path):
    way = Way("with older code of libraries", env=LESS)
    for step in ("features", "export", f"infer@{SIZE}"):
        hold(way, step, run(session, engine, way, step, native, tmp_path), native[step])
    own = [json.loads((folder.parent / "obs" / "exporter.json").read_bytes())["sha256"]
           for folder in (native["export"], tmp_path / f"{way.name}.export".replace(" ", "-") / "out")]  # fmt: skip
    if facts.architecture() == "amd64":
        assert own[0] != own[1], "PyTorch's own export did not change: the settings have no effect"


@pytest.mark.skipif(facts.architecture() != "amd64", reason="the images here are not x86_64's")
@pytest.mark.parametrize("processor", ["Nehalem", "Haswell", "EPYC"])
def test_an_emulated_processor_gives_the_listed_digests(session, engine, native, tmp_path, processor):
    if shutil.which("qemu-x86_64-static") is None:
        pytest.skip("there is no qemu-x86_64-static: install qemu-user-static")
    way = Way(f"on QEMU's {processor}", processor=processor)
    for step in LIGHT:
        assert way.name in LISTED[step]["seen"]
        hold(way, step, run(session, engine, way, step, native, tmp_path), native[step])


def test_the_other_architecture_gives_the_listed_digests(session, engine, native, tmp_path):
    other = {"amd64": "arm64", "arm64": "amd64"}[facts.architecture()]
    found = emulation(other)
    if not found.works:
        pytest.skip(f"{found.how}; {found.hint}")
    fetch_all(ROOT, [other], SETS)
    build_images(session.paths, IMAGES, other, print, engine_for=compiling_engine(session.paths))
    way = Way(f"in the {other} images", architecture=other)
    for step in LIGHT:
        hold(way, step, run(session, engine, way, step, native, tmp_path), native[step])
