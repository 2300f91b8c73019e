"""The explorer: what it shows is what the run's bytes say, and of a user's data no sound unless it was asked for."""

from __future__ import annotations

import base64
import io
import json
import re
import wave
import zlib
from array import array
from pathlib import Path

import pytest
from _audit_cases import PATHS, RUN, SIZE, make_run, stored

from repro.base.errors import UsageError, VerificationFailed
from repro.explore.commands import Wanted, explore
from repro.explore.media import Sounds, Spectrograms, mu_law, samples_of
from repro.explore.page import PAGE, Explored, write_pages
from repro.explore.utterances import Detail, Utterance

HOSTILE = '</script><script>alert(1)</script>"\x1b[2J\u202e\u2028&'


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("explored")
    make_run(folder)
    return folder


def page_of(folder: Path, to: Path, **wanted) -> tuple[str, dict]:
    """The page's text, and the data in it."""
    place = str(folder / "results" / "runs" / RUN)
    text = explore(PATHS, Wanted(place, to=str(to), **wanted)).read_text("utf-8")
    return text, data_of(text)


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>', text)[1])


def details_of(text: str) -> list[list[bytes]]:
    """Of each utterance: posteriors, spectrogram and sound."""
    found = re.findall(r'<script type="text/plain" id="d\d+">\d+ (\S+) (\S+) (\S+)</script>', text)
    return [[b"" if part == "-" else zlib.decompress(base64.b64decode(part)) for part in parts] for parts in found]


def spelt(data: dict, letters: str) -> list[str]:
    return [data["phones"][data["letters"].index(letter)] for letter in letters]


def test_the_page_holds_each_utterance_as_the_score_has_it(run: Path, tmp_path: Path):
    _, data = page_of(run, tmp_path)
    lines = (stored(run, f"score@{SIZE}") / "out" / "utterances.jsonl").read_text().splitlines()
    expected = [(line["id"], line["reference"], line["complete"]["hypothesis"]) for line in map(json.loads, lines)]
    shown = [(row[0], *(" ".join(spelt(data, row[at])) for at in (3, 4))) for row in data["utterances"]]
    assert shown == expected


def test_the_likeliest_classes_of_the_posteriors_are_what_was_recognised(run: Path, tmp_path: Path):
    text, data = page_of(run, tmp_path)
    classes = len(data["classes"])
    for row, (posteriors, _, _) in zip(data["utterances"], details_of(text)):
        frames = [posteriors[at : at + classes] for at in range(0, len(posteriors), classes)]
        path = [frame.index(max(frame)) for frame in frames]
        heard = [best for best, before in zip(path, [0, *path]) if best not in (0, before)]
        assert [data["classes"][best] for best in heard] == spelt(data, row[4])


def test_of_a_user_s_data_nothing_can_be_heard_unless_it_was_asked_for(run: Path, tmp_path: Path):
    text, _ = page_of(run, tmp_path)
    assert details_of(text)
    assert all(parts[1:] == [b"", b""] for parts in details_of(text))
    assert "Made from a data set of yours" in text and "Not to be passed on" not in text
    with pytest.raises(UsageError, match="--data is read for its sound only"):
        page_of(run, tmp_path, data=str(run / "TIMIT"))


def test_two_runs_side_by_side_say_first_what_changed(run: Path, tmp_path: Path):
    text, data = page_of(run, tmp_path, against=str(run / "results" / "runs" / RUN))
    assert "0 of 10 utterances are recognised otherwise." in text
    assert "Data, checkpoint, images and request are equal." in text
    assert all(row[4] == row[7] for row in data["utterances"])


def test_a_batch_size_that_the_run_has_not_is_wrong_use(run: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="no result of batch size 99"):
        page_of(run, tmp_path, bs=99)


def test_outputs_that_are_not_the_record_s_are_refused(tmp_path: Path):
    make_run(tmp_path / "run")
    outputs = stored(tmp_path / "run", f"infer@{SIZE}") / "out" / "result" / "inputs_0_0.npy"
    outputs.chmod(0o644)
    outputs.write_bytes(outputs.read_bytes()[:-4] + b"\0\0\0\xc0")
    with pytest.raises(VerificationFailed, match=r"inputs_0_0\.npy has sha256"):
        page_of(tmp_path / "run", tmp_path / "page")


def explored(count: int, text: str = "") -> Explored:
    utterances = [
        Utterance(f"U{number}{text}", f"S{number % 7}{text}", "DR1", f"words {text}", ("aa", "b" + text), ("aa", "d"))
        for number in range(count)
    ]
    return Explored(
        f"title {text}", f"notice {text}", ["run"], [("fact", ["1"])], [], ["blank", "aa"], True, utterances
    )


def test_hostile_words_stay_text_in_the_page(tmp_path: Path):
    text = write_pages(explored(3, HOSTILE), [Detail(1)] * 3, tmp_path).read_text("utf-8")
    assert text.count("<script") == text.count("</script>") == 1 + 3 + 1
    assert all(letter == "\n" or letter.isprintable() for letter in text)
    assert "</script><script>alert(1)</script>" in data_of(text)["utterances"][0][0]


