"""The logarithm of `stages.shared.elementary` as LLVM IR: the same operations in the same order, none fused."""

from __future__ import annotations

from stages.compiled.ir import Vectors
from stages.shared.elementary import LN2_HIGH, LN2_LOW, LOG_TERMS, ROOT_HALF_BITS


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
