"""The corpus stage: the reference's lists from every shape that TIMIT comes in, and each fault named."""

import shutil

import pytest
from _speech_cases import (
    CONF,
    DEV,
    GOLDEN,
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

from stages import corpus
from stages.formats import labels
from stages.shared.stage import StageError


def run_corpus(tmp_path, data, *more):
    return run_stage(corpus, tmp_path, "--data", data, "--conf", CONF, *more)


def assert_is_golden(out, names=("utterances", "phn_text", "wrd_text")):
    for split in SPLITS:
        for name in names:
            assert (out / split / name).read_bytes() == (GOLDEN / "data" / split / name).read_bytes(), (split, name)
    assert (out / "units").read_bytes() == (GOLDEN / "data" / "units").read_bytes()


def test_lists_equal_the_references_from_a_folder(tmp_path):
    out = run_corpus(tmp_path, GOLDEN / "TIMIT")
    assert_is_golden(out)
    assert not list((tmp_path / "stages.corpus.obs").iterdir())


@pytest.mark.parametrize("prefix", ["", "data/"])
def test_lists_equal_the_references_from_a_zip_and_one_level_down(tmp_path, prefix):
    files = {prefix + name: data for name, data in golden_corpus().items()}
    files.update({"__MACOSX/TRAIN/DR3/._MADC0": b"x", prefix + "TRAIN/.DS_Store": b"x"})
    out = run_corpus(tmp_path, write_zip(tmp_path / "data.zip", files))
    assert_is_golden(out)
    first = (out / "dev" / "audio.tsv").read_text().splitlines()[0]
    assert first == f"FADG0_SI1009\t{prefix}TEST/DR4/FADG0/SI1009.WAV\tsphere\t16000\t50244"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.zip", "stages.corpus.obs", "stages.corpus.out"]


def test_lower_case_corpus_gives_the_same_utterances(tmp_path):
    files = {name.lower(): data for name, data in golden_corpus().items()}
    out = run_corpus(tmp_path, write_folder(tmp_path / "timit", files))
    assert_is_golden(out, ("phn_text", "wrd_text"))
    assert (out / "dev" / "utterances").read_text().startswith("FADG0_SI1009 test/dr4/fadg0/si1009.wav\n")


def test_sa_sentences_and_other_test_speakers_are_left_out(tmp_path):
    out = run_corpus(tmp_path, GOLDEN / "TIMIT")
    text = "".join((out / split / "utterances").read_text() for split in SPLITS)
    assert "_SA" not in text
    files = small_corpus()
    files.update({name.replace("FAKS0", "FXXX0"): data for name, data in files.items() if "FAKS0" in name})
    assert summary(run_corpus(tmp_path, write_folder(tmp_path / "timit", files)))["splits"]["dev"]["utterances"] == 1


def test_riff_waves_are_read_and_said_to_be_riff(tmp_path):
    files = small_corpus()
    files[DEV + ".WAV"] = riff(noise(4321), before=b"LIST\x03\0\0\0abc\0")
    out = run_corpus(tmp_path, write_folder(tmp_path / "timit", files))
    assert (out / "dev" / "audio.tsv").read_text() == f"FAKS0_SX2\t{DEV}.WAV\triff\t16000\t4321\n"


def test_second_copies_of_waves_add_no_utterance(tmp_path):
    files = small_corpus()
    files[DEV + ".WAV.wav"] = riff(noise(5000))
    files[TRAIN + ".WAV.wav"] = riff(noise(5000))
    del files[TRAIN + ".WAV"]
    out = run_corpus(tmp_path, write_folder(tmp_path / "timit", files))
    assert (out / "dev" / "utterances").read_text() == f"FAKS0_SX2 {DEV}.WAV\n"
    assert (out / "train" / "utterances").read_text() == f"FABC0_SX1 {TRAIN}.WAV.wav\n"
    assert summary(out)["second_copies_ignored"] == 1


def test_counts_are_held_against_timits_and_reported(tmp_path):
    found = summary(run_corpus(tmp_path, GOLDEN / "TIMIT"))
    assert found["splits"]["dev"] == {"phones": 452, "speakers": 2, "utterances": 10}
    assert "dev: 10 utterances, TIMIT has 400" in found["timit"]["deviations"]
    assert "train: 4 speakers, TIMIT has 462" in found["timit"]["deviations"]
    assert "test: 5 utterances, TIMIT has 192" in found["timit"]["deviations"]
    assert found["timit"]["matches"] is False


def test_timits_own_counts_match():
    timit = {"dev": {"utterances": 400}, "test": {"speakers": 24}, "train": {"speakers": 462}}
    splits = {split: {"speakers": 462, "utterances": 400} for split in ("train", "dev")}
    splits["test"] = {"speakers": 24, "utterances": 1}
    assert corpus.deviations_from(timit, splits) == []


@pytest.mark.parametrize("found", [399, 401])
def test_counts_above_timits_deviate_as_those_below_do(found):
    timit = {split: {"utterances": 400} for split in SPLITS}
    splits = {"train": {"utterances": 400}, "dev": {"utterances": found}, "test": {"utterances": 400}}
    assert corpus.deviations_from(timit, splits) == [f"dev: {found} utterances, TIMIT has 400"]


def test_blank_line_in_a_speaker_list_matches_nobody(tmp_path):
    conf = shutil.copytree(CONF, tmp_path / "conf")
    (conf / "dev_spk.list").write_text("\nfaks0\n\n")
    data = write_folder(tmp_path / "timit", small_corpus())
    out = run_stage(corpus, tmp_path, "--data", data, "--conf", conf)
    assert (out / "dev" / "utterances").read_text() == f"FAKS0_SX2 {DEV}.WAV\n"


WAVE, PHN, WRD = DEV + ".WAV", DEV + ".PHN", DEV + ".WRD"
BAD = {
    "missing wave": (WAVE, None, "has no wave"),
    "missing phones": (PHN, None, "has no phone labels"),
    "missing words": (WRD, None, "has no words"),
    "empty wave": (WAVE, b"", "neither NIST SPHERE nor RIFF"),
    "truncated sphere": (WAVE, sphere(noise())[:-1], "cut short"),
    "truncated riff": (WAVE, riff(noise())[:-2], "cut short"),
    "broken sphere header": (WAVE, b"NIST_1A\n   1024\nsample_count -i x\nend_head\n", "broken SPHERE header"),
    "sphere header without end": (WAVE, b"NIST_1A\n   1024\nsample_count -i 3\n", "no end_head"),
    "riff without samples": (WAVE, b"RIFF\x04\0\0\0WAVE", "broken RIFF header"),
    "wrong rate": (WAVE, sphere(noise(), rate_hz=8000), "8000 Hz"),
    "compressed": (WAVE, sphere(noise(), coding="pcm,embedded-shorten-v2.00"), "embedded-shorten"),
    "stereo": (WAVE, riff(noise(), channels=2), "Signed 16 bit PCM, 2 channels"),
    "8 bits": (WAVE, riff(noise(), bits=8), "Unsigned 8 bit PCM, 1 channels"),
    "float": (WAVE, riff(noise(), code=3), "libsndfile cannot read it: "),
    "no whole frame": (WAVE, sphere(noise(399)), "399 samples"),
    "negative count": (WAVE, sphere(noise(), count=-5), "negative sizes"),
    "unknown phone": (PHN, b"0 1 h#\n1 2 xx\n", "unknown phone 'xx'"),
    "nothing but q": (PHN, b"0 1 q\n", "no phone in it"),
    "labels without times": (PHN, b"h# aa h#\n", "START END LABEL"),
    "labels not text": (PHN, b"0 1 \xff\n", "START END LABEL"),
}


@pytest.mark.parametrize("fault", sorted(BAD))
def test_bad_utterance_is_named_or_with_skip_bad_listed(tmp_path, fault):
    name, data, message = BAD[fault]
    files = small_corpus()
    files.update({key.replace("SX2", "SX9"): value for key, value in files.items() if "SX2" in key})
    files.pop(name)
    if data is not None:
        files[name] = data
    folder = write_folder(tmp_path / "timit", files)
    with pytest.raises(StageError, match="^FAKS0_SX2: .*" + message) as caught:
        run_corpus(tmp_path, folder)
    assert "--skip-bad" in caught.value.hint
    out = run_corpus(tmp_path, folder, "--skip-bad")
    (excluded,) = summary(out)["excluded"]
    assert excluded["utterance"] == "FAKS0_SX2"
    assert message in excluded["reason"]
    assert str(tmp_path) not in excluded["reason"]
    assert (out / "dev" / "phn_text").read_text() == "FAKS0_SX9 sil aa sil\n"
    assert summary(out)["splits"]["dev"] == {"phones": 3, "speakers": 1, "utterances": 1}


def test_corrupt_zip_member_is_named_or_skipped(tmp_path):
    files = small_corpus()
    files.update({key.replace("SX2", "SX9"): value for key, value in files.items() if "SX2" in key})
    path = write_zip(tmp_path / "data.zip", files)
    data = bytearray(path.read_bytes())
    data[data.index(WAVE.encode()) + 600] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(StageError, match="^FAKS0_SX2: cannot read " + WAVE):
        run_corpus(tmp_path, path)
    (excluded,) = summary(run_corpus(tmp_path, path, "--skip-bad"))["excluded"]
    assert excluded["utterance"] == "FAKS0_SX2"


def test_corpus_with_nothing_but_bad_utterances_is_refused_even_with_skip_bad(tmp_path):
    files = small_corpus()
    files[WAVE] = b""
    with pytest.raises(StageError, match="every utterance of dev is bad"):
        run_corpus(tmp_path, write_folder(tmp_path / "timit", files), "--skip-bad")


def test_corpus_without_dev_speakers_is_refused(tmp_path):
    files = {name: data for name, data in small_corpus().items() if "FAKS0" not in name}
    with pytest.raises(StageError, match="no utterance for the split dev"):
        run_corpus(tmp_path, write_folder(tmp_path / "timit", files))


def test_one_utterance_in_two_dialect_folders_is_refused(tmp_path):
    files = small_corpus()
    files.update({name.replace("DR1", "DR2"): data for name, data in files.items() if "FABC0" in name})
    with pytest.raises(StageError, match="FABC0_SX1 lies in TRAIN/DR1/FABC0 and in TRAIN/DR2/FABC0"):
        run_corpus(tmp_path, write_folder(tmp_path / "timit", files))


def test_phone_map_folds_61_to_39_and_drops_q():
    folding = labels.read_phone_map(str(CONF / "phones.60-48-39.map"))
    assert len(folding) == 61
    assert folding["q"] == labels.DROPPED
    assert len(set(folding.values()) - {labels.DROPPED}) == 39
    assert labels.fold(["q", "tcl", "ax-h", "zh"], folding, "x") == ["sil", "ah", "sh"]


def test_speaker_lists_have_timits_sizes_and_share_nobody():
    dev, test = (labels.read_speakers(str(CONF / name)) for name in ("dev_spk.list", "test_spk.list"))
    assert (len(dev), len(test), len(dev & test)) == (50, 24, 0)


def test_refusal_in_a_later_split_leaves_nothing_of_the_earlier_ones(tmp_path):
    files = small_corpus()
    files[WAVE] = b""
    with pytest.raises(StageError, match="neither NIST SPHERE nor RIFF"):
        run_corpus(tmp_path, write_folder(tmp_path / "timit", files))
    assert not list((tmp_path / "stages.corpus.out").iterdir())


def test_speaker_in_two_folders_is_one_and_its_utterances_are_sorted_among_the_others(tmp_path):
    files = small_corpus()
    for folder, stem in (("DR1/FABC0", "SX3"), ("DR7/FABC0", "SI2"), ("DR2/FABC0-1", "SX0"), ("DR2/FABC", "SX5")):
        files.update({name.replace("DR1/FABC0/SX1", folder + "/" + stem): data for name, data in files.items()
                      if "DR1/FABC0/SX1." in name})  # fmt: skip
    out = run_corpus(tmp_path, write_folder(tmp_path / "timit", files))
    names = [line.split()[0] for line in (out / "train" / "utterances").read_text().splitlines()]
    assert names == sorted(names) and "FABC0_SI2" in names and "FABC0-1_SX0" in names
    assert summary(out)["splits"]["train"]["speakers"] == 3
