"""What the explorer shows, read from a run's stored results; every byte is held to the record's digest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Optional

from repro.audit.evidence import Evidence
from repro.audit.results import read_manifest
from repro.audit.stage_files import (
    Outputs,
    ScoredUtterance,
    read_labels,
    read_outputs,
    read_units,
    read_utterances,
)
from repro.base.errors import CouldNotVerify
from repro.explore.media import Sounds, Spectrograms, quantised_posteriors

_DIALECT, _SPEAKER = -3, -2  # parts of a path in TIMIT's layout
FIRST_CLASSES = ("blank", "unknown")
"""The network's classes before the phones."""


@dataclass(frozen=True)
class Utterance:
    """An utterance; `other` is what the run beside this one recognised, None where there is none."""

    name: str
    speaker: str
    dialect: str
    words: str
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]
    other: Optional[tuple[str, ...]] = None


@dataclass(frozen=True)
class Detail:
    """What is drawn and played of an utterance; empty where it is not here or may not be shown.

    Attributes:
        frames: of the network's output, 40 ms each.
        posteriors: (frames, classes) uint8, 0 for e^-7 and less, 255 for 1, by the logarithm.
        spectrogram: (columns, 80) in half bytes, low to high, 20 ms a column.
        sound: 16 kHz, 8-bit mu-law.
    """

    frames: int
    posteriors: bytes = b""
    spectrogram: bytes = b""
    sound: bytes = b""


@dataclass(frozen=True)
class Source:
    """Where the details of a run come from: `spectra` and `sounds` are None where they may not be shown."""

    evidence: Evidence
    batch_size: int
    spectra: Optional[Spectrograms]
    sounds: Optional[Sounds]

    def classes(self) -> list[str]:
        """The names of the network's classes, in their order."""
        return [*FIRST_CLASSES, *read_units(self._corpus("units"), "corpus: units")]

    def _corpus(self, name: str) -> bytes:
        return self.evidence.file(self.evidence.stage("corpus"), name)

    def utterances(self, other: Optional[Mapping[str, tuple[str, ...]]] = None) -> list[Utterance]:
        """All utterances of the run, in the order of its batches.

        Args:
            other: what another run recognised, by name.

        Raises:
            CouldNotVerify: the score's list is not here.
            VerificationFailed: a file is not the record's, or not what its stage writes.
        """
        split = self.evidence.record.request.split
        places = self._optional_labels(f"{split}/utterances")
        words = self._optional_labels(f"{split}/wrd_text")
        found = []
        for line in scored(self.evidence, self.batch_size):
            path = " ".join(places.get(line.id, ())).split("/")
            known = len(path) >= -_DIALECT
            found.append(
                Utterance(
                    name=line.id,
                    speaker=path[_SPEAKER] if known else line.id.partition("_")[0],
                    dialect=path[_DIALECT] if known else "",
                    words=" ".join(words.get(line.id, ())),
                    reference=tuple(line.reference.split()),
                    hypothesis=tuple(line.complete.hypothesis.split()),
                    other=None if other is None else other.get(line.id),
                )
            )
        return found

    def _optional_labels(self, name: str) -> Mapping[str, tuple[str, ...]]:
        if name not in self.evidence.stage("corpus").outputs.files:
            return {}
        try:
            return read_labels(self._corpus(name), f"corpus: {name}")
        except CouldNotVerify:  # a bundle may carry scores without transcripts
            return {}

    def details(self) -> Iterator[Detail]:
        """A detail for each of `utterances`, in the same order; one batch of outputs is held at a time."""
        manifest = read_manifest(self.evidence, self.batch_size)
        classes, number, outputs = len(self.classes()), -1, None
        for entry in manifest.utterances:
            if entry.batch != number:
                number, outputs = entry.batch, self._outputs(manifest.output_name(entry.batch), classes)
            yield Detail(
                frames=entry.output_frames,
                posteriors=quantised_posteriors(outputs.frames(entry.row, entry.output_frames)) if outputs else b"",
                spectrogram=self.spectra.of(entry.id) if self.spectra else b"",
                sound=self.sounds.of(entry.id) if self.sounds else b"",
            )

    def _outputs(self, name: str, classes: int) -> Optional[Outputs]:
        stage = self.evidence.stage(f"infer@{self.batch_size}")
        try:
            data = self.evidence.file(stage, name)
        except CouldNotVerify:
            return None
        return read_outputs(data, self.batch_size, classes, f"{stage.key}: {name}")


def scored(evidence: Evidence, batch_size: int) -> tuple[ScoredUtterance, ...]:
    """The scored utterances of a batch size.

    Raises:
        CouldNotVerify: the list is not here.
        VerificationFailed: the run has no such batch size, or the bytes are not the record's.
    """
    key = f"score@{batch_size}"
    return read_utterances(evidence.file(evidence.stage(key), "utterances.jsonl"), f"{key}: utterances.jsonl")
