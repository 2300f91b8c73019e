"""Kaldi's dither, reproduced: the noise that compute-fbank-feats adds is pseudo-random, and always the same.

Each Kaldi process starts glibc's rand() at seed 1 and draws one number a frame, in utterance order. The number seeds
that frame's own generator (rand_r), from which every sample's noise is drawn: three steps a uniform, two uniforms a
Gaussian (Box-Muller). Sources: Kaldi's base/kaldi-math and feat/feature-window, glibc's random_r and rand_r.

A transcendental function is computed in float64 and rounded to float32: unlike NumPy's own float32 functions, this
does not depend on the SIMD instructions of the machine (it differs from glibc's logf by one unit in the last place in
0.7 % of values, far below what a feature shows).
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
_BLOCK_FRAMES = 32  # keeps the temporaries of one block within the processor's cache


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
        # Rows: the step within a uniform (3), the uniform within a Gaussian (2), the sample.
        shape = (frame_samples, 2, _STEPS_PER_UNIFORM)
        self._multipliers = _by_step(multipliers, shape)
        self._increments = _by_step(increments, shape)

    def draw(self, seeds):
        """Noise of the frames with these seeds: (len(seeds), frame_samples) float32, of unit variance."""
        blocks = [self._block(seeds[start : start + _BLOCK_FRAMES]) for start in range(0, len(seeds), _BLOCK_FRAMES)]
        return numpy.concatenate(blocks) if blocks else numpy.empty((0, self._multipliers.shape[2]), numpy.float32)

    def _block(self, seeds):
        first, second = self._uniforms(seeds, 0), self._uniforms(seeds, 1)
        u1, u2 = (first, second) if self._first_is_u1 else (second, first)
        logarithm = numpy.log(u1.astype(numpy.float64)).astype(numpy.float32)
        radius = numpy.sqrt(numpy.float32(-2) * logarithm)
        angle = (2 * numpy.pi * u2.astype(numpy.float64)).astype(numpy.float32)
        return radius * numpy.cos(angle.astype(numpy.float64)).astype(numpy.float32)

    def _uniforms(self, seeds, which):
        """The first (0) or second (1) uniform of every Gaussian: (len(seeds), frame_samples) float32 within (0, 1)."""
        high = self._states(seeds, which, 0) & numpy.uint32(2047)
        middle = self._states(seeds, which, 1) & numpy.uint32(1023)
        low = self._states(seeds, which, 2) & numpy.uint32(1023)
        drawn = (high << numpy.uint32(20)) ^ (middle << numpy.uint32(10)) ^ low
        return ((drawn + 1.0) / (2147483647.0 + 2.0)).astype(numpy.float32)

    def _states(self, seeds, which, step):
        states = seeds[:, numpy.newaxis] * self._multipliers[step, which] + self._increments[step, which]
        return states >> numpy.uint32(16)


def _by_step(values, shape):
    ordered = numpy.array(values, dtype=numpy.uint32).reshape(shape).transpose(2, 1, 0)
    return numpy.ascontiguousarray(ordered)
