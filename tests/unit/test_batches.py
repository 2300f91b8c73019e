"""The batches stage: the reference's bins to the byte, the batch it drops, utterances that the model cannot take."""

import hashlib
import json

import numpy as np
import pytest
from _speech_cases import GOLDEN, run_stage
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import batches
from stages.formats import kaldi_io, stacking
from stages.shared.stage import StageError

BATCH_BYTES = 390 * 243 * 4


def run_batches(tmp_path, batch_size, *more, features=GOLDEN / "data", corpus=GOLDEN / "data"):
    return run_stage(batches, tmp_path, "--features", features, "--corpus", corpus, "--bs", batch_size, *more)


def manifest(out):
    return json.loads((out / "manifest.json").read_text())


def write_data(folder, utterances, split="dev"):
    """Write {id: (features or None, phones or None)} as both a features and a corpus result."""
    (folder / split).mkdir(parents=True)
    with open(folder / split / "fbank.ark", "wb") as stream:
        for identifier, (features, _) in sorted(utterances.items()):
            if features is not None:
                stream.write(kaldi_io.entry(identifier, features))
    lines = [f"{name} {phones}\n" for name, (_, phones) in sorted(utterances.items()) if phones is not None]
    (folder / split / "phn_text").write_text("".join(lines))
    return folder


def frames(num_frames, seed=0, columns=81):
    return np.random.RandomState(seed).standard_normal((num_frames, columns)).astype(np.float32)


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_bins_equal_the_references_byte_for_byte(tmp_path, batch_size):
    out = run_batches(tmp_path, batch_size)
    found = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in (out / "bins").iterdir()
    }
    assert found == json.loads((GOLDEN / "bins.json").read_text())[str(batch_size)]


@pytest.mark.parametrize(("batch_size", "whole", "tail"), [(1, 10, 0), (4, 2, 1), (5, 2, 0), (8, 1, 1), (16, 0, 1)])
def test_bins_and_tail_hold_every_utterance_once(tmp_path, batch_size, whole, tail):
    out = run_batches(tmp_path, batch_size)
    described = manifest(out)
    assert (described["num_batches"], described["num_tail_batches"]) == (whole, tail)
    assert sorted(path.name for path in (out / "bins").iterdir()) == [f"inputs_{i}.bin" for i in range(whole)]
    assert [path.name for path in (out / "tail").iterdir()] == [f"inputs_{whole}.bin"] * tail
    (tmp_path / "single").mkdir()
    single = run_batches(tmp_path / "single", 1)
    for index, utterance in enumerate(described["utterances"]):
        folder = "bins" if utterance["batch"] < whole else "tail"
        batch = np.fromfile(out / folder / "inputs_{batch}.bin".format(**utterance), "<f4")
        rows = batch.reshape(batch_size, 390, 243)[utterance["row"]]
        expected = np.fromfile(single / "bins" / f"inputs_{index}.bin", "<f4").reshape(390, 243)
        np.testing.assert_array_equal(rows, expected)
        assert not rows[utterance["stacked_frames"] :].any()
    if tail:
        unused = batch.reshape(batch_size, 390, 243)[10 - whole * batch_size :]
        assert not unused.any()


def test_manifest_describes_utterances_in_order(tmp_path):
    described = manifest(run_batches(tmp_path, 4))
    ids = [line.split()[0] for line in (GOLDEN / "data/dev/utterances").read_text().splitlines()]
    assert [utterance["id"] for utterance in described["utterances"]] == ids
    assert [(utterance["batch"], utterance["row"]) for utterance in described["utterances"][3:6]] == [
        (0, 3),
        (1, 0),
        (1, 1),
    ]
    assert described["utterances"][0]["stacked_frames"] == 156
    assert described["utterances"][0]["output_frames"] == 78
    assert (described["rows"], described["columns"], described["split"]) == (390, 243, "dev")
    assert described["excluded"] == []


def test_other_splits_can_be_asked_for(tmp_path):
    described = manifest(run_batches(tmp_path, 2, "--split", "test"))
    assert len(described["utterances"]) == 5
    assert described["split"] == "test"


@settings(max_examples=80)
@given(st.integers(1, 400), st.integers(0, 50))
def test_stacking_is_the_plain_definition(num_frames, seed):
    features = frames(num_frames, seed, columns=3)
    expected = []
    for t in range(0, num_frames, 2):
        expected.append(np.concatenate([features[min(t + k, num_frames - 1)] for k in range(3)]))
    if len(expected) % 2:
        expected.append(np.zeros(9))
    stacked = stacking.stack(features)
    assert stacked.dtype == np.float64
    assert len(stacked) % 2 == 0
    np.testing.assert_array_equal(stacked, np.array(expected))


@settings(max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 5))
def test_any_utterances_in_any_batch_size_come_back_padded_with_zeros(tmp_path_factory, lengths, batch_size):
    folder = tmp_path_factory.mktemp("data")
    utterances = {f"S_{i}": (frames(length, i), "sil") for i, length in enumerate(lengths)}
    data = write_data(folder / "in", utterances)
    out = run_batches(folder, batch_size, features=data, corpus=data)
    files = sorted((out / "bins").iterdir()) + sorted((out / "tail").iterdir())
    assert [path.stat().st_size for path in files] == [batch_size * BATCH_BYTES] * len(files)
    assert len(list((out / "bins").iterdir())) == len(lengths) // batch_size
    rows = np.concatenate([np.fromfile(path, "<f4").reshape(batch_size, 390, 243) for path in files])
    for row, (features, _) in zip(rows, utterances.values()):
        stacked = stacking.stack(features).astype(np.float32)
        np.testing.assert_array_equal(row[: len(stacked)], stacked)
        assert not row[len(stacked) :].any()
    assert not rows[len(lengths) :].any()


