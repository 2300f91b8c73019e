"""Make the demo corpus: synthetic speech in TIMIT's own layout, the same bytes every time.

out/TRAIN and out/TEST hold DRn/SPEAKER/SENTENCE.{WAV,PHN,WRD,TXT} (NIST SPHERE, 16 kHz, 16 bits), out/README.DOC says
what it is. The digest is the sha256 of the lines `SHA256  PATH` of all files in byte order of PATH, as sha256sum
would print them; it is printed on stdout and written to obs/demo_corpus.json with the counts.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from typing import NamedTuple, Sequence

import numpy

from stages.demo import synth
from stages.demo import text as sentences
from stages.demo.voices import SENTENCES_A_SPEAKER, SPEAKERS, Speaker
from stages.shared import stage
from stages.shared import workers as stage_workers

_SEED = "lstm-ctc demo corpus 1"
_HEADER_BYTES = 1024

_README = """\
THIS IS NOT TIMIT. IT IS SYNTHETIC DEMO SPEECH.

Every utterance was made by a speech synthesiser (flite or espeak-ng) from sentences that a program drew. The folder
has TIMIT's layout, and its dev and test speakers carry names from TIMIT's speaker lists, only so that a program that
reads TIMIT reads it unchanged. Nothing was recorded, and no part of TIMIT is in it.

Error rates on it say that a pipeline works. They say nothing about a recogniser's quality on human speech, and must
not be compared with any figure published for TIMIT.

Phone times (.PHN) come from the synthesisers; stops are split 55 to 45 into closure and release. Word times (.WRD)
are estimates: the speech divided in proportion to the words' letters.
"""


class Job(NamedTuple):
    """One utterance to make."""

    speaker: Speaker
    sentence: str
    text: str

    @property
    def name(self) -> str:
        return self.speaker.name + "_" + self.sentence

    @property
    def path(self) -> str:
        """Relative, without suffix."""
        top = "TRAIN" if self.speaker.split == "train" else "TEST"
        return "{}/DR{}/{}/{}".format(top, self.speaker.region, self.speaker.name, self.sentence)


def plan() -> list[Job]:
    """Every `Job` of the corpus, in a fixed order; no text but the SA sentences occurs twice."""
    jobs = []
    texts = sentences.sentences(_SEED)
    number = 0
    # Dev and test are drawn first: another number of train sentences leaves them as they are.
    for split in ("dev", "test", "train"):
        for speaker in SPEAKERS:
            if speaker.split != split:
                continue
            for index, text in enumerate(sentences.SHARED_SENTENCES):
                jobs.append(Job(speaker, "SA{}".format(index + 1), text))
            for index in range(SENTENCES_A_SPEAKER[split]):
                number += 1
                kind = "SX" if index % 8 < 5 else "SI"  # TIMIT's own proportion
                jobs.append(Job(speaker, "{}{}".format(kind, number), next(texts)))
    return jobs


def sphere(samples: numpy.ndarray) -> bytes:
    """A NIST SPHERE file of (n,) int16 samples, one channel, 16 kHz."""
    fields = (
        "NIST_1A",
        "{:7d}".format(_HEADER_BYTES),
        "sample_count -i {}".format(len(samples)),
        "sample_n_bytes -i 2",
        "channel_count -i 1",
        "sample_byte_format -s2 01",
        "sample_rate -i {}".format(synth.RATE_HZ),
        "sample_coding -s3 pcm",
        "end_head",
        "",
    )
    return "\n".join(fields).encode("ascii").ljust(_HEADER_BYTES) + samples.astype("<i2").tobytes()


def word_lines(text: str, segments: Sequence[tuple[int, int, str]]) -> str:
    """The .WRD file: the time between the edge silences, divided in proportion to the words' letters."""
    words = sentences.words_of(text)
    start, end = segments[0][1], segments[-1][0]
    letters = sum(len(word) for word in words)
    lines = []
    said = 0
    for word in words:
        begin = start + (end - start) * said // letters
        said += len(word)
        lines.append("{} {} {}\n".format(begin, start + (end - start) * said // letters, word))
    return "".join(lines)


def _make(out: str, job: Job) -> int:
    utterance = synth.speak(job.name, job.speaker, job.text)
    phones = "".join("{} {} {}\n".format(*segment) for segment in utterance.segments)
    files = {
        ".WAV": sphere(utterance.samples),
        ".PHN": phones.encode(),
        ".WRD": word_lines(job.text, utterance.segments).encode(),
        ".TXT": "0 {} {}\n".format(len(utterance.samples), job.text).encode(),
    }
    for suffix, content in files.items():
        path = os.path.join(out, job.path + suffix)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with stage.atomic_file(path) as stream:
            stream.write(content)
    return len(utterance.samples)


def corpus_digest(folder: str) -> str:
    """Hex sha256 over the sorted list of `SHA256  PATH` lines of every file below `folder`."""
    paths = []
    for here, folders, names in os.walk(folder):
        folders.sort()
        paths += [os.path.relpath(os.path.join(here, name), folder) for name in names]
    listing = hashlib.sha256()
    for path in sorted(paths, key=lambda text: text.encode()):
        with open(os.path.join(folder, path), "rb") as stream:
            digest = hashlib.sha256(stream.read()).hexdigest()
        listing.update("{}  {}\n".format(digest, path).encode())
    return listing.hexdigest()


def make(out: str, jobs: Sequence[Job], workers: int) -> dict[str, float]:
    """Write the corpus of `jobs` under `out`; returns the seconds of speech per split."""
    samples = {"train": 0, "dev": 0, "test": 0}
    progress = stage.Progress("demo corpus", len(jobs))
    for job, count in stage_workers.in_order(functools.partial(_make, out), jobs, workers):
        samples[job.speaker.split] += count
        progress.advance()
    with stage.atomic_file(os.path.join(out, "README.DOC"), "w") as stream:
        stream.write(_README)
    return {split: count / synth.RATE_HZ for split, count in samples.items()}


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument(
        "--workers", type=int, default=stage_workers.processors(), help="utterances made at a time (all CPUs)"
    )
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error("--workers must be at least 1")
    jobs = plan()
    seconds = make(options.out, jobs, options.workers)
    digest = corpus_digest(options.out)
    stage.write_json(
        os.path.join(options.obs, "demo_corpus.json"),
        {"digest": digest, "utterances": len(jobs), "speech_s": seconds, "workers": options.workers},
    )
    print(json.dumps({"digest": digest, "utterances": len(jobs)}, sort_keys=True))


if __name__ == "__main__":
    stage.run(main)
