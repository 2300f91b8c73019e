"""Features by Kaldi's own programs: compute-fbank-feats, compute-cmvn-stats, apply-cmvn and copy-feats.

Each program is held to its exit code and to its result: the same utterances in the same order, each with the frames
that its samples hold. (Kaldi's programs end with 0 as soon as one utterance came through, and the reference's script
with 0 whatever happened.)
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from typing import IO, Any, Callable, Mapping, Sequence

import numpy

from stages.formats import kaldi_io
from stages.formats.audio_index import Row
from stages.shared.stage import Progress, StageError
from stages.speech import fbank

PROGRAMS = ("compute-fbank-feats", "compute-cmvn-stats", "apply-cmvn", "copy-feats")
_LOG_LINES = 5
_MISSING = "Run this stage in the kaldi image, or leave --implementation out."


def check_programs() -> None:
    """StageError where one of the programs is not there."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise StageError("Kaldi's {} not found".format(", ".join(missing)), _MISSING)


class KaldiFeatures:
    """Makes the features of one split at a time, in folders below `out`.

    Args:
        out: the stage's folder; the programs run in it, so that the index they write is relative to it.
        obs: gets their logs.
        config: the option file, as compute-fbank-feats takes it with --config.
        options: the same options, of `fbank.read_options`.
    """

    def __init__(self, out: str, obs: str, config: str, options: Mapping[str, Any]) -> None:
        check_programs()
        self._out = out
        self._obs = obs
        self._config = os.path.abspath(config)
        self._options = options

    def raw(self, split: str, rows: Sequence[Row], waves: Callable[[Row], numpy.ndarray], progress: Progress) -> None:
        """Write SPLIT/raw.ark, the features before normalisation.

        Args:
            rows: of the audio index; their order is that of the dither's random numbers.
            waves: gives int16 samples for a row.
        """
        command = ["compute-fbank-feats", "--config=" + self._config, "ark:-", "ark:{}/raw.ark".format(split)]
        with open(self._log(split), "ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, cwd=self._out)
            try:
                assert process.stdin is not None
                _feed(process.stdin, rows, waves, progress)
            except BaseException:  # a wave is refused: the program must not be left waiting for it
                process.kill()
                process.wait()
                raise
            code = process.wait()
        self._check(split, command, code)
        self._check_archive(split, "raw.ark", rows)

    def empty(self, split: str) -> int:
        """Write what a split without an utterance has; returns its frames, 0."""
        for name in ("fbank.ark", "fbank.scp"):
            open(os.path.join(self._out, split, name), "wb").close()
        return 0

    def statistics(self, split: str, path: str) -> None:
        """Write the CMVN statistics of SPLIT/raw.ark, a text matrix, to `path` below the stage's folder."""
        self._run(split, ["compute-cmvn-stats", "--binary=false", "ark:{}/raw.ark".format(split), path])
        kaldi_io.read_text_matrix(os.path.join(self._out, path))

    def normalised(self, split: str, rows: Sequence[Row], statistics: str) -> int:
        """Write SPLIT/fbank.ark and SPLIT/fbank.scp from SPLIT/raw.ark, and remove that; returns the frames."""
        raw, archive = "ark:{}/raw.ark".format(split), "{}/fbank.ark".format(split)
        normalised = "{}/normalised.ark".format(split)
        self._run(split, ["apply-cmvn", "--norm-vars=true", statistics, raw, "ark:" + normalised])
        self._run(split, ["copy-feats", "ark:" + normalised, "ark,scp:{},{}/fbank.scp".format(archive, split)])
        for name in ("raw.ark", "normalised.ark"):
            os.unlink(os.path.join(self._out, split, name))
        return self._check_archive(split, "fbank.ark", rows)

    def _run(self, split: str, command: Sequence[str]) -> None:
        with open(self._log(split), "ab") as log:
            self._check(split, command, subprocess.call(command, stderr=log, cwd=self._out))

    def _check(self, split: str, command: Sequence[str], code: int) -> None:
        if code != 0:
            with open(self._log(split), encoding="utf-8", errors="replace") as log:
                tail = log.read().splitlines()[-_LOG_LINES:]
            raise StageError(
                "{}: {} ended with exit code {}: {}".format(split, command[0], code, " / ".join(tail)),
                "Its whole log is among the stage's observations: {}".format(os.path.basename(self._log(split))),
            )

    def _check_archive(self, split: str, name: str, rows: Sequence[Row]) -> int:
        path = os.path.join(self._out, split, name)
        columns = self._options["num-mel-bins"] + self._options["use-energy"]
        frames = 0
        found = kaldi_io.read_archive(path)
        for row in rows:
            key, matrix = next(found, (None, None))
            if matrix is None or key != row.utterance:
                raise StageError(
                    "{}/{}: {} where {} belongs: Kaldi left an utterance out".format(
                        split, name, key or "its end", row.utterance
                    ),
                    "The log among the stage's observations says why.",
                )
            expected = (fbank.num_frames(row.num_samples, self._options), columns)
            if matrix.shape != expected:
                raise StageError("{}/{}: {} has shape {}, not {}".format(split, name, key, matrix.shape, expected))
            if not numpy.isfinite(matrix).all():
                raise StageError("{}: its features are not finite".format(key))
            frames += matrix.shape[0]
        if next(found, None) is not None:
            raise StageError("{}/{}: holds more utterances than the corpus".format(split, name))
        return frames

    def _log(self, split: str) -> str:
        return os.path.join(os.path.abspath(self._obs), "kaldi_{}.log".format(split))


def _feed(stream: IO[bytes], rows: Sequence[Row], waves: Callable[[Row], numpy.ndarray], progress: Progress) -> None:
    """Write an archive of waves to a program; where it ends early, its exit code and log say why."""
    try:
        for row in rows:
            samples = waves(row)
            stream.write(row.utterance.encode("utf-8") + b" " + riff(samples, row.rate_hz))
            progress.advance()
        stream.close()
    except BrokenPipeError:
        pass


def riff(samples: numpy.ndarray, rate_hz: int) -> bytes:
    """A RIFF wave of int16 samples, one channel."""
    data = samples.astype("<i2").tobytes()
    form = struct.pack("<IHHIIHH", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16)
    size, length = struct.pack("<I", 36 + len(data)), struct.pack("<I", len(data))
    return b"RIFF" + size + b"WAVEfmt " + form + b"data" + length + data
