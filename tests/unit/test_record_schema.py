"""The record's JSON Schema: it is valid itself, admits records as runs write them, and refuses damaged ones."""

import json
from pathlib import Path

import jsonschema
import pytest
from _record_cases import demo_record, document_of, published_record, record_of

from repro.guide.published import load_published
from repro.guide.verdict import verdict

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "repro/record/record.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_schema_is_a_valid_2020_12_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("make", [demo_record, published_record])
def test_record_with_its_verdict_is_valid(make):
    record = record_of(make())
    VALIDATOR.validate(document_of(record.judged(verdict(record, load_published(ROOT / "conf/published.toml")))))


@pytest.mark.parametrize("key", SCHEMA["$defs"]["Record"]["required"])
def test_record_without_a_section_is_refused(key):
    record = demo_record()
    del record[key]
    assert not VALIDATOR.is_valid(record)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("verdict", "outcome"), "fine"),
        (("data", "kind"), "TIMIT"),
        (("data", "utterances", "dev"), -1),
        (("checkpoint", "sha256"), "abc"),
        (("images", "base"), "latest"),
        (("results", 0, "published", "wer_printed"), "18.8"),
        (("results", 0, "published", "interval_95", "wer_percent"), [1.0]),
        (("stages", 0, "outputs", "digest"), ""),
        (("toolchain", 0, "status"), "ok"),
        (("observations", "started_at"), "yesterday"),
    ],
)
def test_value_out_of_its_domain_is_refused(path, value):
    record = demo_record()
    VALIDATOR.validate(record)
    at = record
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    assert not VALIDATOR.is_valid(record)
