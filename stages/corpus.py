"""From TIMIT, or a corpus in its layout, to lists: utterances, labels, units and where each wave lies.

Train is every speaker under TRAIN; dev and test are the speakers of two lists, both under TEST. SA sentences are left
out. Utterances are called SPEAKER_SENTENCE (upper case) and sorted by byte order. Waves are read in place, from a
folder or a zip, and checked to the last sample; `X.WAV.wav`, a repackager's second copy of `X.WAV`, is used only where
`X.WAV` is missing. A speaker's utterances are held at a time, so a corpus may be larger than memory.
"""

import contextlib
import copy
import itertools
import os
import re
import shutil

from stages.formats import audio, labels
from stages.formats.source import find_corpus, open_source, without_version
from stages.shared.stage import Progress, StageError, atomic_file, parser, read_json, run, write_json

SPLITS = ("train", "dev", "test")
RATE_HZ = 16000
MIN_SAMPLES = 400  # one frame of 25 ms
_WAVE = re.compile(r"([^/.]+)\.wav(\.wav)?", re.IGNORECASE)
_LABELS = re.compile(r"([^/.]+)\.phn", re.IGNORECASE)
_NAME = re.compile(r"[A-Z0-9-]+")


class Found:
    """The files of one utterance, as names in the source; None where there is none."""

    def __init__(self, speaker, folder, stem):
        self.speaker = speaker
        self.folder = folder
        self.stem = stem
        self.wave = None
        self.copy = None
        self.phn = None
        self.wrd = None

    @property
    def identifier(self):
        return self.speaker + "_" + self.stem.upper()


class Utterance:
    """One accepted utterance: its id, its wave's name and header, phones of 39, words."""

    def __init__(self, identifier, speaker, name, wave, phones, words):
        self.identifier = identifier
        self.speaker = speaker
        self.name = name
        self.wave = wave
        self.phones = phones
        self.words = words


class Split:
    """The four lists of one split, written while its utterances come, sorted by id.

    Attributes:
        counts: speakers, utterances and phones so far.
    """

    _NAMES = ("utterances", "phn_text", "wrd_text", "audio.tsv")

    def __init__(self, folder, prefix):
        self._folder = folder
        self._prefix = prefix
        self._speaker = None
        self.counts = {"phones": 0, "speakers": 0, "utterances": 0}

    def __enter__(self):
        os.mkdir(self._folder)
        with contextlib.ExitStack() as files:
            self._streams = [
                files.enter_context(atomic_file(os.path.join(self._folder, name), "w")) for name in self._NAMES
            ]
            self._open = files.pop_all()
        return self

    def __exit__(self, *error):
        return self._open.__exit__(*error)

    def add(self, utterance):
        wave = utterance.wave
        lines = (
            utterance.identifier + " " + utterance.name[len(self._prefix) :],
            " ".join([utterance.identifier] + utterance.phones),
            " ".join([utterance.identifier] + utterance.words),
            "\t".join([utterance.identifier, utterance.name, wave.container, str(wave.rate_hz), str(wave.num_samples)]),
        )
        for stream, line in zip(self._streams, lines):
            stream.write(line + "\n")
        self.counts["phones"] += len(utterance.phones)
        self.counts["speakers"] += utterance.speaker != self._speaker
        self.counts["utterances"] += 1
        self._speaker = utterance.speaker


def main(arguments):
    options = parser(__doc__)
    options.add_argument("--data", required=True, metavar="PATH", help="TIMIT's folder, or data.zip")
    options.add_argument("--conf", required=True, metavar="DIR", help="speaker lists, phone map, TIMIT's counts")
    options.add_argument(
        "--skip-bad", action="store_true", help="leave bad utterances out, listed, in place of failing"
    )
    options = options.parse_args(arguments)
    try:
        make(options)
    except BaseException:
        for split in SPLITS:  # whatever is refused leaves no half of a corpus behind
            shutil.rmtree(os.path.join(options.out, split), ignore_errors=True)
        raise


