"""The compiled kernels: the reference's outputs, the same bytes for any vectors, cores and batches, refusals."""

import errno
import mmap
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("llvmlite")

from _model_cases import golden_weights, parity, write_converted
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.compiled import llvm
from stages.model import network as model_network
from stages.model import precision
from stages.model.kernels import amx as amx_kernels
from stages.shared.stage import StageError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    write_converted(path, golden_weights(), 2)
    return str(path)


def test_a_kernel_without_huge_pages_gives_ordinary_ones(monkeypatch):
    class Memory(mmap.mmap):
        def madvise(self, *advice):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(model_network.mmap, "mmap", Memory)
    large = model_network.aligned((1 << 19,))
    assert large.ctypes.data % (1 << 21) == 0 and not large.any()


@pytest.mark.skipif(not os.path.exists("/sys/kernel/mm/transparent_hugepage"), reason="this kernel has no huge pages")
def test_large_memory_is_of_a_kind_that_gets_huge_pages():
    large = model_network.aligned((1 << 20,))
    begin, mapped = large.ctypes.data, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line)
        if found:
            mapped = int(found[1], 16) <= begin < int(found[2], 16)
            kind = found[3]
        elif mapped and line.startswith("VmFlags:"):
            assert "hg" in line.split() and kind == "rw-p"
            return
    raise AssertionError("the memory is not mapped")


@pytest.fixture(scope="module")
def network(path):
    return model_network.Network(path)


@pytest.fixture(scope="module")
def networks(path, network):
    """This processor's, and one of few registers, which takes terms in slices."""
    return [network, model_network.Network(path, features=_without("avx512", "avx10", "amx", "sve"))]


def _without(*parts):
    features = llvm.host_features()
    return {name: has and not any(part in name for part in parts) for name, has in features.items()}


def test_the_outputs_are_the_reference_s(network):
    rows, expected = parity()
    assert np.abs(network.run(rows) - expected).max() <= 2e-5


@pytest.mark.parametrize("missing", [("avx512", "avx10", "amx"), ("sve",)])
def test_narrower_vectors_give_the_same_bytes(path, network, missing):
    rows, _ = parity()
    narrow = model_network.Network(path, features=_without(*missing))
    assert np.array_equal(narrow.run(rows), network.run(rows))


@pytest.mark.parametrize("vectors", ["avx", "avx2"])
def test_a_processor_without_fused_multiply_add_gives_the_same_bytes(path, network, vectors):
    rows, _ = parity()
    newer = (vectors, "avx2", "avx512", "avx10", "amx", "fma", "f16c", "vaes", "vpclmul", "xop", "sve")
    oldest = model_network.Network(path, features=_without(*newer))
    assert np.array_equal(oldest.run(rows[:1]), network.run(rows[:1]))


@pytest.mark.parametrize("missing", [(), ("avx512", "amx"), ("avx", "amx", "fma", "sse4", "sve")])
@pytest.mark.parametrize("scale", [1, 5, 60, 3000])
def test_log_probabilities_are_those_of_the_arrays(missing, scale):
    kernel = model_network._softmax_library(tuple(sorted(_without(*missing).items()))).call
    frames, size, count = 7, 5, 3
    logits = np.full((frames, size, 48), np.nan, np.float32)
    logits[..., :41] = scale * np.random.RandomState(scale).standard_normal((frames, size, 41))
    output = np.zeros((frames, count, 41), np.float32)
    kernel.log_softmax(logits.ctypes.data, 48, 48 * size, output.ctypes.data, 41 * count, frames, count)
    expected = model_network.log_softmax(logits[:, :count, :41])
    assert output.tobytes() == expected.astype(np.float32).tobytes()
    values = logits[:, :count, :41].astype(np.float64)
    values -= values.max(axis=2, keepdims=True)
    np.testing.assert_allclose(
        expected, values - np.log(np.exp(values).sum(axis=2, keepdims=True)), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 3, 19])
def test_threads_and_batch_size_change_no_byte(path, network, threads, batch_size):
    rows = np.random.RandomState(batch_size).standard_normal((batch_size, 390, 243)).astype(np.float32)
    rows[:, 100:] = 0
    together = model_network.Network(path, threads=threads).run(rows)
    last = network.run(rows[-1:])
    assert np.array_equal(together[:, -1:], last)


def test_streams_share_weights_and_nothing_else(network):
    rows, _ = parity()
    first, second = network.stream(), network.stream()
    expected = network.run(rows)
    assert np.array_equal(first.run(rows), expected)
    second.run(np.zeros_like(rows))
    assert np.array_equal(first.run(rows), expected)


def test_a_small_batch_gets_two_threads_and_all_threads_are_used(path):
    network = model_network.Network(path, threads=5)
    assert [stream.threads for stream in network.streams(1)] == [2, 2, 1]
    assert [stream.threads for stream in network.streams(8)] == [1] * 5
    assert [stream.threads for stream in model_network.Network(path, threads=1).streams(1)] == [1]


