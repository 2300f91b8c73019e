"""From TIMIT, or a corpus in its layout, to lists: utterances, labels, units and where each wave lies.

Train is every speaker under TRAIN; dev and test are the speakers of two lists, both under TEST. SA sentences are left
out. Utterances are called SPEAKER_SENTENCE (upper case) and sorted by byte order. Waves are read in place, from a
folder or a zip, and checked to the last sample; `X.WAV.wav`, a repackager's second copy of `X.WAV`, is used only where
`X.WAV` is missing. A speaker's utterances are held at a time, so a corpus may be larger than memory.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import os
import re
import shutil
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

from stages.formats import audio, labels
from stages.formats.source import Source, find_corpus, open_source, without_version
from stages.shared.stage import Progress, StageError, atomic_file, parser, read_json, run, write_json

SPLITS = ("train", "dev", "test")
RATE_HZ = 16000
MIN_SAMPLES = 400  # one frame of 25 ms
_WAVE = re.compile(r"([^/.]+)\.wav(\.wav)?", re.IGNORECASE)
_LABELS = re.compile(r"([^/.]+)\.phn", re.IGNORECASE)
_NAME = re.compile(r"[A-Z0-9-]+")


class Found(NamedTuple):
    """The files of one utterance, as names in the source; None where there is none.

    Attributes:
        speaker: upper case.
        stem: the files' common name, as it is spelt.
        copy: a repackager's second copy of the wave.
    """

    speaker: str
    folder: str
    stem: str
    wave: str | None
    copy: str | None
    phn: str | None
    wrd: str | None

    @property
    def identifier(self) -> str:
        return self.speaker + "_" + self.stem.upper()


class Utterance(NamedTuple):
    """One accepted utterance: its id, its wave's name and header, phones of 39, words."""

    identifier: str
    speaker: str
    name: str
    wave: audio.Wave
    phones: list[str]
    words: list[str]


class Split:
    """The four lists of one split, written while its utterances come, sorted by id.

    Attributes:
        counts: speakers, utterances and phones so far.
    """

    _NAMES = ("utterances", "phn_text", "wrd_text", "audio.tsv")

    def __init__(self, folder: str, prefix: str) -> None:
        self._folder = folder
        self._prefix = prefix
        self._speaker: str | None = None
        self.counts = {"phones": 0, "speakers": 0, "utterances": 0}

    def __enter__(self) -> Split:
        os.mkdir(self._folder)
        with contextlib.ExitStack() as files:
            self._streams = [
                files.enter_context(atomic_file(os.path.join(self._folder, name), "w")) for name in self._NAMES
            ]
            self._open = files.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._open.__exit__(*error)

    def add(self, utterance: Utterance) -> None:
        wave = utterance.wave
        lines = (
            utterance.identifier + " " + utterance.name[len(self._prefix) :],
            " ".join([utterance.identifier, *utterance.phones]),
            " ".join([utterance.identifier, *utterance.words]),
            "\t".join([utterance.identifier, utterance.name, wave.container, str(wave.rate_hz), str(wave.num_samples)]),
        )
        for stream, line in zip(self._streams, lines):
            stream.write(line + "\n")
        self.counts["phones"] += len(utterance.phones)
        self.counts["speakers"] += utterance.speaker != self._speaker
        self.counts["utterances"] += 1
        self._speaker = utterance.speaker


def main(arguments: Sequence[str]) -> None:
    command = parser(__doc__)
    command.add_argument("--data", required=True, metavar="PATH", help="TIMIT's folder, or data.zip")
    command.add_argument("--conf", required=True, metavar="DIR", help="speaker lists, phone map, TIMIT's counts")
    command.add_argument(
        "--skip-bad", action="store_true", help="leave bad utterances out, listed, in place of failing"
    )
    options = command.parse_args(arguments)
    try:
        make(options)
    except BaseException:
        for split in SPLITS:  # whatever is refused leaves no half of a corpus behind
            shutil.rmtree(os.path.join(options.out, split), ignore_errors=True)
        raise


