"""Features by Kaldi's programs: what the programs leave out, or end with, is noticed. The programs are stood in for."""

import os
import stat

import numpy as np
import pytest
from _speech_cases import CONF, ROOT, SPLITS, run_stage, small_corpus, write_folder

from stages import corpus, features
from stages.formats import kaldi_io
from stages.shared.stage import StageError
from stages.speech import kaldi as kaldi_fbank

FEATURES_CONF = ROOT / "conf" / "features"
# A program in place of one of Kaldi's: {body} has `args`, and `archive(specifier)` to read and `write` to write one.
PROGRAM = """#!{python}
import shutil, struct, sys
sys.path.insert(0, {root!r})
import kaldiio, numpy
from stages.formats import kaldi_io
args = [word for word in sys.argv[1:] if not word.startswith("--")]

def waves():
    stream = sys.stdin.buffer
    while True:
        key = b""
        while (byte := stream.read(1)) not in (b" ", b""):
            key += byte
        if not key:
            return
        size = struct.unpack("<4sI", stream.read(8))[1]
        body = stream.read(size)
        yield key.decode(), numpy.frombuffer(body[36:], "<i2")

def write(specifier, items):
    kind, _, names = specifier.partition(":")
    ark, _, scp = names.partition(",")
    kaldiio.save_ark(ark, dict(items), scp=scp or None)

def archive(specifier):
    return list(kaldi_io.read_archive(specifier.partition(":")[2]))

def frames(samples):
    return numpy.full((1 + (len(samples) - 400) // 160, 81), samples[0], numpy.float32)

{body}
"""
GOOD = {
    "compute-fbank-feats": "write(args[1], [(key, frames(samples)) for key, samples in waves()])",
    "compute-cmvn-stats": "kaldi_io.write_text_matrix(open(args[1], 'w'), numpy.ones((2, 82), 'f4'))",
    "apply-cmvn": "write(args[2], [(key, matrix + 1) for key, matrix in archive(args[1])])",
    "copy-feats": "write(args[1], archive(args[0]))",
}


@pytest.fixture
def kaldi(tmp_path, monkeypatch):
    """Installs programs: `kaldi(name=body)` replaces one of the good ones."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def install(**replaced):
        import sys

        for name, body in {**GOOD, **{key.replace("_", "-"): value for key, value in replaced.items()}}.items():
            path = folder / name
            path.write_text(PROGRAM.format(python=sys.executable, root=str(ROOT), body=body))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return install


def make(tmp_path, *more):
    data = write_folder(tmp_path / "data", small_corpus())
    corpus_out = run_stage(corpus, tmp_path, "--data", data, "--conf", CONF)
    options = ["--data", data, "--corpus", corpus_out, "--conf", FEATURES_CONF, "--implementation", "kaldi"]
    return run_stage(features, tmp_path, *options, *more)


def test_the_programs_results_become_the_stages(kaldi, tmp_path):
    kaldi()
    out = make(tmp_path)
    for split in SPLITS:
        index = (out / split / "fbank.scp").read_text().splitlines()
        archive = list(kaldi_io.read_archive(str(out / split / "fbank.ark")))
        assert [line.split()[0] for line in index] == [key for key, _ in archive]
        assert all(line.split()[1].startswith(f"{split}/fbank.ark:") for line in index)
        assert sorted(path.name for path in (out / split).iterdir()) == ["fbank.ark", "fbank.scp"]
    assert '"implementation": "kaldi"' in (out / "summary.json").read_text()


@pytest.mark.parametrize("program", sorted(GOOD))
def test_a_program_that_ends_with_an_error_is_named_with_its_last_words(kaldi, tmp_path, program):
    kaldi(**{program.replace("-", "_"): "sys.exit('it said: no luck')"})
    with pytest.raises(StageError, match=rf"{program} ended with exit code 1: .*no luck"):
        make(tmp_path)


@pytest.mark.parametrize("program", ["compute-fbank-feats", "apply-cmvn", "copy-feats"])
def test_an_utterance_left_out_with_exit_code_0_is_noticed(kaldi, tmp_path, program):
    less = GOOD[program].replace("])", "][1:])") if program != "copy-feats" else "write(args[1], archive(args[0])[1:])"
    kaldi(**{program.replace("-", "_"): less})
    with pytest.raises(StageError, match="left an utterance out"):
        make(tmp_path)


def test_frames_that_the_samples_do_not_hold_are_noticed(kaldi, tmp_path):
    kaldi(compute_fbank_feats=GOOD["compute-fbank-feats"].replace("frames(samples)", "frames(samples)[1:]"))
    with pytest.raises(StageError, match="has shape"):
        make(tmp_path)


def test_features_that_are_not_finite_are_noticed(kaldi, tmp_path):
    kaldi(apply_cmvn=GOOD["apply-cmvn"].replace("matrix + 1", "matrix * numpy.nan"))
    with pytest.raises(StageError, match="not finite"):
        make(tmp_path)


def test_an_image_without_the_programs_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StageError, match="compute-fbank-feats"):
        kaldi_fbank.check_programs()


def test_the_draw_order_cannot_be_chosen_for_compiled_programs(kaldi, tmp_path):
    kaldi()
    with pytest.raises(StageError, match="compiled into Kaldi"):
        make(tmp_path, "--dither-draw-order", "u2-first")


def test_a_split_without_utterances_has_empty_files(kaldi, tmp_path):
    kaldi()
    out, obs = tmp_path / "o", tmp_path / "b"
    (out / "dev").mkdir(parents=True)
    obs.mkdir()
    made = kaldi_fbank.KaldiFeatures(str(out), str(obs), "fbank.conf", {})
    assert made.empty("dev") == 0
    assert [path.read_bytes() for path in sorted((out / "dev").iterdir())] == [b"", b""]


def test_waves_go_in_as_plain_riff():
    data = kaldi_fbank.riff(np.array([1, -2], np.int16), 16000)
    assert data[:4] == b"RIFF" and data[8:16] == b"WAVEfmt " and data[36:40] == b"data"
    assert data[44:] == b"\x01\x00\xfe\xff"
