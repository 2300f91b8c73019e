"""The exported file: deterministic, and what the summary says of it."""

import hashlib
import json

import pytest

torch = pytest.importorskip("torch")

from _model_cases import golden_weights

from stages import export

pytestmark = pytest.mark.skipif(
    not torch.__version__.startswith("1.8."), reason="the guide's exporter is that of PyTorch 1.8"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "golden.pth"
    state = {name: torch.from_numpy(array) for name, array in golden_weights().items()}
    torch.save({"state_dict": state}, str(path))
    return str(path)


def _export(checkpoint, folder):
    for name in ("out", "obs"):
        (folder / name).mkdir(parents=True)
    export.main(["--checkpoint", checkpoint, "--out", str(folder / "out"), "--obs", str(folder / "obs")])
    return folder / "out"


def test_export_twice_gives_the_same_bytes_whatever_the_place(tmp_path, checkpoint):
    first = _export(checkpoint, tmp_path / "a")
    second = _export(checkpoint, tmp_path / "another-place")
    assert sorted(path.name for path in first.iterdir()) == ["lstm_ctc.onnx", "summary.json"]
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
    assert not list((tmp_path / "a" / "obs").iterdir())


def test_summary_says_what_was_checked(tmp_path, checkpoint):
    out = _export(checkpoint, tmp_path)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["parameters"] == 17840352
    assert summary["opset"] == 11
    assert summary["input"] == {"name": "actual_input_1", "shape": ["-1", 390, 243]}
    assert summary["output"] == {"name": "output1", "shape": [195, "-1", 41]}
    assert summary["sha256"] == hashlib.sha256((out / "lstm_ctc.onnx").read_bytes()).hexdigest()
