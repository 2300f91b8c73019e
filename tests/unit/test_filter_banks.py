"""The filter banks' arithmetic: one result compiled or not, whatever the processor's vectors; near Kaldi's whatever the
options; its tables and functions correctly rounded."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from _speech_cases import ROOT, noise
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stages.shared import elementary
from stages.shared.stage import StageError
from stages.speech import dither, fbank, fbank_arrays, fbank_kernel, tables

REFERENCE = (ROOT / "conf" / "features" / "fbank.conf").read_text()
# Each changes one thing; lengths of 160, 480 and 200 samples have transforms of 256 and 512 values.
OPTIONS = {
    "the reference's": "",
    "no energy": "--use-energy=false",
    "windowed energy": "--raw-energy=false",
    "energy last": "--htk-compat=true",
    "energy floor": "--energy-floor=1e9",
    "magnitudes": "--use-power=false",
    "no logarithm": "--use-log-fbank=false",
    "mean kept": "--remove-dc-offset=false",
    "mean kept, windowed energy": "--remove-dc-offset=false\n--raw-energy=false",
    "no dither": "--dither=0",
    "half a dither": "--dither=0.5",
    "no pre-emphasis": "--preemphasis-coefficient=0",
    "povey": "--window-type=povey",
    "hanning": "--window-type=hanning",
    "blackman": "--window-type=blackman",
    "rectangular": "--window-type=rectangular",
    "few bins": "--num-mel-bins=23\n--low-freq=100\n--high-freq=-400",
    "short frames": "--frame-length=10\n--num-mel-bins=23",
    "long frames": "--frame-length=30",
    "whole transform": "--frame-length=32",
    "8 kHz": "--sample-frequency=8000\n--num-mel-bins=40",
}
SAMPLES = noise(6000)


def options_of(tmp_path, more):
    path = tmp_path / "fbank.conf"
    path.write_text(REFERENCE + more + "\n")
    return fbank.read_options(str(path))


def computed(options, **more):
    seeds = dither.SeedStream().take(min(30, fbank.num_frames(len(SAMPLES), options)))
    return fbank.FilterBank(options, dither.U1_FIRST, **more).compute(SAMPLES, seeds)


@pytest.mark.parametrize("name", OPTIONS)
def test_kernels_and_arrays_give_the_same_bytes(tmp_path, name):
    pytest.importorskip("llvmlite")
    options = options_of(tmp_path, OPTIONS[name])
    bank = fbank.FilterBank(options, dither.U1_FIRST)
    assert bank._kernel is not None
    assert computed(options).tobytes() == computed(options, compiled=False).tobytes()


def test_a_processor_with_shorter_vectors_and_no_fused_product_gives_the_same_bytes(monkeypatch, tmp_path):
    pytest.importorskip("llvmlite")
    from stages.compiled import llvm

    options, known = options_of(tmp_path, ""), llvm.host_features()
    expected = computed(options).tobytes()
    for without in (("avx512",), ("avx",), ("avx", "fma", "sse4", "ssse3", "sse3")):
        features = {name: has and not name.startswith(without) for name, has in known.items()}
        monkeypatch.setattr(llvm, "host_features", lambda features=features: features)
        assert computed(options).tobytes() == expected, without


def test_frames_whose_length_is_no_multiple_of_eight_are_computed_by_arrays(tmp_path):
    options = options_of(tmp_path, "--frame-length=25.1")
    assert fbank.FilterBank(options, dither.U1_FIRST)._kernel is None
    near = computed(options_of(tmp_path, "--frame-length=25"))
    assert np.abs(computed(options) - near).mean() < 0.1


@pytest.mark.parametrize("name", OPTIONS)
def test_filter_banks_are_those_of_kaldi_native_fbank(tmp_path, name):
    pytest.importorskip("kaldi_native_fbank")
    from stages.bench.native import filter_banks

    options = options_of(tmp_path, OPTIONS[name])
    length, shift = fbank.frame_samples(options)
    frames = np.stack([SAMPLES[start : start + length] for start in range(0, 20 * shift, shift)]).astype(np.float32)
    ours = fbank.FilterBank(options, dither.U1_FIRST).of_frames(frames)
    theirs = filter_banks(frames, options)
    scale = max(20.0, float(np.abs(theirs).max()))  # a logarithm's, or powers, whose errors go with the largest
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-5 * scale)
    assert np.abs(ours - theirs).mean() <= 5e-7 * scale


def test_more_filters_than_the_spectrum_has_values_are_refused(tmp_path):
    with pytest.raises(StageError, match="too many"):
        fbank.recipe(options_of(tmp_path, "--num-mel-bins=400"))
    with pytest.raises(StageError, match="from 9000 to"):
        fbank.recipe(options_of(tmp_path, "--low-freq=9000"))


@pytest.mark.parametrize("size", [8, 16, 32, 128, 256, 1024])
def test_the_transform_is_the_discrete_fourier_transform(size):
    recipe = fbank_arrays.Recipe(
        length=size, size=size, remove_dc=False, preemphasis=0.0, window=np.ones(size), places=tables.places(size // 2),
        passes=tables.passes(size // 2), unfolding=tables.twiddles(size, size // 4, 2),
        filters=tables.MelFilters(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 0))), power=True, log=True,
        energy="", energy_column=0, least_energy=0.0,
    )  # fmt: skip
    values = np.random.RandomState(size).standard_normal((size, 3))
    re, im = fbank_arrays._transform(recipe, values)
    np.testing.assert_allclose(re + 1j * im, np.fft.fft(values[0::2] + 1j * values[1::2], axis=0), atol=1e-13 * size)
    power = np.abs(np.fft.rfft(values, axis=0)[:-1]) ** 2
    np.testing.assert_allclose(fbank_arrays._spectrum(recipe, re, im), power, atol=1e-12 * size)


def exactly(function, value):
    """A function of decimals, rounded once."""
    with localcontext() as context:
        context.prec = 50
        return float(function(Decimal(float(value))))


@given(arrays.arrays(np.float64, 16, elements=st.floats(2.0**-24, 2.0**60)))
def test_logarithms_are_within_a_unit_in_the_last_place(values):
    exact = np.array([exactly(Decimal.ln, value) for value in values])
    assert (np.abs(elementary.log(values) - exact) <= np.spacing(np.abs(exact))).all()


@given(arrays.arrays(np.float64, 16, elements=st.floats(-700, 700)))
def test_exponentials_are_within_a_unit_in_the_last_place(values):
    exact = np.array([exactly(Decimal.exp, value) for value in values])
    assert (np.abs(elementary.exp(values) - exact) <= np.spacing(exact)).all()


@given(st.floats(-1e8, 0), st.floats(-1e8, 0))
def test_sums_of_logarithms_are_numpy_s_to_the_last_digits_for_scalars_too(left, right):
    expected = np.logaddexp(left, right)
    for found in (elementary.logaddexp(np.array([left]), np.array([right]))[0],
                  elementary.logaddexp(np.float64(left), np.float64(right))):  # fmt: skip
        assert abs(found - expected) <= 2 * np.spacing(max(abs(expected), 1.0))


def test_the_exponential_of_very_little_is_a_small_number_and_no_zero():
    assert 0 < elementary.exp(np.array([-1e9]))[0] < 1e-300
    assert elementary.exp(np.zeros(3)).tolist() == [1.0] * 3


@given(st.integers(0, 511))
def test_cosines_of_parts_of_a_turn_are_rounded_once(part):
    turns = Fraction(part, 512)
    assert abs(float(tables.cosine(turns)) - math.cos(2 * math.pi * part / 512)) <= 1e-15
    with localcontext() as context:
        context.prec = 40
        squares = tables.cosine(turns) ** 2 + tables.sine(turns) ** 2
        assert abs(squares - 1) < Decimal("1e-37")


@pytest.mark.parametrize("kind", tables.WINDOWS)
def test_windows_are_kaldis(kind):
    angle = 2 * np.pi * np.arange(400) / 399
    expected = {
        "hamming": 0.54 - 0.46 * np.cos(angle),
        "hanning": 0.5 - 0.5 * np.cos(angle),
        "povey": (0.5 - 0.5 * np.cos(angle)) ** 0.85,
        "rectangular": np.ones(400),
        "blackman": 0.42 - 0.5 * np.cos(angle) + 0.08 * np.cos(2 * angle),
    }[kind]
    np.testing.assert_allclose(tables.window(kind, 400), expected, rtol=1e-7, atol=1e-9)
    assert (tables.window(kind, 400) == tables.window(kind, 400).astype(np.float32)).all()


def test_a_kernel_refuses_what_would_lead_it_beyond_its_arrays(tmp_path):
    pytest.importorskip("llvmlite")
    kernel = fbank_kernel.Kernel(fbank.recipe(options_of(tmp_path, "")))
    for features, frames in (((8, 80), (8, 400)), ((8, 81), (8, 399)), ((7, 81), (7, 400)), ((8, 81), (16, 400))):
        with pytest.raises(ValueError, match="features"):
            kernel.compute_into(np.zeros(features, np.float32), np.zeros(frames, np.float32))
    with pytest.raises(ValueError, match="contiguous float32"):
        kernel.compute_into(np.zeros((8, 81), np.float32), np.zeros((8, 400)))
