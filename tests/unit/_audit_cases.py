"""A small run as `invoke reproduce` leaves it, made without containers: real keys, digests, images and scores."""

from __future__ import annotations

import io
import json
import random
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from repro.audit.evidence import Evidence, open_run
from repro.base.files import pretty_json, sha256_bytes, sha256_file
from repro.base.paths import Paths
from repro.base.typed_json import read
from repro.container.image import Layer
from repro.graph.cache import StatCache
from repro.graph.code import Codes
from repro.graph.keys import Keys
from repro.graph.leavings import take_in
from repro.graph.making import Done
from repro.graph.pipeline import Output, Request
from repro.graph.store import Store
from repro.guide import toolchain
from repro.guide.published import load_published
from repro.images.definition import load_definition
from repro.images.oci import compute_image
from repro.images.recipes import BASE_ENV, recipes_of
from repro.machine import facts
from repro.machine.facts import Machine
from repro.record import Record, record_bytes
from repro.record.document import EngineUsed, Host, Observations
from repro.record.stage_files import ProbeFile
from repro.record.stages import Phase, Step
from repro.report import write_report
from repro.run import record
from repro.run.inputs import Checkpoint
from repro.run.request import graph_of

ROOT = Path(__file__).resolve().parents[2]
PATHS = Paths(ROOT)
SIZE, LOOP, CLASSES = 4, 120, 41
UNITS = [f"p{number:02}" for number in range(CLASSES - 2)]
TIMES_MS = [100.0 + number % 7 for number in range(LOOP)]


def _npy(values) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(values, dtype="<f4"))
    return stream.getvalue()


class _Speech:
    """Ten utterances with labels, and outputs of a network that is right most of the time."""

    def __init__(self):
        self.chance = random.Random(7)
        self.labels = {f"SPK{n}_SX{n}": [self.chance.choice(UNITS) for _ in range(8 + n)] for n in range(10)}
        self.entries, self.batches = [], {}
        for place, (name, phones) in enumerate(self.labels.items()):
            batch, row = divmod(place, SIZE)
            values = self.batches.setdefault(batch, np.full((195, SIZE, CLASSES), -9.0, dtype=np.float32))
            values[:, row, 0] = -0.5
            for at, phone in enumerate(phones):
                heard = self.chance.choice(UNITS) if self.chance.random() < 0.2 else phone
                values[3 * at + 1, row, 2 + UNITS.index(heard)] = -0.1
            self.entries.append(
                {"id": name, "batch": batch, "row": row, "stacked_frames": 120, "output_frames": 60}
            )  # fmt: skip

    def manifest(self):
        whole = len(self.entries) // SIZE
        return {
            "batch_size": SIZE, "split": "dev", "rows": 390, "columns": 243, "num_batches": whole,
            "num_tail_batches": len(self.batches) - whole, "utterances": self.entries, "excluded": [],
        }  # fmt: skip

    def folder(self, batch):
        return "result" if batch < len(self.entries) // SIZE else "tail"

    def language_model(self) -> bytes:
        from stages import lm
        from stages.formats import arpa

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lm_phone_bg.arpa"
            arpa.write(str(path), lm.estimate(list(self.labels.values())))
            return path.read_bytes()

    def phn_text(self) -> bytes:
        return "".join(f"{name} {' '.join(phones)}\n" for name, phones in self.labels.items()).encode()

    def arrays(self) -> dict[str, bytes]:
        return {f"{self.folder(n)}/inputs_{n}_0.npy": _npy(values) for n, values in self.batches.items()}

    def score(self, decode) -> dict[str, bytes]:
        """What the stage itself makes of it."""
        from stages import score

        inputs = {
            "outputs": self.arrays(),
            "batches": {"manifest.json": pretty_json(self.manifest())},
            "corpus": {"units": _lines(UNITS), "dev/phn_text": self.phn_text()},
            "lm": {"lm_phone_bg.arpa": self.language_model()},
            "out": {},
            "obs": {},
        }
        with tempfile.TemporaryDirectory() as name:
            words = ["--bs", str(SIZE), "--decode", decode]
            for option, files in inputs.items():
                place = Path(name) / option
                place.mkdir()
                words += [f"--{option}", str(place)]
                for path, data in files.items():
                    (place / path).parent.mkdir(exist_ok=True)
                    (place / path).write_bytes(data)
            score.main(words)
            return {path.name: path.read_bytes() for path in (Path(name) / "out").iterdir()}


