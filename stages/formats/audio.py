"""Waves of TIMIT's kinds: NIST SPHERE and RIFF, uncompressed, 16 bits, one channel.

Read by a few lines of our own, since fidelity needs the very samples: a general library would also widen, scale or mix
what is not in this form, and a wave that Kaldi would refuse must not slip through.
"""

import struct

from stages.shared.stage import StageError

_HINT_FORMAT = "Uncompressed 16-bit mono is needed: convert it (sph2pipe -p for SPHERE), keeping its samples."
_PCM = 1
_EXTENSIBLE = 0xFFFE


class Wave:
    """What a header says: container 'sphere' or 'riff', rate in Hz, samples, and where and how these lie."""

    def __init__(self, container, rate_hz, num_samples, offset_bytes, big_endian):
        self.container = container
        self.rate_hz = rate_hz
        self.num_samples = num_samples
        self.offset_bytes = offset_bytes
        self.big_endian = big_endian


def parse(data, name):
    """Read the header of a whole file's bytes; StageError, naming `name`, if a sample is missing or of another kind."""
    if data[:7] == b"NIST_1A":
        wave = _parse_sphere(data, name)
    elif data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        wave = _parse_riff(data, name)
    else:
        raise StageError("{}: neither NIST SPHERE nor RIFF WAVE".format(name), _HINT_FORMAT)
    if len(data) < wave.offset_bytes + 2 * wave.num_samples:
        raise StageError(
            "{}: cut short, {} bytes for {} samples".format(name, len(data), wave.num_samples), "Copy it again."
        )
    return wave


def samples(data, wave):
    """int16 samples (num_samples,) of a file that `parse` accepted, in the machine's byte order."""
    import numpy  # here, so that the corpus stage needs the standard library alone

    kind = ">i2" if wave.big_endian else "<i2"
    return numpy.frombuffer(data, kind, wave.num_samples, wave.offset_bytes).astype(numpy.int16)


def _parse_sphere(data, name):
    try:
        header_bytes = int(data[8:16])
        fields = _sphere_fields(data[16:header_bytes].decode("ascii"))
        coding = fields.get("sample_coding", "pcm")
        width_bytes, channels = int(fields["sample_n_bytes"]), int(fields["channel_count"])
        num_samples, rate_hz = int(fields["sample_count"]), int(fields["sample_rate"])
        order = fields["sample_byte_format"]
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise StageError("{}: broken SPHERE header: {}".format(name, error), "Copy it again.") from error
    if coding != "pcm" or width_bytes != 2 or channels != 1 or order not in ("01", "10"):
        found = "{}, {} bytes a sample, {} channels, byte order {}".format(coding, width_bytes, channels, order)
        raise StageError("{}: SPHERE samples of another kind: {}".format(name, found), _HINT_FORMAT)
    if num_samples < 0 or header_bytes < 16:
        raise StageError("{}: broken SPHERE header: negative sizes".format(name), "Copy it again.")
    return Wave("sphere", rate_hz, num_samples, header_bytes, order == "10")


def _sphere_fields(text):
    fields = {}
    for line in text.split("\n"):
        words = line.split(None, 2)
        if words[:1] == ["end_head"]:
            return fields
        if len(words) == 3 and words[1].startswith("-"):
            fields[words[0]] = words[2].strip()
    raise ValueError("no end_head")


def _parse_riff(data, name):
    wave_format = None
    position = 12
    while position + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, position)
        position += 8
        if kind == b"fmt " and size >= 16 and position + size <= len(data):
            wave_format = _riff_format(data, position, size)
        elif kind == b"data":
            if wave_format is None:
                break
            code, channels, rate_hz, bits = wave_format
            if code != _PCM or channels != 1 or bits != 16:
                found = "format {}, {} channels, {} bits".format(code, channels, bits)
                raise StageError("{}: RIFF samples of another kind: {}".format(name, found), _HINT_FORMAT)
            return Wave("riff", rate_hz, size // 2, position, False)
        position += size + size % 2
    raise StageError(
        "{}: broken RIFF header: no format before the samples, or no samples".format(name), "Copy it again."
    )


def _riff_format(data, position, size):
    code, channels, rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", data, position)
    if code == _EXTENSIBLE and size >= 26:
        (code,) = struct.unpack_from("<H", data, position + 24)  # the first field of the sub-format's identifier
    return code, channels, rate_hz, bits
