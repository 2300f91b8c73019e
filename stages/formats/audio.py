"""Waves of TIMIT's kinds, read by libsndfile: NIST SPHERE and RIFF, uncompressed, 16 bits, one channel.

libsndfile widens, mixes and guesses where a file is of another kind or broken, and fidelity needs the very samples. So
what it does not tell is checked here: the length that a header announces, against the bytes that are there (libsndfile
reads what it finds); the byte order of SPHERE; and lengths of RIFF that were never written, as programs that write into
a pipe leave them (libsndfile reads some of these as empty): the samples then go on to the file's end.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
from typing import Dict, Iterator, NamedTuple, Tuple

import numpy
import soundfile

from stages.shared.stage import StageError

SPHERE, RIFF = "sphere", "riff"
_FORMATS = {"NIST": SPHERE, "WAV": RIFF, "WAVEX": RIFF}
_SUBTYPE = "PCM_16"
_SAMPLE_BYTES = 2
_BYTE_ORDERS = {"01": "LITTLE", "10": "BIG"}  # SPHERE's names: libsndfile's
_AS_IN_ITS_FORMAT = "FILE"
_HINT_FORMAT = "Uncompressed 16-bit mono is needed: convert it (sph2pipe -p for SPHERE), keeping its samples."
_HINT_COPY = "Copy it again."
# sox writes 0x7FFFF000 into a pipe, arecord 0x80000000, ffmpeg 0xFFFFFFFF; no file that is read here is as large.
_NEVER_WRITTEN_FROM = 0x7FFF0000


class Wave(NamedTuple):
    """What a header says.

    Attributes:
        container: SPHERE or RIFF.
        rate_hz: sampling rate.
        num_samples: samples of the one channel; all of them are there.
    """

    container: str
    rate_hz: int
    num_samples: int


def parse(data: bytes, name: str) -> Wave:
    """Read the header of a whole file's bytes.

    Raises:
        StageError: naming `name`: a sample is missing, or they are of another kind.
    """
    with _opened(data, name) as (_, wave):
        return wave


def read(data: bytes, name: str) -> Tuple[Wave, numpy.ndarray]:
    """As `parse`, with the samples: (num_samples,) int16 in the machine's byte order."""
    with _opened(data, name) as (stream, wave):
        return wave, stream.read(wave.num_samples, dtype="int16")


class _Announced(NamedTuple):
    """What a header says; rate_hz is 0 where it is left to libsndfile, byte_order is libsndfile's name."""

    rate_hz: int
    num_samples: int
    byte_order: str


@contextlib.contextmanager
def _opened(data: bytes, name: str) -> Iterator[Tuple[soundfile.SoundFile, Wave]]:
    if data[:7] == b"NIST_1A":
        container = SPHERE
        announced = _sphere_header(data, _sphere_fields(data, name), name)
    elif data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        container = RIFF
        data, num_samples = _with_length(data, name)
        announced = _Announced(0, num_samples, _AS_IN_ITS_FORMAT)
    else:
        raise StageError("{}: neither NIST SPHERE nor RIFF WAVE".format(name), _HINT_FORMAT)
    try:
        stream = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.SoundFileRuntimeError as error:
        reason = str(error).rpartition(">: ")[2]
        raise StageError("{}: libsndfile cannot read it: {}".format(name, reason), _HINT_FORMAT) from error
    with stream:
        found = _FORMATS.get(stream.format), stream.subtype, stream.channels, stream.endian
        if found != (container, _SUBTYPE, 1, announced.byte_order):
            kind = "{}, {} channels, byte order {}".format(stream.subtype_info, stream.channels, stream.endian)
            raise StageError("{}: {} samples of another kind: {}".format(name, container.upper(), kind), _HINT_FORMAT)
        if stream.frames < announced.num_samples:
            told = "{} samples where {} belong".format(stream.frames, announced.num_samples)
            raise StageError("{}: {}".format(name, told), _HINT_COPY)
        yield stream, Wave(container, announced.rate_hz or stream.samplerate, announced.num_samples)


def _sphere_fields(data: bytes, name: str) -> Dict[str, str]:
    """The fields of a SPHERE header by name; what stands behind `end_head` is padding, whatever it is."""
    try:
        text, end, _ = data[16 : int(data[8:16])].partition(b"\nend_head")
        if not end:
            raise ValueError("no end_head")
        found = re.findall(r"^(\S+) +-\S+ +(.*)$", text.decode("ascii"), re.MULTILINE)
        return {field: value.rstrip(" ") for field, value in found}
    except ValueError as error:
        raise StageError("{}: broken SPHERE header: {}".format(name, error), _HINT_COPY) from error


def _sphere_header(data: bytes, fields: Dict[str, str], name: str) -> _Announced:
    """What a SPHERE header announces, once what libsndfile would guess or pass over is checked.

    libsndfile looks for its fields anywhere in the text, and does not look at the number of samples.
    """
    try:
        header_bytes, num_samples = int(data[8:16]), int(fields["sample_count"])
        width_bytes, channels, rate_hz = (
            int(fields[field]) for field in ("sample_n_bytes", "channel_count", "sample_rate")
        )
        order = fields["sample_byte_format"]
    except (ValueError, KeyError) as error:
        raise StageError("{}: broken SPHERE header: {}".format(name, error), _HINT_COPY) from error
    coding = fields.get("sample_coding", "pcm")
    if coding != "pcm" or width_bytes != _SAMPLE_BYTES or channels != 1 or order not in _BYTE_ORDERS:
        found = "{}, {} bytes per sample, {} channels, byte order {}".format(coding, width_bytes, channels, order)
        raise StageError("{}: SPHERE samples of another kind: {}".format(name, found), _HINT_FORMAT)
    if num_samples < 0 or rate_hz < 1 or header_bytes < 16:
        raise StageError("{}: broken SPHERE header: negative sizes".format(name), _HINT_COPY)
    _require(len(data) - header_bytes, num_samples, name)
    return _Announced(rate_hz, num_samples, _BYTE_ORDERS[order])


def _with_length(data: bytes, name: str) -> Tuple[bytes, int]:
    """(the RIFF file, samples that it announces); a length that was never written is written in."""
    position = 12
    while position + 8 <= len(data):
        kind, size_bytes = struct.unpack_from("<4sI", data, position)
        position += 8
        if kind == b"data":
            there_bytes = len(data) - position
            unclosed = size_bytes == 0 and struct.unpack_from("<I", data, 4)[0] != len(data) - 8
            if size_bytes >= _NEVER_WRITTEN_FROM or unclosed:
                size_bytes = there_bytes
                if size_bytes % _SAMPLE_BYTES:
                    raise StageError(
                        "{}: its length was never written, and it ends within a sample".format(name),
                        "It was written into a pipe and cut short: make it again.",
                    )
                sizes = struct.pack("<I", len(data) - 8), struct.pack("<I", size_bytes)
                data = b"".join((data[:4], sizes[0], data[8 : position - 4], sizes[1], data[position:]))
            _require(there_bytes, size_bytes // _SAMPLE_BYTES, name)
            return data, size_bytes // _SAMPLE_BYTES
        position += size_bytes + size_bytes % 2
    raise StageError("{}: broken RIFF header: no samples".format(name), _HINT_COPY)


def _require(there_bytes: int, num_samples: int, name: str) -> None:
    if there_bytes < _SAMPLE_BYTES * num_samples:
        raise StageError(
            "{}: cut short, {} bytes for {} samples".format(name, max(0, there_bytes), num_samples), _HINT_COPY
        )
