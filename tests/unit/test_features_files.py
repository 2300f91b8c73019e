"""Kaldi's files as we write and read them: any matrix comes back as it was, any broken file is refused."""

import io
import pathlib
import pickle

import kaldiio
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


@settings(max_examples=60)
@given(st.lists(st.tuples(KEYS, SHAPES, st.integers(0, 99)), max_size=6))
def test_archive_comes_back_as_it_was_written(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("ark") / "a.ark"
    with open(path, "wb") as stream:
        stream.writelines(kaldi_io.entry(key, matrix_of(shape, seed)) for key, shape, seed in entries)
    back = list(kaldi_io.read_archive(str(path)))
    assert [key for key, _ in back] == [key for key, _, _ in entries]
    start = 0
    for (_, matrix), (key, shape, seed) in zip(back, entries):
        np.testing.assert_array_equal(matrix, matrix_of(shape, seed))
        assert (matrix.dtype, matrix.shape) == ("float32", shape)
        place = kaldi_io.place(key, *shape)
        np.testing.assert_array_equal(kaldiio.load_mat(f"{path}:{start + place.matrix}"), matrix)
        assert path.read_bytes()[start + place.values : start + place.end] == matrix.tobytes()
        start += place.end
    assert start == path.stat().st_size


@settings(max_examples=100)
@given(st.integers(0, 200))
def test_archive_cut_short_is_refused(tmp_path_factory, length):
    stream = io.BytesIO()
    stream.write(kaldi_io.entry("KEY", matrix_of((5, 9), 0)))
    path = tmp_path_factory.mktemp("ark") / "a.ark"
    path.write_bytes(stream.getvalue()[:length])
    whole = length >= len(stream.getvalue())
    if length == 0 or whole:
        assert len(list(kaldi_io.read_archive(str(path)))) == (1 if whole else 0)
    else:
        with pytest.raises(StageError, match=r"a\.ark"):
            list(kaldi_io.read_archive(str(path)))


def matrix_entry():
    return kaldi_io.entry("KEY", matrix_of((2, 3), 0))


class Planted:
    """What unpickling it leaves is seen."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return pathlib.Path(self.name + ".planted").touch, ()


@pytest.mark.parametrize(
    "data",
    [
        b"KEY [ 1 2 ]\n",
        b"KEY \0BDM \x04\x01\0\0\0\x04\x01\0\0\0" + b"\0" * 8,
        b"KEY \0BFM \x04\xff\xff\xff\x7f\x04\xff\xff\xff\x7f",
        b"KEY \0BFM \x04\xff\xff\xff\xff\x04\x01\0\0\0",
        b"K" * 300 + b" \0B",
        b"K" * 300 + matrix_entry(),
        b"\n" + matrix_entry(),
        b"\xff" + matrix_entry(),
        b"KEY PKL" + pickle.dumps(Planted("a.ark")),
        b"KEY NPY\4\0\0\0\0",
        b"KEY RIFF" + b"\0" * 40,
        b"KEY \0B\4\x01\0\0\0\4\x01\0\0\0",
        b"KEY \0BCM " + b"\0" * 40,
    ],
)
def test_archive_of_another_kind_or_of_absurd_size_is_refused(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ark").write_bytes(data)
    with pytest.raises(StageError, match=r"a\.ark"):
        list(kaldi_io.read_archive(str(tmp_path / "a.ark")))
    assert not pathlib.Path("a.ark.planted").exists()


@pytest.mark.parametrize("name", ["touch planted |", "| touch planted", "touch planted|", "-"])
def test_name_that_kaldiio_would_run_as_a_command_is_a_files_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="cannot read"):
        list(kaldi_io.read_archive(name))
    (tmp_path / name).write_bytes(matrix_entry())
    assert [key for key, _ in kaldi_io.read_archive(name)] == ["KEY"]
    assert not (tmp_path / "planted").exists()


def test_entry_behind_a_whole_one_is_looked_at_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ark").write_bytes(matrix_entry() + b"NEXT PKL" + pickle.dumps(Planted("a.ark")))
    entries = kaldi_io.read_archive("a.ark")
    assert next(entries)[0] == "KEY"
    with pytest.raises(StageError, match=r"a\.ark, NEXT: no whole Kaldi"):
        next(entries)
    assert not (tmp_path / "a.ark.planted").exists()


@pytest.mark.parametrize("text", ["", "1 2\n", " [\n  1 2 \n  3 ]\n", " [\n  1 x ]\n", " [ ]\n"])
def test_broken_text_matrix_is_refused(tmp_path, text):
    (tmp_path / "m.txt").write_text(text)
    with pytest.raises(StageError, match=r"m\.txt"):
        kaldi_io.read_text_matrix(str(tmp_path / "m.txt"))


def test_text_matrix_has_seven_significant_digits(tmp_path):
    with open(tmp_path / "m.txt", "w") as stream:
        kaldi_io.write_text_matrix(stream, np.array([[123456792.0, 0.1, 1e-10], [2.0, 0.0, -3.25]], np.float32))
    assert (tmp_path / "m.txt").read_text() == " [\n  1.234568e+08 0.1 1e-10 \n  2 0 -3.25 ]\n"