def test_a_large_run_is_a_list_and_pages_that_hold_each_detail_once(tmp_path: Path):
    details = (Detail(1, posteriors=number.to_bytes(2, "big")) for number in range(450))
    index = write_pages(explored(450), details, tmp_path).read_text("utf-8")
    pages = sorted(path.name for path in tmp_path.iterdir() if path.name != PAGE)
    assert data_of(index)["parts"] == pages and len(pages) == 5
    assert details_of(index) == [] and len(data_of(index)["utterances"]) == 450
    found = [parts[0] for name in pages for parts in details_of((tmp_path / name).read_text("utf-8"))]
    assert found == [number.to_bytes(2, "big") for number in range(450)]


def test_equal_runs_give_equal_pages(run: Path, tmp_path: Path):
    assert page_of(run, tmp_path / "a") == page_of(run, tmp_path / "b")


def test_the_policy_names_the_one_script_and_the_style_by_their_hashes(tmp_path: Path):
    import hashlib

    text = write_pages(explored(1), [Detail(1)], tmp_path).read_text("utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    for tag in ("script", "style"):
        inline = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


def sphere(samples: list[int], order: str = "01", channels: int = 1) -> bytes:
    head = f"NIST_1A\n   1024\nchannel_count -i {channels}\nsample_n_bytes -i 2\nsample_byte_format -s2 {order}\n"
    body = b"".join(sample.to_bytes(2, "little" if order == "01" else "big", signed=True) for sample in samples)
    return head.encode().ljust(1024) + body


def riff(samples: list[int], channels: int = 1) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(array("h", samples).tobytes())
    return stream.getvalue()


SAMPLES = [0, 1, -1, 300, -300, 32767, -32768]


@pytest.mark.parametrize("data", [sphere(SAMPLES), sphere(SAMPLES, "10"), riff(SAMPLES)])
def test_samples_are_those_of_the_file(data: bytes):
    assert list(samples_of(data, "x.wav")) == SAMPLES


@pytest.mark.parametrize("data", [b"", b"RIFFxxxx", riff([0, 0], 2), sphere([0, 0], channels=2), b"NIST_1A\n  what\n"])
def test_what_is_no_speech_of_one_channel_is_refused(data: bytes):
    with pytest.raises(VerificationFailed, match=r"x\.wav"):
        samples_of(data, "x.wav")


def test_mu_law_is_g_711():
    assert mu_law(array("h", [0, -1, 32767, -32768, 1000, -1000])).hex() == "ff7f8000ce4e"


class Told:
    """Evidence that holds these files of two stages."""

    def __init__(self, files: dict[str, bytes]):
        self.files = files

    def stage(self, key: str) -> str:
        return key

    def file(self, stage: str, name: str) -> bytes:
        return self.files[f"{stage}/{name}"]


def test_a_wave_of_another_data_set_is_refused(tmp_path: Path):
    (tmp_path / "A.WAV").write_bytes(riff(SAMPLES))
    listed = "U1\tA.WAV\triff\t16000\t{}\nU2\tB.WAV\triff\t16000\t7\n"
    sounds = Sounds(Told({"corpus/dev/audio.tsv": listed.format(7).encode()}), "dev", tmp_path)
    assert len(sounds.of("U1")) == 7 and sounds.of("U2") == sounds.of("U3") == b""
    other = Sounds(Told({"corpus/dev/audio.tsv": listed.format(8).encode()}), "dev", tmp_path)
    with pytest.raises(VerificationFailed, match="7 samples, the run's had 8"):
        other.of("U1")


def test_a_wave_outside_the_data_set_is_refused(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "A.WAV").write_bytes(riff(SAMPLES))
    sounds = Sounds(Told({"corpus/dev/audio.tsv": b"U1\t../A.WAV\triff\t16000\t7\n"}), "dev", tmp_path / "data")
    with pytest.raises(VerificationFailed):
        sounds.of("U1")


def test_a_spectrogram_is_the_stored_matrix_every_second_column_without_the_energy(tmp_path: Path):
    from types import SimpleNamespace

    rows = [[99.0, *(float(number + row) for number in range(80))] for row in range(5)]
    matrix = b"\0BFM \4" + (5).to_bytes(4, "little") + b"\4" + (81).to_bytes(4, "little")
    matrix += b"".join(array("f", row).tobytes() for row in rows)
    (tmp_path / "out" / "dev").mkdir(parents=True)
    (tmp_path / "out" / "dev" / "fbank.ark").write_bytes(b"U1 " + matrix)
    stage = SimpleNamespace(outputs=SimpleNamespace(files={"dev/fbank.ark": SimpleNamespace(size_bytes=1 << 20)}))
    evidence = SimpleNamespace(
        stage=lambda key: stage,
        has=lambda stage, name: True,
        file=lambda stage, name: b"U1 dev/fbank.ark:3\n",
        stored=lambda stage: SimpleNamespace(folder=tmp_path),
    )
    levels = Spectrograms(evidence, "dev").of("U1")
    assert len(levels) == 3 * 40
    column = [half for byte in levels[:40] for half in (byte >> 4, byte & 15)]
    assert column == sorted(column) and column[0] == 0 and column[-1] >= 14
