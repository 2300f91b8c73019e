"""exp and log of float64 by IEEE operations in a fixed order: the same bytes on every processor.

NumPy's own, and the C library's, choose their code by the processor and differ in the last digit. These are fdlibm's
(e_log.c, e_exp.c), within one unit in the last place, each step one operation on arrays: no product is fused with a
sum. `stages.compiled.elementary` has them as LLVM IR, with the same bytes.
"""

from __future__ import annotations

import numpy

LN10 = 2.30258509299404568402
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
ROOT_HALF_BITS = 0x3FE6A09E667F3BCD  # of the float64 nearest to the root of 1/2
# log(1 + f) = f - (f^2 / 2 - s (f^2 / 2 + R)), s = f / (2 + f), R a polynomial in s^2.
LOG_TERMS = (
    6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
    1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01,
)  # fmt: skip
INVERSE_LN2 = 1.44269504088896338700
# exp(r) = 1 - ((low - r c / (2 - c)) - high), c = r - r^2 P(r^2), r = high - low, |r| <= ln(2) / 2.
EXP_TERMS = (
    1.66666666666666019037e-01, -2.77777777770155933842e-03, 6.61375632143793436117e-05,
    -1.65339022054652515390e-06, 4.13813679705723846039e-08,
)  # fmt: skip
LEAST_EXPONENT = -708.0  # exp of less is no normal float64


def log(values: numpy.ndarray) -> numpy.ndarray:
    """Natural logarithm of positive, normal float64 values, of any shape."""
    bits = values.view(numpy.int64)
    exponents = (bits - ROOT_HALF_BITS) >> 52
    f = (bits - (exponents << 52)).view(numpy.float64)  # in [sqrt(1/2), sqrt(2))
    k = exponents.astype(numpy.float64)
    f -= 1.0
    s = f / (f + 2.0)
    z = s * s
    rest = numpy.full_like(z, LOG_TERMS[-1])
    for term in LOG_TERMS[-2::-1]:
        rest *= z
        rest += term
    rest *= z
    half = f * f
    half *= 0.5
    rest += half
    rest *= s
    rest += k * LN2_LOW
    half -= rest
    half -= f
    return k * LN2_HIGH - half


def exp(values: numpy.ndarray) -> numpy.ndarray:
    """e to the power of float64 values of at most 709, of any shape; of less than -708, that of -708."""
    values = numpy.maximum(values, LEAST_EXPONENT)
    k = numpy.rint(values * INVERSE_LN2)
    high = values - k * LN2_HIGH
    low = k * LN2_LOW
    r = high - low
    z = r * r
    rest = numpy.full_like(z, EXP_TERMS[-1])
    for term in EXP_TERMS[-2::-1]:
        rest *= z
        rest += term
    rest *= z
    c = r - rest
    r *= c
    r /= 2.0 - c
    low -= r
    low -= high
    result = 1.0 - low
    bits = result.view(numpy.int64)
    bits += k.astype(numpy.int64) << 52
    return bits.view(numpy.float64)  # of a scalar, `bits` is a copy


def log10(values: numpy.ndarray) -> numpy.ndarray:
    """Logarithm to base 10 of positive, normal float64 values, of any shape."""
    return log(values) / LN10


def logaddexp(left: numpy.ndarray, right: numpy.ndarray) -> numpy.ndarray:
    """log(exp(left) + exp(right)) of finite float64 values, of any shape."""
    larger = numpy.maximum(left, right)
    return larger + log(exp(numpy.minimum(left, right) - larger) + 1.0)
