"""The demo corpus: what is said, by whom, and that nothing but the plan decides the bytes."""

import hashlib
import os
import re
import shutil
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import demo_corpus
from stages.demo import synth
from stages.demo import text as sentences
from stages.demo.synth import Segment, Utterance
from stages.demo.voices import SENTENCES_A_SPEAKER, SPEAKERS
from stages.formats import audio
from stages.shared.stage import StageError

CONF = Path(__file__).resolve().parents[2] / "conf"

try:
    import tomllib
except ImportError:
    import tomli as tomllib

needs_synthesisers = pytest.mark.skipif(
    shutil.which("flite") is None or shutil.which("espeak-ng") is None, reason="flite and espeak-ng are in an image"
)


def speaker_list(split):
    return set((CONF / "timit" / f"{split}_spk.list").read_text(encoding="utf-8").upper().split())


def speakers(split):
    return [speaker for speaker in SPEAKERS if speaker.split == split]


def texts(split):
    return [job.text for job in demo_corpus.plan() if job.speaker.split == split and not job.sentence.startswith("SA")]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_dev_and_test_speakers_are_on_timits_lists(split):
    assert {speaker.name for speaker in speakers(split)} <= speaker_list(split)


def test_train_speakers_do_not_look_like_timits():
    assert not [s.name for s in speakers("train") if re.fullmatch("[FM][A-Z]{3}[0-9]", s.name)]


def test_speakers_have_one_name_each_and_are_male_or_female():
    assert len({speaker.name for speaker in SPEAKERS}) == len(SPEAKERS)
    assert {speaker.name[0] for speaker in SPEAKERS} == {"F", "M"}


def test_no_setting_of_a_dev_or_test_voice_is_trained_on():
    def settings(chosen):
        return {(s.synthesiser, s.voice, s.speed, s.pitch, s.warp) for s in chosen}

    assert not settings(speakers("train")) & settings(speakers("dev") + speakers("test"))


def test_no_sentence_is_said_twice_but_the_two_that_everyone_says():
    said = texts("train") + texts("dev") + texts("test")
    assert len(set(said)) == len(said) == sum(SENTENCES_A_SPEAKER[speaker.split] for speaker in SPEAKERS)
    assert not set(said) & set(sentences.SHARED_SENTENCES)


def test_every_speaker_says_both_sa_sentences():
    for speaker in SPEAKERS:
        mine = {job.sentence: job.text for job in demo_corpus.plan() if job.speaker == speaker}
        assert [mine["SA1"], mine["SA2"]] == list(sentences.SHARED_SENTENCES)


def test_dev_set_leaves_a_whole_batch_of_64_to_the_published_protocol():
    assert (len(texts("dev")) - 1) // 64 >= 1


def test_more_train_sentences_leave_dev_and_test_as_they_are(monkeypatch):
    before = texts("dev"), texts("test")
    monkeypatch.setitem(SENTENCES_A_SPEAKER, "train", 41)
    assert (texts("dev"), texts("test")) == before


def test_sentences_are_drawn_alike_by_every_python():
    drawn = "\n".join(islice(sentences.sentences("a seed"), 500))
    assert hashlib.sha256(drawn.encode()).hexdigest() == (
        "c62aa195bf9d5e3a6d57742fb8188e823ab88af9ee62b6e66fd486d71e4aae21"
    )


def test_a_before_a_vowel_is_an():
    for text in islice(sentences.sentences("articles"), 2000):
        assert not re.search(r"\b[Aa] [aeiou]", text)


# Samples and segments


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 400), st.integers(0, 2**32 - 1))
def test_resampling_is_exactly_linear(step, phases, length, seed):
    ratio = Fraction(step, phases)
    if not Fraction(1, 2) <= ratio <= 2:
        ratio = Fraction(1)
    random = np.random.RandomState(seed)
    first, second = (random.randint(-8000, 8000, length).astype(np.int16) for _ in range(2))
    together = synth.resample(first + second, ratio)
    assert len(together) == int(length / ratio)
    assert (together == synth.resample(first, ratio) + synth.resample(second, ratio)).all()


