"""Outputs of any number of utterances, for the benches: the reference's posteriors of a few, again and again.

They lie in tests/golden with the strings that the reference decoded from them. Files are written once and linked, so
that 100,000 utterances (3.2 GB as a stage sees them) cost the disk little.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.audit.agreement import read_archive
from repro.base.errors import VerificationFailed
from repro.base.files import pretty_json

_FRAMES, _CLASSES = 195, 41
_ROW_BYTES = _CLASSES * 4


@dataclass(frozen=True)
class ManyOutputs:
    """Input folders of the stage score.

    Attributes:
        names: utterances in order; utterance i is the reference's i % len(heard).
        heard, spoken: what the reference decoded greedily from each of its own, and their references.
    """

    outputs: Path
    batches: Path
    corpus: Path
    names: tuple[str, ...]
    heard: tuple[str, ...]
    spoken: tuple[str, ...]


def make_outputs(golden: Path, folder: Path, count: int, batch_size: int) -> ManyOutputs:
    """Write `count` utterances' outputs, manifest and labels below an empty folder."""
    expected = json.loads((golden / "score" / "expected.json").read_text(encoding="utf-8"))["Greedy/bs1"]
    heard, spoken = tuple(expected["decoded"]), tuple(expected["origin"])
    frames = _output_frames(golden / "data" / "dev" / "fbank.ark")[: len(heard)]
    posteriors = _posteriors(golden / "score" / "posteriors.npz")[: len(heard)]
    outputs, batches, corpus = folder / "outputs", folder / "batches", folder / "corpus"
    for made in (outputs / "result", outputs / "tail", batches, corpus / "dev"):
        made.mkdir(parents=True)
    whole, rest = divmod(count, batch_size)
    different = len(heard)  # files that differ; the next one is the first one again
    for number in range(whole + bool(rest)):
        path = outputs / ("result" if number < whole else "tail") / f"inputs_{number}_0.npy"
        if number < different:
            rows = [posteriors[(number * batch_size + row) % len(heard)] for row in range(batch_size)]
            path.write_bytes(_npy(rows))
        else:
            os.link(outputs / "result" / f"inputs_{number % different}_0.npy", path)
    names = tuple(f"S{number:07d}_SX1" for number in range(count))
    utterances = [
        {
            "id": name,
            "batch": number // batch_size,
            "row": number % batch_size,
            "stacked_frames": 2 * frames[number % len(heard)],
            "output_frames": frames[number % len(heard)],
        }
        for number, name in enumerate(names)
    ]
    manifest: dict[str, Any] = {
        "batch_size": batch_size, "split": "dev", "rows": 390, "columns": 243, "num_batches": whole,
        "num_tail_batches": int(rest > 0), "excluded": [], "utterances": utterances,
    }  # fmt: skip
    (batches / "manifest.json").write_bytes(pretty_json(manifest))
    (corpus / "units").write_bytes((golden / "data" / "units").read_bytes())
    lines = (f"{name} {spoken[number % len(spoken)]}\n" for number, name in enumerate(names))
    (corpus / "dev" / "phn_text").write_text("".join(lines), encoding="utf-8")
    return ManyOutputs(outputs, batches, corpus, names, heard, spoken)


def check_lines(material: ManyOutputs, utterances: Path) -> None:
    """Hold utterances.jsonl to the reference's own strings, line by line.

    Raises:
        VerificationFailed: a line is missing, or its strings are others.
    """
    position = 0
    with utterances.open(encoding="utf-8") as stream:
        for position, line in enumerate(stream, 1):
            found = json.loads(line)
            which = (position - 1) % len(material.heard)
            if (
                found["id"] != material.names[position - 1]
                or found["published"]["hypothesis"] != material.heard[which]
                or found["complete"]["hypothesis"] != material.heard[which][1:]
                or found["reference"] != material.spoken[which]
            ):
                raise VerificationFailed(f"{utterances}: line {position} is not what the reference decodes")
    if position != len(material.names):
        raise VerificationFailed(f"{utterances} has {position} lines for {len(material.names)} utterances")


def _output_frames(archive: Path) -> list[int]:
    """Frames of the model's output for each utterance of a Kaldi archive of features."""
    shapes: Sequence[tuple[bytes, int, int]] = read_archive(archive.name, archive.read_bytes()).fixed
    stacked = [(rows + 1) // 2 for _, rows, _ in shapes]
    return [(count + count % 2) // 2 for count in stacked]


def _posteriors(path: Path) -> list[bytes]:
    """Each utterance's (195, 41) little-endian float32."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read("logprobs.npy")
    (header_bytes,) = struct.unpack_from("<H", data, 8)
    header = data[10 : 10 + header_bytes].decode("latin-1")
    if data[:8] != b"\x93NUMPY\x01\x00" or "'<f4'" not in header or f"{_FRAMES}, {_CLASSES})" not in header:
        raise VerificationFailed(f"{path}: logprobs is not an array of utterances x {_FRAMES} x {_CLASSES} float32")
    values, size = data[10 + header_bytes :], _FRAMES * _ROW_BYTES
    return [values[at : at + size] for at in range(0, len(values), size)]


def _npy(utterances: list[bytes]) -> bytes:
    """A .npy file of shape (195, utterances, 41)."""
    header = str({"descr": "<f4", "fortran_order": False, "shape": (_FRAMES, len(utterances), _CLASSES)}).encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    frames = range(0, _FRAMES * _ROW_BYTES, _ROW_BYTES)
    body = b"".join(values[at : at + _ROW_BYTES] for at in frames for values in utterances)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body
