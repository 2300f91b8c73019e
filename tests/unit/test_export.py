"""The exported file: the same bytes on every processor, near what PyTorch itself exports, and as the summary says."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from _model_cases import golden_weights

from stages import export
from stages.formats import onnx_tensors
from stages.model import checkpoint as checkpoints
from stages.model import folding
from stages.shared.stage import StageError

DEMO = Path(__file__).resolve().parents[2] / "data" / "demo" / "checkpoint.pth"
# What PyTorch 1.8.0 itself writes where its square roots are rounded correctly: seen on an AMD with MKL on its Intel
# path, and on an emulated Neoverse N1. By itself PyTorch writes 7cf063e2… on that AMD.
DEMO_SHA256 = "ee258aeb767db26c5f179032f64aa1930f690adb7908bf6e79a8596b6bd8d1fe"

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
    assert [path.name for path in (tmp_path / "a" / "obs").iterdir()] == [export.OBSERVATION]


def test_a_stage_of_one_core_takes_no_more(tmp_path, checkpoint):
    """PyTorch's idle threads wait at work: beside two stages an export took 21 s, and takes 4."""
    torch.set_num_threads(2)
    _export(checkpoint, tmp_path)
    assert torch.get_num_threads() == 1


def test_the_demo_s_export_is_what_correct_rounding_gives(tmp_path):
    out = _export(str(DEMO), tmp_path)
    assert hashlib.sha256((out / "lstm_ctc.onnx").read_bytes()).hexdigest() == DEMO_SHA256
    observed = json.loads((tmp_path / "obs" / export.OBSERVATION).read_text())
    assert sorted(observed["from_ours"]) == ["conv0.bias", "conv0.weight", "conv1.bias", "conv1.weight"]
    assert all(each["max_units"] <= 2 for each in observed["from_ours"].values()), observed
    differing = sum(each["differing"] for each in observed["from_ours"].values())
    assert (observed["sha256"] == DEMO_SHA256) == (differing == 0)


@pytest.fixture(scope="module")
def both(checkpoint):
    """(weights, our export, PyTorch's own)."""
    weights = checkpoints.load_weights(checkpoint)
    model = checkpoints.model_of(weights)
    theirs = export.exported(model)
    return weights, export.export_folded(model, weights), theirs


def _changed(data, tensor, value, add):
    """`data` with the first value of a tensor moved by `add`."""
    at = tensor.start
    moved = np.frombuffer(data[at : at + 4], "<f4")[0] + np.float32(add)
    assert np.frombuffer(data[at : at + 4], "<f4")[0] == value.ravel()[0]
    return data[:at] + np.float32(moved).tobytes() + data[at + 4 :]


def test_a_fold_of_pytorch_s_that_is_far_from_ours_is_refused(both):
    weights, ours, theirs = both
    assert export.differences(ours, theirs, weights)
    value = folding.fold(weights, 1).weight
    place = next(each for each in onnx_tensors.tensors(ours) if ours[each.start : each.stop] == value.tobytes())
    moved = _changed(ours, place, value, 8 * np.spacing(value.ravel()[0]))
    with pytest.raises(StageError, match=r"folds conv1\.weight otherwise: 8 units"):
        export.differences(ours, moved, weights)


def test_a_difference_outside_the_folded_weights_is_refused(both):
    weights, ours, theirs = both
    place = next(each for each in onnx_tensors.tensors(ours) if each.stop - each.start > 1 << 20)
    other = bytearray(theirs)
    other[place.start] ^= 1
    with pytest.raises(StageError, match="more than the folded weights"):
        export.differences(ours, bytes(other), weights)


def test_summary_says_what_was_checked(tmp_path, checkpoint):
    out = _export(checkpoint, tmp_path)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["parameters"] == 17840352
    assert summary["opset"] == 11
    assert summary["input"] == {"name": "actual_input_1", "shape": ["-1", 390, 243]}
    assert summary["output"] == {"name": "output1", "shape": [195, "-1", 41]}
    assert summary["sha256"] == hashlib.sha256((out / "lstm_ctc.onnx").read_bytes()).hexdigest()
