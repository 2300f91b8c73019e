"""Kaldi's dither drawn by a kernel that is compiled for the processor: the bytes of `dither`'s arrays, in a tenth of
the time.

The operations are those of `_dither.Noise.draw_into`, one by one and none fused, so that every value is the same; the
logarithm, which NumPy brings, is here fdlibm's, within one unit of the last place of a float64. Rounded to float32 it
is NumPy's for each of the uniforms that a draw can give: a test goes through them.
"""

import math
import struct

_LANES = 16  # samples at once; a processor with shorter vectors takes them in parts
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# fdlibm's e_log.c: log(1 + f) = f - (f^2 / 2 - s (f^2 / 2 + R)), s = f / (2 + f), R a polynomial in s^2.
_LOG = (
    6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
    1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01,
)  # fmt: skip
_ROOT_HALF_BITS = 0x3FE6A09E667F3BCD


class _Text:
    """Lines of IR on vectors; a value is its name."""

    def __init__(self):
        self.lines = []
        self._number = 0

    def add(self, text):
        self.lines.append(text)

    def value(self, text):
        self._number += 1
        name = "%v{}".format(self._number)
        self.lines.append("  {} = {}".format(name, text))
        return name

    def apply(self, operation, kind, left, right):
        return self.value("{} <{} x {}> {}, {}".format(operation, _LANES, kind, left, right))

    def cast(self, operation, value, old, new):
        return self.value("{0} <{1} x {2}> {3} to <{1} x {4}>".format(operation, _LANES, old, value, new))


def _splat(kind, text):
    return "<{}>".format(", ".join(["{} {}".format(kind, text)] * _LANES))


def _integers(number, kind="i32"):
    return _splat(kind, str(number))


def _doubles(number):
    return _splat("double", "0x{:016X}".format(struct.unpack("<Q", struct.pack("<d", number))[0]))


def _logarithm(text, x):
    bits = text.cast("bitcast", x, "double", "i64")
    above = text.apply("sub", "i64", bits, _integers(_ROOT_HALF_BITS, "i64"))
    exponent = text.apply("ashr", "i64", above, _integers(52, "i64"))
    scaled = text.apply("shl", "i64", exponent, _integers(52, "i64"))
    mantissa = text.cast("bitcast", text.apply("sub", "i64", bits, scaled), "i64", "double")
    k = text.cast("sitofp", text.cast("trunc", exponent, "i64", "i32"), "i32", "double")
    f = text.apply("fsub", "double", mantissa, _doubles(1.0))
    s = text.apply("fdiv", "double", f, text.apply("fadd", "double", f, _doubles(2.0)))
    z = text.apply("fmul", "double", s, s)
    rest = _doubles(_LOG[-1])
    for term in _LOG[-2::-1]:
        rest = text.apply("fadd", "double", text.apply("fmul", "double", rest, z), _doubles(term))
    rest = text.apply("fmul", "double", rest, z)
    half = text.apply("fmul", "double", text.apply("fmul", "double", f, f), _doubles(0.5))
    inner = text.apply("fmul", "double", s, text.apply("fadd", "double", half, rest))
    inner = text.apply("fadd", "double", inner, text.apply("fmul", "double", k, _doubles(_LN2_LOW)))
    inner = text.apply("fsub", "double", text.apply("fsub", "double", half, inner), f)
    return text.apply("fsub", "double", text.apply("fmul", "double", k, _doubles(_LN2_HIGH)), inner)


def _cosine(text, angle, terms):
    angle = text.apply("fsub", "double", angle, _doubles(math.pi))
    angle = text.value("call <{0} x double> @llvm.fabs.v{0}f64(<{0} x double> {1})".format(_LANES, angle))
    angle = text.apply("fsub", "double", angle, _doubles(math.pi / 2))
    square = text.apply("fmul", "double", angle, angle)
    cosine = text.apply("fmul", "double", square, _doubles(terms[-1]))
    for term in terms[-2::-1]:
        cosine = text.apply("fadd", "double", cosine, _doubles(term))
        cosine = text.apply("fmul", "double", cosine, square)
    cosine = text.apply("fmul", "double", cosine, angle)
    return text.apply("fadd", "double", cosine, angle)


def _uniform(text, seed, pointer, offset, second, third, reciprocal):
    """A draw's float32 as float64; `pointer` holds the multipliers and, `offset` behind them, the increments."""
    loads = []
    for skip in (0, offset):
        index = text.value("add i64 %i, {}".format(skip))
        address = text.value("getelementptr i32, ptr {}, i64 {}".format(pointer, index))
        loads.append(text.value("load <{} x i32>, ptr {}, align 4".format(_LANES, address)))
    first = text.apply("add", "i32", text.apply("mul", "i32", seed, loads[0]), loads[1])
    drawn = text.apply("and", "i32", text.apply("shl", "i32", first, _integers(4)), _integers(0x7FF00000))
    for (factor, increment), shift, mask in ((second, 12, 0x000FFC00), (third, 22, 0x3FF)):
        later = text.apply("mul", "i32", first, _integers(factor))
        later = text.apply("lshr", "i32", text.apply("add", "i32", later, _integers(increment)), _integers(shift))
        drawn = text.apply("or", "i32", drawn, text.apply("and", "i32", later, _integers(mask)))
    drawn = text.apply("add", "i32", drawn, _integers(1))
    value = text.apply("fmul", "double", text.cast("uitofp", drawn, "i32", "double"), _doubles(reciprocal))
    return text.cast("fpext", text.cast("fptrunc", value, "double", "float"), "float", "double")