@pytest.mark.parametrize("kernel", ["convolutions", "multiply", "project"])
@pytest.mark.parametrize("calling", [True, False])
def test_a_thread_that_fails_is_waited_for_by_nobody(path, monkeypatch, kernel, calling):
    network = model_network.Network(path, threads=2)
    rows, _ = parity()
    expected = network.run(rows)
    works = getattr(network._kernels, kernel)

    def fails(*arguments):
        if (threading.current_thread() is threading.main_thread()) == calling:
            raise MemoryError("no room")
        return works(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(network._kernels, kernel, fails)
        with pytest.raises(MemoryError, match="no room"):
            network.run(rows)
    assert np.array_equal(network.run(rows), expected)


def test_a_thread_that_cannot_be_started_is_an_error_and_no_endless_wait(path, monkeypatch):
    network = model_network.Network(path, threads=4)
    rows, _ = parity()
    submit, calls = network._pool.submit, []

    def at_its_limit(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise RuntimeError("can't start new thread")
        return submit(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(network._pool, "submit", at_its_limit)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            network.run(rows)
    assert np.array_equal(network.run(rows), model_network.Network(path, threads=1).run(rows))


def test_a_smaller_batch_after_a_larger_one_sees_nothing_of_it(network):
    rows, _ = parity()
    alone = network.run(rows[:1])
    network.run(np.full((5, 390, 243), 3.0, dtype=np.float32))
    assert np.array_equal(network.run(rows[:1]), alone)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 23), st.integers(1, 180), st.integers(1, 5), st.integers(1, 30), st.booleans(), st.integers(0, 1))
def test_a_product_of_any_size_adds_its_terms_in_their_order(networks, rows, terms, panels, at_once, backwards, which):
    network, terms = networks[which], 4 * terms
    random = np.random.RandomState(rows * 1000 + terms)
    width = network._shape.width
    left = model_network.copied(random.standard_normal((rows, terms)).astype(np.float32))
    right = random.standard_normal((terms, panels * width)).astype(np.float32)
    start = model_network.copied(random.standard_normal(panels * width).astype(np.float32))
    packed = model_network.panels(right, width)

    def product(first, count):
        result = model_network.aligned((count, panels * width))
        network._kernels.project(
            left[first:].ctypes.data, terms, packed.ctypes.data, result.ctypes.data, panels * width,
            start.ctypes.data, 0, count, terms, panels, at_once, backwards,
        )  # fmt: skip
        return result

    result = product(0, rows)
    expected = np.broadcast_to(start, result.shape).astype(np.float64)
    for k in range(terms):  # a float64 holds the product of two float32 exactly: one rounding, as fused
        expected = np.float32(expected + left[:, k : k + 1].astype(np.float64) * right[k].astype(np.float64))
        expected = expected.astype(np.float64)
    # A sum of float64 is rounded itself, before it is rounded to float32: that may differ in one unit, and rarely.
    assert np.abs(result - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    assert all(product(row, 1).tobytes() == result[row : row + 1].tobytes() for row in range(rows))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("layer2.recurrent_weights", lambda value: value[:, :-1]),
        ("conv1.weight", lambda value: value.astype(np.float64)),
        ("project.weight", None),
    ],
)
def test_a_graph_whose_constants_do_not_fit_is_refused_before_any_kernel_sees_it(path, tmp_path, name, change):
    model = onnx.load(path)
    for item in list(model.graph.initializer):
        if item.name == name:
            value = onnx.numpy_helper.to_array(item)
            model.graph.initializer.remove(item)
            if change is not None:
                model.graph.initializer.append(onnx.numpy_helper.from_array(change(value), name))
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(StageError, match=f"constant {name} is not float32 of shape"):
        model_network.Network(str(tmp_path / "model.onnx"))


def test_a_batch_of_another_shape_reaches_no_kernel(network):
    with pytest.raises(ValueError, match="is no batch"):
        network.run(np.zeros((1, 389, 243), dtype=np.float32))


AMX, PAIRS = "amx", "avx512bf16"


def _half(path, unit, threads=None):
    features = llvm.host_features() if unit == AMX else _without("amx")
    if not (amx_kernels.usable(features) if unit == AMX else features.get(PAIRS)):
        pytest.skip(f"this processor has no {unit}, or the kernel does not let it be used")
    return precision.open_network(path, "bf16", threads=threads, features=features)


@pytest.mark.parametrize("unit", [AMX, PAIRS])
def test_bfloat16_is_near_the_reference_and_is_not_float32(path, network, unit):
    rows, expected = parity()
    output = _half(path, unit).run(rows)
    assert np.abs(output - network.run(rows)).max() > 1e-4
    cosine = (output * expected).sum() / np.sqrt((output**2).sum() * (expected**2).sum())
    assert cosine >= 0.99  # the NPU vendor's threshold for comparing tensors


@pytest.mark.parametrize("unit", [AMX, PAIRS])
@pytest.mark.parametrize(("batch_size", "threads"), [(1, 2), (3, 7), (21, 1)])
def test_bfloat16_depends_on_neither_threads_nor_batch_size(path, unit, batch_size, threads):
    rows = np.random.RandomState(batch_size).standard_normal((batch_size, 390, 243)).astype(np.float32)
    rows[:, 150:] = 0
    together = _half(path, unit, threads=threads).run(rows)
    assert np.array_equal(together[:, -1:], _half(path, unit, threads=1).run(rows[-1:]))


@pytest.mark.parametrize("missing", [("amx", "avx512bf16"), ("avx512", "avx10", "amx"), ("avx", "amx", "fma")])
def test_bfloat16_is_refused_where_nothing_multiplies_it(path, missing):
    with pytest.raises(StageError, match="neither AMX nor AVX512-BF16"):
        precision.open_network(path, "bf16", features=_without(*missing))


def test_rounding_to_bfloat16_is_to_the_nearest_and_ties_to_even():
    values = np.array(
        [1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, 1.0 + 2**-8 + 2**-20, -1.0 - 3 * 2**-8, 0.0, 3e-41], np.float32
    )
    expected = np.array([1.0, 1.0, 1.0 + 2**-6, 1.0 + 2**-7, -1.0 - 2**-6, 0.0, 3.0e-41], np.float32)
    rounded = precision.round_to_bfloat16(values)
    assert np.array_equal(rounded[:6], expected[:6])
    assert abs(rounded[6] - expected[6]) <= 2**-133
    assert not (rounded.view(np.uint32) & 0xFFFF).any()