@pytest.mark.parametrize("ratio", [Fraction(441, 320), Fraction(11, 10), Fraction(94, 100), Fraction(1)])
def test_resampling_moves_a_tone_and_keeps_its_shape(ratio):
    frequency = 0.01
    tone = np.rint(10000 * np.sin(2 * np.pi * frequency * np.arange(8000))).astype(np.int16)
    result = synth.resample(tone, ratio) / 2**16
    wanted = 10000 * np.sin(2 * np.pi * frequency * float(ratio) * np.arange(len(result)))
    inner = slice(100, -100)  # the ends have no neighbours
    assert np.abs(result[inner] - wanted[inner]).max() < 30


def test_resampling_to_fewer_samples_removes_what_would_alias():
    tone = np.rint(10000 * np.sin(2 * np.pi * 0.45 * np.arange(8000))).astype(np.int16)
    assert np.abs(synth.resample(tone, Fraction(3, 2))[100:-100] / 2**16).max() < 100


def segments_of(phones, length=100):
    return [Segment(length * index, length * (index + 1), phone) for index, phone in enumerate(phones)]


def test_stops_become_closure_and_release_unless_silence_is_the_closure():
    timit = synth.to_timit(segments_of(["pau", "t", "aa", "k", "pau", "pau", "jh", "pau"]))
    assert [segment.phone for segment in timit] == ["h#", "t", "aa", "kcl", "k", "pau", "jh", "h#"]
    closure, release = timit[3], timit[4]
    assert (closure.start, closure.end, release.start, release.end) == (300, 355, 355, 400)
    assert (timit[5].start, timit[5].end) == (400, 600)


@given(
    st.lists(
        st.tuples(st.sampled_from(["pau", "t", "aa", "ch", "s"]), st.integers(0, 3), st.integers(0, 2)), min_size=1
    )
)
def test_segments_are_contiguous_whatever_the_synthesiser_says(spoken):
    segments = [Segment(0, 5, "pau")]
    for phone, length, gap in spoken:
        start = segments[-1].end + gap
        segments.append(Segment(start, start + length, phone))
    segments.append(Segment(segments[-1].end, segments[-1].end + 5, "pau"))
    timit = synth.to_timit(segments)
    assert (timit[0].start, timit[-1].end) == (0, segments[-1].end)
    assert all(left.end == right.start for left, right in zip(timit, timit[1:]))
    assert all(segment.start < segment.end for segment in timit)


def test_flites_phones_are_read_to_the_millisecond():
    assert synth.parse_flite_segments("pau:0.217 ax:0.271 \n") == [(0, 217, "pau"), (217, 271, "ax")]


def test_espeaks_double_phones_are_split_in_the_middle():
    segments = synth.parse_espeak_phonemes([(0, "A@"), (100, ";"), (120, "t"), (160, "_:")], Fraction(200))
    assert segments == [(0, 50, "aa"), (50, 100, "r"), (120, 160, "t"), (160, 200, "pau")]


def test_unknown_phones_are_refused_by_name():
    with pytest.raises(StageError, match=r"'xx:0\.2'"):
        synth.parse_flite_segments("pau:0.1 xx:0.2")
    with pytest.raises(StageError, match="'Q!'"):
        synth.parse_espeak_phonemes([(0, "Q!")], Fraction(100))


def test_sphere_files_are_what_the_corpus_stage_reads():
    samples = np.array([0, 1, -1, 32767, -32768], np.int16)
    data = demo_corpus.sphere(samples)
    wave, read = audio.read(data, "x")
    assert (wave.container, wave.rate_hz, wave.num_samples) == ("sphere", 16000, 5)
    assert (read == samples).all()


def test_words_share_the_speech_between_the_edge_silences():
    lines = demo_corpus.word_lines("Ab cdef, gh.", [(0, 100, "h#"), (100, 900, "aa"), (900, 1000, "h#")])
    assert lines == "100 300 ab\n300 700 cdef\n700 900 gh\n"


# The whole tree


def fake_speech(name, speaker, text):
    length = 1000 + len(name) + len(text)
    return Utterance(np.arange(length).astype("<i2"), [(0, 100, "h#"), (100, 900, "aa"), (900, length, "h#")])


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(synth, "speak", fake_speech)
    return tmp_path


def test_bytes_do_not_depend_on_workers_or_order(tree):
    jobs = demo_corpus.plan()[:60]
    digests = set()
    for name, workers, order in (("a", 1, jobs), ("b", 7, jobs[::-1])):
        (tree / name).mkdir()
        demo_corpus.make(str(tree / name), order, workers)
        digests.add(demo_corpus.corpus_digest(str(tree / name)))
    assert len(digests) == 1


