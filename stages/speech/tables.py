"""What the filter bank's arithmetic begins with: window, twiddle factors, order of the transform's input, mel filters.

Cosines and logarithms come from decimal arithmetic with 40 digits, rounded once: a C library's differ in the last digit
from one processor to the next. The mel filters' weights are computed in float32, step by step as Kaldi does
(feat/mel-computations.cc), and the window is rounded to float32 (feat/feature-window.cc).
"""

from __future__ import annotations

import decimal
import functools
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Mapping

import numpy

_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
_CONTEXT = decimal.Context(prec=40, rounding=decimal.ROUND_HALF_EVEN)
_FLOAT = numpy.float32

WINDOWS = ("hamming", "hanning", "povey", "rectangular", "blackman")
"""Kaldi's --window-type; 'sine' is not among them."""


@functools.lru_cache(maxsize=None)
def _cosine(turns: Fraction) -> Decimal:
    """cos(2 pi `turns`) for 0 <= turns <= 1/8, by its series."""
    with decimal.localcontext(_CONTEXT):
        angle = 2 * _PI * turns.numerator / turns.denominator
        square, term, total, n = -angle * angle, Decimal(1), Decimal(1), 0
        while abs(term) > Decimal("1e-42"):
            n += 2
            term = term * square / (n * (n - 1))
            total += term
        return total


def cosine(turns: Fraction) -> Decimal:
    """cos(2 pi `turns`); exact where it is 0, 1 or -1."""
    turns %= 1
    turns = min(turns, 1 - turns)
    if turns > Fraction(1, 4):
        return cosine(Fraction(1, 2) - turns).copy_negate()
    if turns == Fraction(1, 4):
        return Decimal(0)
    if turns <= Fraction(1, 8):
        return _cosine(turns)
    with decimal.localcontext(_CONTEXT):  # cos(2a) = 2 cos(a)^2 - 1 loses no digit here that a float64 would hold
        return 2 * _cosine(turns / 2) ** 2 - 1


def sine(turns: Fraction) -> Decimal:
    """sin(2 pi `turns`)."""
    return cosine(turns - Fraction(1, 4))


def window(kind: str, length: int) -> numpy.ndarray:
    """(length,) float64 whose values are float32's: Kaldi's window function."""
    half = {turns: _window_value(kind, Fraction(turns, length - 1)) for turns in range((length + 1) // 2)}
    return numpy.array([_FLOAT(float(half[min(i, length - 1 - i)])) for i in range(length)], numpy.float64)


def _window_value(kind: str, turns: Fraction) -> Decimal:
    with decimal.localcontext(_CONTEXT):
        if kind == "hamming":
            return Decimal("0.54") - Decimal("0.46") * cosine(turns)
        if kind == "rectangular":
            return Decimal(1)
        if kind == "blackman":
            return Decimal("0.42") - cosine(turns) / 2 + Decimal("0.08") * cosine(2 * turns)
        hanning = (1 - cosine(turns)) / 2
        return hanning if kind == "hanning" or not hanning else hanning ** Decimal("0.85")


def twiddles(size: int, span: int, radix: int) -> numpy.ndarray:
    """(span, radix - 1, 2) float64: real and imaginary part of exp(-2 pi i q k / size), q from 1, by k and q."""
    values = [
        [[float(cosine(turns)), -float(sine(turns))] for turns in (Fraction(q * k, size) for q in range(1, radix))]
        for k in range(span)
    ]
    return numpy.array(values, numpy.float64).reshape(span, radix - 1, 2)


@dataclass(frozen=True)
class Pass:
    """One pass of a transform, in place: groups of `radix` values that are `span` apart.

    Attributes:
        twiddles: (span, radix - 1, 2) float64, of `twiddles`; not used where span is 1, as all are 1 there.
    """

    radix: int
    span: int
    twiddles: numpy.ndarray


def passes(size: int) -> tuple[Pass, ...]:
    """The passes of a transform of `size` complex values, a power of two: by four, and one by two first if need be."""
    found, span = [], 1
    while span < size:
        radix = 2 if span == 1 and size.bit_length() % 2 == 0 else 4
        found.append(Pass(radix, span, twiddles(radix * span, span, radix)))
        span *= radix
    return tuple(found)


def places(size: int) -> numpy.ndarray:
    """(size,) int64: where each value of the input lies before the first pass, so that the output is in order."""
    order = [0]
    for each in passes(size):
        order = [each.radix * index + part for part in range(each.radix) for index in order]
    return numpy.argsort(numpy.array(order, numpy.int64)).astype(numpy.int64)


@dataclass(frozen=True)
class MelFilters:
    """Triangular filters over a power spectrum.

    Attributes:
        starts, counts: (num_bins,) int64, the values of the spectrum that a filter takes.
        weights: (num_bins, largest count) float64 whose values are float32's, 0 beyond a filter's count.
    """

    starts: numpy.ndarray
    counts: numpy.ndarray
    weights: numpy.ndarray


def mel_filters(options: Mapping[str, Any], size: int) -> MelFilters:
    """Kaldi's filters.

    Args:
        options: of `fbank.read_options`.
        size: of the transform; the spectrum has size / 2 values.

    Raises:
        ValueError: a filter takes no value of the spectrum, or the frequencies are out of order.
    """
    nyquist = _FLOAT(0.5) * _FLOAT(options["sample-frequency"])
    low, high = _FLOAT(options["low-freq"]), _FLOAT(options["high-freq"])
    high = high if high > 0 else nyquist + high
    if not 0 <= low < high <= nyquist:
        raise ValueError("no mel filters from {:g} to {:g} Hz".format(low, high))
    width = _FLOAT(options["sample-frequency"]) / _FLOAT(size)
    mels = numpy.array([_mel(width * _FLOAT(i)) for i in range(size // 2)], _FLOAT)
    first, num_bins = _mel(low), options["num-mel-bins"]
    delta = (_mel(high) - first) / _FLOAT(num_bins + 1)
    edges = first + numpy.arange(num_bins + 2, dtype=_FLOAT) * delta
    starts, filters = [], []
    for left, center, right in zip(edges, edges[1:], edges[2:]):
        inside = numpy.flatnonzero((mels > left) & (mels < right))
        if not inside.size:
            raise ValueError("{} mel filters are too many for {} values".format(num_bins, size // 2))
        taken = mels[inside]
        rising = (taken - left) / (center - left)
        starts.append(int(inside[0]))
        filters.append(numpy.where(taken <= center, rising, (right - taken) / (right - center)))
    counts = [len(each) for each in filters]
    weights = numpy.zeros((num_bins, max(counts)))
    for row, each in zip(weights, filters):
        row[: len(each)] = each
    return MelFilters(numpy.array(starts, numpy.int64), numpy.array(counts, numpy.int64), weights)


def _mel(frequency_hz: numpy.float32) -> numpy.float32:
    ratio = _FLOAT(1) + frequency_hz / _FLOAT(700)
    return _FLOAT(1127) * _FLOAT(float(Decimal(float(ratio)).ln(_CONTEXT)))
