"""Filter-bank features as Kaldi's compute-fbank-feats makes them, dither included: the same bytes on every processor.

The seam for another implementation is `FilterBank`: `num_frames` and `compute`, for one utterance and the seeds that
its frames have in Kaldi's order. Options are read from the file that Kaldi's own program takes with --config.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

import numpy

from stages.formats.labels import read_lines
from stages.shared import elementary
from stages.shared.stage import StageError
from stages.speech import dither, fbank_arrays, fbank_kernel, tables

Options = Mapping[str, Any]

BLOCK_FRAMES = 32  # keeps what is computed on within the processor's cache; of an utterance of any length
_BOOLEANS = {"true": True, "t": True, "1": True, "": True, "false": False, "f": False, "0": False}


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError("not true or false")
    return _BOOLEANS[text.lower()]


# Name in Kaldi: (type, Kaldi's default).
_OPTIONS: dict[str, tuple[Callable[[str], Any], Any]] = {
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


def read_options(path: str) -> dict[str, Any]:
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
    for name in ("snip-edges", "round-to-power-of-two"):
        if not options[name]:
            raise StageError("{}: --{}=false is not implemented".format(path, name), "The reference sets it to true.")
    if options["window-type"] not in tables.WINDOWS:
        raise StageError(
            "{}: --window-type={} is not implemented".format(path, options["window-type"]),
            "Known: " + ", ".join(tables.WINDOWS),
        )
    length, shift = frame_samples(options)
    if shift < 1 or not 16 <= length <= 1 << 16:
        raise StageError("{}: frames of {} samples, {} apart".format(path, length, shift))
    return options


def frame_samples(options: Options) -> tuple[int, int]:
    """(samples of a frame, samples from one frame's start to the next one's), cut to whole ones as Kaldi does."""
    per_ms = options["sample-frequency"] * 0.001
    return int(per_ms * options["frame-length"]), int(per_ms * options["frame-shift"])


def num_frames(num_samples: int, options: Options) -> int:
    """How many whole frames lie in a wave."""
    length, shift = frame_samples(options)
    return 1 + (num_samples - length) // shift if num_samples >= length else 0


def recipe(options: Options) -> fbank_arrays.Recipe:
    """What these options ask for, with all its tables.

    Raises:
        StageError: they ask for what Kaldi cannot do either.
    """
    length, _ = frame_samples(options)
    size = 1 << (length - 1).bit_length()
    energy = ("raw" if options["raw-energy"] else "windowed") if options["use-energy"] else ""
    floor = options["energy-floor"]
    least = float(elementary.log(numpy.array([floor]))[0]) if floor > 0.0 else -numpy.inf
    try:
        filters = tables.mel_filters(options, size)
    except ValueError as error:
        raise StageError("fbank.conf: {}".format(error)) from error
    return fbank_arrays.Recipe(
        length=length,
        size=size,
        remove_dc=options["remove-dc-offset"],
        preemphasis=float(numpy.float32(options["preemphasis-coefficient"])),
        window=tables.window(options["window-type"], length),
        places=tables.places(size // 2),
        passes=tables.passes(size // 2),
        unfolding=tables.twiddles(size, size // 4, 2),
        filters=filters,
        power=options["use-power"],
        log=options["use-log-fbank"],
        energy=energy,
        energy_column=options["num-mel-bins"] if options["htk-compat"] else 0,
        least_energy=least,
    )


class FilterBank:
    """Computes features of one utterance at a time, in one thread at a time; no result depends on an earlier one.

    Args:
        options: of `read_options`.
        draw_order: of `dither.DRAW_ORDERS`.
        compiled: compute by kernels where there is a compiler: the same bytes, sooner.
    """

    def __init__(self, options: Options, draw_order: str, *, compiled: bool = True) -> None:
        self._options = options
        self._length, self._shift = frame_samples(options)
        self._noise = dither.Noise(self._length, draw_order, compiled=compiled)
        self._work = self._noise.work(BLOCK_FRAMES)
        self._recipe = recipe(options)
        self._kernel = None
        if compiled and fbank_kernel.Kernel.fits(self._length):
            self._kernel = fbank_kernel.Kernel(self._recipe)
        # The kernel takes whole groups of frames; what lies beyond a block's own frames is computed and left.
        rows = -(-BLOCK_FRAMES // fbank_kernel.LANES) * fbank_kernel.LANES
        self._frames = numpy.zeros((rows, self._length), numpy.float32)
        self._features = numpy.zeros((rows, self._recipe.num_features), numpy.float32)

    def compute(self, samples: numpy.ndarray, seeds: numpy.ndarray) -> numpy.ndarray:
        """(num_frames, num_mel_bins + energy) float32 from int16 samples and a dither seed for each frame (uint32)."""
        if len(seeds) > num_frames(len(samples), self._options):
            raise ValueError("{} samples do not hold {} frames".format(len(samples), len(seeds)))
        features = numpy.empty((len(seeds), self._recipe.num_features), numpy.float32)
        samples = samples.astype(numpy.float32)
        for start in range(0, len(seeds), BLOCK_FRAMES):
            stop = start + BLOCK_FRAMES
            self._block(samples[start * self._shift :], seeds[start:stop], features[start:stop])
        return features

    def _block(self, samples: numpy.ndarray, seeds: numpy.ndarray, features: numpy.ndarray) -> None:
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
        features[:] = self._computed(count)

    def of_frames(self, frames: numpy.ndarray) -> numpy.ndarray:
        """(num_frames, num_mel_bins + energy) float32 from BLOCK_FRAMES or fewer float32 frames, dither included."""
        self._frames[: len(frames)] = frames
        return self._computed(len(frames)).copy()

    def _computed(self, count: int) -> numpy.ndarray:
        """Features of the frames that lie ready."""
        if self._kernel is None:
            return fbank_arrays.compute(self._recipe, self._frames[:count])
        whole = -(-count // fbank_kernel.LANES) * fbank_kernel.LANES
        self._kernel.compute_into(self._features[:whole], self._frames[:whole])
        return self._features[:count]
