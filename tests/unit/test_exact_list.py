"""The page shows the list of exact digests as it is."""

from __future__ import annotations

import functools
import json

from tests import exact_list
from tests.exact_list import PAGE, listed, table


def test_the_page_of_the_decision_shows_the_listed_digests_and_processors():
    assert table() in PAGE.read_text("utf-8"), "python -m tests.exact_list writes it"


def test_the_model_does_not_depend_on_the_corpus():
    assert len({steps["export"]["digest"] for steps in listed().values()}) == 1


def test_a_step_seen_file_by_file_is_seen_once_each_file_was(tmp_path, monkeypatch):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"corpora": {"demo": {"infer@8": {"digest": "d", "seen": ["here"]}}}}))
    monkeypatch.setattr(exact_list, "LIST", path)
    note_there = functools.partial(exact_list.note_part, "demo", "infer@8", "there", files=("a", "b"))

    assert not note_there("a", "another digest")
    assert note_there("a", "d") and note_there("a", "d")
    assert listed()["demo"]["infer@8"] == {"digest": "d", "in_part": {"there": ["a"]}, "seen": ["here"]}
    assert "| 1 of its files |" in table()
    assert note_there("b", "d")
    assert listed()["demo"]["infer@8"] == {"digest": "d", "seen": ["here", "there"]}
    assert note_there("a", "d")  # again, alone
    assert listed()["demo"]["infer@8"]["seen"] == ["here", "there"]
