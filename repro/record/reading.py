"""Reading a record that somebody gives us, and writing one: the only place where record.json's bytes are parsed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from repro.base import strict_json, typed_json
from repro.base.confined import read_below
from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.base.files import pretty_json
from repro.graph.pipeline import reference_batch_size
from repro.record.document import SCHEMA, VERSION, Record

FILE = "record.json"


def read_record(data: bytes, what: str = FILE) -> Record:
    """The record that `data` holds.

    Args:
        data: record.json's bytes.
        what: names them in messages.

    Raises:
        VerificationFailed: they are no record: not JSON, of an unknown version, or something in it is missing, unknown
            or of a wrong type; the message names the place, as in 'record.json: $.stages[3].outputs.digest: …'.
    """
    document = strict_json.parse(data, what=what)
    if isinstance(document, dict) and document.get("schema") == SCHEMA:
        version = document.get("version")
        if isinstance(version, int) and version != VERSION:
            raise VerificationFailed(
                f"{what}: $.version: a record of version {version}; this program reads version {VERSION}",
                hint="read it with the version of the repository that wrote it",
            )
    record = typed_json.convert(document, Record, what=what)
    _refuse_earlier_form(record, what)
    return record


def _refuse_earlier_form(record: Record, what: str) -> None:
    """Records of several batch sizes are of another graph since PyTorch and the exported graph run once per utterance.

    Held against today's graph they would look forged. Those of one size are the same as before, so that the version
    stays.
    """
    if len(record.request.batch_sizes) == 1:
        return
    once = f"compare@{reference_batch_size(record.request.batch_sizes)}"
    for position, stage in enumerate(record.stages):
        if stage.key.startswith("compare@") and stage.key != once and "onnx" in stage.inputs:
            raise VerificationFailed(
                f"{what}: $.stages[{position}].inputs.onnx: a record of several batch sizes of an earlier form: "
                f"{stage.key} ran the exported graph itself; this program reads those in which {once} alone does",
                hint="read it with the version of the repository that wrote it",
            )


def load_record(path: Path) -> Record:
    """The record in a file.

    Raises:
        CouldNotVerify: there is none.
        VerificationFailed: it is not a plain file, or no record.
    """
    try:
        data = read_below(path.parent, path.name, strict_json.MAX_BYTES)
    except OSError as error:
        raise CouldNotVerify(f"{path} cannot be read: {error.strerror or error}") from error
    return read_record(data, str(path))


def record_bytes(record: Record) -> bytes:
    """The record as it stands in record.json: what `read_record` reads back to an equal record."""
    return pretty_json(msgspec.to_builtins(record))
