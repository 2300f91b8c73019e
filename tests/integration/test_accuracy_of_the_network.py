"""A checkpoint of a user's on a corpus of TIMIT's shape and counts: its planted error rate decides the second verdict.

Runs the network on 400 utterances twice, some minutes: only with `invoke test --full`. Its short form, with planted
outputs in place of the network's, is tests/unit/test_accuracy_alone.py.
"""

from __future__ import annotations

import json
import random
import wave
import zipfile
from io import BytesIO
from pathlib import Path

import msgspec
import pytest
from _runs import GOLDEN, ROOT, run
from rapidfuzz.distance import Levenshtein

from repro.guide.published import CER, WER, edits_allowed, load_published
from repro.guide.verdict import verdict
from repro.record.stage_files import CorpusFile, ScoreFile
from repro.run.record import data_found
from tests.forms import only_in_full
from tests.unit._record_cases import PUBLISHED_RUN, _result, demo_record, document_of, record_of

pytestmark = [
    only_in_full,
]
SIZE, SCORED, PHONES = 16, 384, 15057
PUBLISHED = load_published(ROOT / "conf/published.toml")
CONF = ROOT / "conf/timit"
CUT = 0.71  # of each wave: so many phones are heard in it as TIMIT's sentences have
_OUTPUT_ROWS, _HIDDEN = 41, 768


