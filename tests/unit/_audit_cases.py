"""A small run as `invoke reproduce` leaves it, made without containers: real keys, digests, images and scores."""

from __future__ import annotations

import io
import json
import random
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from repro.audit.claims import Outcome
from repro.audit.evidence import Evidence, examine_record, open_run
from repro.audit.verify import examine_run
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
from repro.images.layers.tree import Tree, tar_chunks
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
from stages import measure
from stages.formats import bins

ROOT = Path(__file__).resolve().parents[2]
PATHS = Paths(ROOT)
SIZE, LOOP, CLASSES = 4, 120, 41
UNITS = [
    "aa", "ae", "ah", "aw", "ay", "b", "ch", "d", "dh", "dx", "eh", "er", "ey", "f", "g", "hh", "ih", "iy", "jh", "k",
    "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "sil", "t", "th", "uh", "uw", "v", "w", "y", "z",
]  # fmt: skip
TIMES_MS = [100.0 + number % 7 for number in range(LOOP)]
WALL_S = 14.0
RUN = "20261122T180000Z"
SPEAKERS = {"train": "TRAIN/DR1/MTRN0", "dev": "TEST/DR1/FAKS0", "test": "TEST/DR1/MDAB0"}
PYTHONS = {"debs:base": ("python3.11", "3.11.2"), "debs:exporter": ("python3.9", "3.9.2")}
WHEELS = {
    "wheels:base": {"numpy": "1.26.4", "kaldiio": "2.18.1"},
    "wheels:features": {"kaldi-native-fbank": "1.22"},
    "wheels:exporter": {"torch": "1.8.0+cpu"},
    "wheels:runtime": {"onnx": "1.19.1", "onnxruntime": "1.23.2"},
}


def _npy(values) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(values, dtype="<f4"))
    return stream.getvalue()


class _Speech:
    """Ten utterances with labels, and outputs of a network that is right most of the time."""

    def __init__(self):
        self.chance = random.Random(7)
        self.labels = {f"FAKS0_SX{n}": [self.chance.choice(UNITS) for _ in range(8 + n)] for n in range(10)}
        self.train = {"MTRN0_SX1": UNITS, "MTRN0_SX2": UNITS[::-1]}
        self.test = {"MDAB0_SX1": UNITS[:9]}
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

    def phn_text(self, split: str = "dev") -> bytes:
        return "".join(f"{name} {' '.join(phones)}\n" for name, phones in self.split(split).items()).encode()

    def split(self, name: str) -> dict[str, list[str]]:
        return {"train": self.train, "dev": self.labels, "test": self.test}[name]

    def write_data(self, folder: Path) -> None:
        """A data set in TIMIT's layout whose .PHN files give these labels."""
        for split, place in SPEAKERS.items():
            (folder / place).mkdir(parents=True)
            for name, phones in self.split(split).items():
                stem = folder / place / name.partition("_")[2]
                lines = [f"{100 * at} {100 * at + 100} {'h#' if p == 'sil' else p}" for at, p in enumerate(phones)]
                stem.with_suffix(".PHN").write_text("\n".join([*lines, "9000 9100 q"]) + "\n")
        (folder / "TRAIN" / "DR1" / "MTRN0" / "SA1.PHN").write_text("0 100 aa\n")
        (folder / "README").write_text("a corpus")

    def moved(self, by: float) -> dict[int, np.ndarray]:
        """Outputs of another implementation: a little apart."""
        steps = np.arange(CLASSES, dtype=np.float32) * np.float32(by)
        return {number: (values - steps).astype(np.float32) for number, values in self.batches.items()}

    def arrays(self, by: float = 0.0) -> dict[str, bytes]:
        return {f"{self.folder(n)}/inputs_{n}_0.npy": _npy(values) for n, values in self.moved(by).items()}

    def compare(self) -> dict[str, object]:
        """What the stage `compare` makes of PyTorch's, the exported and the converted network's outputs."""
        from stages import compare

        outputs = {"torch": self.moved(1e-6), "onnx": self.moved(3e-6), "converted": self.moved(0.0)}
        pairs = {}
        for name in ("torch_onnx", "torch_converted", "onnx_converted"):
            agreement = compare.Agreement()
            first, _, second = name.partition("_")
            for entry in self.entries:
                one, two = (outputs[side][entry["batch"]][:, entry["row"]] for side in (first, second))
                agreement.add(one, two, entry["output_frames"])
            pairs[name] = agreement.result()
        return {
            **pairs, "batch_size": SIZE, "formulas": compare.FORMULAS, "within_thresholds": True,
            "thresholds": {"at_least": compare.MINIMA, "at_most": compare.MAXIMA},
        }  # fmt: skip

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


