"""Features by our own kernels with Kaldi's dither, a split at a time, on all processors.

Where each utterance lies in the archive follows from the audio index alone, and its noise from the number of frames
before it. So a process can take any run of utterances and write the features where they belong; only the statistics
are added in one process, in order, since float64 sums depend on it. Nothing is held of the corpus but the runs in
work, and train's archive is written raw and normalised in place.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO, Callable, Iterable, Iterator, Mapping, NamedTuple

import numpy

from stages.formats import kaldi_io
from stages.formats.audio_index import Row
from stages.shared import workers
from stages.shared.stage import Progress, StageError, atomic_file
from stages.speech import dither, fbank
from stages.speech.waves import Waves

_CHUNK_FRAMES = 2048  # of a task: some 20 ms of work, beside which handing it over costs little
_NO_SEEDS = numpy.empty(0, numpy.uint32)
_MIN_VARIANCE = 1e-20  # Kaldi's floor

Rows = Callable[[], Iterable[Row]]
"""Gives the rows of a split's audio index anew."""


class Chunk(NamedTuple):
    """Successive utterances.

    Attributes:
        start: where in the archive they begin, in bytes.
        rows: of the audio index.
        seeds: of the dither, uint32, one for every frame; none where nothing is to be computed.
    """

    start: int
    rows: list[Row]
    seeds: numpy.ndarray


class PortableFeatures:
    """Makes the features of one split at a time, in folders below `out`.

    Args:
        out: the stage's folder.
        waves: `read` gives int16 samples for a row of the audio index.
        options: of `fbank.read_options`.
        draw_order: of `dither.DRAW_ORDERS`.
    """

    def __init__(self, out: str, waves: Waves, options: Mapping[str, Any], draw_order: str) -> None:
        self._out = out
        self._waves = waves
        self._options = options
        self._columns = options["num-mel-bins"] + options["use-energy"]
        self._bank = fbank.FilterBank(options, draw_order)
        self._norm: tuple[numpy.ndarray, numpy.ndarray] | None = None

    def of_train(self, split: str, rows: Rows, statistics: str) -> int:
        """Write SPLIT/fbank.ark and .scp, and the CMVN statistics, a text matrix, to the path `statistics`.

        Later splits are normalised with them.

        Args:
            rows: a function that gives the rows of the split's audio index anew.

        Returns:
            the number of frames.
        """
        stats = numpy.zeros((2, self._columns + 1))

        with atomic_file(self._path(split), "w+b") as archive:

            def accumulate(chunk: Chunk) -> None:
                for matrix in self._matrices(_read_at(archive, self._size(chunk), chunk.start), chunk):
                    add_to_statistics(stats, matrix)

            self._write(archive, split, rows, accumulate)
            with atomic_file(statistics, "w") as text:
                kaldi_io.write_text_matrix(text, stats.astype(numpy.float32))
            self._norm = normalisation(kaldi_io.read_text_matrix(statistics))
            chunks = self._chunks(rows(), None)
            for _ in workers.in_order(lambda chunk: self._normalise(archive, chunk), chunks, workers.processors()):
                pass
        return int(stats[0, -1])

    def of_split(self, split: str, rows: Rows) -> int:
        """Write SPLIT/fbank.ark and .scp, normalised with train's statistics; returns the number of frames."""
        with atomic_file(self._path(split), "w+b") as archive:
            return self._write(archive, split, rows, lambda _: None)

    def _write(self, archive: BinaryIO, split: str, rows: Rows, written: Callable[[Chunk], None]) -> int:
        """Write a new archive and its index; `written` is called in order with the chunks. Returns the frames."""
        frames = 0
        progress = Progress("features " + split, sum(1 for _ in rows()))
        chunks = self._chunks(rows(), dither.SeedStream())  # each split is a process of its own in the reference
        with atomic_file(os.path.join(self._out, split, "fbank.scp"), "w") as index:
            work = workers.in_order(lambda chunk: self._compute(archive, chunk), chunks, workers.processors())
            for chunk, _ in work:
                written(chunk)
                position = chunk.start
                for row in chunk.rows:
                    place = self._place(row)
                    index.write("{} {}/fbank.ark:{}\n".format(row.utterance, split, position + place.matrix))
                    position += place.end
                frames += len(chunk.seeds)
                progress.advance(len(chunk.rows))
        return frames

    def _chunks(self, rows: Iterable[Row], seeds: dither.SeedStream | None) -> Iterator[Chunk]:
        """The rows as `Chunk`s; without seeds where `seeds` is None."""
        start, position, gathered, frames = 0, 0, [], 0
        for row in rows:
            gathered.append(row)
            position += self._place(row).end
            frames += self._frames(row)
            if frames >= _CHUNK_FRAMES:
                yield Chunk(start, gathered, seeds.take(frames) if seeds else _NO_SEEDS)
                start, gathered, frames = position, [], 0
        if gathered:
            yield Chunk(start, gathered, seeds.take(frames) if seeds else _NO_SEEDS)

    def _compute(self, archive: BinaryIO, chunk: Chunk) -> None:
        """Write the features of a chunk: raw ones as long as there are no statistics."""
        entries, done = [], 0
        for row in chunk.rows:
            samples = self._waves.read(row)
            matrix = self._bank.compute(samples, chunk.seeds[done : done + self._frames(row)])
            if not numpy.isfinite(matrix).all():
                raise StageError("{}: its features are not finite".format(row.utterance))
            entries.append(kaldi_io.entry(row.utterance, self._normalised(matrix)))
            done += len(matrix)
        _write_at(archive, b"".join(entries), chunk.start)

    def _normalise(self, archive: BinaryIO, chunk: Chunk) -> None:
        """Normalise the features of a chunk where they lie."""
        data = _read_at(archive, self._size(chunk), chunk.start)
        for matrix in self._matrices(data, chunk):
            matrix[:] = self._normalised(matrix)
        _write_at(archive, data, chunk.start)

    def _normalised(self, matrix: numpy.ndarray) -> numpy.ndarray:
        if self._norm is None:
            return matrix
        scale, offset = self._norm
        return matrix * scale + offset

    def _matrices(self, data: bytearray, chunk: Chunk) -> Iterator[numpy.ndarray]:
        """(num_frames, num_features) float32 views of each utterance's values in a chunk's bytes, in order."""
        position = 0
        for row in chunk.rows:
            place, frames = self._place(row), self._frames(row)
            values = numpy.frombuffer(data, "<f4", frames * self._columns, position + place.values)
            yield values.reshape(frames, self._columns)
            position += place.end

    def _place(self, row: Row) -> kaldi_io.Place:
        return kaldi_io.place(row.utterance, self._frames(row), self._columns)

    def _frames(self, row: Row) -> int:
        return fbank.num_frames(row.num_samples, self._options)

    def _size(self, chunk: Chunk) -> int:
        return sum(self._place(row).end for row in chunk.rows)

    def _path(self, split: str) -> str:
        return os.path.join(self._out, split, "fbank.ark")


