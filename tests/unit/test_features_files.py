"""Kaldi's files as we write and read them: any matrix comes back as it was, any broken file is refused."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.formats import kaldi_io
from stages.shared.stage import StageError

KEYS = st.text("ABCXYZ019_-", min_size=1, max_size=12)
SHAPES = st.tuples(st.integers(0, 20), st.integers(1, 9))


def matrix_of(shape, seed):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, SHAPES, st.integers(0, 99)), max_size=6))
def test_archive_comes_back_as_it_was_written(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("ark") / "a.ark"
    with open(path, "wb") as stream:
        offsets = [kaldi_io.write_matrix(stream, key, matrix_of(shape, seed)) for key, shape, seed in entries]
    back = list(kaldi_io.read_archive(str(path)))
    assert [key for key, _ in back] == [key for key, _, _ in entries]
    for (_, matrix), (_, shape, seed), offset in zip(back, entries, offsets):
        np.testing.assert_array_equal(matrix, matrix_of(shape, seed))
        with open(path, "rb") as stream:
            stream.seek(offset)
            np.testing.assert_array_equal(kaldi_io.read_matrix(stream, "x"), matrix)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, SHAPES, st.integers(0, 99)), min_size=1, max_size=4))
def test_kaldiio_reads_what_we_write(tmp_path_factory, entries):
    kaldiio = pytest.importorskip("kaldiio")
    path = tmp_path_factory.mktemp("ark") / "a.ark"
    with open(path, "wb") as stream:
        for key, shape, seed in entries:
            kaldi_io.write_matrix(stream, key, matrix_of(shape, seed))
    back = list(kaldiio.load_ark(str(path)))
    assert [key for key, _ in back] == [key for key, _, _ in entries]
    for (_, matrix), (_, shape, seed) in zip(back, entries):
        np.testing.assert_array_equal(matrix, matrix_of(shape, seed))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 200))
def test_archive_cut_short_is_refused(tmp_path_factory, length):
    stream = io.BytesIO()
    kaldi_io.write_matrix(stream, "KEY", matrix_of((5, 9), 0))
    path = tmp_path_factory.mktemp("ark") / "a.ark"
    path.write_bytes(stream.getvalue()[:length])
    whole = length >= len(stream.getvalue())
    if length == 0 or whole:
        assert len(list(kaldi_io.read_archive(str(path)))) == (1 if whole else 0)
    else:
        with pytest.raises(StageError, match=r"a\.ark"):
            list(kaldi_io.read_archive(str(path)))


@pytest.mark.parametrize(
    "data",
    [
        b"KEY [ 1 2 ]\n",
        b"KEY \0BDM \x04\x01\0\0\0\x04\x01\0\0\0" + b"\0" * 8,
        b"KEY \0BFM \x04\xff\xff\xff\x7f\x04\xff\xff\xff\x7f",
        b"KEY \0BFM \x04\xff\xff\xff\xff\x04\x01\0\0\0",
        b"K" * 300 + b" \0B",
    ],
)
def test_archive_of_another_kind_or_of_absurd_size_is_refused(tmp_path, data):
    (tmp_path / "a.ark").write_bytes(data)
    with pytest.raises(StageError, match=r"a\.ark"):
        list(kaldi_io.read_archive(str(tmp_path / "a.ark")))


@pytest.mark.parametrize("text", ["", "1 2\n", " [\n  1 2 \n  3 ]\n", " [\n  1 x ]\n", " [ ]\n"])
def test_broken_text_matrix_is_refused(tmp_path, text):
    (tmp_path / "m.txt").write_text(text)
    with pytest.raises(StageError, match=r"m\.txt"):
        kaldi_io.read_text_matrix(str(tmp_path / "m.txt"))


def test_text_matrix_has_seven_significant_digits(tmp_path):
    with open(tmp_path / "m.txt", "w") as stream:
        kaldi_io.write_text_matrix(stream, np.array([[123456792.0, 0.1, 1e-10], [2.0, 0.0, -3.25]], np.float32))
    assert (tmp_path / "m.txt").read_text() == " [\n  1.234568e+08 0.1 1e-10 \n  2 0 -3.25 ]\n"
