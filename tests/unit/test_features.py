"""The features stage: Kaldi's numbers within the bounds, Kaldi's files to the byte, the same each time."""

import os
import zipfile

import kaldiio
import numpy as np
import pytest
from _speech_cases import (
    CONF,
    DEV,
    GOLDEN,
    ROOT,
    SPLITS,
    TRAIN,
    golden_corpus,
    noise,
    riff,
    run_stage,
    small_corpus,
    sphere,
    summary,
    write_folder,
    write_zip,
)

from stages import corpus, features
from stages.formats import kaldi_io
from stages.shared.stage import StageError
from stages.speech import dither, fbank, portable
from stages.speech.files import CMVN

FEATURES_CONF = ROOT / "conf" / "features"
MAX_ABS = 5e-3
MEAN_ABS = 1e-5


def run_features(tmp_path, data, *more):
    corpus_out = run_stage(corpus, tmp_path, "--data", data, "--conf", CONF)
    return run_stage(features, tmp_path, "--data", data, "--corpus", corpus_out, "--conf", FEATURES_CONF, *more)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def golden_features(tmp_path_factory):
    return run_features(tmp_path_factory.mktemp("golden"), GOLDEN / "TIMIT")


def deviations(ours, golden):
    """(max, mean) absolute difference of two archives, which must hold the same utterances in the same order."""
    ours, golden = list(kaldi_io.read_archive(str(ours))), list(kaldi_io.read_archive(str(golden)))
    assert [key for key, _ in ours] == [key for key, _ in golden]
    differences = np.concatenate([np.abs(a - b).ravel() for (_, a), (_, b) in zip(ours, golden)])
    return differences.max(), differences.mean(dtype=np.float64)


@pytest.mark.parametrize("split", SPLITS)
def test_features_equal_kaldis_within_the_bounds(golden_features, split):
    largest, mean = deviations(golden_features / split / "fbank.ark", GOLDEN / "data" / split / "fbank.ark")
    assert largest <= MAX_ABS
    assert mean <= MEAN_ABS


def test_bounds_notice_another_draw_order(tmp_path):
    out = run_features(tmp_path, GOLDEN / "TIMIT", "--dither-draw-order", "u2-first")
    _, mean = deviations(out / "dev" / "fbank.ark", GOLDEN / "data" / "dev" / "fbank.ark")
    assert mean > 2 * MEAN_ABS
    assert summary(out)["dither_draw_order"] == "u2-first"


def test_statistics_equal_kaldis(golden_features):
    ours = kaldi_io.read_text_matrix(str(golden_features / CMVN))
    golden = kaldi_io.read_text_matrix(str(GOLDEN / "data" / CMVN))
    np.testing.assert_allclose(ours, golden, rtol=1e-5)
    assert ours.shape == (2, 82)


def test_statistics_of_kaldis_matrix_are_written_as_kaldi_writes_them(tmp_path):
    golden = GOLDEN / "data" / CMVN
    with open(tmp_path / "again", "w") as stream:
        kaldi_io.write_text_matrix(stream, kaldi_io.read_text_matrix(str(golden)).astype(np.float32))
    assert (tmp_path / "again").read_bytes() == golden.read_bytes()


def test_kaldis_matrices_are_written_as_kaldi_writes_them(tmp_path):
    golden = GOLDEN / "data" / "dev" / "fbank.ark"
    with open(tmp_path / "again", "wb") as stream:
        for key, matrix in kaldi_io.read_archive(str(golden)):
            stream.write(kaldi_io.entry(key, matrix))
    assert (tmp_path / "again").read_bytes() == golden.read_bytes()


def test_index_leads_kaldiio_to_every_matrix(golden_features, monkeypatch):
    monkeypatch.chdir(golden_features)
    for split in SPLITS:
        by_index = kaldiio.load_scp(f"{split}/fbank.scp")
        in_order = list(kaldi_io.read_archive(f"{split}/fbank.ark"))
        assert list(by_index) == [key for key, _ in in_order]
        for key, matrix in in_order:
            np.testing.assert_array_equal(by_index[key], matrix)


def test_summary_tells_frames_and_options(golden_features):
    found = summary(golden_features)
    assert found["frames"] == {"dev": 3259, "test": 1715, "train": 6732}
    assert found["options"]["num-mel-bins"] == 80
    assert not list(golden_features.rglob("*.tmp"))


@pytest.mark.parametrize("processors", [1, 2, 5])
def test_features_do_not_depend_on_the_number_of_processors(golden_features, tmp_path, monkeypatch, processors):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    assert content(run_features(tmp_path, GOLDEN / "TIMIT")) == content(golden_features)


@pytest.mark.parametrize("frames", [1, 300, 10**6])
def test_features_do_not_depend_on_how_utterances_are_shared_out(golden_features, tmp_path, monkeypatch, frames):
    monkeypatch.setattr(portable, "_CHUNK_FRAMES", frames)
    assert content(run_features(tmp_path, GOLDEN / "TIMIT")) == content(golden_features)


@pytest.mark.parametrize("processors", [1, 3])
def test_features_are_the_same_from_a_zip_as_from_a_folder(golden_features, tmp_path, monkeypatch, processors):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    path = write_zip(tmp_path / "data.zip", golden_corpus())
    assert content(run_features(tmp_path, path)) == content(golden_features)


def test_seeds_for_more_frames_than_the_samples_hold_are_an_error():
    options = fbank.read_options(str(FEATURES_CONF / "fbank.conf"))
    with pytest.raises(ValueError, match="do not hold 3 frames"):
        fbank.FilterBank(options, dither.U1_FIRST).compute(noise(400 + 160), np.zeros(3, np.uint32))


