"""infer and measure on the golden weights: files, summaries, the reference's outputs, refusals."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("llvmlite")

from _model_cases import golden_weights, parity, write_batches, write_converted
from _stage_cases import progress_of

from stages import infer, measure
from stages.model import network
from stages.shared import runtime_arguments
from stages.shared.stage import StageError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_converted(folder / "model.onnx", golden_weights(), 2)
    return folder


@pytest.fixture
def case(model, tmp_path):
    rows, _ = parity()
    values = np.stack([rows, rows[::-1], np.zeros_like(rows)])
    write_batches(tmp_path / "batches", values, 2, 1)
    os.symlink(str(model), str(tmp_path / "model"))
    for name in ("out", "obs"):
        (tmp_path / name).mkdir()
    return tmp_path, values


def _run(stage, folder, *arguments):
    stage.main(["--model", str(folder / "model"), *arguments, "--out", str(folder / "out"), "--obs",
                str(folder / "obs")])  # fmt: skip


def _infer(folder, batch_size=2):
    _run(infer, folder, "--batches", str(folder / "batches"), "--bs", str(batch_size))


def test_every_batch_has_its_output_under_the_name_of_ais_bench(case):
    folder, _ = case
    _infer(folder)
    found = sorted(str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*.npy"))
    assert found == ["result/inputs_0_0.npy", "result/inputs_1_0.npy", "tail/inputs_2_0.npy"]
    _, expected = parity()
    outputs = [np.load(str(folder / "out" / name)) for name in found]
    assert {output.dtype for output in outputs} == {np.dtype("float32")}
    assert np.abs(outputs[0] - expected).max() <= 2e-5
    assert np.array_equal(outputs[1], outputs[0][:, ::-1])


def test_the_summaries_are_observations_and_account_for_every_file(case):
    folder, _ = case
    _infer(folder)
    assert sorted(os.listdir(str(folder / "obs"))) == ["result_summary.json", "tail_summary.json"]
    summary = json.loads((folder / "obs" / "result_summary.json").read_text())
    assert summary["NPU_compute_time"]["count"] == len(summary["npu_compute_time_list"]) == 2
    assert [os.path.basename(item["infiles"][0]) for _, item in sorted(summary["filesinfo"].items())] == [
        "inputs_0.bin", "inputs_1.bin",
    ]  # fmt: skip
    expected = 1000 * 2 * summary["streams"] / summary["NPU_compute_time"]["mean"]
    assert summary["throughput"] == pytest.approx(expected)


def test_each_summary_is_of_its_own_files_with_paths_times_and_the_words_of_the_command_line(case, monkeypatch):
    folder, _ = case
    told = progress_of(infer.stage, monkeypatch)
    monkeypatch.setattr(network, "available_threads", lambda: 5)
    _infer(folder)
    assert told == [("infer", 3), 1, 1, 1]
    words = ["--batches", str(folder / "batches"), "--bs", "2"]
    words = ["--model", str(folder / "model"), *words, "--out", str(folder / "out"), "--obs", str(folder / "obs")]
    for name, source, numbers in (("result", "bins", [0, 1]), ("tail", "tail", [2])):
        summary = json.loads((folder / "obs" / f"{name}_summary.json").read_text())
        assert summary["args"] == ["stages.infer", *words]
        assert summary["filesinfo"] == {
            str(index): {
                "infiles": [str(folder / "batches" / source / f"inputs_{number}.bin")],
                "outfiles": [str(folder / "out" / name / f"inputs_{number}_0.npy")],
            }
            for index, number in enumerate(numbers)
        }
        assert len(summary["npu_compute_time_list"]) == len(numbers) == summary["NPU_compute_time"]["count"]
        assert min(summary["npu_compute_time_list"]) > 0
        assert 1 <= summary["streams"] <= 3, "no more side by side than there are batches"


def test_without_a_tail_there_is_no_summary_of_one(case):
    folder, values = case
    shutil.rmtree(str(folder / "batches"))
    write_batches(folder / "batches", values[:2], 2, 0)
    _infer(folder)
    assert [os.listdir(str(folder / name)) for name in ("obs", "out")] == [["result_summary.json"], ["result"]]


def test_a_network_that_fails_is_free_for_the_next_batch(case):
    folder, values = case
    (folder / "out" / "result").mkdir()
    batches = [
        infer.bins.Batch(str(folder / "batches" / "bins" / f"inputs_{number}.bin"), "result") for number in (0, 1)
    ]
    calls = []

    class Failing:
        def run(self, rows):
            calls.append(rows)
            if len(calls) == 1:
                raise MemoryError
            return np.zeros((195, 2, 41), np.float32)

    streams = infer._Streams([Failing()], str(folder / "out"), 2)
    with pytest.raises(MemoryError):
        streams.run(batches[0])
    assert streams.run(batches[1]).batch is batches[1]
    assert np.array_equal(calls, values[:2])


def test_no_more_than_one_batch_per_network_and_one_more_are_held(case, monkeypatch):
    """Of the workers' pool and of how far it runs ahead, what it was asked for."""
    folder, _ = case
    asked = []
    monkeypatch.setattr(network, "available_threads", lambda: 2)
    pool, ahead = infer.concurrent.futures.ThreadPoolExecutor, infer.in_order

    def in_order(workers, function, items, held):
        asked.append((workers._max_workers, held))
        return ahead(workers, function, items, held)

    monkeypatch.setattr(infer.concurrent.futures, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(infer, "in_order", in_order)
    _infer(folder)
    streams = json.loads((folder / "obs" / "result_summary.json").read_text())["streams"]
    assert asked == [(streams + 1, 2 * (streams + 1))]


@pytest.mark.parametrize("stage", [infer, measure])
def test_the_precision_that_is_asked_for_is_the_one_that_is_opened(case, monkeypatch, stage):
    folder, _ = case
    opened = []

    def open_network(path, precision):
        opened.append((path, precision))
        raise StageError("enough seen")

    monkeypatch.setattr(stage.precision, "open_network", open_network)
    words = ["--batches", str(folder / "batches")] if stage is infer else []
    with pytest.raises(StageError, match="enough seen"):
        _run(stage, folder, *words, "--bs", "2", "--precision", "bf16")
    assert opened == [(str(folder / "model" / "model.onnx"), "bf16")]


def test_outputs_do_not_change_with_the_number_of_cores(case, monkeypatch):
    folder, _ = case
    _infer(folder)
    first = {path.name: path.read_bytes() for path in (folder / "out").rglob("*.npy")}
    shutil.rmtree(str(folder / "out"))
    (folder / "out").mkdir()
    monkeypatch.setattr(network, "available_threads", lambda: 5)
    _infer(folder)
    assert {path.name: path.read_bytes() for path in (folder / "out").rglob("*.npy")} == first


def test_a_truncated_batch_is_refused_by_name(case):
    folder, _ = case
    os.truncate(str(folder / "batches" / "bins" / "inputs_1.bin"), 1000)
    with pytest.raises(StageError, match=r"inputs_1\.bin: arg0 tensorsize: 758160 filesize: 1000 not match"):
        _infer(folder)


def test_a_model_of_another_batch_size_is_refused(case, tmp_path):
    folder, _ = case
    manifest = json.loads((folder / "batches" / "manifest.json").read_text())
    (folder / "batches" / "manifest.json").write_text(json.dumps(dict(manifest, batch_size=4)))
    with pytest.raises(StageError, match="batches of 2, not 4"):
        _infer(folder, 4)


@pytest.mark.parametrize("text", ["0", "-1", "x"])
def test_a_batch_size_that_is_none_is_a_usage_error(case, text):
    with pytest.raises(SystemExit) as ended:
        _infer(case[0], text)
    assert ended.value.code == 2


def test_a_file_that_is_no_model_is_refused(case):
    folder, _ = case
    (folder / "model").unlink()
    (folder / "model").mkdir()
    (folder / "model" / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(StageError, match="is not a valid ONNX model"):
        _infer(folder)


def test_measure_writes_times_as_observations_only(case):
    folder, _ = case
    _run(measure, folder, "--bs", "2", "--loop", "7")
    result = json.loads((folder / "obs" / "measure.json").read_text())
    assert (result["loop"], len(result["times_ms"])) == (7, 7)
    assert result["throughput_utterances_per_s"] == pytest.approx(1000 * 2 / np.mean(result["times_ms"]))
    assert result["threads"] == runtime_arguments.available_threads()
    assert json.loads((folder / "out" / "summary.json").read_text()) == {
        "batch_size": 2,
        "formula": "1000*batchsize/mean(times_ms)",
        "input": "zeros",
        "loop": 7,
        "model_sha256": hashlib.sha256((folder / "model" / "model.onnx").read_bytes()).hexdigest(),
        "warm_ups": 1,
    }
    assert result["provider"] and isinstance(result["provider"], str)


def test_measure_refuses_a_batch_size_that_is_not_the_models(case):
    with pytest.raises(StageError, match="batches of 2, not 64"):
        _run(measure, case[0], "--bs", "64", "--loop", "1")


def test_compute_times_are_milliseconds_of_the_network_alone(case, monkeypatch):
    folder, values = case
    batch = infer.bins.Batch(str(folder / "batches" / "bins" / "inputs_0.bin"), "result")
    (folder / "out" / "result").mkdir()
    now_s = [100.0]

    class Slow:
        def run(self, rows):
            assert np.array_equal(rows, values[0])
            now_s[0] += 0.25
            return np.zeros((195, 2, 41), np.float32)

    monkeypatch.setattr(infer.time, "perf_counter", lambda: now_s[0])
    done = infer._Streams([Slow()], str(folder / "out"), 2).run(batch)
    assert done.time_ms == 250.0
    assert done.path == str(folder / "out" / "result" / "inputs_0_0.npy")