def _lines(words) -> bytes:
    return ("\n".join(words) + "\n").encode()


def _outputs(speech: _Speech, decode: str) -> dict[str, dict[str, bytes]]:
    """What each stage wrote into out/."""
    phones = sum(map(len, speech.labels.values()))
    counts = {split: {"speakers": 1, "utterances": 10, "phones": phones} for split in ("train", "dev", "test")}
    summary = {
        "splits": counts, "excluded": [], "second_copies_ignored": 0,
        "timit": {"matches": False, "deviations": ["train: 1 speakers, TIMIT has 462"]},
    }  # fmt: skip
    pair = {
        "max_abs": 1e-5, "cosine": 1.0, "relative_euclidean": 1e-6, "kl": 1e-9, "rmse": 1e-6, "mean_relative": 1e-6,
        "symbols_changed": 0, "utterances": 10, "frames": 1950, "scored_frames": 600, "within_thresholds": True,
    }  # fmt: skip
    arrays = speech.arrays()
    probes = {
        "base": _probe("3.11.2", {"numpy": "1.26.4", "kaldiio": "2.18.1"}),
        "features": _probe("3.11.2", {"kaldi-native-fbank": "1.22"}),
        "exporter": _probe("3.9.2", {"torch": "1.8.0+cpu"}),
        "runtime": _probe("3.11.2", {"onnx": "1.19.1", "onnxruntime": "1.23.2"}),
    }
    return {
        "corpus": {
            "units": _lines(UNITS),
            "dev/phn_text": speech.phn_text(),
            "summary.json": pretty_json(summary),
        },
        "features": {"dev/fbank.ark": b"features"},
        "export": {"lstm_ctc.onnx": b"graph"},
        "lm": {"lm_phone_bg.arpa": speech.language_model()},
        f"batches@{SIZE}": {"manifest.json": pretty_json(speech.manifest()), "bins/inputs_0.bin": b"\0" * 16},
        f"convert@{SIZE}": {"model.onnx": b"converted"},
        f"infer@{SIZE}": arrays,
        f"reference@{SIZE}": arrays,
        f"score@{SIZE}": speech.score(decode),
        f"measure@{SIZE}": {"summary.json": pretty_json({"batch_size": SIZE, "loop": LOOP})},
        f"compare@{SIZE}": {
            "compare.json": pretty_json(
                {
                    "batch_size": SIZE, "formulas": {"max_abs": "max |a - b|"}, "within_thresholds": True,
                    "thresholds": {"at_least": {"cosine": 0.99}, "at_most": {"relative_euclidean": 0.05}},
                    **dict.fromkeys(("torch_onnx", "torch_converted", "onnx_converted"), pair),
                }
            )
        },
        **{f"probe:{name}": {"probe.json": pretty_json(found)} for name, found in probes.items()},
    }  # fmt: skip


def _probe(python: str, wheels: dict[str, str]):
    return {
        "python": python, "implementation": "CPython", "glibc": "2.36", "debs": {}, "wheels": wheels, "found": {},
        "simulator": False,
    }  # fmt: skip


def _measured() -> bytes:
    from stages import measure

    found = measure.statistics(TIMES_MS, SIZE)
    return pretty_json({**found, "threads": 2, "provider": "CPUExecutionProvider"})


def _images(blobs: Path, names, architecture: str):
    """Images as this checkout defines them, of layers whose bytes are a few words."""
    images = {}
    blobs.mkdir(parents=True, exist_ok=True)
    for name in names:
        definition = load_definition(PATHS.docker, name)
        layers = []
        for recipe in recipes_of(PATHS, name, architecture):
            data = f"the bytes of layer {recipe.name}".encode()
            digest = sha256_bytes(data)
            (blobs / digest).write_bytes(data)
            layers.append(
                Layer(recipe.name, recipe.definition.kind, f"sha256:{digest}", len(data), blobs / digest,
                      f"sha256:{recipe.lock.digest}")
            )  # fmt: skip
        env = {**BASE_ENV, **definition.env} if definition.python else dict(definition.env)
        images[name] = compute_image(name, architecture, layers, env, definition.python, definition.description)
    return images


