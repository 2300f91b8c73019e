"""The portable images for the other architecture, run under emulation: the same corpus, features, bins, graph, outputs.

No speed is meant, and nothing that a machine of that architecture would do in its own way: an emulated processor has
instructions of its own. It takes minutes, and is left out where those images were never built, or QEMU is not there.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from repro.base.paths import Paths
from repro.container.job import Engine, Job, Mount
from repro.display.console import Console
from repro.graph.keys import STAGE_ENV
from repro.graph.making import Done
from repro.graph.pipeline import Request, build_graph, closure
from repro.images.layer_index import known_images
from repro.machine import facts
from repro.machine.emulation import emulation
from repro.run.session import Session
from tests.integration._runs import GOLDEN, ROOT
from tests.integration.test_kaldi import MAX_FROM_PORTABLE, MEAN_FROM_PORTABLE, SPLITS, differences

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
OTHER = {"amd64": "arm64", "arm64": "amd64"}[facts.architecture()]
IMAGES = ("base", "features", "exporter", "runtime")


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    paths = Paths(ROOT, tmp_path_factory.mktemp("results"))
    found = emulation(OTHER)
    if not found.works:
        pytest.skip(f"{found.how}; {found.hint}")
    if len(known_images(paths, IMAGES, OTHER)) < len(IMAGES):
        pytest.skip(f"the images were never built here for {OTHER}: `invoke images.build --arch {OTHER}`")
    return Session(paths, Console())


@pytest.fixture(scope="module")
def engine(session) -> Engine:
    return session.engine("sandbox", fetch=True).engine


def run(session: Session, engine: Engine, architecture: str, steps: Sequence[str]) -> Mapping[str, Done]:
    """Steps of a run on golden's corpus in an architecture's images."""
    demo = session.paths.data / "demo" / "checkpoint.pth"
    nodes = build_graph(Request((8,), data=GOLDEN / "TIMIT", checkpoint=demo), session.paths.conf, demo)
    nodes = closure(nodes, steps)
    session.architecture = architecture
    images = session.images({node.stage.image for node in nodes.values()}, fetch=False)
    return session.runner(engine, session.keys(images)).run(nodes)


@pytest.fixture(scope="module")
def both(session, engine) -> dict[str, Mapping[str, Done]]:
    """The same steps in the images of both architectures."""
    return {name: run(session, engine, name, ["batches@8", "export"]) for name in (facts.architecture(), OTHER)}


@pytest.mark.parametrize("step", ["corpus", "features", "batches@8", "export"])
def test_every_exact_stage_gives_the_same_bytes(both, step):
    ours, theirs = (both[name][step].result for name in (facts.architecture(), OTHER))
    assert ours.key["image"] != theirs.key["image"]
    assert {path: file.sha256 for path, file in ours.outputs.items()} == {
        path: file.sha256 for path, file in theirs.outputs.items()
    }


@pytest.mark.parametrize("split", SPLITS)
def test_features_of_the_other_architecture_are_golden_s_within_kaldi_s_rounding(both, split):
    found = differences(both[OTHER]["features"].result.out / split / "fbank.ark", GOLDEN / "data" / split / "fbank.ark")
    assert found.max() <= MAX_FROM_PORTABLE and found.mean() <= MEAN_FROM_PORTABLE


def test_kernels_compiled_for_the_other_architecture_give_the_same_bytes(session, engine, tmp_path):
    model = run(session, engine, facts.architecture(), ["convert@8"])["convert@8"].result.out / "model.onnx"
    code = tmp_path / "code"
    shutil.copytree(ROOT / "stages", code / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).with_name("_digest_of_outputs.py"), code)
    said: dict[str, list[str]] = {}
    for architecture in (facts.architecture(), OTHER):
        session.architecture = architecture
        image = session.images(["runtime"], fetch=False)["runtime"]
        engine.prepare(image)
        lines: list[str] = []
        job = Job(
            image=image,
            argv=("/usr/bin/python3", "/run/code/_digest_of_outputs.py", "/run/model.onnx"),
            mounts=(Mount(code, "/run/code"), Mount(model, "/run/model.onnx")),
            env=STAGE_ENV,
        )
        outcome = engine.run(job, lambda _, line, lines=lines: lines.append(line))
        assert outcome.exit_code == 0, lines
        said[architecture] = lines
    (_, *ours), (_, *theirs) = said[facts.architecture()], said[OTHER]
    assert ours == theirs
    alone, together = (line.split()[at] for line, at in zip(ours, (0, 2), strict=True))
    assert alone == together
