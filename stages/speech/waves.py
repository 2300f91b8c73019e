"""The samples of a corpus's utterances, read in place and held to the audio index."""

from __future__ import annotations

from typing import Any, Mapping

import numpy

from stages.formats import audio
from stages.formats.audio_index import Row
from stages.formats.source import open_source
from stages.shared.stage import StageError
from stages.speech import fbank


class Waves:
    """The samples of a corpus's rows."""

    def __init__(self, data: str, options: Mapping[str, Any]) -> None:
        self._options = options
        self._source = open_source(data)

    def read(self, row: Row) -> numpy.ndarray:
        """int16 samples (num_samples,); StageError where the wave is not the one of the audio index."""
        name = "{}: {}".format(row.utterance, row.path)
        if row.rate_hz != self._options["sample-frequency"]:
            raise StageError("{}: {} Hz, not {:g}".format(name, row.rate_hz, self._options["sample-frequency"]))
        if not fbank.num_frames(row.num_samples, self._options):
            raise StageError("{}: {} samples hold no frame".format(name, row.num_samples))
        data = self._source.read(row.path)
        wave, samples = audio.read(data, name)
        if (wave.container, wave.rate_hz, wave.num_samples) != (row.container, row.rate_hz, row.num_samples):
            raise StageError("{}: not the wave that the corpus stage saw".format(name), "Run the corpus stage again.")
        return samples