def make_run(folder: Path, decode: str = "Greedy") -> Evidence:
    """A run below `folder`, with data and checkpoint beside it, as `open_run` reads it."""
    results, data, weights = folder / "results", folder / "TIMIT", folder / "weights.pth"
    data.mkdir(parents=True)
    (data / "README").write_text("a corpus")
    weights.write_bytes(b"weights")
    request = Request(batch_sizes=(SIZE,), data=data, checkpoint=weights, loop=LOOP, decode=decode)
    nodes = graph_of(request, PATHS)
    architecture = "amd64"
    images = _images(results / "blobs", sorted({node.stage.image for node in nodes.values()}), architecture)
    keys = Keys(Codes(ROOT, StatCache(None)), images, Machine("amd64 Maker avx2", "host-1 cpu"), StatCache(None))
    store = Store(results / "store", results / "tmp", StatCache(None))
    written, results_of, done = _outputs(_Speech(), decode), {}, {}
    for name, node in nodes.items():
        key = keys.key(node, results_of)
        work = store.workspace()
        for path, content in written[name].items():
            file = work.result / "out" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        if node.stage.name == "measure":
            (work.result / "obs" / "measure.json").write_bytes(_measured())
        observations = {"engine": "sandbox", "wall_s": 1.5, "limits": {"network": "enforced"}}
        leavings = take_in(name, work.result, None, node.stage.leaves, StatCache(None))
        result = store.publish(key, work, leavings, observations)
        work.close()
        results_of[name] = result
        done[name] = Done(node, result, False, 1.0, 1.5)
    assert all(isinstance(s, Output) or s.path.exists() for node in nodes.values() for s in node.inputs.values())
    probes = {name: read(written[f"probe:{name}"]["probe.json"], ProbeFile, what=name) for name in images}
    parts = record.Parts(
        request=request,
        toolchain_name="portable",
        data_kind="user",
        checkpoint=Checkpoint(weights, "user", sha256_file(weights), "trusted on first use"),
        images=images,
        toolchain=toolchain.compare(toolchain.load_components(PATHS.conf), probes, {}),
        engine=EngineUsed(name="sandbox", facts={"version": "1"}, limits={"network": "enforced"}, passed_over=()),
        host=Host(**{**facts.facts(), "architecture": architecture, "instruction_set": "amd64 Maker avx2"}),
        observations=Observations(
            started_at="2026-11-22T18:00:00Z", wall_s=20.0, layers=(), preparations=(),
            phases=(Phase(name="stages", started_s=1.0, seconds=19.0),),
            steps=tuple(Step(key=k, started_s=1.0, wall_s=1.5, cached=False) for k in nodes),
        ),
    )  # fmt: skip
    made = record.make_record(parts, done, load_published(PATHS.conf / "published.toml"))
    run = results / "runs" / "20261122T180000Z"
    run.mkdir(parents=True)
    write_record(run, json.loads(record_bytes(made)))
    return reopen(folder)


def write_record(run: Path, document) -> None:
    """The record and its reports; a forger draws the reports anew too."""
    (run / "record.json").write_bytes(pretty_json(document))
    write_report(msgspec.convert(document, Record), run)


def reopen(folder: Path) -> Evidence:
    """The run below `folder`, with nothing read yet; its layers lie in the folder too."""
    evidence = open_run(folder / "results" / "runs" / "20261122T180000Z", PATHS)
    evidence.blobs = folder / "results" / "blobs"
    return evidence


def times_of(evidence: Evidence) -> Path:
    """The raw times of the run."""
    stage = next(s for s in evidence.record["stages"] if s["name"] == "measure")
    return evidence.store / stage["fingerprint"][:2] / stage["fingerprint"] / "obs" / "measure.json"
