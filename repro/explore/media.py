"""Posteriors, spectrograms and sound of an utterance, made small enough to stand in a page by the hundred."""

from __future__ import annotations

import io
import math
import struct
import sys
import wave
import zipfile
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Optional

from repro.audit.evidence import Evidence
from repro.audit.stage_files import read_lines
from repro.base import confined, zips
from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.base.foreign import shown
from repro.record.stages import Stage

BINS = 80  # of the mel filter bank; the features have the energy before them
_COLUMNS = BINS + 1
_LEAST = 7.0  # nats below certainty that are still shown
_LEVELS = 15  # of a spectrogram's half byte
_MOST_FRAMES = 100_000
_MOST_SOUND_BYTES = 64 * 1024**2
_SPHERE = b"NIST_1A\n"


def quantised_posteriors(frames: Sequence[array[float]]) -> bytes:
    """(frames, classes) uint8 of log-probabilities: 255 is certainty, 0 is e^-7 or less."""
    scale = 255 / _LEAST
    return bytes(max(0, min(255, round(255 + scale * value))) for frame in frames for value in frame)


@dataclass(frozen=True)
class Spectrograms:
    """The log mel energies that the network was given, read from the archive of the stage features."""

    evidence: Evidence
    split: str

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """Where each utterance's matrix stands in the archive; none where it is not here, or not the record's."""
        stage, archive, index = self._names()
        if not (self.evidence.has(stage, archive) and self.evidence.has(stage, index)):
            return {}
        places = {}
        for line in read_lines(self.evidence.file(stage, index), f"features: {index}"):
            name, _, place = line.partition(" ")
            offset = place.rpartition(":")[2]
            if offset.isdecimal():
                places[name] = int(offset)
        return places

    def _names(self) -> tuple[Stage, str, str]:
        return self.evidence.stage("features"), f"{self.split}/fbank.ark", f"{self.split}/fbank.scp"

    def of(self, name: str) -> bytes:
        """Every second column, low to high, in half bytes; nothing where the archive is not here."""
        if name not in self._places:
            return b""
        stage, archive, _ = self._names()
        size = stage.outputs.files[archive].size_bytes
        with confined.open_below(self.evidence.stored(stage).folder / "out", archive, size) as stream:
            stream.seek(self._places[name])
            head = stream.read(15)
            if len(head) < 15 or head[:6] != b"\0BFM \4" or head[10] != 4:
                raise VerificationFailed(f"features: {archive}: no float matrix where {shown(name)} should be")
            (rows,), (columns,) = struct.unpack_from("<i", head, 6), struct.unpack_from("<i", head, 11)
            if columns != _COLUMNS or not 0 < rows <= _MOST_FRAMES:
                raise VerificationFailed(f"features: {archive}: a matrix of {rows} x {columns}")
            values = array("f", stream.read(4 * rows * columns))
        if sys.byteorder == "big":
            values.byteswap()
        return _half_bytes([values[row * columns + 1 : (row + 1) * columns] for row in range(0, rows, 2)])


def _half_bytes(columns: Sequence[array[float]]) -> bytes:
    """Sixteen levels between the 2nd and the 99.5th percentile, so that a few extremes leave the rest its contrast."""
    ordered = sorted(value for column in columns for value in column)
    if not all(map(math.isfinite, ordered)):
        return b""
    low, high = ordered[len(ordered) // 50], ordered[len(ordered) * 995 // 1000]
    scale = _LEVELS / (high - low or 1.0)
    levels = [[max(0, min(_LEVELS, round((value - low) * scale))) for value in column] for column in columns]
    return bytes(one << 4 | two for column in levels for one, two in zip(column[::2], column[1::2]))


@dataclass
class Sounds:
    """The waves of a data set: of the demo corpus as its stage left it, or of a folder or zip of the user's."""

    evidence: Evidence
    split: str
    data: Optional[Path]
    _zip: Optional[zipfile.ZipFile] = field(default=None, init=False)

    @cached_property
    def _waves(self) -> Mapping[str, tuple[str, int]]:
        """Each utterance's path and number of samples, as the run found them."""
        stage, name = self.evidence.stage("corpus"), f"{self.split}/audio.tsv"
        rows = [line.split("\t") for line in read_lines(self.evidence.file(stage, name), f"corpus: {name}")]
        return {row[0]: (row[1], int(row[4])) for row in rows if len(row) == 5 and row[4].isdecimal()}

    def of(self, name: str) -> bytes:
        """The utterance as mu-law, a byte per sample; nothing where its wave is not here.

        Raises:
            VerificationFailed: the file is neither SPHERE nor RIFF with 16 bits and one channel, or not the run's.
        """
        path, expected = self._waves.get(name, ("", 0))
        data = self._read(path) if path else None
        if data is None:
            return b""
        samples = samples_of(data, path)
        if len(samples) != expected:
            raise VerificationFailed(
                f"{shown(path)} has {len(samples)} samples, the run's had {expected}",
                hint="name the data set of this run with --data",
            )
        return mu_law(samples)

    def _read(self, path: str) -> Optional[bytes]:
        try:
            if self.data is None:
                return self.evidence.file(self.evidence.stage("demo_corpus"), path)
            if self.data.is_dir():
                return confined.read_below(self.data, path, _MOST_SOUND_BYTES)
            with zips.reading(self.data):
                self._zip = self._zip or zipfile.ZipFile(self.data)
                size_bytes = self._zip.getinfo(path).file_size
                return None if size_bytes > _MOST_SOUND_BYTES else self._zip.read(path)
        except (CouldNotVerify, FileNotFoundError, KeyError):
            return None


def samples_of(data: bytes, what: str) -> array[int]:
    """The 16-bit samples of a SPHERE or RIFF file with one channel.

    Raises:
        VerificationFailed: it is anything else.
    """
    if data.startswith(_SPHERE):
        size = data[8:16].strip()
        head = data[: int(size) if size.isdigit() else 0]
        if b"sample_n_bytes -i 2" not in head or b"channel_count -i 1" not in head or b"shorten" in head:
            raise VerificationFailed(f"{shown(what)}: not 16-bit samples of one channel in SPHERE")
        body, order = data[len(head) :], "big" if b"sample_byte_format -s2 10" in head else "little"
    else:
        try:
            with wave.open(io.BytesIO(data)) as file:
                if (file.getsampwidth(), file.getnchannels()) != (2, 1):
                    raise wave.Error("not 16-bit samples of one channel")
                body, order = file.readframes(file.getnframes()), "little"
        except (wave.Error, EOFError) as error:
            raise VerificationFailed(f"{shown(what)}: neither SPHERE nor RIFF: {error}") from error
    samples = array("h", body[: len(body) // 2 * 2])
    if order != sys.byteorder:
        samples.byteswap()
    return samples


def mu_law(samples: array[int]) -> bytes:
    """G.711's mu-law of 16-bit samples, a byte each: half the size, and no ear hears it in speech."""
    return bytes(map(_mu_law_table().__getitem__, samples))


@lru_cache(maxsize=1)
def _mu_law_table() -> Sequence[int]:
    """By sample; a negative one counts from the end, as Python does."""
    table = []
    for number in range(1 << 16):
        sample = number - (1 << 16) if number >> 15 else number
        magnitude = min(abs(sample), 32635) + 132
        exponent = magnitude.bit_length() - 8
        mantissa = magnitude >> (exponent + 3) & 15
        table.append(~((128 if sample < 0 else 0) | exponent << 4 | mantissa) & 255)
    return table
