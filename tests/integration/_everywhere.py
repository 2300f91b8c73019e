"""Golden's corpus through the exact stages, one stage at a time, as another processor would run them.

A `Way` is how: natively, natively with libraries told to use less of the processor, under QEMU's user mode with another
model of processor, or in the other architecture's images. Each stage gets the native run's outputs as inputs, so that a
difference is the stage's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repro.container.job import Engine, Job, Limits, Mount
from repro.graph.code import read_code, snapshot
from repro.graph.digests import FileDigest, StatCache, digest_folder, digest_of_files
from repro.graph.keys import STAGE_ENV
from repro.graph.pipeline import Node, Request, Source, build_graph
from repro.machine import facts
from repro.run.session import Session
from tests.integration._runs import GOLDEN, ROOT

SIZE = 4
STAGES = ("corpus", "lm", "features", f"batches@{SIZE}", "export", f"convert@{SIZE}", f"infer@{SIZE}", f"score@{SIZE}")
_EMULATOR = "/run/emulator"
# So that libraries choose their oldest code: NumPy's own choice, MKL's, the C library's.
LESS = {
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX2 FMA3",
    "MKL_CBWR": "COMPATIBLE",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2_Usable,-FMA_Usable,-AVX512F_Usable,-AVX2,-FMA,-AVX512F",
}


@dataclass(frozen=True)
class Way:
    """How a stage is run.

    Attributes:
        processor: the emulated model of x86_64, as QEMU names it; '' for none.
        architecture: '' for this machine's.
        env: beside the stage's own.
    """

    name: str
    processor: str = ""
    architecture: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


def graph(session: Session) -> dict[str, Node]:
    """The steps on golden's corpus with the demo's weights, decoded by beam search, so that `lm` is used."""
    demo = session.paths.data / "demo" / "checkpoint.pth"
    request = Request((SIZE,), data=GOLDEN / "TIMIT", checkpoint=demo, decode="Beam")
    return build_graph(request, session.paths.conf, demo)


def digests_of(folder: Path) -> dict[str, FileDigest]:
    """Every file below a stage's folder."""
    return digest_folder(folder, StatCache(None), "a stage's results")


def run(session: Session, engine: Engine, way: Way, step: str, inputs: Mapping[str, Path], work: Path) -> Path:
    """Run one step; returns its out/.

    Args:
        inputs: the out/ folders of the steps before, by their keys.
        work: a folder for results.
    """
    node = graph(session)[step]
    session.architecture = way.architecture or facts.architecture()
    image = session.images([node.stage.image], fetch=True)[node.stage.image]
    engine.prepare(image)
    folder = work / f"{way.name}.{step}".replace(" ", "-")
    for name in ("out", "obs"):
        (folder / name).mkdir(parents=True)
    mounts = [Mount(snapshot(read_code(ROOT, node.stage.name), session.paths.code, StatCache(None)), "/run/code")]
    for name, source in node.inputs.items():
        place = source.path if isinstance(source, Source) else inputs[source.node] / source.below
        mounts.append(Mount(place, f"/run/in/{name}"))
    mounts += [Mount(folder / name, f"/run/{name}", writable=True) for name in ("out", "obs")]
    argv = node.argv()
    if way.processor:
        emulator = shutil.which("qemu-x86_64-static")
        assert emulator
        mounts.append(Mount(Path(emulator), _EMULATOR))
        argv = (_EMULATOR, "-cpu", way.processor, *argv)
    lines: list[str] = []
    job = Job(image, argv, tuple(mounts), {**STAGE_ENV, **way.env}, limits=Limits(timeout_s=1800), name="everywhere")
    outcome = engine.run(job, lambda _, line: lines.append(line))
    assert outcome.exit_code == 0, f"{way.name}, {step}: {lines[-20:]}"
    return folder / "out"


def digest(folder: Path) -> str:
    """The digest of a stage's outputs, as a record has it."""
    return digest_of_files(digests_of(folder))