def source(samples, second, third, reciprocal, sine):
    """IR: void dither(seeds, count, radius, angle, noise); see `Kernel`.

    Args:
        samples: of a frame; a multiple of 16.
        second, third: (multiplier, increment) that lead from a uniform's first state to its next, moved up by 6 bits.
        reciprocal: of RAND_MAX + 2.
        sine: the polynomial of `_dither.cosine_of_turn`.
    """
    text = _Text()
    text.add("declare <{0} x double> @llvm.fabs.v{0}f64(<{0} x double>)".format(_LANES))
    text.add("declare <{0} x float> @llvm.sqrt.v{0}f32(<{0} x float>)".format(_LANES))
    text.add('attributes #0 = { nounwind "prefer-vector-width"="512" }')
    text.add("define void @dither(ptr %seeds, i64 %count, ptr %radius, ptr %angle, ptr %noise) #0 {")
    text.add("entry:\n  br label %frame\nframe:\n  %n = phi i64 [0, %entry], [%nn, %frameend]")
    seed = text.value("load i32, ptr {}, align 4".format(text.value("getelementptr i32, ptr %seeds, i64 %n")))
    seed = text.value("insertelement <{} x i32> poison, i32 {}, i32 0".format(_LANES, seed))
    seed = text.value(
        "shufflevector <{0} x i32> {1}, <{0} x i32> poison, <{0} x i32> zeroinitializer".format(_LANES, seed)
    )
    row = text.value("mul i64 %n, {}".format(samples))
    text.add("  br label %part\npart:\n  %i = phi i64 [0, %frame], [%in, %part]")
    radius = _logarithm(text, _uniform(text, seed, "%radius", samples, second, third, reciprocal))
    radius = text.cast("fptrunc", radius, "double", "float")
    radius = text.apply("fmul", "float", radius, _splat("float", "-2.0"))
    radius = text.value("call <{0} x float> @llvm.sqrt.v{0}f32(<{0} x float> {1})".format(_LANES, radius))
    angle = _uniform(text, seed, "%angle", samples, second, third, reciprocal)
    angle = text.apply("fmul", "double", angle, _doubles(6.283185307179586))
    angle = text.cast("fpext", text.cast("fptrunc", angle, "double", "float"), "float", "double")
    cosine = text.cast("fptrunc", _cosine(text, angle, sine), "double", "float")
    noise = text.apply("fmul", "float", radius, cosine)
    place = text.value("getelementptr float, ptr %noise, i64 {}".format(text.value("add i64 {}, %i".format(row))))
    text.add("  store <{} x float> {}, ptr {}, align 4".format(_LANES, noise, place))
    text.add("  %in = add i64 %i, {}\n  %more = icmp ult i64 %in, {}".format(_LANES, samples))
    text.add("  br i1 %more, label %part, label %frameend\nframeend:\n  %nn = add i64 %n, 1")
    text.add("  %mn = icmp ult i64 %nn, %count\n  br i1 %mn, label %frame, label %end\nend:\n  ret void\n}")
    return "\n".join(text.lines)


class Kernel:
    """Draws the noise of whole frames.

    Args:
        steps: (2, 2, samples) uint32, contiguous: of the uniform for the radius and of that for the angle, the
            multipliers and the increments of each sample's first state.
        parts: further arguments of `source`.
    """

    def __init__(self, steps, features=None, **parts):
        from stages.compiled import llvm  # it imports llvmlite, which not every image has

        self._steps = steps
        samples = steps.shape[2]
        known = llvm.host_features() if features is None else features
        self._library = llvm.Library(source(samples, **parts), known, {"dither": "pnppp"})

    @staticmethod
    def fits(samples):
        """Whether frames of this length can be drawn so, and there is a compiler."""
        try:
            import llvmlite  # noqa: F401 - asked for alone
        except ImportError:
            return False
        return samples % _LANES == 0

    def draw_into(self, noise, seeds):
        """Noise (count, samples) float32, contiguous, from seeds (count,) uint32, contiguous."""
        if not (noise.flags.c_contiguous and seeds.flags.c_contiguous):
            raise ValueError("noise and seeds must lie in one piece")
        if len(seeds) == 0:
            return
        steps, stride = self._steps.ctypes.data, self._steps.strides[0]
        self._library.call.dither(seeds.ctypes.data, len(seeds), steps, steps + stride, noise.ctypes.data)
