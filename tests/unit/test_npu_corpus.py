"""What real hosts print, written anew in the form that public reports show: each fact in it is read right.

tests/data/ascend/facts.json says what must be read from each file; tests/data/ascend/README.md where the forms come
from.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from repro.machine.npu_smi import explain_smi, parse_fields, parse_mapping, parse_smi
from repro.machine.watching import parse_common

CORPUS = Path(__file__).resolve().parents[1] / "data" / "ascend"
FACTS = json.loads((CORPUS / "facts.json").read_text(encoding="utf-8"))


def of(kind: str) -> list[str]:
    return sorted(name for name, facts in FACTS.items() if kind in facts)


def read(name: str) -> str:
    return (CORPUS / name).read_text(encoding="utf-8")


def test_every_output_has_its_facts_and_there_are_enough_of_them():
    assert set(FACTS) == {path.relative_to(CORPUS).as_posix() for path in CORPUS.rglob("*.txt")}
    assert len(FACTS) >= 40


@pytest.mark.parametrize("name", of("chips"))
def test_a_table_is_read_chip_by_chip(name: str):
    facts, table = FACTS[name], parse_smi(read(name))
    assert (table.tool_version, table.driver_version) == (facts["tool"], facts["driver"])
    found = [{**asdict(chip), "processes": list(chip.processes)} for chip in table.chips]
    for chip in found:
        del chip["bus_id"]
    assert found == facts["chips"]
    problem, hint = explain_smi(0, read(name), table)
    assert bool(problem) is not facts["serves"]
    if problem:
        assert all(chip.name in problem for chip in table.chips) and "310P" in problem and hint


@pytest.mark.parametrize("name", of("problem"))
def test_a_failure_is_said_with_what_to_do(name: str):
    facts, text = FACTS[name], read(name)
    problem, hint = explain_smi(facts["code"], text, parse_smi(text))
    assert facts["problem"] in problem and facts["hint"] in hint


@pytest.mark.parametrize("name", of("fields"))
def test_fields_are_read_and_what_is_not_available_is_left_out(name: str):
    found = parse_fields(read(name))
    assert {key: found.get(key) for key in FACTS[name]["fields"]} == FACTS[name]["fields"]


@pytest.mark.parametrize("name", of("mapping"))
def test_a_mapping_gives_each_chip_its_device(name: str):
    assert [[*place, device] for place, device in parse_mapping(read(name)).items()] == FACTS[name]["mapping"]


@pytest.mark.parametrize("name", of("common"))
def test_readings_are_read_chip_by_chip_and_what_is_not_available_is_left_out(name: str):
    assert {str(number): told for number, told in parse_common(read(name)).items()} == FACTS[name]["common"]
