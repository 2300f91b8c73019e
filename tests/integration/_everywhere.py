"""A corpus through the exact stages, one stage at a time, as another processor would run them.

A `Way` is how: natively, natively with libraries told to use less of the processor, under QEMU's user mode with another
model of processor, or in the other architecture's images. Each stage gets the native run's outputs as inputs, so that a
difference is the stage's own.

What CI has no minutes for runs by command, and is written into tests/data/exact_digests.json:

    python -m tests.integration._everywhere golden native Haswell arm64 --steps infer@4
    python -m tests.integration._everywhere other native less Nehalem Haswell EPYC Opteron_G3 arm64
    python -m tests.integration._everywhere demo Nehalem --steps infer@8 --batches 0,1,2
    python -m tests.integration._everywhere demo arm64 --record artifacts/runs/latest/record.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from repro.base.paths import Paths
from repro.container.job import Engine, Job, Limits, Mount
from repro.display.console import Console
from repro.graph.cache import StatCache
from repro.graph.code import read_code, snapshot
from repro.graph.digests import FileDigest, digest_folder, digest_of_files
from repro.graph.keys import STAGE_ENV
from repro.graph.pipeline import EXACT, Node, Request, Source, build_graph
from repro.machine import facts
from repro.record import load_record
from repro.record.identity import same_everywhere
from repro.run.session import Session
from tests.exact_list import note, note_part, write_page
from tests.integration._runs import GOLDEN, ROOT

_EMULATOR, _MAKER = "/run/emulator", "/run/maker.py"
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
        name: as the list has it.
        processor: the emulated model of x86_64, as QEMU names it; '' for none.
        architecture: '' for this machine's.
        env: beside the stage's own.
    """

    name: str
    processor: str = ""
    architecture: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


NATIVE = Way("native")


def way_of(word: str) -> Way:
    """'native', 'less', an architecture, or a model of processor as QEMU names it."""
    if word == NATIVE.name:
        return NATIVE
    if word == "less":
        return Way("with older code of libraries", env=LESS)
    if word in ("amd64", "arm64"):
        return Way(f"in the {word} images on QEMU", architecture=word)
    return Way(f"on QEMU's {word}", processor=word)


@dataclass(frozen=True)
class Corpus:
    """A corpus, and what is asked of it.

    Attributes:
        name: as the list has it.
        data: None for the demo's.
        size: of the batches. Decoding is by beam search, so that `lm` is used.
        maker: a program that stands in for the stage demo_corpus.
    """

    name: str
    data: Path | None
    size: int
    maker: Path | None = None

    def graph(self, session: Session) -> dict[str, Node]:
        """The steps that are exact, each after its inputs; the weights are the demo's."""
        demo = session.paths.data / "demo" / "checkpoint.pth"
        request = Request((self.size,), data=self.data, checkpoint=demo, decode="Beam")
        nodes = build_graph(request, session.paths.conf, demo)
        return {key: node for key, node in nodes.items() if node.stage.exactness == EXACT and not node.stage.host_bound}


def same(step: str, one: Mapping[str, Node], other: Mapping[str, Node]) -> bool:
    """Whether a step of two corpora is one computation: equal command lines on equal inputs, all the way up."""
    ours, theirs = one.get(step), other.get(step)
    if ours is None or theirs is None or ours.stage.name == "demo_corpus" or ours.argv() != theirs.argv():
        return False
    for name, source in ours.inputs.items():
        their_source = theirs.inputs[name]
        if isinstance(source, Source) or isinstance(their_source, Source):
            if source != their_source:
                return False
        elif source != their_source or not same(source.node, one, other):
            return False
    return True


GOLDENS = Corpus("golden", GOLDEN / "TIMIT", 4)
DEMOS = Corpus("demo", None, 8)
OTHERS = Corpus("other", None, 8, Path(__file__).with_name("_other_corpus.py"))
CORPORA = {corpus.name: corpus for corpus in (GOLDENS, DEMOS, OTHERS)}


def digests_of(folder: Path) -> dict[str, FileDigest]:
    """Every file below a stage's folder."""
    return digest_folder(folder, StatCache(None), "a stage's results")


