"""Kaldi's dither, reproduced: the noise that compute-fbank-feats adds is pseudo-random, and always the same.

Each Kaldi process starts glibc's rand() at seed 1 and draws one number a frame, in utterance order. The number seeds
that frame's own generator (rand_r), from which every sample's noise is drawn: three steps a uniform, two uniforms a
Gaussian (Box-Muller). Sources: Kaldi's base/kaldi-math and feat/feature-window, glibc's random_r and rand_r.

A transcendental function is computed in float64, by IEEE operations alone, and rounded to float32: unlike NumPy's own,
this does not depend on the processor (it differs from glibc's logf by one unit in the last place in 0.7 % of values,
far below what a feature shows). Most of the time goes into passes over arrays, so arrays are reused, small enough for
the processor's cache, and the cosine is a polynomial: rounded to float32 it is the C library's for every angle that a
draw can give.
"""

from __future__ import annotations

import numpy

from stages.shared import elementary
from stages.speech import dither_kernel

U1_FIRST = "u1-first"
U2_FIRST = "u2-first"
DRAW_ORDERS = (U1_FIRST, U2_FIRST)

_SEED_OFFSET = 27437  # what Kaldi's RandomState adds to rand()
_MULTIPLIER = 1103515245
_INCREMENT = 12345
_MASK = 0xFFFFFFFF
_STEPS_PER_UNIFORM = 3
_RAND_MAX = 2147483647
_RECIPROCAL = 1.0 / (_RAND_MAX + 2.0)
_BLOCK_FRAMES = 32  # keeps the temporaries of one block within the processor's cache

# sin(z) = z + z^3 * polynomial(z^2) for |z| <= pi/2: interpolated at Chebyshev's nodes, relative error 2^-50. With a
# term less, 123 of the 75,497,472 angles that a draw can give are rounded to another float32; with these, none is.
_SINE = (
    -0.1666666666666665,
    0.008333333333325933,
    -0.0001984126983646902,
    2.7557318055684855e-06,
    -2.5051972921464888e-08,
    1.6050972240939764e-10,
    -7.408054842450793e-13,
)


class SeedStream:
    """The seeds of the frames of one Kaldi process, in order: glibc's rand() from seed 1, plus Kaldi's offset.

    rand() goes by r[i] = r[i-3] + r[i-31] mod 2^32. Runs of a fixed length are computed side by side: the state that
    a run begins with is that of the one before it times a matrix, the recurrence's to the power of the length.
    """

    _LONG_LAG = 31
    _SHORT_LAG = 3
    _DISCARDED = 310
    _RUN = 512
    _RUNS = 64

    def __init__(self) -> None:
        state = [1]
        for _ in range(1, self._LONG_LAG):
            state.append(16807 * state[-1] % 2147483647)
        # glibc copies the first three values on before its recurrence begins.
        self._state = numpy.array(state[self._SHORT_LAG :] + state[: self._SHORT_LAG], numpy.uint32)
        self._leap = numpy.eye(self._LONG_LAG, k=1, dtype=numpy.uint32)
        self._leap[-1, [0, self._LONG_LAG - self._SHORT_LAG]] = 1
        for _ in range(self._RUN.bit_length() - 1):
            self._leap = self._leap @ self._leap
        self._ready = self._next_runs()[self._DISCARDED :]

    def take(self, num_frames: int) -> numpy.ndarray:
        """The next seeds: (num_frames,) uint32."""
        parts = [self._ready[:num_frames]]
        missing = num_frames - len(parts[0])
        self._ready = self._ready[num_frames:]
        while missing > 0:
            self._ready = self._next_runs()
            parts.append(self._ready[:missing])
            self._ready = self._ready[missing:]
            missing -= len(parts[-1])
        return (numpy.concatenate(parts) >> numpy.uint32(1)) + numpy.uint32(_SEED_OFFSET)

    def _next_runs(self) -> numpy.ndarray:
        """The next values before the last step of rand(), which drops the lowest bit: uint32."""
        # A column is a run, its first rows the state that it begins with: the values before it.
        values = numpy.empty((self._LONG_LAG + self._RUN, self._RUNS), numpy.uint32)
        for run in range(self._RUNS):
            values[: self._LONG_LAG, run] = self._state
            self._state = self._leap @ self._state
        for row in range(self._LONG_LAG, len(values)):
            numpy.add(values[row - self._SHORT_LAG], values[row - self._LONG_LAG], out=values[row])
        return values[self._LONG_LAG :].T.ravel()


