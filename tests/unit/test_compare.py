"""The agreement figures against their formulas written out, and the thresholds."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from _model_cases import write_batches, write_stand_in
from _stage_cases import progress_of, refused

from stages import compare
from stages.shared.stage import StageError


def _logprobs(seed, frames=195):
    logits = np.random.RandomState(seed).standard_normal((frames, 41)) * 3
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def _result(first, second, output_frames=195):
    agreement = compare.Agreement()
    agreement.add(first, second, output_frames)
    return agreement.result()


def test_equal_outputs_agree_in_full():
    result = _result(_logprobs(1), _logprobs(1))
    assert result["cosine"] == pytest.approx(1.0, abs=1e-12)
    assert [result[name] for name in ("max_abs", "relative_euclidean", "kl", "rmse", "mean_relative")] == [0.0] * 5
    assert result["symbols_changed"] == 0
    assert result["within_thresholds"]


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_utterances_pool_to_the_formulas_over_all_of_them(seed, lengths):
    agreement = compare.Agreement()
    firsts = [_logprobs(seed % 2**31 + n, length) for n, length in enumerate(lengths)]
    seconds = [_logprobs(seed % 2**31 + 50 + n, length) for n, length in enumerate(lengths)]
    for first, second in zip(firsts, seconds):
        agreement.add(first, second, len(first))
    a, b = (np.vstack(parts).astype(np.float64) for parts in (firsts, seconds))
    result = agreement.result()
    assert result["max_abs"] == np.abs(a - b).max()
    assert result["cosine"] == pytest.approx((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    assert result["relative_euclidean"] == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a))
    assert result["rmse"] == pytest.approx(np.sqrt(np.mean((a - b) ** 2)))
    assert result["mean_relative"] == pytest.approx(np.mean(np.abs(a - b) / np.abs(a)))
    p, q = np.exp(a), np.exp(b)
    assert result["kl"] == pytest.approx(np.mean((p * np.log(p / q)).sum(axis=1)), abs=1e-5)
    assert result["symbols_changed"] == int((a.argmax(axis=1) != b.argmax(axis=1)).sum())
    assert result["utterances"] == len(lengths)


def test_a_symbol_that_changes_counts_within_the_utterance_only():
    first = _logprobs(3)
    second = first.copy()
    second[[10, 150], (first[[10, 150]].argmax(axis=1) + 1) % 41] = 0.0
    assert _result(first, second, output_frames=100)["symbols_changed"] == 1
    assert _result(first, second)["symbols_changed"] == 2


def test_an_output_beyond_the_thresholds_is_told():
    assert not _result(_logprobs(1), _logprobs(2))["within_thresholds"]
    slightly = _logprobs(1) * np.float32(1.06)
    result = _result(_logprobs(1), slightly)
    assert result["cosine"] > 0.99
    assert result["relative_euclidean"] == pytest.approx(0.06, rel=1e-3)
    assert not result["within_thresholds"]


@pytest.fixture
def case(tmp_path):
    """Three utterances in batches of two; the fourth row only fills the tail up. All three outputs are equal."""
    values = np.zeros((2, 2, 390, 243), np.float32)
    values[:, :, :195, :41] = np.stack([_logprobs(seed) for seed in range(4)]).reshape(2, 2, 195, 41)
    utterances = [
        {"id": f"u{index}", "batch": index // 2, "row": index % 2, "stacked_frames": 200, "output_frames": 100}
        for index in range(3)
    ]
    write_batches(tmp_path / "batches", values, 1, 1, utterances)
    for name in ("onnx", "out", "obs"):
        (tmp_path / name).mkdir()
    write_stand_in(tmp_path / "onnx" / "lstm_ctc.onnx", 2)
    for name in ("reference", "outputs"):
        for folder, index in (("result", 0), ("tail", 1)):
            (tmp_path / name / folder).mkdir(parents=True)
            output = values[index, :, :195, :41].transpose(1, 0, 2)
            np.save(str(tmp_path / name / folder / f"inputs_{index}_0.npy"), np.ascontiguousarray(output))
    return tmp_path


def _compare(folder):
    names = ("reference", "onnx", "outputs", "batches", "out", "obs")
    compare.main([part for name in names for part in ("--" + name, str(folder / name))] + ["--bs", "2"])
    return json.loads((folder / "out" / "compare.json").read_text(encoding="utf-8"))


def _change(path, frame, row, value):
    output = np.load(str(path))
    output[frame, row] = value
    np.save(str(path), output)


def test_the_stage_compares_every_utterance_and_states_its_formulas(case):
    result = _compare(case)
    for pair in ("torch_onnx", "torch_converted", "onnx_converted"):
        assert (result[pair]["utterances"], result[pair]["frames"], result[pair]["scored_frames"]) == (3, 585, 300)
        assert result[pair]["max_abs"] == 0.0
    assert result["within_thresholds"]
    assert set(result["formulas"]) <= set(result["torch_onnx"])
    assert result["thresholds"]["at_most"]["kl"] == 0.005


def test_the_file_holds_the_pairs_the_thresholds_and_the_formulas_as_they_are_computed(case, monkeypatch):
    told = progress_of(compare.stage, monkeypatch)
    result = _compare(case)
    assert told == [("compare", 3), 1, 1, 1]
    pairs = {name: result.pop(name) for name in ("torch_onnx", "torch_converted", "onnx_converted")}
    assert result == {
        "batch_size": 2,
        "reference_batch_size": 2,
        "formulas": compare.FORMULAS,
        "thresholds": {"at_least": compare.MINIMA, "at_most": compare.MAXIMA},
        "within_thresholds": True,
    }
    assert all(pair["within_thresholds"] and pair["cosine"] == pytest.approx(1) for pair in pairs.values())


@pytest.mark.parametrize("folder", ["reference", "outputs"])
def test_a_pair_beyond_its_thresholds_shows_in_the_whole(case, folder):
    _change(case / folder / "result" / "inputs_0_0.npy", slice(None), 0, np.linspace(-9, -1, 41))
    result = _compare(case)
    beyond = {
        name for name in ("torch_onnx", "torch_converted", "onnx_converted") if not result[name]["within_thresholds"]
    }
    assert beyond == {
        "reference": {"torch_onnx", "torch_converted"}, "outputs": {"torch_converted", "onnx_converted"}
    }[folder]  # fmt: skip
    assert result["within_thresholds"] is False


@pytest.mark.parametrize(("a", "b", "cosine"), [(0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (-1.0, 0.0, 0.0), (-2.0, -5.0, 1.0)])
def test_outputs_of_zeros_have_figures_too(a, b, cosine):
    result = _result(np.full((195, 41), a, np.float32), np.full((195, 41), b, np.float32))
    assert result["cosine"] == pytest.approx(cosine) and result["max_abs"] == abs(a - b)
    sums = {name: 195 * 41 * value for name, value in (("aa", a * a), ("squares", (a - b) ** 2))}
    assert result["relative_euclidean"] == pytest.approx(np.sqrt(sums["squares"] / max(sums["aa"], 2.0**-46)))
    assert result["mean_relative"] == pytest.approx(abs(a - b) / max(abs(a), 2.0**-23))


def test_a_graph_of_another_batch_size_is_refused(case):
    write_stand_in(case / "onnx" / "lstm_ctc.onnx", 4)
    with pytest.raises(StageError, match=r"lstm_ctc\.onnx takes batches of 4, not 2"):
        _compare(case)


def test_a_change_in_one_output_shows_in_its_two_pairs_only(case):
    _change(case / "outputs" / "tail" / "inputs_1_0.npy", 50, 0, np.linspace(-9, -1, 41))
    result = _compare(case)
    assert result["torch_onnx"]["max_abs"] == 0.0
    assert result["torch_converted"]["max_abs"] > 0.0
    assert result["torch_converted"]["max_abs"] == result["onnx_converted"]["max_abs"]


def test_rows_that_fill_a_batch_do_not_count(case):
    _change(case / "outputs" / "tail" / "inputs_1_0.npy", slice(None), 1, -1.0)
    assert _compare(case)["torch_converted"]["max_abs"] == 0.0


def _in_other_batches(case, size, ids):
    """Hand the reference's outputs on in batches of `size`, of utterances `ids`."""
    rows = [np.load(str(case / "reference" / name)) for name in ("result/inputs_0_0.npy", "tail/inputs_1_0.npy")]
    every = np.concatenate(rows, axis=1)
    whole, rest = divmod(len(ids), size)
    utterances = [
        {"id": name, "batch": index // size, "row": index % size, "stacked_frames": 200, "output_frames": 100}
        for index, name in enumerate(ids)
    ]
    count = whole + bool(rest)
    write_batches(case / "others", np.zeros((count, size, 390, 243), np.float32), whole, int(rest > 0), utterances)
    for number in range(count):
        folder = case / "reference-others" / ("result" if number < whole else "tail")
        folder.mkdir(parents=True, exist_ok=True)
        values = every[:, number * size : (number + 1) * size]
        padded = np.full((195, size, 41), -1.0, np.float32)
        padded[:, : values.shape[1]] = values
        np.save(str(folder / f"inputs_{number}_0.npy"), padded)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_pytorch_s_batches_may_be_of_another_size(case, size):
    _change(case / "outputs" / "tail" / "inputs_1_0.npy", 50, 0, np.linspace(-9, -1, 41))
    expected = _compare(case)
    _in_other_batches(case, size, ["u0", "u1", "u2"])
    shutil.rmtree(str(case / "out"))
    (case / "out").mkdir()
    paths = {"reference": "reference-others", "reference-batches": "others", "outputs": "outputs"}
    paths["onnx-outputs"] = "reference-others"  # the stand-in for the exported graph gives what PyTorch gave
    words = [word for name in paths for word in ("--" + name, str(case / paths[name]))]
    words += [word for name in ("batches", "out", "obs") for word in ("--" + name, str(case / name))]
    compare.main([*words, "--bs", "2"])
    found = json.loads((case / "out" / "compare.json").read_text(encoding="utf-8"))
    assert found == {**expected, "reference_batch_size": size}
    assert expected["reference_batch_size"] == 2
    assert not (case / "out" / "onnx").exists()  # it ran for another size, which has its outputs


def test_what_the_exported_graph_gave_is_kept_and_serves_another_run_of_the_stage(case):
    expected = _compare(case)
    (case / "out").rename(case / "first")
    (case / "out").mkdir()
    paths = {"onnx-outputs": "first/onnx", "reference-batches": "batches"}
    paths.update({name: name for name in ("reference", "outputs", "batches", "out", "obs")})
    compare.main([word for name in paths for word in ("--" + name, str(case / paths[name]))] + ["--bs", "2"])
    assert json.loads((case / "out" / "compare.json").read_text(encoding="utf-8")) == expected
    _change(case / "first" / "onnx" / "result" / "inputs_0_0.npy", 50, 0, np.linspace(-9, -1, 41))
    (case / "out" / "compare.json").unlink()
    compare.main([word for name in paths for word in ("--" + name, str(case / paths[name]))] + ["--bs", "2"])
    found = json.loads((case / "out" / "compare.json").read_text(encoding="utf-8"))
    assert found["torch_onnx"]["max_abs"] > 0.0 and found["torch_converted"]["max_abs"] == 0.0


def test_one_of_the_exported_graph_and_its_outputs_is_given(case, capsys):
    words = [word for name in ("reference", "outputs", "batches") for word in ("--" + name, str(case / name))]
    for more in ([], ["--onnx", "a", "--onnx-outputs", "b"]):
        with pytest.raises(SystemExit):
            compare.main([*words, *more, "--bs", "2", "--out", "o", "--obs", "o"])
        assert "--onnx" in capsys.readouterr().err


def test_batches_of_other_utterances_are_refused(case):
    _in_other_batches(case, 1, ["u0", "u2", "u1"])
    words = [word for name in ("onnx", "outputs", "batches", "out", "obs") for word in ("--" + name, str(case / name))]
    words += ["--reference", str(case / "reference-others"), "--reference-batches", str(case / "others"), "--bs", "2"]
    with refused(case / "others", case / "batches", "not batches of the same utterances"):
        compare.main(words)


@pytest.mark.parametrize("name", ["reference", "outputs"])
def test_a_missing_output_is_refused_by_name(case, name):
    (case / name / "tail" / "inputs_1_0.npy").unlink()
    with pytest.raises(StageError, match=name + r".tail.inputs_1_0\.npy"):
        _compare(case)
    assert not (case / "out" / "compare.json").exists()


def within(a, b):
    """Whether two arrays (195, 41) of an utterance keep the thresholds, by their figures."""
    agreement = compare.Agreement()
    agreement.add(np.asarray(a, np.float32), np.asarray(b, np.float32), 195)
    return agreement.result()["within_thresholds"]


def test_thresholds_are_the_vendors():
    assert compare.MINIMA == {"cosine": 0.99}
    assert compare.MAXIMA == {"relative_euclidean": 0.05, "kl": 0.005, "rmse": 1.0, "mean_relative": 1.0}


def of_relative_euclidean(value):
    return np.full((195, 41), -10.0), np.full((195, 41), -10.0 * (1 + value))


def of_rmse(value):
    return np.full((195, 41), -100.0), np.full((195, 41), -100.0 - value)


def of_mean_relative(value):
    a = np.full((195, 41), -10.0)
    a[:, :20] = -1e-3
    b = a.copy()
    b[:, :20] *= 1 + value * 41 / 20
    return a, b


def of_kl(value):
    """One class whose logarithm is off by d, where its probability is 1: exp(-d) - 1 + d, about d^2 / 2."""
    a = np.full((195, 41), -30.0)
    a[:, 3] = -0.01  # not 0: a relative error of nothing is over every limit
    b = a.copy()
    b[:, 3] -= np.sqrt(2 * value)
    return a, b


@pytest.mark.parametrize(
    ("make", "limit"), [(of_relative_euclidean, 0.05), (of_rmse, 1.0), (of_mean_relative, 1.0), (of_kl, 0.005)]
)
def test_each_threshold_binds_by_itself(make, limit):
    assert within(*make(0.9 * limit))
    assert not within(*make(1.15 * limit))
