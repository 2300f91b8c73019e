"""The vendor's error outputs, played from the corpus: each entry of the catalogue is met and says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.npu import ascend
from stages.npu.catalogue import CATALOGUE, explain

CORPUS = Path(__file__).resolve().parents[1] / "data" / "ascend"
FACTS = json.loads((CORPUS / "facts.json").read_text(encoding="utf-8"))
ERRORS = sorted(name for name, facts in FACTS.items() if "says" in facts)
WORDS = {"atc": ["atc", "--framework=5"], "ais_bench": ["python3", "-m", "ais_bench", "--model=x.om"]}


def lines_of(name: str) -> list[str]:
    return (CORPUS / name).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", ERRORS)
def test_an_output_gives_its_message_and_its_advice(name: str):
    facts = FACTS[name]
    error = ascend._failure(WORDS[facts["tool"]], facts["code"], lines_of(name))
    for said in facts["says"]:
        assert said in f"{error.message}\n{error.hint}", said
    assert error.message.startswith(f"{facts['tool']}") and "\n" not in error.message
    assert len(error.hint.splitlines()) <= 8  # what a person is shown of a stage's hints
    assert "see its log" not in error.hint
    assert error.hint or not lines_of(name)


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_each_entry_is_the_first_to_know_its_own_output(entry):
    known = explain(lines_of(f"errors/{entry.name}.txt"))
    assert known is not None and known.entry is entry
    assert entry.hint and "{" not in known.message


def test_what_the_catalogue_does_not_know_is_told_as_such():
    for name in ERRORS:
        assert (explain(lines_of(name)) is None) == FACTS[name].get("unknown", False), name


@pytest.mark.parametrize(
    "line",
    ["at address 0xE10001A", "LE20001", "result = 2070011", "a loop of 507015 executions", "E100011 files", "ret = 0"],
)
def test_what_is_no_code_is_not_taken_for_one(line: str):
    assert explain([line]) is None


def test_the_vendors_last_line_alone_is_never_all_that_is_said():
    lines = ["E77777: [PID: 1] A cause.", *[f"        trace {number}" for number in range(40)]]
    error = ascend._failure(["atc"], 1, lines)
    assert "E77777: [PID: 1] A cause." in error.message
    assert "atc printed: trace 3" in error.hint and "trace 39" not in error.hint
