"""Kaldi's filter-bank features of all splits, normalised by the mean and variance of train (global CMVN).

The features are those of compute-fbank-feats, dither included: made by kernels of our own, the same bytes on every
processor, or with `--implementation kaldi` by Kaldi's own programs. The statistics pass through Kaldi's text form, as
in the reference, and are read back for apply-cmvn's formula. Of the corpus, a few utterances at a time are held in
memory.
"""

from __future__ import annotations

import argparse
import functools
import os
from typing import Sequence

from stages.formats.audio_index import read_audio_index
from stages.shared.stage import Progress, StageError, parser, run, write_json
from stages.speech import dither, fbank
from stages.speech import kaldi as kaldi_fbank
from stages.speech import portable as portable_fbank
from stages.speech.files import CMVN, SPLITS
from stages.speech.waves import Waves

PORTABLE = "portable"
KALDI = "kaldi"
_COMPILED_IN = "compiled into Kaldi"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, checked."""
    line = parser(__doc__)
    line.add_argument("--data", required=True, metavar="PATH", help="what the corpus was read from")
    line.add_argument("--corpus", required=True, metavar="DIR", help="the corpus stage's results")
    line.add_argument("--conf", required=True, metavar="DIR", help="holds fbank.conf")
    line.add_argument(
        "--dither-draw-order",
        choices=dither.DRAW_ORDERS,
        help="which uniform of a noise sample is drawn first: a matter of the compiler that Kaldi was built with "
        "(default: u1-first, as g++ has it; not with --implementation kaldi)",
    )
    line.add_argument(
        "--implementation",
        choices=(PORTABLE, KALDI),
        default=PORTABLE,
        help="what computes the features (default: portable)",
    )
    options = line.parse_args(arguments)
    if options.implementation == KALDI and options.dither_draw_order:
        raise StageError("--dither-draw-order is compiled into Kaldi", "Leave it out.")
    return options


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    fbank_options = fbank.read_options(os.path.join(options.conf, "fbank.conf"))
    if next(read_audio_index(audio_index(options, "train")), None) is None:
        raise StageError("{}: train is empty, so there are no statistics".format(options.corpus))
    for split in SPLITS:
        os.mkdir(os.path.join(options.out, split))
    if options.implementation == KALDI:
        draw_order = _COMPILED_IN
        frames = make_by_kaldi(options, fbank_options)
    else:
        draw_order = options.dither_draw_order or dither.U1_FIRST
        frames = make_portable(options, fbank_options, draw_order)

    write_json(
        os.path.join(options.out, "summary.json"),
        {
            "dither_draw_order": draw_order,
            "frames": frames,
            "implementation": options.implementation,
            "options": fbank_options,
        },
    )


def make_portable(options: argparse.Namespace, fbank_options: fbank.Options, draw_order: str) -> dict[str, int]:
    """Write all splits' archives, indexes and the statistics; returns the frames by split."""
    portable = portable_fbank.PortableFeatures(
        options.out, Waves(options.data, fbank_options), fbank_options, draw_order
    )
    frames = {}
    for split in SPLITS:  # train first: its statistics normalise all
        rows = functools.partial(read_audio_index, audio_index(options, split))
        if split == "train":
            frames[split] = portable.of_train(split, rows, os.path.join(options.out, CMVN))
        else:
            frames[split] = portable.of_split(split, rows)
    return frames


def make_by_kaldi(options: argparse.Namespace, fbank_options: fbank.Options) -> dict[str, int]:
    """The same files as `make_portable`, by Kaldi's programs; returns the frames by split."""
    config = os.path.join(options.conf, "fbank.conf")
    kaldi = kaldi_fbank.KaldiFeatures(options.out, options.obs, config, fbank_options)
    waves = Waves(options.data, fbank_options)
    frames = {}
    for split in SPLITS:
        rows = list(read_audio_index(audio_index(options, split)))
        if not rows:
            frames[split] = kaldi.empty(split)  # Kaldi's programs end with an error where there is nothing to do
            continue
        kaldi.raw(split, rows, waves.read, Progress("features " + split, len(rows)))
        if split == "train":
            kaldi.statistics(split, CMVN)
        frames[split] = kaldi.normalised(split, rows, CMVN)
    return frames


def audio_index(options: argparse.Namespace, split: str) -> str:
    """The path of a split's audio.tsv."""
    return os.path.join(options.corpus, split, "audio.tsv")


if __name__ == "__main__":
    run(main)
