"""For the bench: Kaldi's own programs timed, and two folders of features compared.

`--mode kaldi`: the four programs alone, on waves that are written out before the clock runs; obs/times.json: seconds
by program. `--mode compare`: out/compare.json: {SPLIT: {"utterances", "max_abs", "mean_abs"}}; other utterances, or in
another order, are refused.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from typing import Sequence

import numpy

from stages.formats import kaldi_io
from stages.formats.audio_index import read_audio_index
from stages.shared.stage import StageError, parser, run, write_json
from stages.speech import fbank, kaldi
from stages.speech.files import CMVN, SPLITS
from stages.speech.waves import Waves


def main(arguments: Sequence[str]) -> None:
    command = parser(__doc__)
    command.add_argument("--mode", required=True, choices=("kaldi", "compare"))
    command.add_argument("--data", metavar="PATH", help="kaldi: what the corpus was read from")
    command.add_argument("--corpus", metavar="DIR", help="kaldi: the corpus stage's results")
    command.add_argument("--conf", metavar="DIR", help="kaldi: holds fbank.conf")
    command.add_argument("--ours", metavar="DIR", help="compare: holds SPLIT/fbank.ark")
    command.add_argument("--theirs", metavar="DIR", help="compare: likewise")
    options = command.parse_args(arguments)
    {"kaldi": time_kaldi, "compare": compare}[options.mode](options)


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


if __name__ == "__main__":
    run(main)
