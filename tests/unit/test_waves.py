"""Waves as they are met: what libsndfile reads wrongly or guesses is read right, or refused with the true reason."""

import struct

import numpy as np
import pytest
from _speech_cases import DEV, noise, riff, run_stage, small_corpus, sphere, summary, write_folder

from stages import corpus
from stages.formats import audio
from stages.shared.stage import StageError

SAMPLES = noise(4000)


def read(data):
    wave, samples = audio.read(data, "X.WAV")
    assert wave == audio.parse(data, "X.WAV")
    assert samples.dtype == np.int16
    assert wave.num_samples == len(samples)
    return wave, samples


def with_sizes(data, of_riff, of_samples):
    place = data.index(b"data") + 4
    return data[:4] + struct.pack("<I", of_riff) + data[8:place] + struct.pack("<I", of_samples) + data[place + 4 :]


def extensible(samples, code):
    """RIFF with the long form of the format, whose kind stands in its last 16 bytes."""
    data = np.asarray(samples).astype("<i2").tobytes()
    layout = struct.pack("<HHIIHHHHIH", 0xFFFE, 1, 16000, 32000, 2, 16, 22, 16, 4, code)
    layout += b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
    body = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\n", b"\x80", b"\xff"])
def test_padding_of_any_bytes_behind_end_head_is_no_matter(padding):
    wave, samples = read(sphere(SAMPLES, padding=padding))
    assert wave == ("sphere", 16000, 4000)
    assert (samples == SAMPLES).all()


def test_a_header_is_read_in_one_pass_however_its_spaces_lie():
    million = b" " * 1_000_000  # to look at each end that a value could have would take hours
    data = b"NIST_1A\n2100000\na -s10 b" + million + b"c  \nd -s1" + million + b"\nend_head\n"
    assert audio._sphere_fields(data, "x") == {"a": f"b{million.decode()}c", "d": ""}


@pytest.mark.parametrize("order", ["01", "10"])
def test_both_byte_orders_give_the_same_samples(order):
    assert (read(sphere(SAMPLES, order=order))[1] == SAMPLES).all()


@pytest.mark.parametrize(
    ("of_riff", "of_samples"),
    [
        (0, 0),
        (36, 0),  # a header that was written before the first sample, and never again
        (0x7FFFF024, 0x7FFFF000),  # sox into a pipe
        (0x80000024, 0x80000000),  # arecord
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg
        (0xFFFFFFFF, 0xFFFFFFDB),
    ],
)
def test_riff_whose_lengths_were_never_written_goes_on_to_the_files_end(of_riff, of_samples):
    wave, samples = read(with_sizes(riff(SAMPLES, before=b"LIST\x03\0\0\0abc\0"), of_riff, of_samples))
    assert wave == ("riff", 16000, 4000)
    assert (samples == SAMPLES).all()


def test_riff_without_a_sample_and_with_true_lengths_is_empty():
    data = riff(np.zeros(0))
    assert read(data)[0].num_samples == 0
    assert read(with_sizes(data + b"LIST\x04\0\0\0abcd", len(data) + 4, 0))[0].num_samples == 0


def test_riff_without_lengths_that_ends_within_a_sample_is_refused_with_that_reason():
    with pytest.raises(StageError, match="never written, and it ends within a sample"):
        read(with_sizes(riff(SAMPLES), 0, 0)[:-1])


def test_what_follows_the_samples_is_not_taken_for_samples():
    assert (read(riff(SAMPLES) + b"LIST\x04\0\0\0abcd")[1] == SAMPLES).all()
    assert (read(sphere(SAMPLES, count=100))[1] == SAMPLES[:100]).all()  # libsndfile takes all there is


def test_long_form_of_the_format_is_read_where_it_holds_plain_samples():
    assert (read(extensible(SAMPLES, 1))[1] == SAMPLES).all()
    with pytest.raises(StageError, match=r"another kind|cannot read"):
        read(extensible(SAMPLES, 3))


