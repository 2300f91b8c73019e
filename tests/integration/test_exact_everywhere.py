"""One digest for every exact stage on golden's corpus, on every processor: held to tests/data/exact_digests.json.

Fails with the step, and the first file that differs. Natively; natively with MKL, NumPy and the C library told to use
their oldest code; under QEMU with old and new models of both vendors, so that no library can look at the true
processor; in the arm64 images, which need no compiler. What runs PyTorch or ONNX Runtime takes an emulator minutes, and
other corpora do: `python -m tests.integration._everywhere` runs those, and writes the list that is held to here.
"""

from __future__ import annotations

import json
import shutil

import pytest

from repro.base.paths import Paths
from repro.display.console import Console
from repro.fetching import fetch_all
from repro.images.build import build_images
from repro.machine import facts
from repro.machine.emulation import emulation
from repro.run.engine_choice import compiling_engine
from repro.run.session import Session
from tests.exact_list import listed
from tests.integration._everywhere import DEMOS, GOLDENS, NATIVE, Everywhere, Way, digest, way_of
from tests.integration._runs import ROOT

LISTED = listed()[GOLDENS.name]
LIGHT = ("corpus", "lm", "features", "batches@4", "score@4")
# What PyTorch's own exporter writes of the demo's weights where its square roots are rounded correctly: on an Intel, as
# MKL has them there with new code and old; not on an AMD.
ROUNDED_CORRECTLY = "ee258aeb767db26c5f179032f64aa1930f690adb7908bf6e79a8596b6bd8d1fe"
_SHOW_AVX2 = "from numpy.core._multiarray_umath import __cpu_features__; print(__cpu_features__['AVX2'])"
IMAGES, SETS = ("base", "features"), ("debs/base", "wheels/base", "wheels/features")


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory) -> Everywhere:
    session = Session(Paths(ROOT, tmp_path_factory.mktemp("results")), Console())
    return Everywhere(session, GOLDENS, tmp_path_factory.mktemp("work"))


def hold(everywhere: Everywhere, way: Way, step: str) -> None:
    """Fail with the first file that differs."""
    found = everywhere.native(step) if way == NATIVE else everywhere.run(way, step)
    if digest(found) != LISTED[step]["digest"]:
        first = everywhere.first_difference(step, found)
        pytest.fail(f"{step} {way.name}: {digest(found)}, listed is {LISTED[step]['digest']}; from native: {first}")


def test_the_list_is_of_every_exact_stage_of_the_graph(everywhere):
    assert set(LISTED) == set(everywhere.nodes)


def test_a_computation_that_corpora_share_is_found_by_its_inputs(everywhere):
    assert everywhere.corpora_with("export") == ["golden", "demo", "other"]
    demo = Everywhere(everywhere.session, DEMOS, everywhere.work)
    assert demo.corpora_with("convert@8") == ["demo", "other"]
    assert demo.corpora_with("corpus") == demo.corpora_with("score@8") == ["demo"]


@pytest.mark.parametrize("step", LISTED)
def test_this_processor_gives_the_listed_digests(everywhere, step):
    hold(everywhere, NATIVE, step)


def test_libraries_told_to_use_less_of_the_processor_change_no_byte(everywhere):
    for step in ("features", "export", "infer@4"):
        hold(everywhere, way_of("less"), step)
    own = [json.loads((everywhere.folder(way, "export") / "obs" / "exporter.json").read_bytes())["sha256"]
           for way in (NATIVE, way_of("less"))]  # fmt: skip
    if facts.architecture() == "amd64" and own[0] != ROUNDED_CORRECTLY:
        assert own[0] != own[1], "PyTorch's own export did not change: the settings have no effect"


@pytest.mark.skipif("avx2" not in facts.machine().instruction_set.split(), reason="there is no AVX2 to be left out")
def test_the_settings_that_ask_for_older_code_have_an_effect(everywhere):
    used = [everywhere.said(way, "features", _SHOW_AVX2) for way in (NATIVE, way_of("less"))]
    assert used == ["True", "False"]


@pytest.mark.skipif(facts.architecture() != "amd64", reason="the images here are not x86_64's")
@pytest.mark.parametrize("processor", ["Nehalem", "Haswell", "EPYC"])
def test_an_emulated_processor_gives_the_listed_digests(everywhere, processor):
    if shutil.which("qemu-x86_64-static") is None:
        pytest.skip("there is no qemu-x86_64-static: install qemu-user-static")
    way = way_of(processor)
    for step in LIGHT:
        assert way.name in LISTED[step]["seen"]
        hold(everywhere, way, step)


def test_the_other_architecture_gives_the_listed_digests(everywhere):
    other = {"amd64": "arm64", "arm64": "amd64"}[facts.architecture()]
    found = emulation(other)
    if not found.works:
        pytest.skip(f"{found.how}; {found.hint}")
    fetch_all(ROOT, [other], SETS)
    paths = everywhere.session.paths
    build_images(paths, IMAGES, other, print, engine_for=compiling_engine(paths))
    for step in LIGHT:
        hold(everywhere, way_of(other), step)