def golden_waves() -> list[tuple[bytes, int]]:
    """Golden's dev waves, cut: their samples and how many."""
    found = []
    for path in sorted((GOLDEN / "TIMIT/TEST").rglob("*.WAV")):
        samples = path.read_bytes()[1024:]
        count = int(len(samples) // 2 * CUT)
        found.append((samples[: 2 * count], count))
    return found[:10]


def riff(samples: bytes) -> bytes:
    target = BytesIO()
    with wave.open(target, "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(16000)
        stream.writeframes(samples)
    return target.getvalue()


def write_corpus(path: Path, dev: list[list[str]]) -> Path:
    """A data.zip of TIMIT's counts: golden's dev waves again and again, its train speech, pieces of it for the rest."""
    short, waves = riff(bytes(800)), golden_waves()
    train = [p.read_bytes()[1024:] for p in sorted((GOLDEN / "TIMIT/TRAIN").rglob("*.WAV"))]
    speakers = {name: (CONF / f"{name}_spk.list").read_text().upper().split() for name in ("dev", "test")}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:

        def add(stem: str, sound: bytes, phones: list[str]) -> None:
            target.writestr(stem + ".WAV", sound)
            named = ("h#" if phone == "sil" else phone for phone in phones)  # one of TIMIT's 61
            target.writestr(stem + ".PHN", "".join(f"{i} {i + 1} {phone}\n" for i, phone in enumerate(named)))
            target.writestr(stem + ".WRD", "0 1 word\n")

        units = (GOLDEN / "data/units").read_text().split()
        for number in range(462 * 8):
            speaker = "F" + "".join(chr(65 + number // 8 // 26**place % 26) for place in (2, 1, 0)) + "0"
            speech = train[number % len(train)]
            piece = number * 800 % (len(speech) - 800)  # one frame, so that the statistics stay those of speech
            sound = riff(speech if number < len(train) else speech[piece : piece + 800])
            add(f"TRAIN/DR1/{speaker}/SX{number % 8}", sound, units if number == 0 else ["sil"])
        for number in range(400):
            speaker = sorted(speakers["dev"])[number // 8]
            add(f"TEST/DR1/{speaker}/SX{number % 8}", riff(waves[number % len(waves)][0]), dev[number])
        for number in range(192):
            add(f"TEST/DR2/{speakers['test'][number // 8]}/SX{number % 8}", short, ["sil"])
    return path


def edits(reference: list[str], heard: list[str]) -> tuple[int, int]:
    """Phone edits, and the character edits of the published protocol, whose hypotheses begin with a space."""
    return (
        Levenshtein.distance(reference, heard),
        Levenshtein.distance(" ".join(reference), "".join(" " + phone for phone in heard)),
    )


def references(heard: list[list[str]]) -> list[list[str]]:
    """What was said, so that what was heard has the published error rates: wrong phones planted one after the other."""
    row, draw = PUBLISHED.rows[SIZE], random.Random(20261128)
    said = [list(phones) for phones in heard]
    lengths = [n for n in range(PHONES - 16 * 70, PHONES - 16 * 8) if edits_allowed(row.printed[WER], n)]
    target = min(lengths, key=lambda n: abs(n - sum(map(len, said[:SCORED]))))
    for first, last, wanted in ((0, SCORED, target), (SCORED, 400, PHONES - target)):
        while sum(map(len, said[first:last])) != wanted:  # what is not said is heard besides, or the other way round
            phones = said[draw.randrange(first, last)]
            if sum(map(len, said[first:last])) > wanted:
                if len(phones) > 1:
                    del phones[draw.randrange(len(phones))]
            elif len(phones) < 73:
                phones.insert(draw.randrange(len(phones) + 1), draw.choice(["k", "s", "t"]))
    (wer_target,) = edits_allowed(row.printed[WER], target)
    found = [edits(a, b) for a, b in zip(said[:SCORED], heard)]
    wer, cer = sum(each[0] for each in found), sum(each[1] for each in found)
    assert wer < wer_target, "what is heard has other lengths than TIMIT's sentences: change CUT"
    while wer < wer_target:
        number = draw.choices(range(SCORED), [len(phones) for phones in said[:SCORED]])[0]
        place = draw.randrange(len(said[number]))
        characters = sum(len(" ".join(phones)) for phones in said[:SCORED])
        left = 13.5502 / 100 * characters - cer
        tries = []
        for phone in ("k", "w", "s", "sh", "aa", "ah", "ih", "iy", "uw", "sil"):
            changed = [*said[number]]
            changed[place] = phone
            more_wer, more_cer = (new - old for new, old in zip(edits(changed, heard[number]), found[number]))
            if more_wer == 1:
                tries.append((abs(more_cer - left / (wer_target - wer)), phone, more_cer))
        if tries:
            _, phone, more_cer = min(tries)
            said[number][place] = phone
            found[number] = (found[number][0] + 1, found[number][1] + more_cer)
            wer, cer = wer + 1, cer + more_cer
    return with_allowed_characters(said, heard, draw)


def with_allowed_characters(said: list[list[str]], heard: list[list[str]], draw: random.Random) -> list[list[str]]:
    """Wrong phones exchanged for longer wrong ones until the references' characters allow the published rate."""
    while not edits_allowed(PUBLISHED.rows[SIZE].printed[CER], sum(len(" ".join(each)) for each in said[:SCORED])):
        number = draw.randrange(SCORED)
        places = [place for place, phone in enumerate(said[number]) if phone in ("k", "w")]
        if places:
            before = edits(said[number], heard[number])
            place = draw.choice(places)
            old, said[number][place] = said[number][place], "aa"
            if edits(said[number], heard[number])[0] != before[0]:
                said[number][place] = old
    return said


def with_rows_swapped(source: Path, target: Path, first: int, second: int) -> Path:
    """The checkpoint with two phones' output weights exchanged: it hears each for the other."""
    size = _OUTPUT_ROWS * _HIDDEN * 2
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(target, "w") as made:
        for entry in given.infolist():
            data = given.read(entry)
            if entry.file_size == size:
                rows = [data[at : at + 2 * _HIDDEN] for at in range(0, size, 2 * _HIDDEN)]
                rows[first], rows[second] = rows[second], rows[first]
                data = b"".join(rows)
            made.writestr(entry.filename, data)
    return target


def made(results: Path, stage: str, data: Path, checkpoint: Path) -> Path:
    """A stage's folder, made with all that it needs or taken from the store."""
    done = run(results, f"stage.{stage}", "--bs", str(SIZE), "--data", str(data), "--checkpoint", str(checkpoint),
               "--engine", "sandbox", timeout_s=3000)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def judged(results: Path, data: Path, checkpoint: Path):
    """The verdict of a record with the score of this checkpoint on this corpus."""
    score, corpus = (made(results, stage, data, checkpoint) for stage in ("score", "corpus"))
    summary = msgspec.json.decode((corpus / "summary.json").read_bytes(), type=CorpusFile)
    assert summary.timit.matches, summary.timit.deviations
    document = demo_record()
    document["request"].update(batch_sizes=[SIZE], data="timit", checkpoint="user")
    document["checkpoint"].update(kind="user", note="")
    document["data"] = document_of(data_found("timit", "5" * 64, summary))
    result = _result(SIZE, *PUBLISHED_RUN[8])
    protocols = msgspec.json.decode((score / "score.json").read_bytes(), type=ScoreFile).protocols
    result["published"] = document_of(protocols.published)
    document["results"] = [result]
    return verdict(record_of(document), PUBLISHED)


@pytest.mark.timeout(3600)
def test_a_users_checkpoint_is_consistent_or_not_as_its_planted_error_rate_asks(tmp_path: Path):
    checkpoint = tmp_path / "mine.pth"
    checkpoint.write_bytes((ROOT / "data/demo/checkpoint.pth").read_bytes())
    blank = write_corpus(tmp_path / "first.zip", [["sil"]] * 400)
    lines = (made(tmp_path / "results", "score", blank, checkpoint) / "utterances.jsonl").read_text().splitlines()
    heard = [json.loads(line)["complete"]["hypothesis"].split() for line in lines]
    data = write_corpus(tmp_path / "data.zip", references(heard))

    good = judged(tmp_path / "results", data, checkpoint)
    assert good.accuracy.outcome == "consistent", good.accuracy
    assert good.outcome == "not-comparable"

    worse = with_rows_swapped(checkpoint, tmp_path / "worse.pth", 2 + 1, 2 + 2)
    bad = judged(tmp_path / "results", data, worse)
    assert bad.accuracy.outcome == "inconsistent", bad.accuracy
    assert bad.outcome == "not-comparable"