def make(options: argparse.Namespace) -> None:
    """Write all lists."""
    source = open_source(options.data)
    prefix, train, test = find_corpus(source)
    wanted = {
        "dev": labels.read_speakers(os.path.join(options.conf, "dev_spk.list")),
        "test": labels.read_speakers(os.path.join(options.conf, "test_spk.list")),
    }
    folding = labels.read_phone_map(os.path.join(options.conf, "phones.60-48-39.map"))
    timit = read_json(os.path.join(options.conf, "counts.json"))
    in_test = Speakers(source, prefix + test)
    chosen = {"train": Speakers(source, prefix + train)}
    for split in ("dev", "test"):
        chosen[split] = in_test.only(wanted[split])
    for split in ("train", "dev"):
        if not chosen[split].num_utterances:
            raise StageError(
                "{}: no utterance for the split {}".format(source.path, split),
                "dev takes the speakers of {} from TEST.".format(os.path.join(options.conf, "dev_spk.list")),
            )

    progress = Progress("corpus", sum(chosen[split].num_utterances for split in SPLITS))
    splits: dict[str, dict[str, int]] = {}
    excluded: list[dict[str, str]] = []
    units: dict[str, None] = {}
    copies = 0
    for split in SPLITS:
        with Split(os.path.join(options.out, split), prefix) as lists:
            for found in chosen[split].utterances():
                copies += bool(found.wave and found.copy)
                utterance = read_or_leave_out(source, found, folding, excluded if options.skip_bad else None)
                if utterance is not None:
                    lists.add(utterance)
                    if split == "train":
                        # Class ids are the order of first appearance plus 2 (0 blank, 1 UNK).
                        units.update(dict.fromkeys(utterance.phones))
                progress.advance()
        splits[split] = lists.counts
        if split != "test" and not lists.counts["utterances"]:
            raise StageError("{}: every utterance of {} is bad".format(source.path, split), excluded[-1]["reason"])

    with atomic_file(os.path.join(options.out, "units"), "w") as stream:
        stream.writelines(unit + "\n" for unit in units)
    deviations = deviations_from(timit, splits)
    write_json(
        os.path.join(options.out, "summary.json"),
        {
            "excluded": excluded,
            "second_copies_ignored": copies,
            "splits": splits,
            "timit": {"deviations": deviations, "matches": not deviations},
        },
    )


class Speakers:
    """Where the utterances of TRAIN or TEST lie, sorted by speaker: one folder's name per speaker is all that is held.

    Attributes:
        num_utterances: how many there are; SA sentences are left out.
    """

    # No speaker's name holds this, so that names sort as the ids SPEAKER_SENTENCE do.
    _AFTER_SPEAKER = "_ "

    def __init__(self, source: Source, top: str) -> None:
        self._source = source
        self._places: list[str] = []
        self.num_utterances = 0
        for folder, names in source.walk(top):
            found = [] if folder == top else in_folder(source, folder, names)
            if found:
                self._places.append(found[0].speaker + self._AFTER_SPEAKER + folder)
                self.num_utterances += len(found)
        self._places.sort()

    def only(self, speakers: frozenset[str]) -> Speakers:
        """Those of some speakers."""
        result = copy.copy(self)
        result._places = [place for place in self._places if self._speaker(place) in speakers]
        result.num_utterances = sum(
            len(in_folder(self._source, folder)) for folder in map(self._folder, result._places)
        )
        return result

    def utterances(self) -> Iterator[Found]:
        """Yield a `Found` for each, sorted by id; StageError where one lies in two folders."""
        for _, places in itertools.groupby(self._places, self._speaker):
            utterances: dict[str, Found] = {}
            for folder in map(self._folder, places):
                for found in in_folder(self._source, folder):
                    other = utterances.setdefault(found.identifier, found)
                    if other is not found:
                        raise StageError(
                            "{}: {} lies in {} and in {}".format(
                                self._source.path, found.identifier, other.folder, folder
                            ),
                            "Remove one.",
                        )
            for identifier in sorted(utterances):
                yield utterances[identifier]

    def _speaker(self, place: str) -> str:
        return place.partition(self._AFTER_SPEAKER)[0]

    def _folder(self, place: str) -> str:
        return place.partition(self._AFTER_SPEAKER)[2]