def test_tree_has_timits_layout_and_says_that_it_is_not_timit(tree):
    job = demo_corpus.plan()[0]
    demo_corpus.make(str(tree), [job], 1)
    found = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file())
    stem = "TEST/DR1/FAKS0/SA1"
    assert found == ["README.DOC"] + [stem + suffix for suffix in (".PHN", ".TXT", ".WAV", ".WRD")]
    assert (tree / "README.DOC").read_text(encoding="ascii").startswith("THIS IS NOT TIMIT")
    assert (tree / (stem + ".TXT")).read_text(encoding="ascii").split()[2:] == job.text.split()


def test_digest_is_that_of_sha256sums_lines(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(b"1")
    (tmp_path / "a").write_bytes(b"2")
    lines = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in (("a", b"2"), ("b/x", b"1")))
    assert demo_corpus.corpus_digest(str(tmp_path)) == hashlib.sha256(lines.encode()).hexdigest()


def test_failure_of_one_utterance_ends_the_stage(tree, monkeypatch):
    def fail(name, speaker, text):
        raise StageError(name + ": no")

    monkeypatch.setattr(synth, "speak", fail)
    with pytest.raises(StageError, match="FAKS0_SA1: no"):
        demo_corpus.make(str(tree), demo_corpus.plan()[:1], 2)
    assert not [path for path in tree.rglob("*") if path.is_file()]


def test_missing_synthesiser_is_named_with_the_utterance(monkeypatch):
    monkeypatch.setitem(synth._ENVIRONMENT, "PATH", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(StageError, match="FAKS0_SX1: cannot run flite") as raised:
        synth.speak("FAKS0_SX1", speakers("dev")[0], "Hello.")
    assert "synth image" in raised.value.hint


def test_synthesisers_own_words_are_in_the_error(monkeypatch, tmp_path):
    broken = tmp_path / "flite"
    broken.write_text("#!/bin/sh\necho no such voice >&2\nexit 5\n", encoding="ascii")
    broken.chmod(0o755)
    monkeypatch.setitem(synth._ENVIRONMENT, "PATH", str(tmp_path) + ":/bin")
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    with pytest.raises(StageError, match="FAKS0_SX1: the synthesiser failed: no such voice"):
        synth.speak("FAKS0_SX1", speakers("dev")[0], "Hello.")


@pytest.mark.parametrize("printed", ["", '{"rate_hz": 22050, "samples": 2, "phonemes": []}', '{"samples": 2}\\nab'])
def test_an_espeak_that_ends_within_an_answer_is_named_with_its_last_words(monkeypatch, tmp_path, printed):
    program = tmp_path / "espeak.py"
    program.write_text(
        f"import sys\nsys.stdin.readline()\nprint('{printed}', end='')\nprint('no such voice', file=sys.stderr)\n"
    )
    monkeypatch.setattr(synth, "_ESPEAK_PROGRAM", str(program))
    monkeypatch.setattr(synth, "_espeak_program", None)
    speaker = next(speaker for speaker in SPEAKERS if speaker.synthesiser == "espeak")
    with pytest.raises(StageError, match="X_SX1: the synthesiser failed: no such voice"):
        synth.speak("X_SX1", speaker, "Hello.")


@needs_synthesisers
@pytest.mark.parametrize("synthesiser", ["flite", "espeak"])
def test_the_same_speech_twice_has_the_same_bytes(synthesiser, monkeypatch):
    monkeypatch.setattr(synth, "_espeak_program", None)
    speaker = next(speaker for speaker in SPEAKERS if speaker.synthesiser == synthesiser)
    first, second = (synth.speak("X_SX1", speaker, "A quiet otter measured the bridge.") for _ in range(2))
    assert first.samples.tobytes() == second.samples.tobytes() and first.segments == second.segments
    assert first.segments[0][2] == first.segments[-1][2] == "h#"
    assert 8000 < np.abs(first.samples.astype(int)).max() < 13000
    if synth._espeak_program is not None:
        with synth._espeak_program._process:  # ends it: its input is closed
            pass


def test_one_corpus_digest_is_pinned():
    with open(CONF / "demo.toml", "rb") as stream:
        corpus = tomllib.load(stream)["corpus"]
    assert corpus["utterances"] == len(demo_corpus.plan())
    assert re.fullmatch("[0-9a-f]{64}", corpus["sha256"])
