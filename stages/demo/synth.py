"""From a sentence and a speaker to 16 kHz samples with a TIMIT-60 phone segmentation.

Everything after the synthesisers is arithmetic of integers, so that no CPU's floating point enters the bytes.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import wave
from fractions import Fraction
from typing import Any, List, NamedTuple, Sequence, Tuple

import numpy as np

from stages.demo import espeak
from stages.demo.voices import Speaker
from stages.shared.stage import StageError

RATE_HZ = 16000
PEAK = 12000  # of 32767, near TIMIT's own level

# Imported, though it is run as a program: what a stage imports is what is copied into its container.
_ESPEAK_PROGRAM = os.path.abspath(espeak.__file__)
_ESPEAK_EDGE_MS = 120  # silence before the speech, and the most that is kept after it
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}  # a voice or data folder in HOME must not be picked up
_TIMEOUT_S = 120
_SAMPLE_BYTES = 2

_HALF_TAPS = 16
_CUTOFF = Fraction(97, 100)
_TAP_BITS = 16
_PHASES_AT_A_TIME = 16
_MAX_PHASES = 500  # the warp is rounded to a ratio with at most so many filter phases

_FLITE_PHONES = {
    phone: phone
    for phone in (
        "aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p pau r s sh t th uh uw v w y z zh"
    ).split()
}
_ESPEAK_PHONES = {
    "a": "ae", "aa": "ae", "a#": "ax", "@": "ax", "@2": "ax", "@5": "ax", "3": "axr", "3:": "er", "I": "ih",
    "I2": "ih", "I#": "ix", "i": "iy", "i:": "iy", "E": "eh", "V": "ah", "0": "aa", "A:": "aa", "A@": "aa r",
    "O:": "ao", "O": "ao", "O2": "ao", "O@": "ao r", "o@": "ao r", "U": "uh", "u": "uw", "u:": "uw", "eI": "ey",
    "aI": "ay", "OI": "oy", "aU": "aw", "oU": "ow", "e@": "eh r", "i@": "ih ax", "i@3": "ih r", "U@": "uh r",
    "aI@": "ay ax", "aI3": "ay axr", "@L": "el", "IR": "ih r", "VR": "ah r", "p": "p", "b": "b", "t": "t", "d": "d",
    "k": "k", "g": "g", "tS": "ch", "dZ": "jh", "f": "f", "v": "v", "T": "th", "D": "dh", "s": "s", "z": "z",
    "S": "sh", "Z": "zh", "h": "hh", "m": "m", "n": "n", "N": "ng", "l": "l", "r": "r", "j": "y", "w": "w",
    "t#": "dx", "t2": "t", "d#": "dx", "n-": "en", "l#": "l", "L": "l", "r-": "r", "_": "pau", "_:": "pau",
    "_^_": "", ";": "", "_|": "", "?": "",
}  # fmt: skip
_CLOSURES = {"p": "pcl", "t": "tcl", "k": "kcl", "b": "bcl", "d": "dcl", "g": "gcl", "ch": "tcl", "jh": "dcl"}
_CLOSURE_PERCENT = 55


class Segment(NamedTuple):
    """One phone: [start, end), in milliseconds or samples as the function says."""

    start: Fraction
    end: Fraction
    phone: str


class Utterance(NamedTuple):
    """samples: (n,) int16 at 16 kHz; segments: contiguous from 0 to n, in samples, the first and last 'h#'."""

    samples: np.ndarray
    segments: List[Tuple[int, int, str]]


class Spoken(NamedTuple):
    """What a synthesiser gives: its rate in Hz, (n,) int16 samples, and phones in milliseconds."""

    rate_hz: int
    samples: np.ndarray
    segments: list[Segment]


def _run(name: str, command: Sequence[str]) -> bytes:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_ENVIRONMENT,
            timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StageError(
            "{}: cannot run {}: {}".format(name, command[0], error), "run this stage in the synth image, which has it"
        )
    if done.returncode != 0:
        raise _failed(name, done.returncode, done.stderr)
    return done.stdout


def _failed(name: str, exit_code: int, said: bytes) -> StageError:
    reason = said.decode("utf-8", "replace").strip() or "exit code {}".format(exit_code)
    return StageError("{}: the synthesiser failed: {}".format(name, reason), "run this stage in the synth image")


def _milliseconds(text: str) -> Fraction:
    """'0.217' -> 217, exactly."""
    return Fraction(text) * 1000


def parse_flite_segments(text: str) -> list[Segment]:
    """'pau:0.217 ax:0.271 …' (phone and end in seconds) -> [Segment in milliseconds]."""
    segments: list[Segment] = []
    start = Fraction(0)
    for token in text.split():
        phone, _, end = token.rpartition(":")
        if phone not in _FLITE_PHONES:
            raise StageError("flite printed a phone that is not known: {!r}".format(token))
        segments.append(Segment(start, _milliseconds(end), _FLITE_PHONES[phone]))
        start = segments[-1].end
    return segments


def _flite(name: str, speaker: Speaker, text: str) -> Spoken:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "speech.wav")
        command = ["flite", "-voice", speaker.voice, "--setf", "duration_stretch={}".format(speaker.speed / 100)]
        if speaker.pitch is not None:
            command += ["--setf", "int_f0_target_mean={}".format(speaker.pitch[0])]
            command += ["--setf", "int_f0_target_stddev={}".format(speaker.pitch[1])]
        printed = _run(name, [*command, "-psdur", "-t", text, "-o", path])
        with open(path, "rb") as stream:
            content = stream.read()
    with wave.open(io.BytesIO(content)) as reader:
        rate_hz = reader.getframerate()
        samples = np.frombuffer(reader.readframes(reader.getnframes()), "<i2")
    return Spoken(rate_hz, samples, parse_flite_segments(printed.decode("ascii")))


def parse_espeak_phonemes(phonemes: Sequence[tuple[int, str]], speech_end_ms: Fraction) -> list[Segment]:
    """[(milliseconds, mnemonic)] -> [Segment in milliseconds], each lasting until the next begins.

    A mnemonic that stands for two phones (a diphthong with r, say) is split in the middle.
    """
    segments = []
    for index, (start_ms, mnemonic) in enumerate(phonemes):
        end_ms = Fraction(phonemes[index + 1][0]) if index + 1 < len(phonemes) else speech_end_ms
        if mnemonic not in _ESPEAK_PHONES:
            raise StageError("espeak-ng made a phoneme that is not known: {!r}".format(mnemonic))
        phones = _ESPEAK_PHONES[mnemonic].split()
        for position, phone in enumerate(phones):
            length = (end_ms - start_ms) / len(phones)
            segments.append(Segment(start_ms + position * length, start_ms + (position + 1) * length, phone))
    return segments


class _EspeakProgram:
    """One `espeak.py` at work: a request at a time, each spoken in a process of its own."""

    def __init__(self) -> None:
        self.of_process = os.getpid()
        self._said = tempfile.TemporaryFile()  # not a pipe, which could fill
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", _ESPEAK_PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._said, env=_ENVIRONMENT,
        )  # fmt: skip

    def ask(self, name: str, request: Sequence[Any]) -> tuple[dict[str, Any], bytes]:
        """The answer's header and samples, or StageError with what the program said."""
        assert self._process.stdin is not None and self._process.stdout is not None  # both are pipes
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: there is no answer
        line = self._process.stdout.readline()
        header = json.loads(line.decode()) if line.endswith(b"\n") else {"samples": 1}
        content = self._process.stdout.read(_SAMPLE_BYTES * header["samples"])
        if len(content) != _SAMPLE_BYTES * header["samples"]:
            raise _failed(name, self._process.wait(), self._ended_with())
        return header, content

    def _ended_with(self) -> bytes:
        self._said.seek(0)
        return self._said.read()