TWO = b"\nchannel_count -i 2"
REFUSED = {
    "two channels in SPHERE": (sphere(SAMPLES).replace(b"channel_count -i 1", b"channel_count -i 2"), "2 channels"),
    "8 bits in SPHERE": (sphere(SAMPLES).replace(b"n_bytes -i 2", b"n_bytes -i 1"), "1 bytes per sample"),
    "shorten": (sphere(SAMPLES, coding="pcm,embedded-shorten-v2.00"), "embedded-shorten-v2.00"),
    "mu-law": (sphere(SAMPLES, coding="ulaw"), "ulaw"),
    "no byte order": (sphere(SAMPLES).replace(b"sample_byte_format", b"sample_byte_formal"), "sample_byte_format"),
    "a byte order of three": (sphere(SAMPLES, order="21"), "byte order 21"),
    "two channels in RIFF": (riff(SAMPLES, channels=2), "2 channels"),
    "8 bits in RIFF": (riff(SAMPLES, bits=8), "Unsigned 8 bit"),
    "24 bits in RIFF": (riff(SAMPLES, bits=24), "Signed 24 bit"),
    "A-law in RIFF": (riff(SAMPLES, bits=8, code=6), "A-Law"),
    "a sample missing in SPHERE": (sphere(SAMPLES)[:-1], "cut short, 7999 bytes for 4000 samples"),
    "a sample missing in RIFF": (riff(SAMPLES)[:-1], "cut short, 7999 bytes for 4000 samples"),
    "a byte order that libsndfile does not find": (
        sphere(SAMPLES, order="10").replace(b"sample_byte_format -s2", b"sample_byte_format -s1"), "byte order LITTLE",
    ),
    "a header of less than no bytes": (sphere(SAMPLES).replace(b"   1024", b"  -1024"), "broken SPHERE header"),
    "big-endian RIFX": (b"RIFX" + riff(SAMPLES)[4:], "neither NIST SPHERE nor RIFF"),
    # libsndfile takes the first text that looks like a field, wherever it stands
    "a field's name within another": (
        sphere(SAMPLES, fields=["session_channel_count -i 2"]), "Signed 16 bit PCM, 2 channels",
    ),
    "two channels, and one in another field": (
        sphere(SAMPLES, fields=["session_channel_count -i 1"]).replace(b"\nchannel_count -i 1", TWO), "2 channels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_samples_of_another_kind_or_number_are_refused(kind):
    data, reason = REFUSED[kind]
    with pytest.raises(StageError, match=f"^X.WAV: .*{reason}"):
        audio.read(data, "X.WAV")


def test_rate_is_the_headers_own_field():
    assert read(sphere(SAMPLES, fields=["original_sample_rate -i 44100"]))[0].rate_hz == 16000


def test_reason_in_a_result_holds_nothing_of_this_process(tmp_path):
    files = small_corpus()
    files.update({key.replace("SX2", "SX9"): value for key, value in files.items() if "SX2" in key})
    files[DEV + ".WAV"] = riff(SAMPLES, code=3)
    data = write_folder(tmp_path / "timit", files)
    conf = corpus.__file__.replace("stages/corpus.py", "conf/timit")
    (excluded,) = summary(run_stage(corpus, tmp_path, "--data", data, "--conf", conf, "--skip-bad"))["excluded"]
    assert excluded["reason"].startswith(DEV + ".WAV: libsndfile cannot read it: ")
    assert "BytesIO" not in excluded["reason"]
    assert "0x" not in excluded["reason"]


def test_samples_are_those_of_the_files_bytes():
    """What fidelity needs: no scaling, no dither, no clipping by the library."""
    extremes = np.array([0, 1, -1, 32767, -32768, 12345], np.int16)
    for data in (sphere(extremes), sphere(extremes, order="10"), riff(extremes)):
        assert (audio.read(data, "x")[1] == extremes).all()
