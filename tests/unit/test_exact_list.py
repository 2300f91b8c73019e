"""The page shows the list of exact digests as it is."""

from __future__ import annotations

from tests.exact_list import PAGE, listed, table


def test_the_page_of_the_decision_shows_the_listed_digests_and_processors():
    assert table() in PAGE.read_text("utf-8"), "python -m tests.exact_list writes it"


def test_the_model_does_not_depend_on_the_corpus():
    assert len({steps["export"]["digest"] for steps in listed().values()}) == 1
