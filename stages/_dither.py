"""Kaldi's dither, reproduced: the noise that compute-fbank-feats adds is pseudo-random, and always the same.

Each Kaldi process starts glibc's rand() at seed 1 and draws one number a frame, in utterance order. The number seeds
that frame's own generator (rand_r), from which every sample's noise is drawn: three steps a uniform, two uniforms a
Gaussian (Box-Muller). Sources: Kaldi's base/kaldi-math and feat/feature-window, glibc's random_r and rand_r.

A transcendental function is computed in float64 and rounded to float32: unlike NumPy's own float32 functions, this
does not depend on the SIMD instructions of the machine (it differs from glibc's logf by one unit in the last place in
0.7 % of values, far below what a feature shows). Most of the time goes into passes over arrays, so arrays are reused,
small enough for the processor's cache, and the cosine, which NumPy leaves to the C library value by value, is a
polynomial: rounded to float32 it is the C library's for every angle that a draw can give.
"""

import numpy

U1_FIRST = "u1-first"
U2_FIRST = "u2-first"
DRAW_ORDERS = (U1_FIRST, U2_FIRST)

_SEED_OFFSET = 27437  # what Kaldi's RandomState adds to rand()
_MULTIPLIER = 1103515245
_INCREMENT = 12345
_MASK = 0xFFFFFFFF
_STEPS_PER_UNIFORM = 3
_RAND_MAX = 2147483647
_BLOCK_FRAMES = 32  # keeps the temporaries of one block within the processor's cache

# A uniform's 31 bits are bits 16 to 26 of a first state of the generator, and 16 to 25 of the next two. Constants of
# the generator are shifted so that these bits are a state's highest: what is above them falls off in 32 bits.
_TO_THE_TOP = (5, 6, 6)

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
    """The seeds of the frames of one Kaldi process, in order: glibc's rand() from seed 1, plus Kaldi's offset."""

    _LONG_LAG = 31
    _SHORT_LAG = 3
    _DISCARDED = 310

    def __init__(self):
        state = [1]
        for _ in range(1, self._LONG_LAG):
            state.append(16807 * state[-1] % 2147483647)
        # glibc copies the first three values on before its recurrence r[i] = r[i-3] + r[i-31] mod 2^32 begins.
        self._state = state[self._SHORT_LAG :] + state[: self._SHORT_LAG]
        self.take(self._DISCARDED)

    def take(self, num_frames):
        """The next seeds: (num_frames,) uint32."""
        values = self._state
        for _ in range(num_frames):
            values.append((values[-self._SHORT_LAG] + values[-self._LONG_LAG]) & _MASK)
        drawn = numpy.array(values[self._LONG_LAG :], dtype=numpy.uint32)
        self._state = values[-self._LONG_LAG :]
        return (drawn >> numpy.uint32(1)) + numpy.uint32(_SEED_OFFSET)


