"""The fused multiply-add where the processor has none: the bytes of one that has, and no call of the C library."""

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.compiled import llvm
from stages.compiled.ir import Floats, fma_by_hand
from stages.model.kernels import recogniser

LANES = 4


def _kernel(fused):
    """IR of c + a b, and of the same sum without being stored: c + a b - a b, each time rounded."""
    text = Floats(LANES, fused=fused)
    text.add("declare <4 x float> @llvm.fma.v4f32(<4 x float>, <4 x float>, <4 x float>)")
    text.add(fma_by_hand(LANES))
    text.begin("define void @add(ptr %a, ptr %b, ptr %c, ptr %out, ptr %back, i64 %count)")
    with text.loop("%count", step=LANES) as place:
        a, b, c = (text.part(array, place.index) for array in ("%a", "%b", "%c"))
        text.put(text.fma(a, b, c), "%out", place.index)
        start = text.sum_from(c)
        there = text.add_products([start, start], a, [b, b])
        back = text.add_products(there[1:], a, [text.minus(text.constant(-0.0), b)])
        text.put(text.sum_of(back[0]), "%back", place.index)
    text.end()
    return llvm.Library(text.text(), llvm.host_features(), {"add": "pppppn"})


@pytest.fixture(scope="module")
def kernels():
    return _kernel(True), _kernel(False)


def _both(kernels, a, b, c):
    """What each kernel gives, (2, values); padded to whole vectors."""
    padded = [np.zeros(-(-len(a) // LANES) * LANES, np.float32) for _ in range(3)]
    for array, values in zip(padded, (a, b, c)):
        array[: len(values)] = values
    results = []
    for kernel in kernels:
        out = np.zeros((2, len(padded[0])), np.float32)
        kernel.call.add(*(array.ctypes.data for array in (*padded, *out)), out.shape[1])
        results.append(out[:, : len(a)])
    return results


def _equal(one, other):
    """Bit by bit, but for what a NaN carries."""
    numbers = ~np.isnan(one)
    return (
        np.array_equal(one.view(np.int32)[numbers], other.view(np.int32)[numbers]) and np.isnan(other[~numbers]).all()
    )


def test_sums_that_two_roundings_would_give_otherwise(kernels):
    # 411849 * 20857 is 2^33 + 1 and 14329 * 599479 is 2^33 - 1. So each sum lies beside the middle of two float32 by
    # less than float64 can hold, which takes it for the middle itself and then rounds it to the even one.
    a = np.array([411849, -411849, 14329, -14329], np.float32)
    b = np.array([20857, 20857, 599479, 599479], np.float32) * np.float32(2**-57)
    c = np.array([1, -1, 1 + 2**-23, -1 - 2**-23], np.float32)
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    fused, ours = _both(kernels, a, b, c)
    assert _equal(fused, ours)
    assert not (twice == ours[0]).any()


def test_results_that_are_no_normal_numbers(kernels):
    largest, least = np.finfo(np.float32).max, np.float32(2**-149)
    numbers = [
        (largest, 1, 2.0**103),  # half way to 2^128: infinity
        (largest, 1, np.nextafter(np.float32(2.0**103), np.float32(0))),  # just below that: the largest
        (largest, 1, largest),  # infinity, and no way back: nor from 2^128, which float64 has
        (2.0**104, 1, largest),
        (0.75 * 2.0**104, 1, largest),
        (largest, largest, -largest),
        (2.0**-75, 2.0**-75, 0),  # half of the least: zero
        (3 * 2.0**-75, 2.0**-75, 0),  # one and a half of it: two
        (-least, least, 0),  # minus zero
        (2.0**-100, 2.0**-49, -least),
        (1, 1, -1),
        (-0.0, 1, -0.0),
        (2.0**-126, 1, -least),  # the largest below the normal ones
        (-0.7 * 2.0**-75, 2.0**-74, 2.0**-126),  # that too, but for 24 bits half way
        (np.inf, 0, 1),
        (np.inf, 1, -np.inf),
    ]
    alone = np.ones((3, len(numbers), LANES), np.float32)  # in its vector: each must be found by itself
    alone[:, :, 0] = np.array(numbers, np.float32).T
    assert _equal(*_both(kernels, *alone.reshape(3, -1)))


_ANY = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)


@given(st.lists(st.tuples(_ANY, _ANY, _ANY), min_size=1, max_size=64))
@settings(deadline=None, max_examples=300)
def test_any_numbers_give_the_bytes_of_the_instruction(kernels, numbers):
    assert _equal(*_both(kernels, *(np.array(each, np.float32) for each in zip(*numbers))))


@pytest.mark.parametrize("lowest", [-150, -40, -3])
def test_millions_of_numbers_give_the_bytes_of_the_instruction(kernels, lowest):
    random = np.random.RandomState(-lowest)
    a, b, c = (random.standard_normal(1 << 20).astype(np.float32) for _ in range(3))
    c = np.ldexp(c, random.randint(lowest, 4, len(c))).astype(np.float32)
    b = np.ldexp(b, random.randint(lowest, 4, len(c))).astype(np.float32)
    b.view(np.int32)[::2] &= -1 << 12  # short ones, whose sums are often half way between two float32
    a.view(np.int32)[::2] &= -1 << 12
    assert _equal(*_both(kernels, a, b, c))


@pytest.mark.parametrize("features", [{"sse2": True}, {"sse2": True, "avx": True}])
def test_no_kernel_of_a_processor_without_it_calls_the_c_library_for_it(features):
    shape = recogniser.host_shape(features)
    text = recogniser.source(shape, recogniser.FLOAT32, 384, 243, 122, 61)
    assert "call <4 x float> @llvm.fma" not in text
