"""BatchNorm folded into the convolutions: every operation correctly rounded, whatever the processor's libraries do."""

import math
from fractions import Fraction

import numpy as np
import pytest
from _model_cases import golden_weights
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stages.model import folding

_FLOATS = st.floats(2.0**-20, 2.0**20, width=32)


def rounded(value):
    """The float32 nearest to a Fraction; ties go to the even one, as IEEE 754 has it."""
    if value == 0:
        return np.float32(0)
    exponent = max(math.frexp(float(abs(value)))[1] - 24, -149)
    unit = Fraction(2) ** exponent
    return np.float32(float(round(value / unit) * unit))  # Python rounds a Fraction's ties to even


def root(value):
    """The float32 nearest to the square root of a positive Fraction."""
    shift = 2 * (60 - math.frexp(float(value))[1] // 2)
    scaled = int(value * Fraction(2) ** shift)
    return rounded(Fraction(2 * math.isqrt(scaled) + 1, 2) / Fraction(2) ** (shift // 2))


def exactly(weights, index):
    name = f"conv.{index}."

    def of(suffix):
        return [Fraction(float(value)) for value in weights[name + suffix].ravel()]

    epsilon = Fraction(float(folding.EPSILON))
    roots = [root(Fraction(float(rounded(value + epsilon)))) for value in of("batch_norm.running_var")]
    scales = [rounded(a / Fraction(float(b))) for a, b in zip(of("batch_norm.weight"), roots, strict=True)]
    per_channel = weights[name + "conv.weight"][0].size
    weight = [rounded(value * Fraction(float(scales[at // per_channel]))) for at, value in enumerate(of("conv.weight"))]
    bias = []
    for scale, value, mean, beta in zip(
        scales, of("conv.bias"), of("batch_norm.running_mean"), of("batch_norm.bias"), strict=True
    ):
        difference = Fraction(float(rounded(value - mean)))
        product = Fraction(float(rounded(difference * Fraction(float(scale)))))
        bias.append(rounded(product + beta))
    return np.array(weight, np.float32), np.array(bias, np.float32)


@pytest.mark.parametrize("index", range(folding.CONVOLUTIONS))
def test_every_operation_is_rounded_correctly(index):
    weights = golden_weights()
    folded = folding.fold(weights, index)
    weight, bias = exactly(weights, index)
    assert folded.weight.ravel().tobytes() == weight.tobytes()
    assert folded.bias.tobytes() == bias.tobytes()


@given(arrays.arrays(np.float32, 64, elements=_FLOATS))
def test_a_square_root_is_rounded_correctly(values):
    """What MKL's vsSqrt was seen not to do, on an AMD: 10 of 64 roots."""
    assert np.sqrt(values).tobytes() == np.array([root(Fraction(float(v))) for v in values], np.float32).tobytes()


def test_folding_what_is_folded_changes_no_bit():
    once = folding.folded_weights(golden_weights())
    for index in range(folding.CONVOLUTIONS):
        name = f"conv.{index}."
        assert (once[name + "batch_norm.running_var"] == 1).all()
        weight = once[name + "conv.weight"] * np.float32(1)
        assert weight.tobytes() == folding.fold(golden_weights(), index).weight.tobytes()
    untouched = [name for name in once if not name.startswith("conv.")]
    assert untouched and all(once[name].tobytes() == golden_weights()[name].tobytes() for name in untouched)


def test_units_are_those_of_the_value_that_they_are_counted_at():
    one = np.array([1.0, 2.0], np.float32)
    other = np.array([np.nextafter(np.float32(1), np.float32(2)), 2.0], np.float32)
    assert folding.units(one, other, one).tolist() == [1.0, 0.0]
    assert folding.units(one, other, one * 4).tolist() == [0.25, 0.0]