def _probe(layers) -> dict[str, object]:
    """What the stage `probe` finds in an image of these layers."""
    python, version = next(PYTHONS[name] for name in layers if name in PYTHONS)
    wheels = {name: found for layer in layers for name, found in WHEELS.get(layer, {}).items()}
    return {
        "python": version, "implementation": "CPython", "glibc": "2.36", "wheels": wheels,
        "debs": _debs(python, version), "found": {}, "simulator": False,
    }  # fmt: skip


def _debs(python: str, version: str) -> dict[str, str]:
    return {f"{python}-minimal": f"{version}-6+deb12u6", "libc6": "2.36-9+deb12u10"}


def _layer_tar(name: str) -> bytes:
    """A layer that holds package databases and nothing else."""
    with tempfile.TemporaryDirectory() as contents:
        tree = Tree(Path(contents))
        if name in PYTHONS:
            python, version = PYTHONS[name]
            status = "".join(f"Package: {deb}\nVersion: {v}\n\n" for deb, v in _debs(python, version).items())
            tree.file("var/lib/dpkg/status", status.encode())
            tree.symlink("usr/bin/python3", python)
        for wheel, version in WHEELS.get(name, {}).items():
            tree.folder(f"usr/lib/python3/dist-packages/{wheel.replace('-', '_')}-{version}.dist-info")
        return b"".join(tar_chunks(tree.members()))


def _summary(speech: _Speech) -> dict[str, object]:
    counts = {
        split: {"speakers": 1, "utterances": len(found), "phones": sum(map(len, found.values()))}
        for split in SPEAKERS
        for found in [speech.split(split)]
    }
    timit = json.loads((ROOT / "conf" / "timit" / "counts.json").read_bytes())
    deviations = [
        f"{split}: {counts[split][what]} {what}, TIMIT has {number}"
        for split in SPEAKERS
        for what, number in sorted(timit[split].items())
    ]
    return {
        "splits": counts, "excluded": [], "second_copies_ignored": 0,
        "timit": {"matches": False, "deviations": deviations},
    }  # fmt: skip


def _outputs(speech: _Speech, decode: str, images) -> dict[str, dict[str, bytes]]:
    """What each stage wrote into out/."""
    corpus = {f"{split}/phn_text": speech.phn_text(split) for split in SPEAKERS}
    model = b"converted"
    return {
        "corpus": {"units": _lines(UNITS), "summary.json": pretty_json(_summary(speech)), **corpus},
        "features": {
            "dev/fbank.ark": _ark(np.arange(12, dtype="<f4").reshape(4, 3)),
            "global_fbank_cmvn.txt": b" [\n 2400000 10 400\n 9e9 20 0 ]\n",
        },
        "export": {"lstm_ctc.onnx": b"graph"},
        "lm": {"lm_phone_bg.arpa": speech.language_model()},
        f"batches@{SIZE}": {"manifest.json": pretty_json(speech.manifest()), "bins/inputs_0.bin": b"\0" * 16},
        f"convert@{SIZE}": {"model.onnx": model},
        f"infer@{SIZE}": speech.arrays(),
        f"reference@{SIZE}": speech.arrays(1e-6),
        f"score@{SIZE}": speech.score(decode),
        f"measure@{SIZE}": {
            "summary.json": pretty_json(
                {"batch_size": SIZE, "loop": LOOP, "formula": measure.FORMULA, "input": "zeros", "warm_ups": 1,
                 "model_sha256": sha256_bytes(model)}
            )
        },
        f"compare@{SIZE}": {"compare.json": pretty_json(speech.compare())},
        **{
            f"probe:{name}": {"probe.json": pretty_json(_probe([layer.name for layer in image.layers]))}
            for name, image in images.items()
        },
    }  # fmt: skip


def _ark(values) -> bytes:
    rows, columns = (number.to_bytes(4, "little") for number in values.shape)
    return b"ID \0BFM \4" + rows + b"\4" + columns + values.tobytes()


