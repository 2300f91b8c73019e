"""Fidelity in the real images: golden's features, bins and model, through the containers that users run."""

from __future__ import annotations

import json
from pathlib import Path

import kaldiio
import numpy as np
import onnxruntime
import pytest
from _runs import GOLDEN, QUICK, ROOT, run

from repro.base.files import sha256_file
from repro.base.paths import Paths
from repro.container.job import Job, Mount
from repro.display.console import Console
from repro.graph.pipeline import STAGES, Node, Output, Source
from repro.run.session import Session

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def session(results: Path) -> Session:
    return Session(Paths(ROOT, results), Console())


def run_nodes(session: Session, nodes: dict[str, Node]) -> dict[str, Path]:
    choice = session.engine("sandbox", fetch=True)
    images = session.images({node.stage.image for node in nodes.values()}, fetch=True)
    done = session.runner(choice.engine, session.keys(images)).run(nodes)
    return {key: item.result.out for key, item in done.items()}


def test_features_equal_kaldi_s_with_its_dither(results: Path):
    done = run(results, "stage.features", *QUICK, "--engine", "sandbox")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    for split in ("train", "dev", "test"):
        ours = dict(kaldiio.load_ark(str(folder / split / "fbank.ark")))
        theirs = dict(kaldiio.load_ark(str(GOLDEN / "data" / split / "fbank.ark")))
        assert list(ours) == list(theirs)
        differences = np.concatenate([np.abs(ours[name] - theirs[name]).ravel() for name in ours])
        assert differences.max() <= 5e-3, split
        assert differences.mean() <= 1e-5, split


@pytest.mark.parametrize("size", [1, 4, 8])
def test_bins_made_from_golden_s_features_are_golden_s_bytes(session: Session, results: Path, size: int):
    corpus = Node(
        "corpus",
        STAGES["corpus"],
        {"data": Source("data", GOLDEN / "TIMIT"), "conf": Source("conf", ROOT / "conf" / "timit")},
    )
    features = _golden_features(results / "golden-features")
    bins = Node(
        "batches",
        STAGES["batches"],
        {"features": Source("features", features), "corpus": Output("corpus")},
        {"bs": str(size), "split": "dev"},
    )
    folder = run_nodes(session, {"corpus": corpus, "batches": bins})["batches"]
    expected = json.loads((GOLDEN / "bins.json").read_bytes())[str(size)]
    found = {path.name: sha256_file(path) for path in (folder / "bins").iterdir()}
    assert found == {name: item["sha256"] for name, item in expected.items()}


def _golden_features(folder: Path) -> Path:
    """Golden's archives with an index beside each, as the features stage lays them out."""
    for split in ("train", "dev", "test"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        data = (GOLDEN / "data" / split / "fbank.ark").read_bytes()
        (folder / split / "fbank.ark").write_bytes(data)
        lines = []
        names = [line.split()[0] for line in (GOLDEN / "data" / split / "utterances").read_text().splitlines()]
        position = 0
        for name in names:
            position = data.index(name.encode() + b" \0B", position) + len(name) + 1
            lines.append(f"{name} {split}/fbank.ark:{position}\n")
        (folder / split / "fbank.scp").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def parity_checkpoint(session: Session, tmp_path_factory) -> Path:
    """Golden's parity weights, saved by the exporter image's own torch."""
    out = tmp_path_factory.mktemp("checkpoint")
    image = session.images({"exporter"}, fetch=True)["exporter"]
    engine = session.engine("sandbox", fetch=True).engine
    engine.prepare(image)
    job = Job(
        image,
        ("/usr/bin/python3", "/run/in/script/_parity_checkpoint.py", "/run/in/model/state_dict.json",
         "/run/out/parity.pth"),
        mounts=(Mount(HERE, "/run/in/script"), Mount(GOLDEN / "model", "/run/in/model"), Mount(out, "/run/out", True)),
        name="parity",
    )  # fmt: skip
    lines: list[str] = []
    outcome = engine.run(job, lambda _, line: lines.append(line))
    assert outcome.exit_code == 0, "\n".join(lines)
    return out / "parity.pth"


def _parity_batches(folder: Path, inputs: np.ndarray) -> Path:
    size = inputs.shape[0]
    (folder / "bins").mkdir(parents=True)
    (folder / "tail").mkdir()
    inputs.astype("<f4").tofile(folder / "bins" / "inputs_0.bin")
    manifest = {
        "batch_size": size, "split": "dev", "rows": 390, "columns": 243, "num_batches": 1, "num_tail_batches": 0,
        "excluded": [],
        "utterances": [
            {"id": f"U{row}", "batch": 0, "row": row, "stacked_frames": 390, "output_frames": 195}
            for row in range(size)
        ],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_model_equals_the_reference_s_in_torch_in_onnx_and_converted(
    session: Session, parity_checkpoint: Path, tmp_path: Path
):
    golden = np.load(GOLDEN / "model" / "parity.npz")
    batches = Source("batches", _parity_batches(tmp_path / "batches", golden["input"]))
    checkpoint = Source("checkpoint", parity_checkpoint)
    out = run_nodes(
        session,
        {
            "export": Node("export", STAGES["export"], {"checkpoint": checkpoint}),
            "reference": Node("reference", STAGES["reference"], {"checkpoint": checkpoint, "batches": batches}),
            "convert": Node("convert", STAGES["convert"], {"onnx": Output("export")}, {"bs": "2"}),
            "infer": Node("infer", STAGES["infer"], {"model": Output("convert"), "batches": batches}, {"bs": "2"}),
        },
    )
    torch_output = np.load(out["reference"] / "result" / "inputs_0_0.npy")
    onnx = onnxruntime.InferenceSession(str(out["export"] / "lstm_ctc.onnx"), providers=["CPUExecutionProvider"])
    assert [item.name for item in onnx.get_inputs()] == ["actual_input_1"]
    assert [item.name for item in onnx.get_outputs()] == ["output1"]
    onnx_output = onnx.run(None, {"actual_input_1": golden["input"].astype(np.float32)})[0]
    converted = np.load(out["infer"] / "result" / "inputs_0_0.npy")
    assert np.abs(torch_output - golden["output"]).max() <= 2e-5
    assert np.abs(onnx_output - golden["output"]).max() <= 2e-5
    assert np.abs(onnx_output - torch_output).max() <= 2e-5
    assert np.abs(converted - golden["output"]).max() <= 5e-5
