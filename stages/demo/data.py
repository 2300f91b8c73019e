"""What the demo's training reads: stacked features, labels, and the known phone of every output frame."""

from __future__ import annotations

import os
import struct
from typing import Iterator, List, Mapping, NamedTuple, Sequence

import numpy as np

from stages.formats import stacking
from stages.formats.audio_index import read_audio_index
from stages.formats.labels import read_lines, read_table
from stages.formats.matching import matched
from stages.formats.source import Source, open_source
from stages.scoring.decode import FIRST_UNIT
from stages.shared import architecture
from stages.shared.stage import StageError

_SAMPLES_A_FRAME = 160  # 10 ms at 16 kHz
_WINDOW_SAMPLES = 400
_FRAMES_AN_OUTPUT = 4  # two by stacking, two by the second convolution


class Example(NamedTuple):
    """One utterance.

    Attributes:
        utterance: its id.
        rows: (even number of rows, 243) float32, stacked as the batches stage does it.
        labels: class ids in order.
        frames: (len(rows) // 2,) int64, the class id spoken at each output frame; None where no times were read.
    """

    utterance: str
    rows: np.ndarray
    labels: List[int]
    frames: np.ndarray


def read_units(corpus: str) -> dict[str, int]:
    """{phone: class id} of the corpus stage's `units`."""
    units = read_lines(os.path.join(corpus, "units"))
    classes = {phone: FIRST_UNIT + index for index, phone in enumerate(units)}
    if len(classes) != len(units) or FIRST_UNIT + len(units) != architecture.CLASSES:
        raise StageError(
            "{}: {} phones, the model has {}".format(corpus, len(units), architecture.CLASSES - FIRST_UNIT),
            "Train on the whole demo corpus: it holds all phones.",
        )
    return classes


def frame_classes(segment_ends: Sequence[int], labels: Sequence[int], num_outputs: int) -> np.ndarray:
    """The class at the middle of each output frame's first stacked row.

    Args:
        segment_ends: the ends of the phones in samples, ascending.
        labels: the class ids of the same phones.
        num_outputs: output frames; each spans four feature frames of 10 ms.

    Returns:
        (num_outputs,) int64; past the last phone its class goes on.
    """
    first_frames = np.arange(num_outputs) * _FRAMES_AN_OUTPUT
    # The row of an output frame stacks three feature frames: the middle one's centre counts.
    centres = (first_frames + 1) * _SAMPLES_A_FRAME + _WINDOW_SAMPLES // 2
    places = np.minimum(np.searchsorted(np.asarray(segment_ends), centres, side="right"), len(labels) - 1)
    return np.asarray(labels, dtype=np.int64)[places]


def _segment_ends(source: Source, wave_path: str, num_labels: int) -> list[int]:
    path = wave_path.rpartition(".")[0] + ".PHN"
    try:
        ends = [int(line.split()[1]) for line in source.read(path).decode("ascii").splitlines()]
    except (ValueError, IndexError):
        raise StageError("{}: not lines of `START END PHONE`".format(path), "Make the demo corpus again.")
    if len(ends) != num_labels:
        # A dropped phone (q) would shift the times; the demo corpus has none.
        raise StageError("{}: {} phones, but {} labels".format(path, len(ends), num_labels), "Use the demo corpus.")
    return ends


def _read_archive(path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (utterance, (frames, columns) float32) of the features stage's archive (this image has no kaldiio)."""
    data = np.memmap(path, np.uint8, "r") if os.path.getsize(path) else np.zeros(0, np.uint8)
    position = 0
    while position < len(data):
        key, _, header = data[position : position + 64].tobytes().partition(b" ")
        if header[:6] != b"\0BFM \4" or len(header) < 15:
            raise StageError("{}: no archive of the features stage".format(path), "Run the features stage again.")
        rows, columns = struct.unpack("<ixi", header[6:15])
        start = position + len(key) + 16
        position = start + 4 * rows * columns
        if position > len(data) or rows < 0 or columns < 0:
            raise StageError("{}: cut short".format(path), "Run the features stage again.")
        yield key.decode("ascii"), data[start:position].view("<f4").reshape(rows, columns)


def read_split(
    corpus: str, features: str, split: str, classes: Mapping[str, int], data: str | None = None
) -> list[Example]:
    """The `Example`s of one split in order; with `data` (the corpus's own tree), the phone of every frame too.

    Raises:
        StageError: naming the file or utterance, as the batches stage does, or when .PHN and labels disagree.
    """
    labels_path = os.path.join(corpus, split, "phn_text")
    archive_path = os.path.join(features, split, "fbank.ark")
    waves = {row.utterance: row.path for row in read_audio_index(os.path.join(corpus, split, "audio.tsv"))}
    source = open_source(data) if data is not None else None
    archive = _read_archive(archive_path)
    examples = []
    for utterance, matrix, phones in matched(archive, read_table(labels_path), archive_path, labels_path):
        try:
            rows = stacking.checked(matrix, phones).astype(np.float32)
            labels = [classes[phone] for phone in phones or ()]
        except KeyError as error:
            raise StageError("{}: phone {} is not in units".format(utterance, error), "Run the corpus stage again.")
        except StageError as error:
            raise StageError("{}: {}".format(utterance, error.message), error.hint)
        frames = None
        if source is not None:
            ends = _segment_ends(source, waves[utterance], len(labels))
            frames = frame_classes(ends, labels, len(rows) // 2)
        examples.append(Example(utterance, rows, labels, frames))
    if not examples:
        raise StageError("{}: no utterance in it".format(archive_path), "Run the features stage again.")
    return examples


def padded(examples: Sequence[Example], num_rows: int) -> np.ndarray:
    """(len(examples), num_rows, 243) float32, zero rows after each utterance's own."""
    batch = np.zeros((len(examples), num_rows, architecture.COLUMNS), np.float32)
    for place, example in enumerate(examples):
        batch[place, : len(example.rows)] = example.rows
    return batch


def edit_distance(reference: Sequence[int], hypothesis: Sequence[int]) -> int:
    """Unit-cost edits between two lists (the exporter image has no library for it)."""
    row = list(range(len(hypothesis) + 1))
    for index, wanted in enumerate(reference):
        above, row[0] = row[0], index + 1
        for place, found in enumerate(hypothesis):
            best = min(above + (wanted != found), row[place] + 1, row[place + 1] + 1)
            above, row[place + 1] = row[place + 1], best
    return row[-1]
