"""The reference stage: PyTorch's outputs for the batches, under the same names as those of infer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from _model_cases import golden_weights, parity, write_batches

from stages import reference


def test_reference_writes_the_golden_output_for_batch_and_tail(tmp_path):
    rows, expected = parity()
    write_batches(tmp_path / "batches", np.stack([rows, rows[::-1]]), 1, 1)
    torch.save(
        {"state_dict": {name: torch.from_numpy(array) for name, array in golden_weights().items()}},
        str(tmp_path / "a.pth"),
    )
    for name in ("out", "obs"):
        (tmp_path / name).mkdir()
    reference.main(
        ["--checkpoint", str(tmp_path / "a.pth"), "--batches", str(tmp_path / "batches"),
         "--out", str(tmp_path / "out"), "--obs", str(tmp_path / "obs")]
    )  # fmt: skip
    first = np.load(str(tmp_path / "out" / "result" / "inputs_0_0.npy"))
    second = np.load(str(tmp_path / "out" / "tail" / "inputs_1_0.npy"))
    assert first.dtype == np.float32
    assert np.abs(first - expected).max() <= 2e-5
    assert np.abs(second - expected[:, ::-1]).max() <= 2e-5
    assert list((tmp_path / "obs").iterdir()) == []
