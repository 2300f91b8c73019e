"""Small corpora in TIMIT's layout, and the speech stages run in this process, for the tests of these stages."""

import json
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
CONF = ROOT / "conf" / "timit"
SPLITS = ("train", "dev", "test")
TRAIN = "TRAIN/DR1/FABC0/SX1"
DEV = "TEST/DR1/FAKS0/SX2"
TEST = "TEST/DR1/MDAB0/SX3"


def sphere(samples, order="01", rate_hz=16000, coding="pcm", count=None, fields=(), padding=b"\0"):
    """A NIST SPHERE file of int16 samples; `fields` are lines that stand before those of the samples."""
    fields = [
        "NIST_1A\n   1024",
        *fields,
        f"sample_count -i {len(samples) if count is None else count}",
        "sample_n_bytes -i 2",
        "channel_count -i 1",
        f"sample_byte_format -s2 {order}",
        f"sample_rate -i {rate_hz}",
        f"sample_coding -s{len(coding)} {coding}",
        "end_head\n",
    ]
    header = "\n".join(fields).encode().ljust(1024, padding)
    return header + np.asarray(samples).astype("<i2" if order == "01" else ">i2").tobytes()


def riff(samples, channels=1, bits=16, rate_hz=16000, before=b"", code=1):
    """A RIFF WAVE file; `before` is a chunk that stands before the samples."""
    data = np.asarray(samples).astype("<i2").tobytes()
    block = channels * bits // 8
    layout = struct.pack("<HHIIHH", code, channels, rate_hz, rate_hz * block, block, bits)
    body = (
        b"WAVEfmt " + struct.pack("<I", len(layout)) + layout + before + b"data" + struct.pack("<I", len(data)) + data
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def noise(num_samples=4000, seed=0):
    return np.random.RandomState(seed).randint(-2000, 2000, num_samples).astype(np.int16)


def utterance(stem, samples, phones=("h#", "aa", "h#")):
    """{name: bytes} of one utterance's wave and labels."""
    lines = "".join(f"{100 * i} {100 * i + 100} {phone}\n" for i, phone in enumerate(phones))
    return {
        stem + ".WAV": sphere(samples),
        stem + ".PHN": lines.encode(),
        stem + ".WRD": b"0 100 a\n100 200 word\n",
    }


def small_corpus():
    """{name: bytes}: one utterance a split."""
    return {name: data for seed, stem in enumerate((TRAIN, DEV, TEST)) for name, data in _small(stem, seed).items()}


def _small(stem, seed):
    return utterance(stem, noise(seed=seed))


def golden_corpus():
    """{name: bytes} of golden's corpus."""
    top = GOLDEN / "TIMIT"
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}


def write_folder(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def run_stage(module, tmp_path, *arguments):
    """Run a stage's main; returns its results' folder. Old results of the same test are removed first."""
    out, obs = tmp_path / (module.__name__ + ".out"), tmp_path / (module.__name__ + ".obs")
    for folder in (out, obs):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    module.main([str(argument) for argument in arguments] + ["--out", str(out), "--obs", str(obs)])
    return out


def summary(out):
    return json.loads((out / "summary.json").read_text())
