"""The bench of the features: the corpora that it makes up, and what it refuses to time."""

import pytest

from repro.base.errors import VerificationFailed
from repro.base.paths import Paths
from repro.bench import features
from repro.bench.workbench import Sample, Workbench


@pytest.fixture
def bench(tmp_path):
    return Workbench(Paths(tmp_path), quick=True, scratch=tmp_path / "scratch", say=print)


@pytest.fixture
def corpus(tmp_path):
    for split in ("train", "dev", "test"):
        (tmp_path / "corpus" / split).mkdir(parents=True)
        lines = [f"FABC0_SX{number}\tTRAIN/x.WAV\tsphere\t16000\t{16000 * number}\n" for number in range(1, 6)]
        (tmp_path / "corpus" / split / "audio.tsv").write_text("".join(lines))
    return tmp_path / "corpus"


def test_a_part_of_a_corpus_is_each_nth_utterance(bench, corpus):
    part = features._selected(bench, corpus, every=2, times=1)
    names = [line.split("\t")[0] for line in features._rows(part)["dev"]]
    assert names == ["FABC0_SX1", "FABC0_SX3", "FABC0_SX5"]
    assert features._speech_s(part) == 3 * (1 + 3 + 5)


def test_a_larger_corpus_has_the_same_waves_under_other_names_in_order(bench, corpus):
    larger = features._selected(bench, corpus, every=1, times=3)
    lines = features._rows(larger)["train"]
    names = [line.split("\t")[0] for line in lines]
    assert len(set(names)) == len(names) == 15
    assert names == sorted(names)
    assert {line.split("\t")[1] for line in lines} == {"TRAIN/x.WAV"}
    assert features._speech_s(larger) == 3 * features._speech_s(corpus)


def test_runs_that_wrote_other_bytes_are_not_figures(tmp_path):
    for name, data in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name / "train").mkdir(parents=True)
        (tmp_path / name / "train" / "fbank.ark").write_bytes(data)
    a, b, c = (features._digests(tmp_path / name) for name in "abc")
    features._hold_equal([a, b])
    with pytest.raises(VerificationFailed, match=r"train/fbank\.ark differs"):
        features._hold_equal([a, b, c])
    with pytest.raises(VerificationFailed, match="more differs"):
        features._hold_equal([a, {**a, "more": "0"}])


def test_two_cores_that_are_not_twice_one_are_held_to_what_separate_stages_reach_on_them():
    """As two threads of one core: everything reaches 0.8 of linear at most."""
    times = {"one": (10.0, 10.0), "all": (6.58, 6.58), "apart": (6.25, 6.25)}
    samples = {name: Sample(values) for name, values in times.items()}
    linear, beside = features.scaling(2, samples, "equal")
    assert linear.value == pytest.approx(0.76, abs=1e-3) and linear.met is None
    assert beside.value == pytest.approx(0.95, abs=1e-3) and beside.met is True
    lost = {**samples, "apart": Sample((5.0, 5.0))}
    assert list(features.scaling(2, lost, "equal"))[1].met is False


def test_shares_of_a_corpus_are_all_of_it_and_alike(bench, corpus):
    shares = features._shares(bench, corpus, 2)
    names = [[line.split("\t")[0][-1] for line in features._rows(share)["dev"]] for share in shares]
    assert names == [["1", "3", "5"], ["2", "4"]]
    assert sum(map(features._speech_s, shares)) == features._speech_s(corpus)