def digest(folder: Path) -> str:
    """The digest of a stage's outputs, as a record has it."""
    return digest_of_files(digests_of(folder))


def one_batch(batches: Path, number: int, to: Path) -> None:
    """Results of the stage batches as if it had made one batch alone."""
    manifest = json.loads((batches / "manifest.json").read_bytes())
    placed = [{**each, "batch": 0} for each in manifest["utterances"] if each["batch"] == number]
    (to / "bins").mkdir(parents=True)
    shutil.copy(batches / "bins" / f"inputs_{number}.bin", to / "bins" / "inputs_0.bin")
    alone = {**manifest, "num_batches": 1, "num_tail_batches": 0, "utterances": placed}
    (to / "manifest.json").write_text(json.dumps(alone))


@dataclass
class Everywhere:
    """Runs steps of one corpus each way.

    Attributes:
        work: a folder for results; what a native step left there before is taken.
    """

    session: Session
    corpus: Corpus
    work: Path

    @cached_property
    def engine(self) -> Engine:
        self.session.architecture = facts.architecture()
        return self.session.engine("sandbox", fetch=True).engine

    @cached_property
    def nodes(self) -> dict[str, Node]:
        return self.corpus.graph(self.session)

    def native(self, step: str) -> Path:
        """The out/ of a native run of a step, made once."""
        done = self.folder(NATIVE, step) / "done"
        if not done.exists():
            self.run(NATIVE, step)
            done.touch()
        return done.with_name("out")

    def corpora_with(self, step: str) -> list[str]:
        """This corpus, and those whose step is the same computation: a conversion does not see any speech."""
        others = (each for each in CORPORA.values() if each != self.corpus)
        return [self.corpus.name, *(each.name for each in others if same(step, self.nodes, each.graph(self.session)))]

    def folder(self, way: Way, step: str) -> Path:
        return self.work / f"{way.name}.{step}".replace(" ", "-")

    def run(self, way: Way, step: str, batch: int | None = None) -> Path:
        """Run one step anew; returns its out/. With `batch`, a step that takes batches is given that one alone."""
        node, folder = self.nodes[step], self.folder(way, step if batch is None else f"{step}.batch-{batch}")
        mounts = [Mount(snapshot(read_code(ROOT, node.stage.name), self.session.paths.code, StatCache(None)),
                        "/run/code")]  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("out", "obs"):
            (folder / name).mkdir(parents=True)
        for name, source in node.inputs.items():
            place = source.path if isinstance(source, Source) else self.native(source.node) / source.below
            if batch is not None and name == "batches":
                one_batch(place, batch, folder / name)
                place = folder / name
            mounts.append(Mount(place, f"/run/in/{name}"))
        mounts += [Mount(folder / name, f"/run/{name}", writable=True) for name in ("out", "obs")]
        engine = self.engine
        self.session.architecture = way.architecture or facts.architecture()
        image = self.session.images([node.stage.image], fetch=True)[node.stage.image]
        engine.prepare(image)
        argv = node.argv()
        if step == "demo_corpus" and self.corpus.maker:
            mounts.append(Mount(self.corpus.maker, _MAKER))
            argv = (argv[0], _MAKER, *argv[3:])
        if way.processor:
            emulator = shutil.which("qemu-x86_64-static")
            assert emulator, "install qemu-user-static"
            mounts.append(Mount(Path(emulator), _EMULATOR))
            argv = (_EMULATOR, "-cpu", way.processor, *argv)
        lines: list[str] = []
        job = Job(
            image, argv, tuple(mounts), {**STAGE_ENV, **way.env}, limits=Limits(timeout_s=14_400), name="everywhere"
        )
        outcome = engine.run(job, lambda _, line: lines.append(line))
        assert outcome.exit_code == 0, f"{way.name}, {step}: {lines[-20:]}"
        return folder / "out"

    def said(self, way: Way, image: str, program: str) -> str:
        """What a line of Python prints in an image, with a way's settings."""
        spec = self.session.images([image], fetch=True)[image]
        self.engine.prepare(spec)
        job = Job(spec, ("/usr/bin/python3", "-c", program), (), {**STAGE_ENV, **way.env}, name="everywhere")
        lines: list[str] = []
        outcome = self.engine.run(job, lambda _, line: lines.append(line))
        assert outcome.exit_code == 0, lines
        return lines[-1]

    def first_difference(self, step: str, found: Path) -> str:
        """The first file of a step that is not the native run's."""
        ours, theirs = digests_of(found), digests_of(self.native(step))
        return next((name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)), "no file")


