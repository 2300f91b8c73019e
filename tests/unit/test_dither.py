"""Kaldi's dither: held to glibc's own rand and rand_r, drawn here in Kaldi's plain order."""

import ctypes
import math

import numpy as np
import pytest

from stages.shared import elementary
from stages.speech import dither

FIRST_OF_GLIBC = [1804289383, 846930886, 1681692777, 1714636915, 1957747793]


def plain_rand_r(state):
    """glibc's rand_r, a step at a time: (value, next state)."""
    result = 0
    for shift, modulus in ((0, 2048), (10, 1024), (10, 1024)):
        state = (state * 1103515245 + 12345) % 2**32
        result = (result << shift) ^ ((state >> 16) % modulus)
    return result, state


def plain_noise(seed, num_samples, draw_order):
    """Kaldi's RandGauss, sample by sample."""
    state, values = seed, []
    for _ in range(num_samples):
        uniforms = []
        for _ in range(2):
            drawn, state = plain_rand_r(state)
            uniforms.append(np.float32((drawn + 1.0) / (2147483647 + 2.0)))
        u1, u2 = uniforms if draw_order == "u1-first" else reversed(uniforms)
        radius = np.float32(math.sqrt(-2 * np.float32(math.log(u1))))
        values.append(radius * np.float32(math.cos(np.float32(2 * math.pi * float(u2)))))
    return np.array(values, np.float32)


def test_seeds_are_glibcs_rand_from_seed_1_plus_kaldis_offset():
    assert dither.SeedStream().take(5).tolist() == [value + 27437 for value in FIRST_OF_GLIBC]


def test_seeds_do_not_depend_on_how_many_are_taken_at_once():
    stream, other = dither.SeedStream(), dither.SeedStream()
    parts = np.concatenate([stream.take(count) for count in (0, 1, 2, 29, 31, 100, 0, 837, 40000, 70000)])
    assert parts.dtype == np.uint32
    np.testing.assert_array_equal(parts, other.take(111000))


def test_rand_and_rand_r_of_this_machines_glibc_agree():
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version.restype = ctypes.c_char_p
    except (OSError, AttributeError):
        pytest.skip("no glibc here")
    libc.srand(1)
    assert [libc.rand() + 27437 for _ in range(70000)] == dither.SeedStream().take(70000).tolist()
    state, ours = ctypes.c_uint(12345), 12345
    for _ in range(1000):
        expected, ours = plain_rand_r(ours)
        assert libc.rand_r(ctypes.byref(state)) == expected


@pytest.mark.parametrize("draw_order", dither.DRAW_ORDERS)
def test_noise_is_what_kaldi_draws_sample_by_sample(draw_order):
    seeds = np.array([0, 1, 1804316820, 2147511084], np.uint32)
    drawn = dither.Noise(50, draw_order).draw(seeds)
    assert drawn.dtype == np.float32
    expected = np.stack([plain_noise(int(seed), 50, draw_order) for seed in seeds])
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=5e-7)


def test_noise_does_not_depend_on_how_frames_are_grouped():
    noise, seeds = dither.Noise(400), dither.SeedStream().take(75)
    one_by_one = np.concatenate([noise.draw(seeds[index : index + 1]) for index in range(75)])
    np.testing.assert_array_equal(noise.draw(seeds), one_by_one)
    assert noise.draw(seeds[:0]).shape == (0, 400)


def test_noise_is_of_zero_mean_and_unit_variance():
    drawn = dither.Noise(400).draw(dither.SeedStream().take(500))
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01


def test_unknown_draw_order_is_an_error():
    with pytest.raises(ValueError, match="neither"):
        dither.Noise(400, "neither")


def uniforms_that_can_occur(every):
    """Every `every`-th float32 that a draw of 31 bits can give, and all of those around a zero of the cosine."""
    numerators = [np.arange(1, 1 << 24, every)]
    numerators += [np.arange(1 << bits, 1 << (bits + 1), every << (bits - 23)) for bits in range(24, 31)]
    numerators += [np.arange((1 << 29) - 40000, (1 << 29) + 40000), np.arange((3 << 29) - 40000, (3 << 29) + 40000)]
    return (np.concatenate([*numerators, np.array([1 << 31])]) / (2147483647 + 2.0)).astype(np.float32)


def test_the_cosine_rounds_to_the_c_librarys_for_the_angles_that_can_occur():
    angles = (2 * np.pi * uniforms_that_can_occur(every=97).astype(np.float64)).astype(np.float32).astype(np.float64)
    expected = np.cos(angles).astype(np.float32)
    ours = np.empty_like(angles)
    dither.cosine_of_turn(angles, np.empty_like(angles), ours)
    np.testing.assert_array_equal(ours.astype(np.float32), expected)


def test_noise_drawn_in_used_arrays_is_the_same():
    noise, seeds = dither.Noise(400), dither.SeedStream().take(50)
    work, drawn = noise.work(32), np.full((50, 400), np.nan, np.float32)
    for start, stop in ((0, 32), (32, 50)):
        noise.draw_into(drawn[start:stop], seeds[start:stop], work)
    np.testing.assert_array_equal(drawn, noise.draw(seeds))


def test_the_compiled_kernel_draws_the_arrays_bytes():
    pytest.importorskip("llvmlite")
    seeds = dither.SeedStream().take(3000)
    for order in dither.DRAW_ORDERS:
        arrays, kernel = (dither.Noise(400, order, compiled=compiled) for compiled in (False, True))
        assert kernel._kernel is not None
        assert np.array_equal(arrays.draw(seeds).view(np.uint32), kernel.draw(seeds).view(np.uint32))


def test_the_logarithm_rounds_to_numpys_for_the_uniforms_that_can_occur():
    pytest.importorskip("llvmlite")
    from stages.compiled import llvm
    from stages.compiled.elementary import logarithm
    from stages.compiled.ir import Vectors

    text = Vectors(16)
    text.begin("define void @logs(ptr %x, ptr %y, i64 %n)")
    with text.loop("%n", step=16) as loop:
        source, target = (text.at(pointer, loop.index, "float") for pointer in ("%x", "%y"))
        values = text.cast("fpext", text.value(f"load <16 x float>, ptr {source}, align 4"), "float", "double")
        result = text.cast("fptrunc", logarithm(text, values), "double", "float")
        text.add(f"  store <16 x float> {result}, ptr {target}, align 4")
    text.end()
    library = llvm.Library(text.text(), llvm.host_features(), {"logs": "ppn"})
    uniforms = uniforms_that_can_occur(37).astype(np.float32)
    uniforms = np.ascontiguousarray(uniforms[: len(uniforms) // 16 * 16])
    found = np.empty_like(uniforms)
    library.call.logs(uniforms.ctypes.data, found.ctypes.data, len(uniforms))
    assert np.array_equal(found, np.log(uniforms.astype(np.float64)).astype(np.float32))
    assert np.array_equal(found, elementary.log(uniforms.astype(np.float64)).astype(np.float32))


def test_a_processor_with_shorter_vectors_draws_the_same_bytes(monkeypatch):
    pytest.importorskip("llvmlite")
    from stages.compiled import llvm

    seeds = dither.SeedStream().take(50)
    expected = dither.Noise(400).draw(seeds)
    features = {name: has and "avx" not in name and name != "fma" for name, has in llvm.host_features().items()}
    monkeypatch.setattr(llvm, "host_features", lambda: features)
    assert np.array_equal(dither.Noise(400).draw(seeds), expected)
