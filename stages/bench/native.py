"""For the bench and the tests: kaldi-native-fbank, a well-kept library with the same filter banks, beside ours.

Both get the same frames, dither included, and compute their filter banks alone, on one core and in turns; runs where
kaldi-native-fbank is installed. obs/times.json: {"ours_s", "native_s"}, sums over all rounds; out/native.json:
{"frames", "max_abs", "mean_abs"} of the differences, before normalisation.
"""

from __future__ import annotations

import os
import time
from typing import Any, Sequence

import numpy

from stages.formats.audio_index import read_audio_index
from stages.shared.stage import parser, run, write_json
from stages.speech import dither, fbank
from stages.speech.waves import Waves


def main(arguments: Sequence[str]) -> None:
    line = parser(__doc__)
    line.add_argument("--data", required=True, metavar="PATH", help="what the corpus was read from")
    line.add_argument("--corpus", required=True, metavar="DIR", help="the corpus stage's results")
    line.add_argument("--conf", required=True, metavar="DIR", help="holds fbank.conf")
    line.add_argument("--frames", type=int, default=20000, help="of the train split, that both compute")
    options = line.parse_args(arguments)
    settings = fbank.read_options(os.path.join(options.conf, "fbank.conf"))
    frames = _frames(options, settings)
    bank = fbank.FilterBank(settings, dither.U1_FIRST)
    times, largest, total, count = [0.0, 0.0], 0.0, 0.0, 0
    for start in range(0, len(frames), fbank.BLOCK_FRAMES):
        block, results = frames[start : start + fbank.BLOCK_FRAMES], []
        for which, compute in enumerate((bank.of_frames, lambda block: filter_banks(block, settings))):
            began_s = time.perf_counter()
            results.append(compute(block))
            times[which] += time.perf_counter() - began_s
        difference = numpy.abs(results[0].astype(numpy.float64) - results[1])
        largest, total = max(largest, float(difference.max())), total + float(difference.sum())
        count += difference.size
    write_json(os.path.join(options.obs, "times.json"), {"ours_s": times[0], "native_s": times[1]})
    write_json(
        os.path.join(options.out, "native.json"),
        {"frames": len(frames), "max_abs": largest, "mean_abs": total / max(1, count)},
    )


def _frames(options: Any, settings: fbank.Options) -> numpy.ndarray:
    """(num_frames, length) float32, dither included, of the first utterances."""
    waves, seeds = Waves(options.data, settings), dither.SeedStream()
    length, shift = fbank.frame_samples(settings)
    noise, found, count = dither.Noise(length), [], 0
    for row in read_audio_index(os.path.join(options.corpus, "train", "audio.tsv")):
        samples = waves.read(row).astype(numpy.float32)
        drawn = noise.draw(seeds.take(fbank.num_frames(row.num_samples, settings)))
        strides = shift * samples.itemsize, samples.itemsize
        found.append(drawn + numpy.lib.stride_tricks.as_strided(samples, drawn.shape, strides, writeable=False))
        count += len(drawn)
        if count >= options.frames:
            break
    return numpy.concatenate(found)


def filter_banks(frames: numpy.ndarray, settings: fbank.Options) -> numpy.ndarray:
    """(num_frames, num_features) float32 by kaldi-native-fbank, from frames of float32 samples, dither included.

    Frames do not overlap here: they are laid end to end, and the library is told that one begins where another ends.
    """
    import kaldi_native_fbank

    native = kaldi_native_fbank.FbankOptions()
    native.frame_opts.samp_freq = settings["sample-frequency"]
    native.frame_opts.frame_length_ms = settings["frame-length"]
    native.frame_opts.frame_shift_ms = settings["frame-length"]
    native.frame_opts.dither = 0.0
    native.frame_opts.preemph_coeff = settings["preemphasis-coefficient"]
    native.frame_opts.remove_dc_offset = settings["remove-dc-offset"]
    native.frame_opts.window_type = settings["window-type"]
    native.frame_opts.snip_edges = True
    native.mel_opts.num_bins = settings["num-mel-bins"]
    native.mel_opts.low_freq = settings["low-freq"]
    native.mel_opts.high_freq = settings["high-freq"]
    native.use_energy = settings["use-energy"]
    native.raw_energy = settings["raw-energy"]
    native.energy_floor = settings["energy-floor"]
    native.htk_compat = settings["htk-compat"]
    native.use_log_fbank = settings["use-log-fbank"]
    native.use_power = settings["use-power"]
    extractor = kaldi_native_fbank.OnlineFbank(native)
    extractor.accept_waveform(settings["sample-frequency"], frames.ravel().tolist())
    return numpy.stack([extractor.get_frame(index) for index in range(len(frames))])


if __name__ == "__main__":
    run(main)
