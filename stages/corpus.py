"""From TIMIT, or a corpus in its layout, to lists: utterances, labels, units and where each wave lies.

Train is every speaker under TRAIN; dev and test are the speakers of two lists, both under TEST. SA sentences are left
out. Utterances are called SPEAKER_SENTENCE (upper case) and sorted by byte order. Waves are read in place, from a
folder or a zip, and checked to the last sample; `X.WAV.wav`, a repackager's second copy of `X.WAV`, is used only where
`X.WAV` is missing. Standard library only.
"""

import os
import re

from stages import _audio, _labels
from stages._source import find_corpus, open_source
from stages._stage import Progress, StageError, atomic_file, parser, read_json, run, write_json

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


def main(arguments):
    options = parser(__doc__)
    options.add_argument("--data", required=True, metavar="PATH", help="TIMIT's folder, or data.zip")
    options.add_argument("--conf", required=True, metavar="DIR", help="speaker lists, phone map, TIMIT's counts")
    options.add_argument(
        "--skip-bad", action="store_true", help="leave bad utterances out, listed, in place of failing"
    )
    options = options.parse_args(arguments)

    source = open_source(options.data)
    prefix, train, test = find_corpus(source)
    wanted = {
        "dev": _labels.read_speakers(os.path.join(options.conf, "dev_spk.list")),
        "test": _labels.read_speakers(os.path.join(options.conf, "test_spk.list")),
    }
    folding = _labels.read_phone_map(os.path.join(options.conf, "phones.60-48-39.map"))
    timit = read_json(os.path.join(options.conf, "counts.json"))

    in_train = group_files(source, prefix + train)
    in_test = group_files(source, prefix + test)
    chosen = {"train": in_train}
    for split in ("dev", "test"):
        chosen[split] = [found for found in in_test if found.speaker in wanted[split]]
    for split in ("train", "dev"):
        if not chosen[split]:
            raise StageError(
                "{}: no utterance for the split {}".format(source.path, split),
                "dev takes the speakers of {} from TEST.".format(os.path.join(options.conf, "dev_spk.list")),
            )

    progress = Progress("corpus", sum(len(chosen[split]) for split in SPLITS))
    accepted, excluded = {}, []
    for split in SPLITS:
        accepted[split] = []
        for found in chosen[split]:
            try:
                accepted[split].append(read_utterance(source, found, folding))
            except StageError as error:
                if not options.skip_bad:
                    hint = (error.hint + "\n" if error.hint else "") + "Or leave bad utterances out with --skip-bad."
                    raise StageError("{}: {}".format(found.identifier, error.message), hint) from error
                excluded.append({"utterance": found.identifier, "reason": error.message})
            progress.advance()
        write_split(os.path.join(options.out, split), accepted[split], prefix)
    if not accepted["train"] or not accepted["dev"]:
        raise StageError("{}: every utterance of train or dev is bad".format(source.path), excluded[0]["reason"])

    units = _labels.units_in_order(utterance.phones for utterance in accepted["train"])
    _write_lines(os.path.join(options.out, "units"), units)
    splits = {split: count(accepted[split]) for split in SPLITS}
    deviations = deviations_from(timit, splits)
    copies = sum(1 for split in SPLITS for found in chosen[split] if found.wave and found.copy)
    write_json(
        os.path.join(options.out, "summary.json"),
        {
            "excluded": excluded,
            "second_copies_ignored": copies,
            "splits": splits,
            "timit": {"deviations": deviations, "matches": not deviations},
        },
    )


def group_files(source, top):
    """Utterances (`Found`, sorted by id) below `top`, TRAIN's or TEST's name; those with SA sentences left out."""
    names = source.files(top)
    utterances = {}
    by_lower_case = {name.lower(): name for name in names}
    for name in names:
        folder, _, base = name.rpartition("/")
        match = _WAVE.fullmatch(base) or _LABELS.fullmatch(base)
        if not match or match.group(1).upper().startswith("SA") or folder == top:
            continue
        speaker = folder.rpartition("/")[2].upper()
        found = Found(speaker, folder, match.group(1))
        if not _NAME.fullmatch(speaker) or not _NAME.fullmatch(found.stem.upper()):
            raise StageError(
                "{}: {!r} is no name that TIMIT would give".format(source.path, name), "Rename or remove it."
            )
        other = utterances.setdefault(found.identifier, found)
        if other.folder != folder:
            raise StageError(
                "{}: {} lies in {} and in {}".format(source.path, found.identifier, other.folder, folder),
                "Remove one.",
            )
    for found in utterances.values():
        stem = (found.folder + "/" + found.stem).lower()
        found.wave = by_lower_case.get(stem + ".wav")
        found.copy = by_lower_case.get(stem + ".wav.wav")
        found.phn = by_lower_case.get(stem + ".phn")
        found.wrd = by_lower_case.get(stem + ".wrd")
    return [utterances[identifier] for identifier in sorted(utterances)]


def read_utterance(source, found, folding):
    """Read and check all of one utterance; StageError, naming the file, for the first thing wrong with it."""
    name = found.wave or found.copy
    for kind, present in (("wave (.WAV)", name), ("phone labels (.PHN)", found.phn), ("words (.WRD)", found.wrd)):
        if not present:
            raise StageError("{}/{} has no {}".format(found.folder, found.stem, kind), "Copy the corpus again.")
    wave = _audio.parse(source.read(name), name)
    if wave.rate_hz != RATE_HZ:
        raise StageError(
            "{}: {} Hz, not {}".format(name, wave.rate_hz, RATE_HZ), "The model knows speech at 16 kHz only."
        )
    if wave.num_samples < MIN_SAMPLES:
        raise StageError("{}: {} samples, less than one frame of {}".format(name, wave.num_samples, MIN_SAMPLES))
    phones = _labels.fold(_labels.third_column(source.read(found.phn), found.phn), folding, found.phn)
    if not phones:
        raise StageError("{}: no phone in it".format(found.phn), "Copy it again.")
    words = _labels.third_column(source.read(found.wrd), found.wrd)
    return Utterance(found.identifier, found.speaker, name, wave, phones, words)


def count(utterances):
    """Speakers, utterances and phones of a split."""
    return {
        "phones": sum(len(utterance.phones) for utterance in utterances),
        "speakers": len({utterance.speaker for utterance in utterances}),
        "utterances": len(utterances),
    }


def deviations_from(timit, splits):
    """One line for each count that is not TIMIT's."""
    return [
        "{}: {} {}, TIMIT has {}".format(split, splits[split][what], what, number)
        for split in SPLITS
        for what, number in sorted(timit[split].items())
        if splits[split][what] != number
    ]


def write_split(folder, utterances, prefix):
    """Write the four lists of one split."""
    os.mkdir(folder)
    lists = {"utterances": [], "phn_text": [], "wrd_text": [], "audio.tsv": []}
    for utterance in utterances:
        wave = utterance.wave
        lists["utterances"].append(utterance.identifier + " " + utterance.name[len(prefix) :])
        lists["phn_text"].append(" ".join([utterance.identifier] + utterance.phones))
        lists["wrd_text"].append(" ".join([utterance.identifier] + utterance.words))
        fields = [utterance.identifier, utterance.name, wave.container, str(wave.rate_hz), str(wave.num_samples)]
        lists["audio.tsv"].append("\t".join(fields))
    for name, lines in lists.items():
        _write_lines(os.path.join(folder, name), lines)


def _write_lines(path, lines):
    with atomic_file(path, "w") as stream:
        stream.writelines(line + "\n" for line in lines)


if __name__ == "__main__":
    run(main)