def test_container_and_byte_order_of_a_wave_do_not_matter(tmp_path):
    results = []
    for index, wave in enumerate((sphere(noise()), sphere(noise(), order="10"), riff(noise()))):
        data = write_folder(tmp_path / str(index), dict(small_corpus(), **{DEV + ".WAV": wave}))
        results.append(content(run_features(tmp_path, data)))
    assert results[0] == results[1] == results[2]


def test_normalised_train_has_zero_mean_and_unit_variance(golden_features):
    matrices = [matrix for _, matrix in kaldi_io.read_archive(str(golden_features / "train" / "fbank.ark"))]
    joined = np.concatenate(matrices).astype(np.float64)
    assert np.abs(joined.mean(axis=0)).max() < 1e-4
    assert np.abs(joined.var(axis=0) - 1).max() < 1e-4


def test_utterance_longer_than_the_model_takes_still_has_features(tmp_path):
    data = write_folder(tmp_path / "timit", dict(small_corpus(), **{DEV + ".WAV": sphere(noise(16000 * 9))}))
    assert summary(run_features(tmp_path, data))["frames"]["dev"] == 898


@pytest.mark.parametrize("num_samples", [400, 559, 560])
def test_shortest_waves_have_their_whole_frames(tmp_path, num_samples):
    data = write_folder(tmp_path / "timit", dict(small_corpus(), **{DEV + ".WAV": sphere(noise(num_samples))}))
    assert summary(run_features(tmp_path, data))["frames"]["dev"] == 1 + (num_samples - 400) // 160


def test_digital_silence_has_finite_features(tmp_path):
    silent = sphere(np.zeros(8000, np.int16))
    out = run_features(tmp_path, write_folder(tmp_path / "timit", dict(small_corpus(), **{DEV + ".WAV": silent})))
    ((_, matrix),) = kaldi_io.read_archive(str(out / "dev" / "fbank.ark"))
    assert np.isfinite(matrix).all()


def test_wave_exchanged_after_the_corpus_stage_is_refused_and_nothing_is_published(tmp_path):
    data = write_folder(tmp_path / "timit", small_corpus())
    corpus_out = run_stage(corpus, tmp_path, "--data", data, "--conf", CONF)
    (data / (TRAIN + ".WAV")).write_bytes(sphere(noise(4001)))
    with pytest.raises(StageError, match=r"FABC0_SX1: .*not the wave that the corpus stage saw"):
        run_stage(features, tmp_path, "--data", data, "--corpus", corpus_out, "--conf", FEATURES_CONF)
    assert not [path for path in (tmp_path / "stages.features.out").rglob("*") if path.is_file()]


def test_wave_gone_after_the_corpus_stage_is_named(tmp_path):
    data = write_folder(tmp_path / "timit", small_corpus())
    corpus_out = run_stage(corpus, tmp_path, "--data", data, "--conf", CONF)
    (data / (DEV + ".WAV")).unlink()
    with pytest.raises(StageError, match="cannot read " + DEV):
        run_stage(features, tmp_path, "--data", data, "--corpus", corpus_out, "--conf", FEATURES_CONF)


def test_archive_with_a_changed_member_is_refused(tmp_path):
    path = write_zip(tmp_path / "data.zip", small_corpus())
    corpus_out = run_stage(corpus, tmp_path, "--data", path, "--conf", CONF)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo(TRAIN + ".WAV").header_offset
    data = bytearray(path.read_bytes())
    data[offset + 700] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StageError, match="cannot read " + TRAIN):
        run_stage(features, tmp_path, "--data", path, "--corpus", corpus_out, "--conf", FEATURES_CONF)


def test_block_length_does_not_change_features(monkeypatch):
    options = fbank.read_options(str(FEATURES_CONF / "fbank.conf"))
    bank, seeds = fbank.FilterBank(options, dither.U1_FIRST), dither.SeedStream().take(30)
    whole = bank.compute(noise(400 + 29 * 160), seeds)
    monkeypatch.setattr(fbank, "BLOCK_FRAMES", 7)
    np.testing.assert_array_equal(bank.compute(noise(400 + 29 * 160), seeds), whole)
    assert whole.shape == (30, 81)


def test_energy_stands_first_and_is_the_frames_own(tmp_path):
    (tmp_path / "fbank.conf").write_text("--dither=0\n--use-energy=true\n--num-mel-bins=80\n--window-type=hamming\n")
    options = fbank.read_options(str(tmp_path / "fbank.conf"))
    samples = noise(400)
    computed = fbank.FilterBank(options, dither.U1_FIRST).compute(samples, np.zeros(1, np.uint32))
    centred = samples - samples.mean(dtype=np.float64)
    assert computed[0, 0] == pytest.approx(np.log((centred**2).sum()), abs=1e-4)


def test_options_left_out_have_kaldis_defaults(tmp_path):
    (tmp_path / "fbank.conf").write_text("# none\n--use-energy\n--num-mel-bins=40  # fewer\n")
    options = fbank.read_options(str(tmp_path / "fbank.conf"))
    assert (options["num-mel-bins"], options["use-energy"], options["window-type"]) == (40, True, "povey")
    assert options["dither"] == 1.0


@pytest.mark.parametrize(
    "line",
    [
        "--no-such=1",
        "num-mel-bins=80",
        "--use-energy=perhaps",
        "--snip-edges=false",
        "--round-to-power-of-two=false",
        "--window-type=sine",
        "--frame-length=0.1",
        "--frame-shift=0",
    ],
)
def test_option_that_is_unknown_or_wrong_is_refused(tmp_path, line):
    (tmp_path / "fbank.conf").write_text(line + "\n")
    with pytest.raises(StageError, match=r"fbank\.conf"):
        fbank.read_options(str(tmp_path / "fbank.conf"))
