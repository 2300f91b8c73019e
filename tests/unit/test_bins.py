"""Batches on disk and ais_bench's names: order, sizes, and what a wrong file is told."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.formats import bins
from stages.shared.stage import StageError


def _batches(folder, whole, tail, batch_size=2):
    manifest = {
        "batch_size": batch_size,
        "rows": 390,
        "columns": 243,
        "num_batches": whole,
        "num_tail_batches": tail,
        "split": "dev",
        "utterances": [],
        "excluded": [],
    }
    for name in ("bins", "tail"):
        (folder / name).mkdir(parents=True)
    for index in range(whole + tail):
        path = folder / ("bins" if index < whole else "tail") / f"inputs_{index}.bin"
        path.write_bytes(bytes(batch_size * 390 * 243 * 4))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return bins.read_manifest(str(folder))


@given(st.permutations(range(30)))
def test_files_sort_by_number_and_not_by_digit(order):
    names = sorted((f"inputs_{number}.bin" for number in order), key=bins.natural_key)
    assert names == [f"inputs_{number}.bin" for number in range(30)]


def test_whole_batches_come_before_the_tail_with_names_of_ais_bench(tmp_path):
    manifest = _batches(tmp_path, 11, 1)
    keys = [batch.key for batch in bins.list_batches(str(tmp_path), manifest)]
    assert keys == [f"result/inputs_{index}_0.npy" for index in range(11)] + ["tail/inputs_11_0.npy"]


def test_a_missing_batch_is_named(tmp_path):
    manifest = _batches(tmp_path, 3, 0)
    (tmp_path / "bins" / "inputs_1.bin").unlink()
    with pytest.raises(StageError, match=r"inputs_1\.bin"):
        bins.list_batches(str(tmp_path), manifest)


def test_a_stray_batch_is_named(tmp_path):
    manifest = _batches(tmp_path, 1, 0)
    (tmp_path / "bins" / "inputs_7.bin").write_bytes(b"")
    with pytest.raises(StageError, match=r"inputs_7\.bin"):
        bins.list_batches(str(tmp_path), manifest)


def test_no_batch_at_all_is_refused(tmp_path):
    with pytest.raises(StageError, match="not find valid file"):
        bins.list_batches(str(tmp_path), _batches(tmp_path, 0, 0))


def test_a_file_of_another_size_gets_the_words_of_ais_bench(tmp_path):
    batch = bins.list_batches(str(tmp_path), _batches(tmp_path, 1, 0, batch_size=8))[0]
    (tmp_path / "bins" / "inputs_0.bin").write_bytes(bytes(1000))
    with pytest.raises(StageError, match="arg0 tensorsize: 3032640 filesize: 1000 not match"):
        bins.read_batch(batch, 8)


def test_batches_of_another_size_are_refused(tmp_path):
    _batches(tmp_path, 1, 0, batch_size=2)
    with pytest.raises(StageError, match="batches of 2, not 8"):
        bins.read_manifest(str(tmp_path), 8)
    assert bins.read_manifest(str(tmp_path), 2).batch_size == 2


@pytest.mark.parametrize(("name", "value"), [("rows", 391), ("rows", 389), ("columns", 81), ("columns", 244)])
def test_batches_for_another_model_are_refused(tmp_path, name, value):
    _batches(tmp_path, 1, 0)
    changed(tmp_path, **{name: value})
    with pytest.raises(StageError, match="the model takes 390 x 243"):
        bins.read_manifest(str(tmp_path))


def changed(folder, **values):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(dict(manifest, **values)))


UTTERANCE = {"id": "S_1", "batch": 0, "row": 0, "stacked_frames": 4, "output_frames": 2}


@pytest.mark.parametrize(
    "values",
    [
        {"num_batches": True}, {"num_batches": 1.0}, {"num_batches": -1}, {"num_batches": "1"}, {"split": 3},
        {"utterances": None}, {"utterances": [1]}, {"utterances": [dict(UTTERANCE, row=None)]},
        {"utterances": [dict(UTTERANCE, id=7)]}, {"utterances": [dict(UTTERANCE, more=1)]},
        {"utterances": [{key: value for key, value in UTTERANCE.items() if key != "batch"}]}, {"more": 1},
    ],
)  # fmt: skip
def test_file_that_is_no_manifest_is_refused_by_name(tmp_path, values):
    _batches(tmp_path, 1, 0)
    changed(tmp_path, utterances=[UTTERANCE])
    assert bins.read_manifest(str(tmp_path)).utterances == [bins.Placed(**UTTERANCE)]
    changed(tmp_path, **values)
    with pytest.raises(StageError, match=r"manifest\.json is no manifest"):
        bins.read_manifest(str(tmp_path))


@pytest.mark.parametrize("text", ["[]", "1", "null", "{}"])
def test_other_json_is_no_manifest(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StageError, match=r"manifest\.json is no manifest"):
        bins.read_manifest(str(tmp_path))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_not_written(tmp_path, bad):
    batch = bins.list_batches(str(tmp_path), _batches(tmp_path, 1, 0))[0]
    out = tmp_path / "out"
    out.mkdir()
    bins.make_output_folders(str(out), [batch])
    values = np.zeros((195, 2, 41), np.float32)
    values[3, 1, 7] = bad
    with pytest.raises(StageError, match="not finite"):
        bins.write_output(str(out), batch, values)
    assert list((out / "result").iterdir()) == []


@pytest.mark.parametrize(
    "values",
    [np.zeros((195, 3, 41), np.float32), np.zeros((195, 2, 41)), np.full((195, 2, 41), np.nan, np.float32)],
)
def test_a_saved_output_of_another_kind_is_refused(tmp_path, values):
    batch = bins.list_batches(str(tmp_path), _batches(tmp_path, 1, 0))[0]
    (tmp_path / "result").mkdir()
    np.save(str(tmp_path / "result" / batch.output), values)
    with pytest.raises(StageError, match=r"inputs_0_0\.npy"):
        bins.read_output(str(tmp_path), batch, 2)


def test_summary_has_the_schema_and_throughput_of_ais_bench():
    summary = bins.summary(["a.bin", "b.bin"], ["a_0.npy", "b_0.npy"], [10.0, 30.0], 8, ["x"])
    assert sorted(summary) == [
        "D2H_latency", "H2D_latency", "NPU_compute_time", "args", "filesinfo", "npu_compute_time_list", "pid",
        "streams", "throughput",
    ]  # fmt: skip
    assert sorted(summary["NPU_compute_time"]) == ["count", "max", "mean", "median", "min", "percentile(99%)"]
    assert summary["filesinfo"]["1"] == {"infiles": ["b.bin"], "outfiles": ["b_0.npy"]}
    assert summary["throughput"] == 1000 * 8 / 20.0
    assert summary["H2D_latency"]["count"] == 0


def test_statistics_are_those_of_their_names():
    """Ten times that no two of minimum, median, mean and 99th percentile share; the unit is left as it is."""
    info = bins.times_info([1.0, 2.0, 2.0, 2.0, 2.0, 4.0, 4.0, 4.0, 4.0, 25.0])
    assert (info["min"], info["median"], info["mean"], info["max"], info["count"]) == (1.0, 3.0, 5.0, 25.0, 10)
    assert info["percentile(99%)"] == pytest.approx(25.0 - 0.09 * 21.0)


def saved(folder, values):
    (folder / "result").mkdir()
    np.save(folder / "result" / "inputs_0_0.npy", values)
    return bins.read_output(str(folder), bins.Batch("bins/inputs_0.bin", "result"), 2)


def good():
    return np.full((195, 2, 41), -1.0, np.float32)


def test_output_is_read_as_it_was_saved(tmp_path):
    assert np.array_equal(saved(tmp_path, good()), good())


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite_is_refused(tmp_path, odd):
    values = good()
    values[194, 1, 40] = odd
    with pytest.raises(StageError, match="not finite"):
        saved(tmp_path, values)


@pytest.mark.parametrize(
    "values",
    [
        good().astype(np.int32), good().astype(np.float64), good().astype(np.float16), good().astype(">f4"),
        good().transpose(1, 0, 2), good().transpose(0, 2, 1), good()[:194], good()[..., :40], good()[np.newaxis],
    ],
)  # fmt: skip
def test_output_of_another_type_or_shape_is_refused(tmp_path, values):
    with pytest.raises(StageError, match="is not a float32 array of shape"):
        saved(tmp_path, values)
