"""Batch sizes as a person writes them, refused on both sides of what is meant."""

import pytest

from repro.base.errors import UsageError
from repro.graph.pipeline import BATCH_SIZES, parse_batch_sizes


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("1", (1,)), ("1024", (1024,)), ("8,1,8", (1, 8)), (" 4 , 64", (4, 64)), ("all", BATCH_SIZES)],
)
def test_sizes_are_sorted_and_each_stands_once(text, sizes):
    assert parse_batch_sizes(text) == sizes


@pytest.mark.parametrize("text", ["0", "-1", "1,0", "1025", "1,1025", "", "x", "1.5", "1;2", "1e3"])
def test_what_is_no_batch_size_is_wrong_use(text):
    with pytest.raises(UsageError, match="--bs"):
        parse_batch_sizes(text)
