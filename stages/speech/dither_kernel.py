"""Kaldi's dither drawn by a kernel that is compiled for the processor: the bytes of `dither`'s arrays, in a tenth of
the time.

The operations are those of `dither.Noise.draw_into`, one by one and none fused, so that every value is the same.
"""

from __future__ import annotations

import math
from typing import Sequence

import numpy

from stages.compiled.elementary import logarithm
from stages.compiled.ir import Vectors

_LANES = 16  # samples at once; a processor with shorter vectors takes them in parts


def _cosine(text: Vectors, angle: str, terms: Sequence[float]) -> str:
    angle = text.apply("fsub", "double", angle, text.double(math.pi))
    angle = text.call("llvm.fabs", "double", angle)
    angle = text.apply("fsub", "double", angle, text.double(math.pi / 2))
    square = text.apply("fmul", "double", angle, angle)
    cosine = text.apply("fmul", "double", square, text.double(terms[-1]))
    for term in terms[-2::-1]:
        cosine = text.apply("fadd", "double", cosine, text.double(term))
        cosine = text.apply("fmul", "double", cosine, square)
    cosine = text.apply("fmul", "double", cosine, angle)
    return text.apply("fadd", "double", cosine, angle)


class _Uniforms:
    """Draws of uniform numbers: from a frame's seed and the first state of each sample's."""

    def __init__(self, samples: int, second: tuple[int, int], third: tuple[int, int], reciprocal: float) -> None:
        self._samples = samples
        self._later = (second, 12, 0x000FFC00), (third, 22, 0x3FF)
        self._reciprocal = reciprocal

    def draw(self, text: Vectors, seed: str, pointer: str, sample: str) -> str:
        """A draw's float32 as float64; `pointer` holds multipliers and, a frame's samples behind, increments."""
        kind = text.vector("i32")
        multipliers, increments = (
            text.value(
                "load {}, ptr {}, align 4".format(kind, text.at(pointer, text.index("add", sample, skip), "i32"))
            )
            for skip in (0, self._samples)
        )
        first = text.apply("add", "i32", text.apply("mul", "i32", seed, multipliers), increments)
        drawn = text.apply("shl", "i32", first, text.splat("i32", 4))
        drawn = text.apply("and", "i32", drawn, text.splat("i32", 0x7FF00000))
        for (factor, increment), shift, mask in self._later:
            later = text.apply("mul", "i32", first, text.splat("i32", factor))
            later = text.apply("add", "i32", later, text.splat("i32", increment))
            later = text.apply("lshr", "i32", later, text.splat("i32", shift))
            drawn = text.apply("or", "i32", drawn, text.apply("and", "i32", later, text.splat("i32", mask)))
        drawn = text.apply("add", "i32", drawn, text.splat("i32", 1))
        value = text.cast("uitofp", drawn, "i32", "double")
        value = text.apply("fmul", "double", value, text.double(self._reciprocal))
        return text.cast("fpext", text.cast("fptrunc", value, "double", "float"), "float", "double")


def source(
    samples: int, second: tuple[int, int], third: tuple[int, int], reciprocal: float, sine: Sequence[float]
) -> str:
    """IR: void dither(seeds, count, radius, angle, noise); see `Kernel`.

    Args:
        samples: of a frame; a multiple of 16.
        second, third: (multiplier, increment) that lead from a uniform's first state to its next, moved up by 6 bits.
        reciprocal: of RAND_MAX + 2.
        sine: the polynomial of `dither.cosine_of_turn`.
    """
    text = Vectors(_LANES)
    uniforms = _Uniforms(samples, second, third, reciprocal)
    text.add("declare <{0} x double> @llvm.fabs.v{0}f64(<{0} x double>)".format(_LANES))
    text.add("declare <{0} x float> @llvm.sqrt.v{0}f32(<{0} x float>)".format(_LANES))
    text.add('attributes #0 = { nounwind "prefer-vector-width"="512" }')
    text.begin("define void @dither(ptr %seeds, i64 %count, ptr %radius, ptr %angle, ptr %noise) #0")
    with text.loop("%count") as frame:
        seed = text.spread(text.load("%seeds", frame.index, "i32", 4), "i32")
        row = text.at("%noise", text.index("mul", frame.index, samples), "float")
        with text.loop(samples, step=_LANES) as part:
            radius = text.cast("fptrunc", logarithm(text, uniforms.draw(text, seed, "%radius", part.index)),
                               "double", "float")  # fmt: skip
            radius = text.apply("fmul", "float", radius, text.splat("float", "-2.0"))
            radius = text.call("llvm.sqrt", "float", radius)
            angle = uniforms.draw(text, seed, "%angle", part.index)
            angle = text.apply("fmul", "double", angle, text.double(2 * math.pi))
            angle = text.cast("fpext", text.cast("fptrunc", angle, "double", "float"), "float", "double")
            cosine = text.cast("fptrunc", _cosine(text, angle, sine), "double", "float")
            noise = text.apply("fmul", "float", radius, cosine)
            place = text.at(row, part.index, "float")
            text.add("  store {} {}, ptr {}, align 4".format(text.vector("float"), noise, place))
    text.end()
    return text.text()


class Kernel:
    """Draws the noise of whole frames.

    Args:
        steps: (2, 2, samples) uint32, contiguous: of the uniform for the radius and of that for the angle, the
            multipliers and the increments of each sample's first state.
        second, third, reciprocal, sine: of `source`.
    """

    def __init__(
        self,
        steps: numpy.ndarray,
        second: tuple[int, int],
        third: tuple[int, int],
        reciprocal: float,
        sine: Sequence[float],
    ) -> None:
        from stages.compiled import llvm  # it imports llvmlite, which not every image has

        self._steps = steps
        text = source(steps.shape[2], second, third, reciprocal, sine)
        self._library = llvm.Library(text, llvm.host_features(), {"dither": "pnppp"})

    @staticmethod
    def fits(samples: int) -> bool:
        """Whether frames of this length can be drawn so, and there is a compiler."""
        try:
            import llvmlite  # noqa: F401 - asked for alone
        except ImportError:
            return False
        return samples % _LANES == 0

    def draw_into(self, noise: numpy.ndarray, seeds: numpy.ndarray) -> None:
        """Noise (count, samples) float32, contiguous, from seeds (count,) uint32, contiguous."""
        if not (noise.flags.c_contiguous and seeds.flags.c_contiguous):
            raise ValueError("noise and seeds must lie in one piece")
        if len(seeds) == 0:
            return
        steps, stride = self._steps.ctypes.data, self._steps.strides[0]
        self._library.call.dither(seeds.ctypes.data, len(seeds), steps, steps + stride, noise.ctypes.data)
