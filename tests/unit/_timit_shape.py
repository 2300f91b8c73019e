"""A corpus of TIMIT's shape and counts, of a few bytes per utterance, and a model's outputs with planted error rates.

The references of dev have lengths of which the published rates are whole numbers of edits, for every set of utterances
that the table is of. Outputs are made of the references: phones of other letters stand in for as many as are asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _speech_cases import CONF, riff, write_zip

from repro.guide.published import CER, WER, Published, edits_allowed
from stages.scoring.decode import FIRST_UNIT

SPEAKERS = {split: (CONF / f"{split}_spk.list").read_text().upper().split() for split in ("dev", "test")}
EACH = 8  # utterances per speaker
PREFIXES = {384: 14460, 392: 14766, 396: 14914, 399: 15021, 400: 15057}
"""Phones of the first utterances of dev; at most of these numbers some whole number of edits is a published rate."""
SHORT, LONG = "k", "aa"  # of one and of two letters
SHORT_WRONG, LONG_WRONG = "t", "iy"  # of letters that no reference has
FRAMES = 195


@dataclass(frozen=True)
class Reference:
    """An utterance: its phones, and how many of them the outputs have wrong, short and long ones."""

    phones: tuple[str, ...]
    short_wrong: int
    long_wrong: int

    def hypothesis(self) -> list[str]:
        left = {SHORT: self.short_wrong, LONG: self.long_wrong}
        wrong = {SHORT: SHORT_WRONG, LONG: LONG_WRONG}
        said = []
        for phone in self.phones:
            said.append(wrong[phone] if left[phone] else phone)
            left[phone] -= bool(left[phone])
        return said


def dev_references(published: Published, more_edits: int = 0) -> list[Reference]:
    """The 400 of dev: each published set has exactly the published edits, and `more_edits` wrong phones more."""
    made: list[Reference] = []
    phones = characters = wer = cer = 0
    for size in (16, 8, 4, 1, None):
        row = published.rows[size] if size else None
        count = (row.utterances if row else 400) - len(made)
        num_phones = PREFIXES[len(made) + count] - phones
        if row is None:
            num_long, short_wrong, long_wrong = num_phones // 2, 0, 0
        else:
            # A reference of n phones has n - 1 spaces.
            least = characters + 2 * num_phones - count
            likely = range(least + num_phones * 2 // 3, least + num_phones)
            total = next(n for n in likely if edits_allowed(row.printed[CER], n))
            num_long = total - least
            edits = edits_allowed(row.printed[WER], phones + num_phones)[0] - wer
            # The published protocol's leading space is one edit of an utterance.
            char_edits = edits_allowed(row.printed[CER], total)[0] - cer - count
            long_wrong = char_edits - edits
            short_wrong = edits - long_wrong
            characters, wer, cer = total, wer + edits, cer + char_edits + count
        if not made:
            short_wrong += more_edits
        made += _spread(count, num_phones, num_long, short_wrong, long_wrong)
        phones += num_phones
    return made


def _spread(count: int, num_phones: int, num_long: int, short_wrong: int, long_wrong: int) -> list[Reference]:
    def share(number: int, index: int) -> int:
        return number * (index + 1) // count - number * index // count

    return [
        Reference(
            (LONG,) * share(num_long, i) + (SHORT,) * (share(num_phones, i) - share(num_long, i)),
            share(short_wrong, i),
            share(long_wrong, i),
        )
        for i in range(count)
    ]


def write_corpus(path: Path, dev: list[Reference]) -> Path:
    """A data.zip: 462 speakers of train, 50 of dev, 24 of test, 8 utterances each."""
    wave = riff(np.zeros(400))
    files: dict[str, bytes] = {}

    def add(folder: str, phones: tuple[str, ...]) -> None:
        lines = "".join(f"{i} {i + 1} {phone}\n" for i, phone in enumerate(phones))
        files[folder + ".WAV"], files[folder + ".PHN"], files[folder + ".WRD"] = wave, lines.encode(), b"0 1 word\n"

    for number in range(462):
        for sentence in range(EACH):
            phones = (SHORT, LONG, SHORT_WRONG, LONG_WRONG)
            add(f"TRAIN/DR1/F{_letters(number)}0/SX{sentence}", phones)
    ordered = iter(dev)
    for speaker in sorted(SPEAKERS["dev"]):
        for sentence in range(EACH):
            add(f"TEST/DR1/{speaker}/SX{sentence}", next(ordered).phones)
    for speaker in SPEAKERS["test"]:
        for sentence in range(EACH):
            add(f"TEST/DR2/{speaker}/SX{sentence}", (SHORT,))
    return write_zip(path, files)


def _letters(number: int) -> str:
    return "".join(chr(ord("A") + number // 26**place % 26) for place in (2, 1, 0))


def write_outputs(folder: Path, dev: list[Reference], names: list[str], units: list[str], batch_size: int) -> None:
    """The folders of infer and batches: certain outputs, a blank after each phone."""
    classes = {unit: FIRST_UNIT + number for number, unit in enumerate(units)}
    whole = len(dev) // batch_size
    entries = []
    for at in range(0, len(dev), batch_size):
        batch = np.full((FRAMES, batch_size, len(units) + FIRST_UNIT), -50.0, np.float32)
        for row, reference in enumerate(dev[at : at + batch_size]):
            path = [frame for phone in reference.hypothesis() for frame in (classes[phone], 0)]
            path += [0] * (FRAMES - len(path))
            batch[np.arange(FRAMES), row, path] = 0.0
            place = {"batch": at // batch_size, "row": row, "output_frames": FRAMES, "stacked_frames": 2 * FRAMES}
            entries.append({"id": names[at + row], **place})
        target = folder / "outputs" / ("result" if at // batch_size < whole else "tail")
        target.mkdir(parents=True, exist_ok=True)
        np.save(target / f"inputs_{at // batch_size}_0.npy", batch)
    (folder / "batches").mkdir()
    manifest = {
        "batch_size": batch_size, "split": "dev", "rows": 390, "columns": 243, "num_batches": whole,
        "num_tail_batches": int(len(dev) % batch_size > 0), "excluded": [], "utterances": entries,
    }  # fmt: skip
    (folder / "batches/manifest.json").write_text(json.dumps(manifest))
