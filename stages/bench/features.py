"""For the bench: Kaldi's own programs timed, two folders of features compared, and the dither held to glibc itself.

`--mode kaldi`: the four programs alone, on waves that are written out before the clock runs; obs/times.json: seconds
by program. `--mode compare`: out/compare.json: {SPLIT: {"utterances", "max_abs", "mean_abs"}}; other utterances, or in
another order, are refused. `--mode dither`: out/dither.json: what was compared, and how many values differ.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import subprocess
import time
from typing import Iterator, Sequence

import numpy

from stages.formats import kaldi_io
from stages.formats.audio_index import read_audio_index
from stages.shared.stage import StageError, parser, run, write_json
from stages.speech import dither, fbank, kaldi
from stages.speech.files import CMVN, SPLITS
from stages.speech.waves import Waves

_FRAME_SAMPLES = 400
_PLAIN_FRAMES = 20
_ANGLES_AT_A_TIME = 1 << 20


def main(arguments: Sequence[str]) -> None:
    command = parser(__doc__)
    command.add_argument("--mode", required=True, choices=("kaldi", "compare", "dither"))
    command.add_argument("--data", metavar="PATH", help="kaldi: what the corpus was read from")
    command.add_argument("--corpus", metavar="DIR", help="kaldi: the corpus stage's results")
    command.add_argument("--conf", metavar="DIR", help="kaldi: holds fbank.conf")
    command.add_argument("--ours", metavar="DIR", help="compare: holds SPLIT/fbank.ark")
    command.add_argument("--theirs", metavar="DIR", help="compare: likewise")
    command.add_argument("--frames", type=int, default=100000, help="dither: seeds compared")
    command.add_argument("--every", type=int, default=1, help="dither: of the angles that can occur")
    options = command.parse_args(arguments)
    {"kaldi": time_kaldi, "compare": compare, "dither": check_dither}[options.mode](options)


def time_kaldi(options: argparse.Namespace) -> None:
    """Make the features by the four programs; their waves are written first."""
    config = os.path.abspath(os.path.join(options.conf, "fbank.conf"))
    waves = Waves(options.data, fbank.read_options(config))
    times: dict[str, float] = {}
    for split in SPLITS:
        os.mkdir(os.path.join(options.out, split))
        with open(os.path.join(options.out, split, "wav.ark"), "wb") as stream:
            for row in read_audio_index(os.path.join(options.corpus, split, "audio.tsv")):
                stream.write(row.utterance.encode("utf-8") + b" " + kaldi.riff(waves.read(row), row.rate_hz))
        raw, normalised = "ark:{}/raw.ark".format(split), "ark:{}/normalised.ark".format(split)
        commands = [["compute-fbank-feats", "--config=" + config, "ark:{}/wav.ark".format(split), raw]]
        if split == "train":
            commands.append(["compute-cmvn-stats", "--binary=false", raw, CMVN])
        commands.append(["apply-cmvn", "--norm-vars=true", CMVN, raw, normalised])
        commands.append(["copy-feats", normalised, "ark,scp:{0}/fbank.ark,{0}/fbank.scp".format(split)])
        with open(os.path.join(options.obs, "kaldi.log"), "ab") as log:
            for command in commands:
                began_s = time.perf_counter()
                code = subprocess.call(command, stderr=log, cwd=options.out)
                times[command[0]] = times.get(command[0], 0.0) + time.perf_counter() - began_s
                if code != 0:
                    raise StageError("{}: {} ended with exit code {}".format(split, command[0], code))
    write_json(os.path.join(options.obs, "times.json"), times)


def compare(options: argparse.Namespace) -> None:
    """Compare two folders of features, value by value."""
    result = {}
    for split in SPLITS:
        archives = [
            kaldi_io.read_archive(os.path.join(folder, split, "fbank.ark")) for folder in (options.ours, options.theirs)
        ]
        utterances, values, largest, total = 0, 0, 0.0, 0.0
        for key, ours in archives[0]:
            other_key, theirs = next(archives[1], (None, None))
            if theirs is None or key != other_key or ours.shape != theirs.shape:
                raise StageError("{}: {} beside {}, or of another shape".format(split, key, other_key))
            difference = numpy.abs(ours.astype(numpy.float64) - theirs)
            utterances += 1
            values += difference.size
            largest, total = max(largest, float(difference.max())), total + float(difference.sum())
        if next(archives[1], None) is not None:
            raise StageError("{}: one folder holds more utterances".format(split))
        result[split] = {"utterances": utterances, "max_abs": largest, "mean_abs": total / max(1, values)}
    write_json(os.path.join(options.out, "compare.json"), result)


def check_dither(options: argparse.Namespace) -> None:
    """Seeds against this machine's rand(), noise against its rand_r() sample by sample, every angle's cosine."""
    libc = ctypes.CDLL("libc.so.6")
    libc.srand(1)
    stream = dither.SeedStream()
    seeds = stream.take(options.frames)
    wrong_seeds = sum(1 for seed in seeds.tolist() if seed != (libc.rand() + 27437) & 0xFFFFFFFF)
    drawn = dither.Noise(_FRAME_SAMPLES).draw(seeds[:_PLAIN_FRAMES])
    plain = numpy.array([_plain_noise(libc, int(seed)) for seed in seeds[:_PLAIN_FRAMES]], numpy.float32)
    angles, wrong_angles = 0, 0
    for uniforms in _uniforms(options.every):
        exact = (2 * numpy.pi * uniforms.astype(numpy.float64)).astype(numpy.float32).astype(numpy.float64)
        expected = numpy.cos(exact).astype(numpy.float32)
        cosine = numpy.empty_like(exact)
        dither.cosine_of_turn(exact, numpy.empty_like(exact), cosine)
        angles += len(exact)
        wrong_angles += int((cosine.astype(numpy.float32) != expected).sum())
    write_json(
        os.path.join(options.out, "dither.json"),
        {
            "angles": angles,
            "noise": int(plain.size),
            "seeds": options.frames,
            "wrong_angles": wrong_angles,
            "wrong_noise": int((drawn != plain).sum()),
            "wrong_seeds": wrong_seeds,
        },
    )


def _plain_noise(libc: ctypes.CDLL, seed: int) -> list[float]:
    """Kaldi's RandGauss for every sample of a frame, with the C library's rand_r."""
    state = ctypes.c_uint(seed)
    values = []
    for _ in range(_FRAME_SAMPLES):
        u1, u2 = (numpy.float32((libc.rand_r(ctypes.byref(state)) + 1.0) / (2147483647 + 2.0)) for _ in range(2))
        radius = numpy.sqrt(numpy.float32(-2) * numpy.float32(math.log(u1)))
        values.append(radius * numpy.float32(math.cos(numpy.float32(2 * math.pi * float(u2)))))
    return values


def _uniforms(every: int) -> Iterator[numpy.ndarray]:
    """The float32 that a draw of 31 bits can give, or each `every`-th of them, a million at a time."""
    runs = [(1, 1 << 24, every)]
    runs += [(1 << bits, 1 << (bits + 1), every << (bits - 23)) for bits in range(24, 31)]
    for start, stop, step in runs + [(1 << 31, (1 << 31) + 1, 1)]:
        for first in range(start, stop, step * _ANGLES_AT_A_TIME):
            numerators = numpy.arange(first, min(stop, first + step * _ANGLES_AT_A_TIME), step, dtype=numpy.float64)
            yield (numerators / (2147483647 + 2.0)).astype(numpy.float32)


if __name__ == "__main__":
    run(main)
