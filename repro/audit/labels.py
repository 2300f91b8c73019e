"""The corpus stage's labels, made a second time from the data set's .PHN files: folding, splits, order of classes.

Nothing here is shared with the stage. The data set is the user's, or the demo's as the run stored it.
"""

from __future__ import annotations

import os
import posixpath
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from repro.audit.claims import Examination
from repro.audit.evidence import Evidence
from repro.audit.leaves import differences
from repro.audit.stage_files import read_labels, read_lines, read_units
from repro.base import confined, typed_json, zips
from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.base.foreign import shown
from repro.record.stage_files import CorpusFile, SplitSummary, TimitCounts

_SPLITS = ("train", "dev", "test")
_LABELS = ".phn"
_MOST_LABEL_BYTES = 1 << 20  # a .PHN file has about one kilobyte
_MOST_FILES = 300_000

Read = Callable[[], bytes]


@dataclass(frozen=True)
class Corpus:
    """What the data set says: by split, the folded phones of each utterance, and its speakers."""

    phones: Mapping[str, Mapping[str, tuple[str, ...]]]

    def units(self) -> list[str]:
        """The phones in the order of their first appearance in the sorted train set."""
        train = self.phones["train"]
        return list(dict.fromkeys(phone for name in sorted(train) for phone in train[name]))

    def counts(self, split: str) -> SplitSummary:
        """Speakers, utterances and phones of a split."""
        found = self.phones[split]
        return SplitSummary(
            speakers=len({name.partition("_")[0] for name in found}),
            utterances=len(found),
            phones=sum(map(len, found.values())),
        )


def read_corpus(files: Iterator[tuple[str, Read]], conf: Path, left_out: set[str]) -> Corpus:
    """Read every .PHN file of a data set in TIMIT's layout, SA sentences left out.

    Args:
        files: path with '/', and what reads it.
        conf: conf/timit of the checkout: speaker lists and the folding of phones.
        left_out: utterances that the run excluded.

    Raises:
        VerificationFailed: a file holds no labels.
    """
    chosen = {split: _words(conf / f"{split}_spk.list") for split in ("dev", "test")}
    folding = _folding(conf / "phones.60-48-39.map")
    phones: dict[str, dict[str, tuple[str, ...]]] = {split: {} for split in _SPLITS}
    for path, read in files:
        parts = path.upper().partition(";")[0].split("/")  # names of raw CD images end in ;1
        stem, suffix = posixpath.splitext(parts[-1])
        if suffix.lower() != _LABELS or stem.startswith("SA") or any(p.startswith((".", "__MACOSX")) for p in parts):
            continue
        speaker = parts[-2] if len(parts) > 1 else ""
        name = f"{speaker}_{stem}"
        split = "train" if "TRAIN" in parts else next((s for s in chosen if speaker in chosen[s]), "")
        if split and name not in left_out:
            phones[split][name] = _folded(read(), folding, path)
    return Corpus(phones)


def _words(path: Path) -> set[str]:
    return {line.upper() for line in read_lines(path.read_bytes(), path.name)}


def _folding(path: Path) -> dict[str, str]:
    """{phone of 61: phone of 39, or '' where it has none}."""
    rows = (line.split("\t") for line in read_lines(path.read_bytes(), path.name))
    return {row[0]: row[2] if len(row) > 2 else "" for row in rows}


def _folded(data: bytes, folding: Mapping[str, str], path: str) -> tuple[str, ...]:
    found = []
    for line in read_lines(data, path):
        fields = line.split()
        if len(fields) != 3 or fields[2] not in folding:
            raise VerificationFailed(f"{shown(path)}: {shown(line, 40)!r} is no line of labels")
        found.append(folding[fields[2]])
    return tuple(phone for phone in found if phone)


def files_of_stage(evidence: Evidence, key: str) -> Iterator[tuple[str, Read]]:
    """The files of a stage's out/, each held to its digest when it is read."""
    stage = evidence.stage(key)
    for name in sorted(stage.outputs.files):
        yield name, lambda name=name: evidence.file(stage, name)  # type: ignore[misc]


def files_of_user(place: Path) -> Iterator[tuple[str, Read]]:
    """The files of the user's folder or zip.

    Raises:
        VerificationFailed: it is a file that is not a zip.
    """
    if place.is_dir():
        for parent, folders, names in os.walk(place):  # links are not entered; a link as a file is refused when read
            folders.sort()
            for name in sorted(names):
                path = os.path.relpath(os.path.join(parent, name), place)
                yield path, lambda path=path: confined.read_below(place, path, _MOST_LABEL_BYTES)  # type: ignore[misc]
        return
    with zips.reading(place), zipfile.ZipFile(place) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) > _MOST_FILES:
            raise VerificationFailed(f"{place.name} holds more than {_MOST_FILES} files")
        for member in members:
            yield member.filename, lambda member=member: _from_zip(place, archive, member)  # type: ignore[misc]


def _from_zip(place: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with zips.reading(place), archive.open(member) as stream:
        data = stream.read(_MOST_LABEL_BYTES + 1)
    if len(data) > _MOST_LABEL_BYTES:
        raise VerificationFailed(f"{shown(member.filename)} is larger than labels are")
    return data


def examine_labels(it: Examination, evidence: Evidence, data: Path | None) -> None:
    """Whether labels, classes and counts of the stage corpus are those of the data set."""
    demo = evidence.record.stage("demo_corpus")
    if demo is None and data is None:
        raise CouldNotVerify("the data set is not here; give it with --data")
    files = files_of_stage(evidence, demo.key) if demo is not None else files_of_user(data or Path())
    stage = evidence.stage("corpus")
    summary = evidence.read(stage, "summary.json", CorpusFile)
    conf = evidence.paths.conf / "timit"
    corpus = read_corpus(files, conf, {item.utterance for item in summary.excluded})
    for split in _SPLITS:
        name = f"{split}/phn_text"
        told = read_labels(evidence.file(stage, name), f"corpus: {name}")
        it.wrong += differences(_joined(told), _joined(corpus.phones[split]), f"corpus: {name}")
        it.wrong += differences(getattr(summary.splits, split), corpus.counts(split), f"summary.json: splits.{split}")
        it.evidence.append(f"{split}: labels of {len(told)} utterances, from their .PHN files")
    units = read_units(evidence.file(stage, "units"), "corpus: units")
    it.wrong += differences(units, corpus.units(), "corpus: units")
    it.wrong += differences(summary.timit, _against_timit(corpus, conf), "summary.json: timit")


def _joined(phones: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    return {name: " ".join(found) for name, found in phones.items()}


def _against_timit(corpus: Corpus, conf: Path) -> TimitCounts:
    timit = typed_json.read((conf / "counts.json").read_bytes(), dict[str, dict[str, int]], what="counts.json")
    deviations = tuple(
        f"{split}: {getattr(corpus.counts(split), what)} {what}, TIMIT has {number}"
        for split in _SPLITS
        for what, number in sorted(timit[split].items())
        if getattr(corpus.counts(split), what) != number
    )
    return TimitCounts(matches=not deviations, deviations=deviations)