def make(options):
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
    splits, excluded, units, copies = {}, [], {}, 0
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
    """Where the utterances of TRAIN or TEST lie, sorted by speaker: a folder's name a speaker is all that is held.

    Attributes:
        num_utterances: how many there are; SA sentences are left out.
    """

    # No speaker's name holds this, so that names sort as the ids SPEAKER_SENTENCE do.
    _AFTER_SPEAKER = "_ "

    def __init__(self, source, top):
        self._source = source
        self._places = []
        self.num_utterances = 0
        for folder, names in source.walk(top):
            found = [] if folder == top else in_folder(source, folder, names)
            if found:
                self._places.append(found[0].speaker + self._AFTER_SPEAKER + folder)
                self.num_utterances += len(found)
        self._places.sort()

    def only(self, speakers):
        """Those of some speakers."""
        result = copy.copy(self)
        result._places = [place for place in self._places if self._speaker(place) in speakers]
        result.num_utterances = sum(
            len(in_folder(self._source, folder)) for folder in map(self._folder, result._places)
        )
        return result

    def utterances(self):
        """Yield a `Found` for each, sorted by id; StageError where one lies in two folders."""
        for _, places in itertools.groupby(self._places, self._speaker):
            utterances = {}
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

    def _speaker(self, place):
        return place.partition(self._AFTER_SPEAKER)[0]

    def _folder(self, place):
        return place.partition(self._AFTER_SPEAKER)[2]


def in_folder(source, folder, names=None):
    """A `Found` for each utterance right inside a speaker's folder, SA sentences left out."""
    names = source.files_in(folder) if names is None else names
    utterances = {}
    by_lower_case = {without_version(name).lower(): folder + "/" + name for name in names}
    speaker = folder.rpartition("/")[2].upper()
    for name in names:
        plain = without_version(name)
        match = _WAVE.fullmatch(plain) or _LABELS.fullmatch(plain)
        if not match or match.group(1).upper().startswith("SA"):
            continue
        found = Found(speaker, folder, match.group(1))
        if not _NAME.fullmatch(speaker) or not _NAME.fullmatch(found.stem.upper()):
            raise StageError(
                "{}: {!r} is no name that TIMIT would give".format(source.path, folder + "/" + name),
                "Rename or remove it.",
            )
        utterances.setdefault(found.identifier, found)
    for found in utterances.values():
        stem = found.stem.lower()
        found.wave = by_lower_case.get(stem + ".wav")
        found.copy = by_lower_case.get(stem + ".wav.wav")
        found.phn = by_lower_case.get(stem + ".phn")
        found.wrd = by_lower_case.get(stem + ".wrd")
    return list(utterances.values())


def read_or_leave_out(source, found, folding, excluded):
    """An `Utterance`; where it is bad, None and a line in the list `excluded`, or without one a StageError."""
    try:
        return read_utterance(source, found, folding)
    except StageError as error:
        if excluded is None:
            hint = (error.hint + "\n" if error.hint else "") + "Or leave bad utterances out with --skip-bad."
            raise StageError("{}: {}".format(found.identifier, error.message), hint) from error
        excluded.append({"utterance": found.identifier, "reason": error.message})
        return None


def read_utterance(source, found, folding):
    """Read and check all of one utterance; StageError, naming the file, for the first thing wrong with it."""
    name = found.wave or found.copy
    for kind, present in (("wave (.WAV)", name), ("phone labels (.PHN)", found.phn), ("words (.WRD)", found.wrd)):
        if not present:
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


def deviations_from(timit, splits):
    """One line for each count that is not TIMIT's."""
    return [
        "{}: {} {}, TIMIT has {}".format(split, splits[split][what], what, number)
        for split in SPLITS
        for what, number in sorted(timit[split].items())
        if splits[split][what] != number
    ]


if __name__ == "__main__":
    run(main)
