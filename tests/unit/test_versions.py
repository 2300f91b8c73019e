"""Versions of driver, firmware and CANN: one order over every spelling that the vendor uses."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.base.versions import parse, same

CORPUS = Path(__file__).resolve().parents[1] / "data" / "ascend"
FACTS = json.loads((CORPUS / "facts.json").read_text(encoding="utf-8"))
ORDERED = [
    "21.0.4", "22.0.0", "22.0.4", "23.0.RC1", "23.0.rc1.b050", "23.0.rc2", "23.0.rc3", "23.0.0", "23.0.3", "23.0.7",
    "24.1.rc1", "24.1.rc2", "24.1.rc2.2", "24.1.rc3", "24.1.rc3.7", "24.1.0", "24.1.1", "25.0.rc1", "25.0.rc1.1",
    "25.0.rc1.b033", "25.2.0", "25.3.rc1", "25.5.2",
]  # fmt: skip
NUMBER = st.integers(0, 999)


def test_releases_of_the_driver_are_in_the_order_in_which_they_appeared():
    shuffled = [parse(text) for text in ORDERED]
    random.Random(1).shuffle(shuffled)
    assert [str(version) for version in sorted(shuffled)] == ORDERED


@pytest.mark.parametrize("text", ["6.3.RC1", "6.3.RC1.alpha001", "8.0.RC3", "8.0.0", "8.1.RC1", "8.2.RC1", "8.5.0"])
def test_releases_of_cann_are_versions(text: str):
    assert parse(text) is not None


def test_every_version_that_a_host_printed_is_one():
    tables = [facts for name, facts in FACTS.items() if not name.startswith("errors/")]
    told = {facts[key] for facts in tables for key in ("tool", "driver") if facts.get(key)}
    told |= {
        facts["fields"]["package_version"] for facts in FACTS.values() if "package_version" in facts.get("fields", {})
    }
    assert len(told) > 20
    assert [text for text in told - {None} if parse(text) is None] == []


@given(numbers=st.lists(NUMBER, min_size=2, max_size=4), candidate=st.none() | NUMBER, further=st.none() | NUMBER)
def test_case_and_trailing_zeros_count_for_nothing(numbers, candidate, further):
    text = ".".join(map(str, numbers))
    if candidate is None:
        assert same(text, f"{text}.0") and same(text, f" {text}")
        return
    tail = "" if further is None else f".{further}"
    spellings = [f"{text}.{word}{candidate}{tail}" for word in ("RC", "rc", "Rc", "rC")]
    assert all(same(one, other) for one in spellings for other in spellings)


@given(
    numbers=st.lists(NUMBER, min_size=2, max_size=4),
    one=st.integers(1, 99),
    other=st.integers(1, 99),
    further=st.integers(1, 99),
)
def test_candidates_come_before_their_release_and_in_their_order(numbers, one, other, further):
    text = ".".join(map(str, numbers))
    first, second, final = parse(f"{text}.rc{one}"), parse(f"{text}.RC{other}"), parse(text)
    assert (first < second) == (one < other) and (first == second) == (one == other)
    assert first < final
    assert first < parse(f"{text}.rc{one}.{further}") < parse(f"{text}.rc{one + 1}")


@given(st.lists(st.sampled_from(ORDERED), min_size=3, max_size=3))
def test_the_order_is_one(three):
    first, second, third = (parse(text) for text in three)
    assert (first < second) + (first == second) + (first > second) == 1
    if first <= second and second <= third:
        assert first <= third
    assert (first != second) or hash(first) == hash(second)


@given(st.text(max_size=40), st.text(max_size=40))
def test_texts_that_are_no_versions_compare_by_themselves(one, other):
    assert same(one, one)
    assert same(one, other) == same(other, one)


@pytest.mark.parametrize("text", ["", "NA", "unknown", "V100R001C18SPC001B233", "rc1", "23.0.preview", "23..0"])
def test_other_texts_are_no_versions(text: str):
    assert parse(text) is None
