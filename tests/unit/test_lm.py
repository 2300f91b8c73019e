"""The stage lm against IRSTLM's own output, and ARPA files whole and broken."""

import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import lm
from stages.formats import arpa
from stages.shared.stage import StageError

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
# Made by IRSTLM 6.00.05: build-lm.sh -n 2 over golden's train labels with <s> and </s>, then compile-lm -t=yes.
IRSTLM = Path(__file__).with_name("lm_irstlm_witten_bell.arpa")


def train_labels():
    return [line.split()[1:] for line in (GOLDEN / "data/train/phn_text").read_text().splitlines()]


def test_estimate_equals_irstlm_to_its_printed_digits():
    ours, theirs = lm.estimate(train_labels()), arpa.read(str(IRSTLM))
    assert set(ours.unigrams) == set(theirs.unigrams)
    assert set(ours.bigrams) == set(theirs.bigrams)
    for word, (logp, backoff) in theirs.unigrams.items():
        assert ours.unigrams[word][0] == pytest.approx(logp, abs=1e-5)
        if word != arpa.END:  # IRSTLM counts what follows a sentence's end; no decoder asks for it
            assert ours.unigrams[word][1] == pytest.approx(backoff, abs=1e-5)
    for pair, logp in theirs.bigrams.items():
        assert ours.bigrams[pair] == pytest.approx(logp, abs=1e-5)


def test_golden_model_is_another_smoothing_of_the_same_counts():
    golden, ours = arpa.read(str(GOLDEN / "score/lm_phone_bg.arpa")), lm.estimate(train_labels())
    assert set(golden.unigrams) == set(ours.unigrams)
    assert set(golden.bigrams) == set(ours.bigrams) - {(arpa.START, arpa.START)}
    # Absolute discounting by 0.5, which Witten-Bell is not: 'aa' is followed by 'r' 11 times of 24, 7 kinds follow.
    expected = 10.5 / 24 + 7 * 0.5 / 24 * 10 ** golden.unigrams["r"][0]
    assert 10 ** golden.bigrams["aa", "r"] == pytest.approx(expected, rel=1e-5)


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=6), min_size=1, max_size=8))
def test_every_history_of_an_estimate_sums_to_one(sentences):
    model = lm.estimate(sentences)
    assert sum(10**logp for logp, _ in model.unigrams.values()) == pytest.approx(1)
    for before in model.unigrams:
        assert sum(10 ** model.log10(before, word) for word in model.unigrams) == pytest.approx(1)


def test_stage_writes_the_same_bytes_whatever_the_order_of_the_hashes(tmp_path):
    written = set()
    for seed in ("0", "1"):
        out, obs = tmp_path / seed, tmp_path / f"obs{seed}"
        out.mkdir()
        obs.mkdir()
        command = [sys.executable, "-m", "stages.lm", "--corpus", str(GOLDEN / "data"), "--out", out, "--obs", obs]
        subprocess.run(command, check=True, cwd=ROOT, env={"PYTHONHASHSEED": seed})
        written.add((out / "lm_phone_bg.arpa").read_bytes())
    assert len(written) == 1


def test_written_model_reads_back(tmp_path):
    model = lm.estimate(train_labels())
    arpa.write(str(tmp_path / "m"), model)
    back = arpa.read(str(tmp_path / "m"))
    assert back.bigrams == pytest.approx(model.bigrams, abs=1e-6)
    assert back.missing(["aa"]) == [] and back.missing(["xx"]) == ["xx"]


def test_a_blank_line_is_no_sentence(tmp_path):
    (tmp_path / "train").mkdir()
    written = []
    for text in ("A_1 aa b\nA_2 b\n", "A_1 aa b\n\n  \nA_2 b\n"):
        (tmp_path / "train/phn_text").write_text(text)
        lm.main(["--corpus", str(tmp_path), "--out", str(tmp_path), "--obs", str(tmp_path)])
        written.append((tmp_path / "lm_phone_bg.arpa").read_bytes())
    assert written[0] == written[1]