class Noise:
    """Draws the Gaussian noise of frames of one length.

    Args:
        frame_samples: samples a frame.
        draw_order: which of a Gaussian's two uniforms is drawn first. C++ leaves it to the compiler; U1_FIRST is what
            g++ 12 does on x86_64.
    """

    def __init__(self, frame_samples, draw_order=U1_FIRST):
        if draw_order not in DRAW_ORDERS:
            raise ValueError("draw_order is {!r}, not one of {}".format(draw_order, DRAW_ORDERS))
        self._first_is_u1 = draw_order == U1_FIRST
        # State n of the generator is multipliers[n] * seed + increments[n] mod 2^32, so all can be had at once.
        multiplier, increment = 1, 0
        multipliers, increments = [], []
        for _ in range(2 * frame_samples * _STEPS_PER_UNIFORM):
            multiplier = multiplier * _MULTIPLIER & _MASK
            increment = (increment * _MULTIPLIER + _INCREMENT) & _MASK
            multipliers.append(multiplier)
            increments.append(increment)
        self._frame_samples = frame_samples
        self._multipliers = _by_step(multipliers, frame_samples)
        self._increments = _by_step(increments, frame_samples)

    def draw(self, seeds):
        """Noise of the frames with these seeds: (len(seeds), frame_samples) float32, of unit variance."""
        noise = numpy.empty((len(seeds), self._frame_samples), numpy.float32)
        work = self.work(min(len(seeds), _BLOCK_FRAMES))
        for start in range(0, len(seeds), _BLOCK_FRAMES):
            stop = start + _BLOCK_FRAMES
            self.draw_into(noise[start:stop], seeds[start:stop], work)
        return noise

    def work(self, num_frames):
        """The arrays that `draw_into` needs for up to `num_frames` frames; for one thread at a time."""
        return _Work(num_frames, self._frame_samples)

    def draw_into(self, noise, seeds, work):
        """As `draw`, into `noise`, in arrays made by `work` for at least as many frames."""
        first, second = self._uniforms(seeds, work)
        u1, u2 = (first, second) if self._first_is_u1 else (second, first)
        values, other, cosine = (array[: len(seeds)] for array in (work.values, work.other, work.rounded))
        numpy.log(u1, out=noise, dtype=numpy.float64, casting="same_kind")
        noise *= numpy.float32(-2)
        numpy.sqrt(noise, out=noise)
        numpy.multiply(u2, 2 * numpy.pi, out=values, dtype=numpy.float64)
        numpy.copyto(cosine, values, casting="same_kind")  # Kaldi's angle is float32
        numpy.copyto(values, cosine)
        numpy.copyto(cosine, cosine_of_turn(values, other), casting="same_kind")
        noise *= cosine

    def _uniforms(self, seeds, work):
        """Each Gaussian's first and second uniform: (2, len(seeds), frame_samples) float32 within (0, 1)."""
        states, drawn, wide, uniforms = (
            array[:, : len(seeds)] for array in (work.states, work.drawn, work.wide, work.uniforms)
        )
        self._states(drawn, seeds, 0)
        drawn >>= numpy.uint32(1)
        drawn &= numpy.uint32(0x7FF00000)
        self._states(states, seeds, 1)
        states >>= numpy.uint32(12)
        states &= numpy.uint32(0x000FFC00)
        drawn |= states
        self._states(states, seeds, 2)
        states >>= numpy.uint32(22)
        drawn |= states
        drawn += numpy.uint32(1)
        # Kaldi divides by RAND_MAX + 2. No quotient is nearer than 2^-31 of itself to the middle between two float32,
        # so multiplying by the reciprocal, which is 2^-52 of it off at most, rounds to the same.
        numpy.copyto(wide, drawn)
        wide *= 1.0 / (_RAND_MAX + 2.0)
        numpy.copyto(uniforms, wide, casting="same_kind")
        return uniforms

    def _states(self, states, seeds, step):
        numpy.multiply(seeds[:, numpy.newaxis], self._multipliers[step], out=states)
        states += self._increments[step]


class _Work:
    """Temporary arrays for blocks of frames."""

    def __init__(self, num_frames, frame_samples):
        pair, single = (2, num_frames, frame_samples), (num_frames, frame_samples)
        self.states = numpy.empty(pair, numpy.uint32)
        self.drawn = numpy.empty(pair, numpy.uint32)
        self.wide = numpy.empty(pair)
        self.uniforms = numpy.empty(pair, numpy.float32)
        self.values = numpy.empty(single)
        self.other = numpy.empty(single)
        self.rounded = numpy.empty(single, numpy.float32)


def cosine_of_turn(angles, work):
    """cos of angles within [0, 2 pi], in place of `work`, which is returned; `angles` are overwritten.

    Both float64 and of one shape. cos(x) = sin(|x - pi| - pi/2), whose argument lies within a quarter turn, and whose
    zeros are the cosine's, so that small values keep their relative precision.
    """
    angles -= numpy.pi
    numpy.abs(angles, out=angles)
    angles -= numpy.pi / 2
    square = angles * angles
    numpy.multiply(square, _SINE[-1], out=work)
    for coefficient in _SINE[-2::-1]:
        work += coefficient
        work *= square
    work *= angles
    work += angles
    return work


def _by_step(values, frame_samples):
    """[step within a uniform]: (2, 1, frame_samples) uint32, of each Gaussian's two uniforms."""
    ordered = numpy.array(values, dtype=numpy.uint32).reshape(frame_samples, 2, _STEPS_PER_UNIFORM).transpose(2, 1, 0)
    shifts = numpy.array(_TO_THE_TOP, numpy.uint32)[:, numpy.newaxis, numpy.newaxis]
    return numpy.ascontiguousarray(ordered << shifts)[:, :, numpy.newaxis]
