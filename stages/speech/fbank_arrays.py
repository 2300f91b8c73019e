"""From windowed frames to filter banks in NumPy: every value by the same IEEE operations on every processor.

`fbank_kernel` has the same operations in the same order, and so the same bytes, compiled. Sums go over eight partial
sums, so that a processor can add them side by side; no product is fused with a sum; frames lie side by side, along the
last axis, and no operation goes from one to another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from stages.shared import elementary
from stages.speech.tables import MelFilters, Pass

PARTIAL_SUMS = 8
FLOOR = float(numpy.finfo(numpy.float32).eps)
"""What an energy is at least, so that it has a logarithm: Kaldi's."""


@dataclass(frozen=True)
class Recipe:
    """What is computed of a frame.

    Attributes:
        length: samples of a frame.
        size: of the transform, a power of two.
        remove_dc: subtract the frame's mean.
        preemphasis: how much of the sample before is subtracted; float32's value.
        window: (length,) float64.
        places: (size / 2,) int64, of `tables.places`.
        passes: of `tables.passes`, for size / 2 complex values.
        unfolding: (size / 4, 1, 2) float64, of `tables.twiddles`: what a transform of `size` real values adds.
        filters: mel filters.
        power: filter the power spectrum, not the magnitudes.
        log: take logarithms.
        energy: '' for none, 'raw' for that of the frame before pre-emphasis and window, 'windowed' for after.
        energy_column: where it stands among the features.
        least_energy: what the energy's logarithm is at least; minus infinity for no such limit.
    """

    length: int
    size: int
    remove_dc: bool
    preemphasis: float
    window: numpy.ndarray
    places: numpy.ndarray
    passes: tuple[Pass, ...]
    unfolding: numpy.ndarray
    filters: MelFilters
    power: bool
    log: bool
    energy: str
    energy_column: int
    least_energy: float

    @property
    def num_bins(self) -> int:
        """How many mel filters there are."""
        return len(self.filters.starts)

    @property
    def num_features(self) -> int:
        """How many values a frame gives."""
        return self.num_bins + bool(self.energy)

    @property
    def first_bin(self) -> int:
        """The column of the first mel filter."""
        return int(bool(self.energy) and self.energy_column == 0)


def compute(recipe: Recipe, frames: numpy.ndarray) -> numpy.ndarray:
    """(num_frames, num_features) float32 from (num_frames, length) float32 frames, dither included."""
    x = numpy.ascontiguousarray(frames.T, numpy.float64)
    if recipe.remove_dc:
        x -= _sum(x) / float(recipe.length)
    energy = _sum(x * x)
    windowed = numpy.empty_like(x)
    windowed[0] = x[0] - recipe.preemphasis * x[0]
    windowed[1:] = x[1:] - recipe.preemphasis * x[:-1]
    windowed *= recipe.window[:, numpy.newaxis]
    if recipe.energy == "windowed":
        energy = _sum(windowed * windowed)
    spectrum = _spectrum(recipe, *_transform(recipe, windowed))
    features = numpy.empty((len(frames), recipe.num_features), numpy.float32)
    filtered = _filter(recipe.filters, spectrum)
    if recipe.log:
        filtered = elementary.log(numpy.maximum(filtered, FLOOR))
    features[:, recipe.first_bin : recipe.first_bin + recipe.num_bins] = filtered.T
    if recipe.energy:
        energy = numpy.maximum(elementary.log(numpy.maximum(energy, FLOOR)), recipe.least_energy)
        features[:, recipe.energy_column] = energy
    return features


def _sum(x: numpy.ndarray) -> numpy.ndarray:
    """The sums of columns: (length, num_frames) -> (num_frames,)."""
    padded = numpy.zeros((-(-len(x) // PARTIAL_SUMS), PARTIAL_SUMS) + x.shape[1:])
    padded.reshape((-1,) + x.shape[1:])[: len(x)] = x
    parts = padded[0]
    for row in padded[1:]:
        parts = parts + row
    while len(parts) > 1:
        half = len(parts) // 2
        parts = parts[:half] + parts[half:]
    return parts[0]


def _transform(recipe: Recipe, x: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Real and imaginary parts (size / 2, num_frames) of the transform of even samples plus i times odd ones."""
    size, num_frames = recipe.size // 2, x.shape[1]
    padded = numpy.zeros((recipe.size, num_frames))
    padded[: recipe.length] = x
    re, im = numpy.empty((size, num_frames)), numpy.empty((size, num_frames))
    re[recipe.places], im[recipe.places] = padded[0::2], padded[1::2]
    for each in recipe.passes:
        shape = (-1, each.radix, each.span, num_frames)
        re, im = _pass(each, re.reshape(shape), im.reshape(shape))
        re, im = re.reshape(size, num_frames), im.reshape(size, num_frames)
    return re, im


def _pass(each: Pass, re: numpy.ndarray, im: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """One pass over (groups, radix, span, num_frames)."""
    values = [(re[:, 0], im[:, 0])]
    for part in range(1, each.radix):
        a, b = re[:, part], im[:, part]
        if each.span > 1:
            cos, sin = (each.twiddles[:, part - 1, which, numpy.newaxis] for which in (0, 1))
            a, b = cos * a - sin * b, cos * b + sin * a
        values.append((a, b))
    out_re, out_im = numpy.empty_like(re), numpy.empty_like(im)
    if each.radix == 2:
        (a, ai), (b, bi) = values
        results = [(a + b, ai + bi), (a - b, ai - bi)]
    else:
        (a, ai), (b, bi), (c, ci), (d, di) = values
        even, even_i, odd, odd_i = a + c, ai + ci, a - c, ai - ci
        sum_, sum_i, rest, rest_i = b + d, bi + di, b - d, bi - di
        results = [
            (even + sum_, even_i + sum_i), (odd + rest_i, odd_i - rest),
            (even - sum_, even_i - sum_i), (odd - rest_i, odd_i + rest),
        ]  # fmt: skip
    for part, (a, b) in enumerate(results):
        out_re[:, part], out_im[:, part] = a, b
    return out_re, out_im


def _spectrum(recipe: Recipe, re: numpy.ndarray, im: numpy.ndarray) -> numpy.ndarray:
    """Powers (or magnitudes) of the real transform's first size / 2 values: (size / 2, num_frames)."""
    size, middle = len(re), len(re) // 2
    power = numpy.empty_like(re)
    total = re[0] + im[0]
    power[0] = total * total
    power[middle] = re[middle] * re[middle] + im[middle] * im[middle]
    low, high = slice(1, middle), slice(size - 1, middle, -1)
    cos, sin = (recipe.unfolding[1:middle, 0, which, numpy.newaxis] for which in (0, 1))
    even, even_i = re[low] + re[high], im[low] - im[high]
    odd, odd_i = im[low] + im[high], re[high] - re[low]
    turned, turned_i = cos * odd - sin * odd_i, cos * odd_i + sin * odd
    for place, a, b in ((low, even + turned, even_i + turned_i), (high, even - turned, even_i - turned_i)):
        power[place] = (a * a + b * b) * 0.25
    return power if recipe.power else numpy.sqrt(power)


def _filter(filters: MelFilters, spectrum: numpy.ndarray) -> numpy.ndarray:
    """(num_bins, num_frames): each filter's weighted sum, term by term."""
    last = len(spectrum) - 1
    total = numpy.zeros((len(filters.starts), spectrum.shape[1]))
    for term in range(filters.weights.shape[1]):
        taken = spectrum[numpy.minimum(filters.starts + term, last)]
        total = total + filters.weights[:, term, numpy.newaxis] * taken
    return total
