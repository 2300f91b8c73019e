"""audio.tsv: where the wave of each utterance lies, and what it is."""

from __future__ import annotations

from typing import Iterator, NamedTuple

from stages.shared.stage import StageError


class Row(NamedTuple):
    """One utterance's wave: where it lies in the speech data, its container, sampling rate and samples."""

    utterance: str
    path: str
    container: str
    rate_hz: int
    num_samples: int


def read_audio_index(path: str) -> Iterator[Row]:
    """Yield the rows of an audio.tsv."""
    try:
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                if line.strip():
                    yield _row(line.strip(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise StageError("cannot read {}: {}".format(path, error)) from error


def _row(line: str, path: str) -> Row:
    try:
        utterance, name, container, rate_hz, num_samples = line.split("\t")
        return Row(utterance, name, container, int(rate_hz), int(num_samples))
    except ValueError:
        raise StageError("{}: not a line of an audio index: {!r}".format(path, line)) from None
