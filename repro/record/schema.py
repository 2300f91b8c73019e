"""The record's JSON Schema, made from its types. `python -m repro.record.schema` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from repro.base.files import pretty_json
from repro.record.document import VERSION, Record

PATH = Path(__file__).with_name("record.schema.json")


def schema_bytes() -> bytes:
    """The schema as it is published in record.schema.json: the same with every Python and msgspec."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:lstm-ctc-bundle:record:{VERSION}",
        "title": "The record of one run",
    }
    return pretty_json({**_plain(msgspec.json.schema(Record)), **head})


def _plain(value: Any) -> Any:
    """Descriptions on one line: Python 3.13 takes the indentation out of docstrings, others leave it."""
    if isinstance(value, dict):
        return {
            name: " ".join(item.split()) if name == "description" and isinstance(item, str) else _plain(item)
            for name, item in value.items()
        }
    return [_plain(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    PATH.write_bytes(schema_bytes())