class Noise:
    """Draws the Gaussian noise of frames of one length.

    Args:
        frame_samples: samples per frame.
        draw_order: which of a Gaussian's two uniforms is drawn first. C++ leaves it to the compiler; U1_FIRST is what
            g++ 12 does on x86_64.
        compiled: draw by `dither_kernel` where there is a compiler: the same bytes, sooner.
    """

    def __init__(self, frame_samples: int, draw_order: str = U1_FIRST, *, compiled: bool = True) -> None:
        if draw_order not in DRAW_ORDERS:
            raise ValueError("draw_order is {!r}, not one of {}".format(draw_order, DRAW_ORDERS))
        self._first_is_u1 = draw_order == U1_FIRST
        # State n of the generator is multipliers[n] * seed + increments[n] mod 2^32, so all can be had at once.
        multipliers, increments = _steps(2 * frame_samples * _STEPS_PER_UNIFORM)
        self._frame_samples = frame_samples
        self._multipliers = _of_first_steps(multipliers, frame_samples)
        self._increments = _of_first_steps(increments, frame_samples)
        # From the first state of a uniform to its second and third, and these moved up by 6 bits: so the bits that
        # count are the highest, and what is above them falls off.
        self._second = numpy.uint32(multipliers[0] << 6 & _MASK), numpy.uint32(increments[0] << 6 & _MASK)
        self._third = numpy.uint32(multipliers[1] << 6 & _MASK), numpy.uint32(increments[1] << 6 & _MASK)
        self._kernel = None
        if compiled and dither_kernel.Kernel.fits(frame_samples):
            self._kernel = self._compile()

    def _compile(self) -> dither_kernel.Kernel:
        both = numpy.stack([self._multipliers[:, 0], self._increments[:, 0]], axis=1)
        return dither_kernel.Kernel(
            numpy.ascontiguousarray(both if self._first_is_u1 else both[::-1]),
            second=(int(self._second[0]), int(self._second[1])),
            third=(int(self._third[0]), int(self._third[1])),
            reciprocal=_RECIPROCAL,
            sine=_SINE,
        )

    def draw(self, seeds: numpy.ndarray) -> numpy.ndarray:
        """Noise of the frames with these seeds: (len(seeds), frame_samples) float32, of unit variance."""
        noise = numpy.empty((len(seeds), self._frame_samples), numpy.float32)
        work = self.work(min(len(seeds), _BLOCK_FRAMES))
        for start in range(0, len(seeds), _BLOCK_FRAMES):
            stop = start + _BLOCK_FRAMES
            self.draw_into(noise[start:stop], seeds[start:stop], work)
        return noise

    def work(self, num_frames: int) -> _Work:
        """The arrays that `draw_into` needs for up to `num_frames` frames; for one thread at a time."""
        return _Work(num_frames, self._frame_samples)

    def draw_into(self, noise: numpy.ndarray, seeds: numpy.ndarray, work: _Work) -> None:
        """As `draw`, into `noise`, in arrays made by `work` for at least as many frames."""
        if self._kernel is not None:
            self._kernel.draw_into(noise, numpy.ascontiguousarray(seeds))
            return
        count = len(seeds)
        self._draw_bits(work, seeds)
        values, rounded = work.values[:count], work.rounded[:count]
        radius, angle = (0, 1) if self._first_is_u1 else (1, 0)
        _uniform(work.drawn[radius, :count], values, rounded)
        numpy.copyto(noise, elementary.log(values), casting="same_kind")
        noise *= numpy.float32(-2)
        numpy.sqrt(noise, out=noise)
        _uniform(work.drawn[angle, :count], values, rounded)
        values *= 2 * numpy.pi
        numpy.copyto(rounded, values, casting="same_kind")  # Kaldi's angle is float32
        numpy.copyto(values, rounded)
        cosine_of_turn(values, work.square[:count], work.sine[:count])
        numpy.copyto(rounded, work.sine[:count], casting="same_kind")
        noise *= rounded

    def _draw_bits(self, work: _Work, seeds: numpy.ndarray) -> None:
        """Each Gaussian's first and second draw of 31 bits, plus 1, into `work.drawn`."""
        first, later, drawn = (array[:, : len(seeds)] for array in (work.first, work.later, work.drawn))
        # Bits 16 to 26 of its first state are a uniform's highest, then 16 to 25 of the second, and of the third.
        numpy.multiply(seeds[:, numpy.newaxis], self._multipliers, out=first)
        first += self._increments
        numpy.left_shift(first, numpy.uint32(4), out=drawn)
        drawn &= numpy.uint32(0x7FF00000)
        numpy.multiply(first, self._second[0], out=later)
        later += self._second[1]
        later >>= numpy.uint32(12)
        later &= numpy.uint32(0x000FFC00)
        drawn |= later
        numpy.multiply(first, self._third[0], out=later)
        later += self._third[1]
        later >>= numpy.uint32(22)
        drawn |= later
        drawn += numpy.uint32(1)