def add_to_statistics(stats: numpy.ndarray, matrix: numpy.ndarray) -> None:
    """Add (num_frames, dimensions) float32 to statistics (2, dimensions + 1) float64 as Kaldi's AccCmvnStats.

    Row 0 holds sums and, last, the number of frames; row 1 sums of squares and 0. Products are float32 and sums
    float64, added frame by frame in order, as in Kaldi.
    """
    stats[0, :-1] = _add_in_order(stats[0, :-1], matrix)
    stats[1, :-1] = _add_in_order(stats[1, :-1], matrix * matrix)
    stats[0, -1] += matrix.shape[0]


def _add_in_order(start: numpy.ndarray, rows: numpy.ndarray) -> numpy.ndarray:
    # Along the first of two axes NumPy adds row after row; it never sums in pairs there.
    stacked = numpy.empty((len(rows) + 1, len(start)))
    stacked[0] = start
    stacked[1:] = rows
    return numpy.add.reduce(stacked, axis=0)


def normalisation(stats: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """(scale, offset), each (num_features,) float32, of apply-cmvn --norm-vars=true: f * 1/sigma + -mu/sigma."""
    mean = stats[0, :-1] / stats[0, -1]
    variance = numpy.maximum(stats[1, :-1] / stats[0, -1] - mean * mean, _MIN_VARIANCE)
    scale = 1.0 / numpy.sqrt(variance)
    return scale.astype(numpy.float32), (-(mean * scale)).astype(numpy.float32)


def _write_at(stream: BinaryIO, data: bytes | bytearray, offset: int) -> None:
    """Write all bytes at a place of an open file, whatever other processes write elsewhere in it."""
    view = memoryview(data)
    while view:
        written = os.pwrite(stream.fileno(), view, offset)
        view, offset = view[written:], offset + written


def _read_at(stream: BinaryIO, size_bytes: int, offset: int) -> bytearray:
    """bytearray of what `_write_at` wrote at a place."""
    data = bytearray(size_bytes)
    view = memoryview(data)
    while view:
        count = os.preadv(stream.fileno(), [view], offset)
        if not count:
            raise RuntimeError("{} ends before byte {}".format(stream.name, offset + len(view)))
        view, offset = view[count:], offset + count
    return data