_espeak_program: _EspeakProgram | None = None


def _espeak(name: str, speaker: Speaker, text: str) -> Spoken:
    global _espeak_program
    if _espeak_program is None or _espeak_program.of_process != os.getpid():  # a forked worker needs one of its own
        _espeak_program = _EspeakProgram()
    request = ["en-us+" + speaker.voice, speaker.speed, *(speaker.pitch or ()), text]
    spoken, content = _espeak_program.ask(name, request)
    rate_hz = spoken["rate_hz"]
    speech = np.frombuffer(content, "=i2", count=spoken["samples"])
    segments = parse_espeak_phonemes(spoken["phonemes"], Fraction(1000 * len(speech), rate_hz))
    # espeak-ng begins with the first phone at once and ends with a silence as long as its last event.
    end_ms = min(Fraction(1000 * len(speech), rate_hz), segments[-1].start + _ESPEAK_EDGE_MS)
    speech = speech[: int(end_ms * rate_hz / 1000)]
    segments[-1] = Segment(segments[-1].start, end_ms, "pau")
    silence = np.zeros(_ESPEAK_EDGE_MS * rate_hz // 1000, speech.dtype)
    moved = [Segment(start + _ESPEAK_EDGE_MS, end + _ESPEAK_EDGE_MS, phone) for start, end, phone in segments]
    edge = Segment(Fraction(0), Fraction(_ESPEAK_EDGE_MS), "pau")
    return Spoken(rate_hz, np.concatenate((silence, speech)), [edge, *moved])


def to_timit(segments: Sequence[Segment]) -> list[Segment]:
    """Synthesiser's phones -> TIMIT's: edges 'h#', one 'pau' for several, stops as closure (55 %) and release.

    A stop after a silence has no closure of its own: the silence is the closure. Phones without length go, and
    time that belongs to no phone (a glide that espeak-ng only marks) goes to the phone before it.
    """
    merged: list[Segment] = []
    for segment in segments:
        if segment.end <= segment.start:
            continue
        if merged:
            merged[-1] = merged[-1]._replace(end=segment.start)
        if merged and segment.phone == "pau" and merged[-1].phone == "pau":
            merged[-1] = Segment(merged[-1].start, segment.end, "pau")
        else:
            merged.append(segment)
    result: list[Segment] = []
    for index, (start, end, phone) in enumerate(merged):
        if phone == "pau" and index in (0, len(merged) - 1):
            result.append(Segment(start, end, "h#"))
        elif phone in _CLOSURES and result and result[-1].phone not in ("pau", "h#"):
            release = start + (end - start) * _CLOSURE_PERCENT / 100
            result += [Segment(start, release, _CLOSURES[phone]), Segment(release, end, phone)]
        else:
            result.append(Segment(start, end, phone))
    return result


@functools.lru_cache(maxsize=None)
def _taps(step: int, phases: int) -> tuple[int, np.ndarray]:
    """(half, (phases, 2 * half) float64 of integers): the resampler's table; see `resample`."""
    cutoff = float(min(Fraction(1), Fraction(phases, step)) * _CUTOFF)
    half = int(np.ceil(_HALF_TAPS / cutoff))
    offsets = np.arange(1 - half, half + 1)[None, :] - (np.arange(phases) * step % phases)[:, None] / phases
    window = 0.5 + 0.5 * np.cos(np.pi * offsets / (half + 1))
    return half, np.rint(cutoff * np.sinc(cutoff * offsets) * window * (1 << _TAP_BITS))


@functools.lru_cache(maxsize=None)
def _filters(step: int, phases: int) -> tuple[int, list[tuple[int, int, np.ndarray]]]:
    """[(first, count, matrix)]: `count` phases' taps side by side, each where its samples begin after `first`.

    Matrices: (span, count) float64 of integers; span samples from `first` on are all that these phases need.
    """
    half, taps = _taps(step, phases)
    result = []
    for start in range(0, phases, _PHASES_AT_A_TIME):
        group = range(start, min(start + _PHASES_AT_A_TIME, phases))
        first = group[0] * step // phases
        matrix = np.zeros((group[-1] * step // phases - first + 2 * half, len(group)))
        for column, phase in enumerate(group):
            begin = phase * step // phases - first
            matrix[begin : begin + 2 * half, column] = taps[phase]
        result.append((first, len(group), matrix))
    return half, result


def resample(samples: np.ndarray, ratio: Fraction) -> np.ndarray:
    """Band-limited resampling: result[n] = samples[n * ratio], times 2**16, in int64.

    Args:
        samples: (n,) int16.
        ratio: input samples for one output sample, a Fraction of at most 500 as denominator.

    Returns:
        (floor(n / ratio),) int64, scaled by 2**16: a Hann-windowed sinc, one table of taps per phase, rounded to
        16 bits. The sums are products of matrices in float64, and exact whatever the CPU and the order, since all in
        them are integers below 2**53.
    """
    # Several periods are taken as one where a period is short: few large products in place of many small ones.
    periods = -(-_MAX_PHASES // ratio.denominator)
    step, phases = ratio.numerator * periods, ratio.denominator * periods
    half, filters = _filters(step, phases)
    length = len(samples) * phases // step
    rows = -(-length // phases)
    padded = np.zeros(half - 1 + rows * step + step + 2 * half)
    padded[half - 1 : half - 1 + len(samples)] = samples
    result = np.empty((rows, phases))
    done = 0
    for first, count, matrix in filters:
        spans = np.lib.stride_tricks.as_strided(
            padded[first:], (rows, len(matrix)), (step * padded.itemsize, padded.itemsize), writeable=False
        )
        np.matmul(spans, matrix, out=result[:, done : done + count])
        done += count
    return result.ravel()[:length].astype(np.int64)


def _noise(name: str, length: int) -> np.ndarray:
    """(length,) int64: a room's noise floor of about 5 units, from the frozen legacy generator, by utterance name.

    Digital silence would make features that hang on the dither alone.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.RandomState(seed).randint(-4, 5, size=(4, length)).sum(axis=0)


def speak(name: str, speaker: Speaker, text: str) -> Utterance:
    """One `Utterance` of `text` by `speaker`; `name` (SPEAKER_SENTENCE) seeds its noise and names it in errors.

    Raises:
        StageError: a synthesiser is missing, fails, or names a phone that is not known.
    """
    synthesise = _flite if speaker.synthesiser == "flite" else _espeak
    rate_hz, raw, spoken = synthesise(name, speaker, text)
    ratio = (Fraction(rate_hz, RATE_HZ) * speaker.warp).limit_denominator(_MAX_PHASES)
    loud = resample(raw, ratio)
    peak = max(1, int(np.abs(loud).max()))
    # Rounded division by hand: (2ab + c) // 2c, all in int64.
    samples = (2 * PEAK * loud + peak) // (2 * peak) + _noise(name, len(loud))
    samples_a_ms = Fraction(rate_hz, 1000) / ratio
    last = len(samples)
    segments = []
    for start, end, phone in to_timit(spoken):
        begin, finish = min(last, int(start * samples_a_ms)), min(last, int(end * samples_a_ms))
        segments.append((begin, finish, phone))
    segments[-1] = (segments[-1][0], last, segments[-1][2])
    for begin, finish, phone in segments:
        if finish <= begin:
            raise StageError("{}: the phone {} at sample {} has no length".format(name, phone, begin))
    return Utterance(samples.astype("<i2"), segments)