def _observed() -> dict[str, dict[str, bytes]]:
    """What stages wrote into obs/."""
    found = {**measure.statistics(TIMES_MS, SIZE), "threads": 2, "provider": "CPUExecutionProvider"}
    spent = bins.summary(["in"] * 3, ["out"] * 3, [200.0] * 3, SIZE, ["--bs", str(SIZE)])
    return {
        f"measure@{SIZE}": {
            "measure.json": pretty_json(found),
            "sustained.json": pretty_json(measure.sustained([TIMES_MS], SIZE)),
        },
        f"infer@{SIZE}": {"result_summary.json": pretty_json({**spent, "pid": 1})},
    }


def _images(blobs: Path, names, architecture: str):
    """Images as this checkout defines them, of layers whose bytes are a few words."""
    images = {}
    blobs.mkdir(parents=True, exist_ok=True)
    for name in names:
        definition = load_definition(PATHS.docker, name)
        layers = []
        for recipe in recipes_of(PATHS, name, architecture):
            data = _layer_tar(recipe.name)
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
    speech = _Speech()
    speech.write_data(data)
    weights.write_bytes(b"weights")
    request = Request(batch_sizes=(SIZE,), data=data, checkpoint=weights, loop=LOOP, decode=decode)
    nodes = graph_of(request, PATHS)
    architecture = "amd64"
    images = _images(results / "blobs", sorted({node.stage.image for node in nodes.values()}), architecture)
    keys = Keys(Codes(ROOT, StatCache(None)), images, Machine("amd64 Maker avx2", "host-1 cpu"), StatCache(None))
    store = Store(results / "store", results / "tmp", StatCache(None))
    written, observed, results_of, done = _outputs(speech, decode, images), _observed(), {}, {}
    for name, node in nodes.items():
        key = keys.key(node, results_of)
        work = store.workspace()
        for part, files in (("out", written[name]), ("obs", observed.get(name, {}))):
            for path, content in files.items():
                file = work.result / part / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        observations = {"engine": "sandbox", "wall_s": WALL_S, "limits": {"network": "enforced"}}
        leavings = take_in(name, work.result, (), node.stage.leaves, StatCache(None))
        result = store.publish(key, work, leavings, observations)
        work.close()
        results_of[name] = result
        done[name] = Done(node, result, False, 1.0, WALL_S + 0.2)
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
            steps=tuple(Step(key=k, started_s=1.0, wall_s=WALL_S + 0.2, cached=False) for k in nodes),
        ),
    )  # fmt: skip
    made = record.make_record(parts, done, load_published(PATHS.conf / "published.toml"))
    run = results / "runs" / RUN
    run.mkdir(parents=True)
    write_record(run, json.loads(record_bytes(made)))
    return reopen(folder)


def make_readable_run(folder: Path) -> Path:
    """A run that other users may read, as a finished one is; tests change copies of it."""
    make_run(folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def write_record(run: Path, document) -> None:
    """The record and its reports; a forger draws the reports anew too."""
    (run / "record.json").write_bytes(pretty_json(document))
    write_report(msgspec.convert(document, Record), run)


def reopen(folder: Path) -> Evidence:
    """The run below `folder`, with nothing read yet; its layers lie in the folder too."""
    evidence = open_run(folder / "results" / "runs" / RUN, PATHS)
    evidence.blobs, evidence.trees = folder / "results" / "blobs", folder / "results" / "trees"
    return evidence


def audit(folder: Path, data: Path | None = None, checkpoint: Path | None = None) -> Outcome:
    """What `audit.verify` finds of the run below `folder`, whatever its record holds."""
    outcome = Outcome("verify", "a run")
    run = folder / "results" / "runs" / RUN
    evidence = examine_record(outcome, run, PATHS)
    if evidence is not None:
        evidence.blobs, evidence.trees = folder / "results" / "blobs", folder / "results" / "trees"
        examine_run(outcome, evidence, data, checkpoint)
    return outcome


def document_of(evidence: Evidence):
    """The record as plain values, to change."""
    return json.loads(evidence.raw)


def stage_of(document, key: str):
    """The entry of a stage in a plain record."""
    return next(stage for stage in document["stages"] if stage["key"] == key)


def stored(folder: Path, key: str) -> Path:
    """Where a stage's stored result lies."""
    evidence = reopen(folder)
    fingerprint = evidence.stage(key).fingerprint
    return evidence.store / fingerprint[:2] / fingerprint


def times_of(folder: Path) -> Path:
    """The raw times of the run."""
    return stored(folder, f"measure@{SIZE}") / "obs" / "measure.json"