@pytest.mark.parametrize(("num_frames", "stacked"), [(777, 390), (779, 390), (780, 390), (776, 388), (1, 2)])
def test_longest_and_shortest_utterances_fit(tmp_path, num_frames, stacked):
    data = write_data(tmp_path / "in", {"S_1": (frames(num_frames), " ".join(["sil"] * 74))})
    (utterance,) = manifest(run_batches(tmp_path, 1, features=data, corpus=data))["utterances"]
    assert (utterance["stacked_frames"], utterance["output_frames"]) == (stacked, stacked // 2)


NOT_FINITE = frames(10)
NOT_FINITE[3, 7] = np.nan
BAD = {
    "781 frames": (frames(781), "sil", "781 frames, over 780"),
    "75 labels": (frames(10), " ".join(["sil"] * 75), "75 labels, over 74"),
    "features missing": (None, "sil", "it has labels, but no features"),
    "labels missing": (frames(10), None, "it has features, but no labels"),
    "labels empty": (frames(10), "", "it has features, but no labels"),
    "no frame": (frames(0), "sil", "no frame"),
    "other features": (frames(10, columns=80), "sil", "80 features per frame, not 81"),
    "not finite": (NOT_FINITE, "sil", "not finite"),
    "infinite": (np.where(np.isnan(NOT_FINITE), np.inf, NOT_FINITE), "sil", "not finite"),
    "minus infinity": (np.where(np.isnan(NOT_FINITE), -np.inf, NOT_FINITE), "sil", "not finite"),
}


@pytest.mark.parametrize("identifier", ["S_0", "S_2", "S_4"])
@pytest.mark.parametrize("fault", sorted(BAD))
def test_bad_utterance_is_named_or_with_skip_bad_listed(tmp_path, fault, identifier):
    features, phones, message = BAD[fault]
    utterances = {name: (frames(20, seed), "sil aa") for seed, name in enumerate(("S_1", "S_3"))}
    good = write_data(tmp_path / "good", utterances)
    data = write_data(tmp_path / "in", dict(utterances, **{identifier: (features, phones)}))
    with pytest.raises(StageError, match=f"^{identifier}: .*{message}") as caught:
        run_batches(tmp_path, 2, features=data, corpus=data)
    assert "--skip-bad" in caught.value.hint
    assert not (tmp_path / "stages.batches.out" / "manifest.json").exists()

    expected = (run_batches(tmp_path, 2, features=good, corpus=good) / "bins" / "inputs_0.bin").read_bytes()
    out = run_batches(tmp_path, 2, "--skip-bad", features=data, corpus=data)
    described = manifest(out)
    assert described["excluded"] == [{"utterance": identifier, "reason": described["excluded"][0]["reason"]}]
    assert message in described["excluded"][0]["reason"]
    assert [utterance["id"] for utterance in described["utterances"]] == ["S_1", "S_3"]
    assert (out / "bins" / "inputs_0.bin").read_bytes() == expected


def test_nothing_but_bad_utterances_is_refused_even_with_skip_bad(tmp_path):
    data = write_data(tmp_path / "in", {"S_1": (frames(781), "sil")})
    with pytest.raises(StageError, match="no utterance of dev can be used"):
        run_batches(tmp_path, 1, "--skip-bad", features=data, corpus=data)


def test_unsorted_archive_is_refused(tmp_path):
    data = write_data(tmp_path / "in", {"S_1": (frames(9), "sil"), "S_2": (frames(9), "sil")})
    archive = data / "dev" / "fbank.ark"
    with open(archive, "ab") as stream:
        stream.write(kaldi_io.entry("S_1", frames(9)))
    with pytest.raises(StageError, match="S_1 after S_2, not sorted"):
        run_batches(tmp_path, 1, features=data, corpus=data)


def test_unsorted_or_repeated_labels_are_refused(tmp_path):
    data = write_data(tmp_path / "in", {"S_1": (frames(9), "sil"), "S_2": (frames(9), "sil")})
    (data / "dev" / "phn_text").write_text("S_2 sil\nS_1 sil\n")
    with pytest.raises(StageError, match="S_1 after S_2, not sorted"):
        run_batches(tmp_path, 1, features=data, corpus=data)
    (data / "dev" / "phn_text").write_text("S_1 sil\nS_1 sil\n")
    with pytest.raises(StageError, match="stands there twice"):
        run_batches(tmp_path, 1, features=data, corpus=data)


@pytest.mark.parametrize("batch_size", ["0", "-1", "x"])
def test_batch_size_that_is_none_is_wrong_use(tmp_path, batch_size, capsys):
    with pytest.raises(SystemExit) as caught:
        run_batches(tmp_path, batch_size)
    assert caught.value.code == 2
    assert "--bs" in capsys.readouterr().err
