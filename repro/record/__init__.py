"""The record of one run: its types, how it is read and written, its schema. Everything else takes these types."""

from __future__ import annotations

from repro.record.document import Record
from repro.record.identity import identity_of
from repro.record.reading import load_record, read_record, record_bytes

__all__ = ["Record", "identity_of", "load_record", "read_record", "record_bytes"]
