"""Filter-bank features as Kaldi's compute-fbank-feats makes them, by kaldi-native-fbank, with Kaldi's dither.

The seam for another implementation is `FilterBank`: `num_frames` and `compute`, for one utterance and the seeds that
its frames have in Kaldi's order. Options are read from the file that Kaldi's own program takes with --config.
"""

import numpy

from stages.formats.labels import read_lines
from stages.shared.stage import StageError
from stages.speech import dither, fbank_direct

BLOCK_FRAMES = 32  # keeps what is computed on within the processor's cache; of an utterance of any length
_MOST_FRAMES = 1 << 20  # of one extractor, whose counters have 32 bits
_BOOLEANS = {"true": True, "t": True, "1": True, "": True, "false": False, "f": False, "0": False}


def _boolean(text):
    if text.lower() not in _BOOLEANS:
        raise ValueError("not true or false")
    return _BOOLEANS[text.lower()]


# Name in Kaldi: (type, Kaldi's default).
_OPTIONS = {
    "dither": (float, 1.0),
    "energy-floor": (float, 0.0),
    "frame-length": (float, 25.0),
    "frame-shift": (float, 10.0),
    "high-freq": (float, 0.0),
    "htk-compat": (_boolean, False),
    "low-freq": (float, 20.0),
    "num-mel-bins": (int, 23),
    "preemphasis-coefficient": (float, 0.97),
    "raw-energy": (_boolean, True),
    "remove-dc-offset": (_boolean, True),
    "round-to-power-of-two": (_boolean, True),
    "sample-frequency": (float, 16000.0),
    "snip-edges": (_boolean, True),
    "use-energy": (_boolean, False),
    "use-log-fbank": (_boolean, True),
    "use-power": (_boolean, True),
    "window-type": (str, "povey"),
}


def read_options(path):
    """All options by Kaldi's names, those that the file leaves out with Kaldi's defaults; StageError for others."""
    options = {name: default for name, (_, default) in _OPTIONS.items()}
    for line in read_lines(path):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        name, _, value = text[2:].partition("=")
        if not text.startswith("--") or name not in _OPTIONS:
            raise StageError("{}: unknown option {!r}".format(path, text), "Known: --" + ", --".join(sorted(_OPTIONS)))
        try:
            options[name] = _OPTIONS[name][0](value.strip())
        except ValueError as error:
            raise StageError("{}: {!r}: {}".format(path, text, error)) from error
    if not options["snip-edges"]:
        raise StageError("{}: --snip-edges=false is not implemented".format(path), "The reference snips edges.")
    return options


def frame_samples(options):
    """(samples a frame, samples from one frame's start to the next one's), cut to whole ones as Kaldi does."""
    per_ms = options["sample-frequency"] * 0.001
    return int(per_ms * options["frame-length"]), int(per_ms * options["frame-shift"])


def num_frames(num_samples, options):
    """How many whole frames lie in a wave."""
    length, shift = frame_samples(options)
    return 1 + (num_samples - length) // shift if num_samples >= length else 0


class FilterBank:
    """Computes features of one utterance at a time, in one thread at a time; no result depends on an earlier one.

    Args:
        options: of `read_options`.
        draw_order: of `dither.DRAW_ORDERS`.
    """

    def __init__(self, options, draw_order):
        import kaldi_native_fbank  # of the features image alone

        self._options = options
        self._length, self._shift = frame_samples(options)
        self._noise = dither.Noise(self._length, draw_order)
        self._work = self._noise.work(BLOCK_FRAMES)
        self._frames = numpy.empty((BLOCK_FRAMES, self._length), numpy.float32)
        self._library = kaldi_native_fbank
        self._native = _native_options(kaldi_native_fbank.FbankOptions(), options)
        self._num_features = options["num-mel-bins"] + options["use-energy"]
        self._begin_extractor()

    def compute(self, samples, seeds):
        """(num_frames, num_mel_bins + energy) float32 from int16 samples and one dither seed a frame (uint32)."""
        if len(seeds) > num_frames(len(samples), self._options):
            raise ValueError("{} samples do not hold {} frames".format(len(samples), len(seeds)))
        features = numpy.empty((len(seeds), self._num_features), numpy.float32)
        samples = samples.astype(numpy.float32)
        for start in range(0, len(seeds), BLOCK_FRAMES):
            stop = start + BLOCK_FRAMES
            self._block(samples[start * self._shift :], seeds[start:stop], features[start:stop])
        return features

    def _begin_extractor(self):
        self._extractor = self._library.OnlineFbank(self._native)
        self._accept = fbank_direct.accept_waveform(self._library, self._extractor, self._native)
        self._done = 0

    def _block(self, samples, seeds, features):
        count = len(seeds)
        frames = self._frames[:count]
        strides = self._shift * samples.itemsize, samples.itemsize
        overlapping = numpy.ndarray(frames.shape, samples.dtype, samples, strides=strides)
        if self._options["dither"] != 0.0:
            self._noise.draw_into(frames, seeds, self._work)
            if self._options["dither"] != 1.0:
                frames *= numpy.float32(self._options["dither"])
            frames += overlapping
        else:
            frames[:] = overlapping
        # Each frame has noise of its own, so overlapping frames no longer share samples: they are laid end to end,
        # and the library told that a frame begins where the one before it ends. So nothing is left over for the next
        # call, and one extractor serves for many: making one costs as much as a dozen frames.
        if self._done + count > _MOST_FRAMES:
            self._begin_extractor()
        self._accept(frames)
        if self._extractor.num_frames_ready != self._done + count:
            ready = self._extractor.num_frames_ready - self._done
            raise RuntimeError("{} frames in place of {}".format(ready, count))
        computed = b"".join(map(self._extractor.get_frame, range(self._done, self._done + count)))
        features[:] = numpy.frombuffer(computed, numpy.float32).reshape(features.shape)
        self._extractor.pop(count)
        self._done += count


def _native_options(native, options):
    native.frame_opts.samp_freq = options["sample-frequency"]
    native.frame_opts.frame_length_ms = options["frame-length"]
    native.frame_opts.frame_shift_ms = options["frame-length"]  # not the shift: see FilterBank.compute
    native.frame_opts.dither = 0.0
    native.frame_opts.preemph_coeff = options["preemphasis-coefficient"]
    native.frame_opts.remove_dc_offset = options["remove-dc-offset"]
    native.frame_opts.round_to_power_of_two = options["round-to-power-of-two"]
    native.frame_opts.window_type = options["window-type"]
    native.frame_opts.snip_edges = True
    native.mel_opts.num_bins = options["num-mel-bins"]
    native.mel_opts.low_freq = options["low-freq"]
    native.mel_opts.high_freq = options["high-freq"]
    native.use_energy = options["use-energy"]
    native.raw_energy = options["raw-energy"]
    native.energy_floor = options["energy-floor"]
    native.htk_compat = options["htk-compat"]
    native.use_log_fbank = options["use-log-fbank"]
    native.use_power = options["use-power"]
    return native
