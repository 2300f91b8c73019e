"""The demo's training reads the features' archive by itself, for its image has no kaldiio: the same, or a refusal."""

import numpy as np
import pytest

from stages.demo import data
from stages.formats import kaldi_io
from stages.shared.stage import StageError


def archive(folder, *shapes):
    path = folder / "fbank.ark"
    random = np.random.RandomState(1)
    path.write_bytes(b"".join(kaldi_io.entry(f"S_{n}", random.standard_normal(s)) for n, s in enumerate(shapes)))
    return path


@pytest.mark.parametrize("shapes", [(), [(5, 81)], [(5, 81), (1, 3), (0, 81), (7, 2)]])
def test_it_reads_what_kaldiio_reads(tmp_path, shapes):
    path = str(archive(tmp_path, *shapes))
    ours, expected = list(data._read_archive(path)), list(kaldi_io.read_archive(path))
    assert [key for key, _ in ours] == [key for key, _ in expected]
    for (_, one), (_, other) in zip(ours, expected):
        np.testing.assert_array_equal(one, other)


BROKEN = {
    "a byte short": lambda raw: raw[:-1],
    "a header cut short": lambda raw: raw[:20],
    "float64": lambda raw: raw.replace(b"FM", b"DM"),
    "a byte more": lambda raw: raw + b"x",
    "rows below zero": lambda raw: raw.replace(b"\4\5\0\0\0", b"\4\xfb\xff\xff\xff"),
    "text": lambda raw: b"KEY [ 1 2 ]",
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_broken_archive_is_refused(tmp_path, change):
    path = archive(tmp_path, (5, 81), (3, 81))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(StageError, match=r"fbank\.ark: "):
        list(data._read_archive(str(path)))
