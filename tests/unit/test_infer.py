"""infer and measure on a small stand-in graph: files, summaries, refusals."""

import json
import os

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from _model_cases import write_batches, write_stand_in

from stages import _runtime, infer, measure
from stages._stage import StageError


@pytest.fixture
def case(tmp_path):
    values = np.random.RandomState(1).standard_normal((3, 2, 390, 243)).astype(np.float32)
    write_batches(tmp_path / "batches", values, 2, 1)
    (tmp_path / "model").mkdir()
    write_stand_in(tmp_path / "model" / "model.onnx", 2)
    for name in ("out", "obs"):
        (tmp_path / name).mkdir()
    return tmp_path, values


def _run(stage, folder, *arguments):
    stage.main(["--model", str(folder / "model"), *arguments, "--out", str(folder / "out"), "--obs",
                str(folder / "obs")])  # fmt: skip


def _infer(folder, batch_size=2):
    _run(infer, folder, "--batches", str(folder / "batches"), "--bs", str(batch_size))


def test_every_batch_has_its_output_under_the_name_of_ais_bench(case):
    folder, values = case
    _infer(folder)
    found = sorted(str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*.npy"))
    assert found == ["result/inputs_0_0.npy", "result/inputs_1_0.npy", "tail/inputs_2_0.npy"]
    for index, name in enumerate(found):
        output = np.load(str(folder / "out" / name))
        assert output.dtype == np.float32
        assert np.array_equal(output, values[index, :, :195, :41].transpose(1, 0, 2))


def test_the_summaries_are_observations_and_account_for_every_file(case):
    folder, _ = case
    _infer(folder)
    assert sorted(os.listdir(str(folder / "obs"))) == ["result_summary.json", "tail_summary.json"]
    summary = json.loads((folder / "obs" / "result_summary.json").read_text())
    assert summary["NPU_compute_time"]["count"] == len(summary["npu_compute_time_list"]) == 2
    assert [os.path.basename(item["infiles"][0]) for _, item in sorted(summary["filesinfo"].items())] == [
        "inputs_0.bin", "inputs_1.bin",
    ]  # fmt: skip
    assert summary["throughput"] == pytest.approx(1000 * 2 / summary["NPU_compute_time"]["mean"])


def test_outputs_do_not_change_with_the_place_or_the_time(case):
    folder, _ = case
    _infer(folder)
    first = {path.name: path.read_bytes() for path in (folder / "out").rglob("*.npy")}
    for path in (folder / "out").rglob("*.npy"):
        path.unlink()
    for name in ("result", "tail"):
        (folder / "out" / name).rmdir()
    _infer(folder)
    assert {path.name: path.read_bytes() for path in (folder / "out").rglob("*.npy")} == first


def test_a_truncated_batch_is_refused_by_name(case):
    folder, _ = case
    os.truncate(str(folder / "batches" / "bins" / "inputs_1.bin"), 1000)
    with pytest.raises(StageError, match=r"inputs_1\.bin: arg0 tensorsize: 758160 filesize: 1000 not match"):
        _infer(folder)


def test_a_model_of_another_batch_size_is_refused(case):
    folder, _ = case
    write_stand_in(folder / "model" / "model.onnx", 4)
    with pytest.raises(StageError, match="batches of 4, not 2"):
        _infer(folder)


@pytest.mark.parametrize("text", ["0", "-1", "x"])
def test_a_batch_size_that_is_none_is_a_usage_error(case, text):
    with pytest.raises(SystemExit) as ended:
        _infer(case[0], text)
    assert ended.value.code == 2


def test_a_file_that_is_no_model_is_refused(case):
    folder, _ = case
    (folder / "model" / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(StageError, match="cannot load"):
        _infer(folder)


def test_measure_writes_times_as_observations_only(case):
    folder, _ = case
    _run(measure, folder, "--bs", "2", "--loop", "7")
    result = json.loads((folder / "obs" / "measure.json").read_text())
    assert (result["loop"], len(result["times_ms"])) == (7, 7)
    assert result["throughput_utterances_per_s"] == pytest.approx(1000 * 2 / np.mean(result["times_ms"]))
    assert result["threads"] == _runtime.available_threads()
    summary = (folder / "out" / "summary.json").read_text()
    assert 'ms"' not in summary
    assert json.loads(summary)["loop"] == 7


def test_measure_refuses_a_batch_size_that_is_not_the_models(case):
    with pytest.raises(StageError, match="batches of 2, not 64"):
        _run(measure, case[0], "--bs", "64", "--loop", "1")
