"""log and exp of `stages.shared.elementary` as LLVM IR: the same operations in the same order, none fused."""

from __future__ import annotations

from stages.compiled.ir import Vectors
from stages.shared.elementary import (
    EXP_TERMS,
    INVERSE_LN2,
    LEAST_EXPONENT,
    LN2_HIGH,
    LN2_LOW,
    LOG_TERMS,
    ROOT_HALF_BITS,
)

_ROUNDING = 1.5 * 2.0**52  # added and taken away, it leaves the nearest whole number, an even one of two


def logarithm(text: Vectors, x: str) -> str:
    """Natural logarithm of a vector of positive, normal float64 values."""
    bits = text.cast("bitcast", x, "double", "i64")
    above = text.apply("sub", "i64", bits, text.splat("i64", ROOT_HALF_BITS))
    exponent = text.apply("ashr", "i64", above, text.splat("i64", 52))
    scaled = text.apply("shl", "i64", exponent, text.splat("i64", 52))
    mantissa = text.cast("bitcast", text.apply("sub", "i64", bits, scaled), "i64", "double")
    k = text.cast("sitofp", text.cast("trunc", exponent, "i64", "i32"), "i32", "double")
    f = text.apply("fsub", "double", mantissa, text.double(1.0))
    s = text.apply("fdiv", "double", f, text.apply("fadd", "double", f, text.double(2.0)))
    z = text.apply("fmul", "double", s, s)
    rest = text.double(LOG_TERMS[-1])
    for term in LOG_TERMS[-2::-1]:
        rest = text.apply("fadd", "double", text.apply("fmul", "double", rest, z), text.double(term))
    rest = text.apply("fmul", "double", rest, z)
    half = text.apply("fmul", "double", text.apply("fmul", "double", f, f), text.double(0.5))
    inner = text.apply("fmul", "double", s, text.apply("fadd", "double", half, rest))
    inner = text.apply("fadd", "double", inner, text.apply("fmul", "double", k, text.double(LN2_LOW)))
    inner = text.apply("fsub", "double", text.apply("fsub", "double", half, inner), f)
    return text.apply("fsub", "double", text.apply("fmul", "double", k, text.double(LN2_HIGH)), inner)


def exponential(text: Vectors, x: str) -> str:
    """e to the power of a vector of float64 values of at most 709; of less than -708, that of -708.

    @llvm.maxnum for the vector must be declared.
    """
    x = text.call("llvm.maxnum", "double", x, text.double(LEAST_EXPONENT))
    k = text.apply("fadd", "double", text.apply("fmul", "double", x, text.double(INVERSE_LN2)), text.double(_ROUNDING))
    k = text.apply("fsub", "double", k, text.double(_ROUNDING))
    high = text.apply("fsub", "double", x, text.apply("fmul", "double", k, text.double(LN2_HIGH)))
    low = text.apply("fmul", "double", k, text.double(LN2_LOW))
    r = text.apply("fsub", "double", high, low)
    z = text.apply("fmul", "double", r, r)
    rest = text.double(EXP_TERMS[-1])
    for term in EXP_TERMS[-2::-1]:
        rest = text.apply("fadd", "double", text.apply("fmul", "double", rest, z), text.double(term))
    c = text.apply("fsub", "double", r, text.apply("fmul", "double", rest, z))
    quotient = text.apply("fmul", "double", r, c)
    quotient = text.apply("fdiv", "double", quotient, text.apply("fsub", "double", text.double(2.0), c))
    low = text.apply("fsub", "double", text.apply("fsub", "double", low, quotient), high)
    bits = text.cast("bitcast", text.apply("fsub", "double", text.double(1.0), low), "double", "i64")
    whole = text.cast("sext", text.cast("fptosi", k, "double", "i32"), "i32", "i64")
    bits = text.apply("add", "i64", bits, text.apply("shl", "i64", whole, text.splat("i64", 52)))
    return text.cast("bitcast", bits, "i64", "double")