def in_batches(everywhere: Everywhere, way: Way, step: str, batches: Sequence[int]) -> int:
    """Run an inference one batch at a time, note each, and return how many had other bytes than the native run."""
    native, wrong = everywhere.native(step), 0
    of = {name: file.sha256 for name, file in digests_of(native).items()}
    for batch in batches:
        began_s = time.monotonic()
        out, name = everywhere.run(way, step, batch), f"result/inputs_{batch}_0.npy"
        same_bytes = {each.sha256 for each in digests_of(out).values()} == {of[name]}
        noted = same_bytes and note_part(everywhere.corpus.name, step, seen_on(way), name, digest(native), of)
        wrong += not noted
        what = "equal" if noted else f"ANOTHER: {out}"
        print(
            f"{everywhere.corpus.name} {step} {way.name}: {name} {what}, {time.monotonic() - began_s:.1f} s", flush=True
        )
    return wrong


def in_record(everywhere: Everywhere, way: Way, path: Path) -> int:
    """Note what a whole run gave, made by `_other_machine`; return how many digests are not those of the list."""
    record = load_record(path)
    assert record.host.architecture == way.architecture, f"{path} is not a run in the {way.architecture} images"
    found = {step: each for step, each in same_everywhere(record.stages).items() if step in everywhere.nodes}
    wrong = [step for step, each in found.items() if not note(everywhere.corpus.name, step, seen_on(way), each)]
    print(f"{everywhere.corpus.name} {way.name}: {', '.join(found)}; {', '.join(wrong) or 'none'} ANOTHER", flush=True)
    return len(wrong)


def seen_on(way: Way) -> str:
    """How the list names a way: for native runs, by this processor."""
    if way.processor or way.architecture:
        return way.name
    found = facts.facts()
    wide = ", with AVX-512" if "avx512f" in str(found["instruction_set"]).split() else ""
    return f"{found['cpu']}{wide}" + ("" if way == NATIVE else ", libraries told to use older code")


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=sorted(CORPORA))
    parser.add_argument("ways", nargs="+", help="native, less, arm64, or a model of processor as QEMU names it")
    parser.add_argument("--steps", default="", help="such as convert@4,infer@4; all that are exact")
    parser.add_argument("--batches", default="", help="numbers of batches, which an inference is given one at a time")
    parser.add_argument(
        "--record", type=Path, help="of a run by _other_machine, whose digests are noted; nothing is run"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "artifacts" / "tmp" / "everywhere")
    options = parser.parse_args(words)
    corpus = CORPORA[options.corpus]
    everywhere = Everywhere(Session(Paths(ROOT, options.work), Console()), corpus, options.work / corpus.name)
    wrong = 0
    for word in options.ways:
        if options.record:
            wrong += in_record(everywhere, way_of(word), options.record)
            continue
        for step in options.steps.split(",") if options.steps else everywhere.nodes:
            began_s, way = time.monotonic(), way_of(word)
            if options.batches:
                wrong += in_batches(everywhere, way, step, [int(each) for each in options.batches.split(",")])
                continue
            out = everywhere.native(step) if way == NATIVE else everywhere.run(way, step)
            found = digest(out)
            equal = all(note(name, step, seen_on(way), found) for name in everywhere.corpora_with(step))
            wrong += not equal
            what = "equal" if equal else f"ANOTHER: {everywhere.first_difference(step, out)}"
            print(
                f"{corpus.name} {step} {way.name}: {found[:16]} {what}, {time.monotonic() - began_s:.1f} s", flush=True
            )
    write_page()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
