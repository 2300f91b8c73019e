"""audio.tsv: where the wave of each utterance lies, and what it is."""

import collections

from stages.shared.stage import StageError

Row = collections.namedtuple("Row", "utterance path container rate_hz num_samples")


def read_audio_index(path):
    """Yield the rows of an audio.tsv."""
    try:
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                if line.strip():
                    yield _row(line.strip(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise StageError("cannot read {}: {}".format(path, error)) from error


def _row(line, path):
    try:
        utterance, name, container, rate_hz, num_samples = line.split("\t")
        return Row(utterance, name, container, int(rate_hz), int(num_samples))
    except ValueError:
        raise StageError("{}: not a line of an audio index: {!r}".format(path, line)) from None