def test_stage_refuses_labels_without_a_phone(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/phn_text").write_text("A_1\n")
    with pytest.raises(StageError, match=re.escape(f"{tmp_path}/train/phn_text holds no phone")):
        lm.main(["--corpus", str(tmp_path), "--out", str(tmp_path), "--obs", str(tmp_path)])


def test_unseen_pair_backs_off():
    model = arpa.Bigram({"a": (-1.0, -0.25), "b": (-0.5, 0.0), "<unk>": (-2.0, 0.0)}, {("b", "a"): -0.125})
    assert model.log10("b", "a") == -0.125
    assert model.log10("a", "b") == -0.75
    assert model.log10("a", "lacking") == -2.25


def test_symbol_lacking_in_a_model_without_unk_is_as_rare_as_the_rarest():
    model = arpa.Bigram({"<s>": (-99.0, 0.0), "a": (-1.0, 0.0), "b": (-3.0, 0.0)}, {})
    assert model.log10("a", "lacking") == -3.0


def test_tables_are_natural_logarithms_times_the_weight():
    model = arpa.Bigram({"<s>": (-99.0, -1.0), "</s>": (-2.0, 0.0), "a": (-1.0, 0.0), "<unk>": (-3.0, 0.0)}, {})
    following, ending = model.tables(["a"], 0.5)
    assert following[0] == pytest.approx([0, -4 * math.log(10) / 2, -2 * math.log(10) / 2])
    assert ending == pytest.approx([-3 * math.log(10) / 2, -math.log(10), -math.log(10)])


GOOD = "\\data\\\nngram 1=2\nngram 2=1\n\n\\1-grams:\n-1 a -0.5\n-1 b\n\n\\2-grams:\n-1 a b\n\n\\end\\\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\end\\\n", "", "not a whole ARPA bigram: no .data. section, no unigrams or no .end."),
        ("ngram 1=2\nngram 2=1\n", "", "not a whole ARPA bigram: no"),
        ("ngram 2=1", "ngram 2", "line 3 is not an ARPA entry: 'ngram 2'"),
        ("ngram 1=2", "ngram 1=3", "3 1-grams announced, 2 found"),
        ("ngram 2=1", "ngram 2=1\nngram 3=4", "4 3-grams announced"),
        ("-1 a b", "x a b", "line 10 is not an ARPA entry"),
        ("-1 b\n", "-1\n", "line 7 is not an ARPA entry"),
    ],
)
def test_broken_model_is_refused_by_file_and_line(tmp_path, old, new, message):
    path = tmp_path / "m.arpa"
    path.write_text(GOOD)
    assert arpa.read(str(path)).log10("b", "a") == -1.0
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(StageError, match=message):
        arpa.read(str(path))


@pytest.mark.parametrize("reserved", ["<s>", "</s>", "<unk>"])
def test_stage_refuses_a_phone_that_arpa_reserves(tmp_path, reserved):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/phn_text").write_text(f"A_1 aa b\nA_2 aa {reserved}\n")
    with pytest.raises(StageError, match=re.escape(f"{tmp_path}/train/phn_text uses {reserved} as a phone")):
        lm.main(["--corpus", str(tmp_path), "--out", str(tmp_path), "--obs", str(tmp_path)])


def test_labels_and_models_that_cannot_be_read_are_refused_by_path_and_reason(tmp_path):
    with pytest.raises(StageError, match=re.escape(f"cannot read {tmp_path}/train/phn_text: ") + ".*No such file"):
        lm.main(["--corpus", str(tmp_path), "--out", str(tmp_path), "--obs", str(tmp_path)])
    path = tmp_path / "m.arpa"
    with pytest.raises(StageError, match=re.escape(f"cannot read the language model {path}: ") + ".*No such file"):
        arpa.read(str(path))
    path.write_bytes(b"\\data\\\n\xff")
    with pytest.raises(StageError, match="utf-8"):
        arpa.read(str(path))


@given(
    st.dictionaries(
        st.text("abc<>/é", min_size=1),
        st.tuples(st.floats(-99, 0, width=16), st.floats(-9, 9, width=16)),
        min_size=1, max_size=6,
    ),
    st.data(),
)  # fmt: skip
def test_any_model_reads_back_from_what_is_written_of_it(unigrams, data):
    words = st.sampled_from(sorted(unigrams))
    bigrams = data.draw(st.dictionaries(st.tuples(words, words), st.floats(-99, 0, width=16), max_size=8))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "m"))
        arpa.write(path, arpa.Bigram(unigrams, bigrams))
        back, text = arpa.read(path), Path(path).read_text("utf-8")
    assert back.bigrams == pytest.approx(bigrams, abs=1e-6)
    assert {word: list(pair) for word, pair in back.unigrams.items()} == {
        word: pytest.approx(pair, abs=1e-6) for word, pair in unigrams.items()
    }
    assert text.startswith(f"\n\\data\\\nngram 1={len(unigrams)}\nngram 2={len(bigrams)}\n\n\\1-grams:\n")
    listed = [line.split()[1] for line in text.partition("\\2-grams:")[0].splitlines() if "\t" in line]
    assert listed == sorted(unigrams)


@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
def test_a_model_s_columns_may_be_apart_by_tabs_or_spaces_and_lines_blank(tmp_path, ending):
    path = tmp_path / "m.arpa"
    path.write_text(GOOD.replace(" a ", "\ta\t").replace("\n\\", "\n \n\\").rstrip("\n") + ending)
    model = arpa.read(str(path))
    assert model.unigrams == {"a": (-1.0, -0.5), "b": (-1.0, 0.0)} and model.bigrams == {("a", "b"): -1.0}
