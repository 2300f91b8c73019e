"""Kaldi compiled for the other architecture: golden's features from its programs, which QEMU runs.

Nothing is compiled here: that takes minutes, and `invoke images.build --arch arm64` does it once, for who has Kaldi's
archive and QEMU. Without the image, or without QEMU, these are left out and say so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repro.base.paths import Paths
from repro.display.console import Console
from repro.graph.pipeline import Request, build_graph, closure
from repro.images.layer_index import known_images
from repro.images.pins import load_pins
from repro.machine import facts
from repro.machine.emulation import emulation
from repro.run.session import Session
from tests.integration._runs import GOLDEN, ROOT
from tests.integration.test_kaldi import MAX_FROM_PORTABLE, MEAN_FROM_PORTABLE, SPLITS, differences

OTHER = {"amd64": "arm64", "arm64": "amd64"}[facts.architecture()]


def features(session: Session, architecture: str, pinned: tuple[str, ...] = (), **parameters: str) -> Path:
    """The features stage's folder for golden's corpus, in images of an architecture.

    Args:
        parameters: options of the stage that no run has.
    """
    engine = session.engine("sandbox", fetch=True).engine  # a program of this machine, whatever it runs
    request = Request((8,), data=GOLDEN / "TIMIT", checkpoint=Path("not-needed"), pinned=pinned)
    nodes = closure(build_graph(request, session.paths.conf, Path("not-needed")), ["features"])
    node = nodes["features"]
    nodes["features"] = replace(node, parameters={**node.parameters, **parameters})
    session.architecture = architecture
    try:
        images = session.images({each.stage.image for each in nodes.values()}, fetch=True)
    finally:
        session.architecture = facts.architecture()
    return session.runner(engine, session.keys(images)).run(nodes)["features"].result.out


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    paths = Paths(ROOT, tmp_path_factory.mktemp("results"))
    if not known_images(paths, ["kaldi"], OTHER):
        pytest.skip(
            f"image kaldi ({OTHER}) was never built here: `invoke images.build --arch {OTHER}` does, in minutes"
        )
    found = emulation(OTHER)
    if not found.works:
        pytest.skip(f"{found.how}; {found.hint}")
    return Session(paths, Console())


@pytest.fixture(scope="module")
def emulated(session: Session) -> Path:
    return features(session, OTHER, ("features",))


@pytest.mark.parametrize("split", SPLITS)
def test_its_features_are_golden_s_dither_included(emulated: Path, split: str):
    found = differences(emulated / split / "fbank.ark", GOLDEN / "data" / split / "fbank.ark")
    assert found.max() <= MAX_FROM_PORTABLE and found.mean() <= MEAN_FROM_PORTABLE


def test_its_compiler_draws_the_dither_in_the_order_that_portable_features_have(session: Session, emulated: Path):
    means = {}
    for order in ("u1-first", "u2-first"):
        portable = features(session, facts.architecture(), **{"dither-draw-order": order})
        found = [differences(portable / split / "fbank.ark", emulated / split / "fbank.ark") for split in SPLITS]
        means[order] = [each.mean() for each in found]
    assert max(means["u1-first"]) <= MEAN_FROM_PORTABLE
    assert min(means["u2-first"]) >= 100 * MEAN_FROM_PORTABLE  # another noise: measured 2.2e-2 and more


def test_it_is_the_image_that_is_pinned(session: Session):
    pin = load_pins(session.paths)["images"].get(OTHER, {}).get("kaldi")
    if pin is None:
        pytest.skip(f"conf/locks/images.json pins no image kaldi for {OTHER}")
    assert known_images(session.paths, ["kaldi"], OTHER)["kaldi"].config_digest == pin