def _uniform(drawn: numpy.ndarray, values: numpy.ndarray, rounded: numpy.ndarray) -> None:
    """Kaldi's float32 of draws plus 1 (uint32), widened to float64: into `values`; `rounded` is overwritten."""
    # Kaldi divides by RAND_MAX + 2. No quotient is nearer than 2^-31 of itself to the middle between two float32, so
    # multiplying by the reciprocal, which is 2^-52 of it off at most, rounds to the same.
    numpy.copyto(values, drawn)
    values *= _RECIPROCAL
    numpy.copyto(rounded, values, casting="same_kind")
    numpy.copyto(values, rounded)


class _Work:
    """Temporary arrays for blocks of frames: few, since what matters is that they stay in the cache."""

    def __init__(self, num_frames: int, frame_samples: int) -> None:
        self.first = numpy.empty((2, num_frames, frame_samples), numpy.uint32)
        self.drawn = numpy.empty((2, num_frames, frame_samples), numpy.uint32)
        self.values = numpy.empty((num_frames, frame_samples))
        self.square = numpy.empty((num_frames, frame_samples))
        self.sine = numpy.empty((num_frames, frame_samples))
        self.later = self.sine.view(numpy.uint32).reshape(self.first.shape)
        self.rounded = self.first[0].view(numpy.float32)


def cosine_of_turn(angles: numpy.ndarray, square: numpy.ndarray, cosine: numpy.ndarray) -> None:
    """cos of angles within [0, 2 pi], into `cosine`; `angles` and `square` are overwritten.

    All float64 and of one shape. cos(x) = sin(|x - pi| - pi/2), whose argument lies within a quarter turn, and whose
    zeros are the cosine's, so that small values keep their relative precision.
    """
    angles -= numpy.pi
    numpy.abs(angles, out=angles)
    angles -= numpy.pi / 2
    numpy.multiply(angles, angles, out=square)
    numpy.multiply(square, _SINE[-1], out=cosine)
    for coefficient in _SINE[-2::-1]:
        cosine += coefficient
        cosine *= square
    cosine *= angles
    cosine += angles


def _steps(count: int) -> tuple[list[int], list[int]]:
    """(multipliers, increments) of 1 to `count` steps of rand_r's generator."""
    multiplier, increment = 1, 0
    multipliers, increments = [], []
    for _ in range(count):
        multiplier = multiplier * _MULTIPLIER & _MASK
        increment = (increment * _MULTIPLIER + _INCREMENT) & _MASK
        multipliers.append(multiplier)
        increments.append(increment)
    return multipliers, increments


def _of_first_steps(values: numpy.ndarray, frame_samples: int) -> numpy.ndarray:
    """(2, 1, frame_samples) uint32, of the first step of each Gaussian's two uniforms."""
    ordered = numpy.array(values[::_STEPS_PER_UNIFORM], dtype=numpy.uint32).reshape(frame_samples, 2)
    return numpy.ascontiguousarray(ordered.T)[:, numpy.newaxis]