def in_folder(source: Source, folder: str, names: Sequence[str] | None = None) -> list[Found]:
    """A `Found` for each utterance right inside a speaker's folder, SA sentences left out."""
    names = source.files_in(folder) if names is None else names
    by_lower_case = {without_version(name).lower(): folder + "/" + name for name in names}
    speaker = folder.rpartition("/")[2].upper()
    utterances: dict[str, Found] = {}
    for name in names:
        plain = without_version(name)
        match = _WAVE.fullmatch(plain) or _LABELS.fullmatch(plain)
        if not match or match.group(1).upper().startswith("SA"):
            continue
        stem = match.group(1)
        if not _NAME.fullmatch(speaker) or not _NAME.fullmatch(stem.upper()):
            raise StageError(
                "{}: {!r} is no name that TIMIT would give".format(source.path, folder + "/" + name),
                "Rename or remove it.",
            )
        files = [by_lower_case.get(stem.lower() + ending) for ending in (".wav", ".wav.wav", ".phn", ".wrd")]
        found = Found(speaker, folder, stem, *files)
        utterances.setdefault(found.identifier, found)
    return list(utterances.values())


def read_or_leave_out(
    source: Source, found: Found, folding: Mapping[str, str], excluded: list[dict[str, str]] | None
) -> Utterance | None:
    """An `Utterance`; where it is bad, None and a line in the list `excluded`, or without one a StageError."""
    try:
        return read_utterance(source, found, folding)
    except StageError as error:
        if excluded is None:
            hint = (error.hint + "\n" if error.hint else "") + "Or leave bad utterances out with --skip-bad."
            raise StageError("{}: {}".format(found.identifier, error.message), hint) from error
        excluded.append({"utterance": found.identifier, "reason": error.message})
        return None


def read_utterance(source: Source, found: Found, folding: Mapping[str, str]) -> Utterance:
    """Read and check all of one utterance; StageError, naming the file, for the first thing wrong with it."""
    name = found.wave or found.copy
    if not name or not found.phn or not found.wrd:
        kind = "wave (.WAV)" if not name else "phone labels (.PHN)" if not found.phn else "words (.WRD)"
        raise StageError("{}/{} has no {}".format(found.folder, found.stem, kind), "Copy the corpus again.")
    wave = audio.parse(source.read(name), name)
    if wave.rate_hz != RATE_HZ:
        raise StageError(
            "{}: {} Hz, not {}".format(name, wave.rate_hz, RATE_HZ), "The model knows speech at 16 kHz only."
        )
    if wave.num_samples < MIN_SAMPLES:
        raise StageError("{}: {} samples, less than one frame of {}".format(name, wave.num_samples, MIN_SAMPLES))
    phones = labels.fold(labels.third_column(source.read(found.phn), found.phn), folding, found.phn)
    if not phones:
        raise StageError("{}: no phone in it".format(found.phn), "Copy it again.")
    words = labels.third_column(source.read(found.wrd), found.wrd)
    return Utterance(found.identifier, found.speaker, name, wave, phones, words)


def deviations_from(timit: Mapping[str, Mapping[str, int]], splits: Mapping[str, Mapping[str, int]]) -> list[str]:
    """One line for each count that is not TIMIT's."""
    return [
        "{}: {} {}, TIMIT has {}".format(split, splits[split][what], what, number)
        for split in SPLITS
        for what, number in sorted(timit[split].items())
        if splits[split][what] != number
    ]


if __name__ == "__main__":
    run(main)
