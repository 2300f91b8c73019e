"""Decode the network's outputs and score them by two protocols.

published   what the reference's scripts do, defects included, so that its published figures can be compared:
            (N - 1) // B whole batches of the N utterances, and Greedy hypotheses that start with a space, so that
            each costs one character edit more.
complete    every utterance, clean strings: the figures to quote.

WER is the phone error rate: edits over phones, separated by spaces. CER: edits over the characters of the phones
joined by single spaces. Both are pooled: the edits of all utterances over the length of all references.
"""

from __future__ import annotations

import argparse
import array
import collections
import itertools
import json
import os
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Sequence, Union

import numpy as np

from stages.formats import arpa, bins
from stages.formats.labels import read_lines
from stages.scoring import decode as decoders
from stages.scoring import edits
from stages.shared.stage import Progress, StageError, atomic_file, parser, run, write_json

FRAMES = 195
PUBLISHED, COMPLETE = "published", "complete"
_LABELLINGS = 2560  # a beam search keeps so many at once, over all utterances that it searches side by side


def main(arguments: Sequence[str]) -> None:
    options = _options(arguments)
    manifest = bins.read_manifest(options.batches, options.bs)
    if not manifest.utterances:
        raise StageError(
            "{} lists no utterance: nothing to score".format(os.path.join(options.batches, "manifest.json"))
        )
    units = read_lines(os.path.join(options.corpus, "units"))
    labels = _labels(os.path.join(options.corpus, manifest.split, "phn_text"))
    classes = len(units) + decoders.FIRST_UNIT
    decoder = _decoder(options, units)
    pools = {PUBLISHED: _Pool(PUBLISHED), COMPLETE: _Pool(COMPLETE)}
    num_published = (len(manifest.utterances) - 1) // options.bs * options.bs
    with atomic_file(os.path.join(options.out, "utterances.jsonl"), "w") as stream:
        for position, score in enumerate(_score_all(options, manifest, labels, decoder, classes)):
            score.line["in_published"] = position < num_published
            if score.line["in_published"]:
                pools[PUBLISHED].add(score)
            pools[COMPLETE].add(score)
            stream.write(json.dumps(score.line, sort_keys=True, ensure_ascii=False) + "\n")

    result = {
        "batch_size": options.bs,
        "split": manifest.split,
        "decode": decoder.description(),
        "protocols": {protocol: pool.summary() for protocol, pool in pools.items()},
        "excluded": manifest.excluded,
    }
    write_json(os.path.join(options.out, "score.json"), result)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--outputs", required=True, metavar="DIR", help="result folder of the stage infer")
    options.add_argument("--batches", required=True, metavar="DIR", help="result folder of the stage batches")
    options.add_argument("--corpus", required=True, metavar="DIR", help="result folder of the stage corpus")
    options.add_argument("--lm", metavar="DIR", help="result folder of the stage lm, or an ARPA file (Beam only)")
    options.add_argument("--bs", type=int, required=True, metavar="B", help="batch size of the outputs")
    options.add_argument("--decode", choices=["Greedy", "Beam"], default="Greedy")
    options.add_argument("--beam-width", type=int, default=10, help="labellings kept per frame (%(default)s)")
    options.add_argument("--lm-alpha", type=float, default=0.1, help="weight of the language model (%(default)s)")
    parsed = options.parse_args(arguments)
    if parsed.decode == "Beam" and not parsed.lm:
        options.error("--decode Beam needs --lm")
    if parsed.bs < 1 or parsed.beam_width < 1:
        options.error("--bs and --beam-width are 1 or more")
    return parsed


class Scored(NamedTuple):
    """One line of utterances.jsonl; and its substitutions, (reference, hypothesis), which are for pooling only."""

    line: dict[str, Any]
    confusions: list[tuple[str, str]]


class _Batch(NamedTuple):
    """The outputs (195, B, classes) of one file; of its first rows, in order, the utterances' ids and frames."""

    outputs: np.ndarray
    names: list[str]
    frames: list[int]


class _Greedy:
    """Greedy strings; in the published protocol every phone has a space before it."""

    def __init__(self, units: Sequence[str]) -> None:
        self._names = decoders.symbols(units)

    group = 1  # batches are decoded one at a time

    def decode(self, batches: Sequence[_Batch]) -> Iterator[list[str]]:
        for batch in batches:
            for labels in decoders.greedy_batch(batch.outputs, batch.frames):
                yield [self._names[k] for k in labels]

    def published_text(self, phones: Sequence[str]) -> str:
        return "".join(" " + phone for phone in phones)

    def description(self) -> dict[str, Any]:
        return {"type": "Greedy"}


class _Beam:
    """Beam search; counts what the reference could not have decoded."""

    def __init__(self, units: Sequence[str], model: arpa.Bigram, width: int, alpha: float) -> None:
        self._names = decoders.symbols(units)
        self._next, self._end = model.tables(units, alpha)
        self._missing = model.missing(units)
        self._width, self._alpha = width, alpha
        self._empty: list[str] = []
        self._underflowed: list[str] = []

    @property
    def group(self) -> int:
        return max(1, _LABELLINGS // self._width)

    def decode(self, batches: Sequence[_Batch]) -> Iterator[list[str]]:
        utterances = [batch.outputs[:frames, row] for batch in batches for row, frames in enumerate(batch.frames)]
        names = [name for batch in batches for name in batch.names]
        results = decoders.beams(utterances, self._next, self._end, self._width)
        for utterance, result in zip(names, results):
            if result.empty_survived:
                self._empty.append(utterance)
            if result.underflowed:
                self._underflowed.append(utterance)
            yield [self._names[k] for k in result.labels]

    def published_text(self, phones: Sequence[str]) -> str:
        return " ".join(phones)

    def description(self) -> dict[str, Any]:
        return {
            "type": "Beam",
            "beam_width": self._width,
            "lm_alpha": self._alpha,
            "reference_would_fail": {
                "empty_labelling_survived": {
                    "utterances": self._empty,
                    "handled": "it ends with the model's probability of </s> after <s>, and counts as length 1",
                },
                "probability_underflowed_to_zero": {
                    "utterances": self._underflowed,
                    "handled": "its logarithm is taken as {:.0f}".format(decoders.LOG_ZERO),
                },
                "symbols_missing_in_language_model": {
                    "symbols": self._missing,
                    "handled": "taken as <unk>, or as the rarest word of a model without <unk>",
                },
            },
        }


Decoder = Union[_Greedy, _Beam]


def _decoder(options: argparse.Namespace, units: Sequence[str]) -> Decoder:
    if options.decode == "Greedy":
        return _Greedy(units)
    path = os.path.join(options.lm, "lm_phone_bg.arpa") if os.path.isdir(options.lm) else options.lm
    return _Beam(units, arpa.read(path), options.beam_width, options.lm_alpha)


def _score_all(
    options: argparse.Namespace, manifest: bins.Manifest, labels: Mapping[str, str], decoder: Decoder, classes: int
) -> Iterator[Scored]:
    """Yield the score of each utterance, in the manifest's order, holding a decoder's group of them at a time."""
    progress = Progress("score " + manifest.split, len(manifest.utterances))
    for group in _groups(_batches(options, manifest, classes), decoder.group):
        names = [name for batch in group for name in batch.names]
        for name, phones in zip(names, decoder.decode(group)):
            if name not in labels:
                raise StageError("utterance {} has outputs but no line in phn_text".format(name))
            yield _score(name, labels[name].split(), phones, decoder)
        progress.advance(len(names))


def _groups(batches: Iterable[_Batch], wanted: int) -> Iterator[list[_Batch]]:
    """Lists of batches that hold `wanted` utterances together, or a little more."""
    group: list[_Batch] = []
    count = 0
    for batch in batches:
        group.append(batch)
        count += len(batch.names)
        if count >= wanted:
            yield group
            group, count = [], 0
    if group:
        yield group


def _batches(options: argparse.Namespace, manifest: bins.Manifest, classes: int) -> Iterator[_Batch]:
    """Read each file of outputs that the manifest's utterances are in, and check those."""
    for number, group in itertools.groupby(manifest.utterances, key=lambda entry: entry.batch):
        entries = list(group)
        folder = "result" if number < manifest.num_batches else "tail"
        path = os.path.join(options.outputs, folder, "inputs_{}_0.npy".format(number))
        if [entry.row for entry in entries] != list(range(len(entries))):
            raise StageError(
                "{}: batch {} does not hold its utterances in rows 0, 1, 2 and so on".format(
                    os.path.join(options.batches, "manifest.json"), number
                ),
                "Run the stage batches again.",
            )
        batch = _Batch(
            _outputs(path, options.bs, classes),
            [entry.id for entry in entries],
            [entry.output_frames for entry in entries],
        )
        _check_finite(batch, path)
        yield batch


def _check_finite(batch: _Batch, path: str) -> None:
    # Padding may hold anything, so an utterance's own frames are looked at where the file has something odd.
    odd = np.isnan(batch.outputs) | (batch.outputs == np.inf)
    if not odd.any():
        return
    for row, (name, frames) in enumerate(zip(batch.names, batch.frames)):
        if odd[:frames, row].any():
            raise StageError(
                "{}: the outputs of {} hold NaN or infinity".format(path, name),
                "The model overflowed, often by conversion to fp16: see the stage compare for where it deviates.",
            )


def _score(utterance: str, reference: Sequence[str], hypothesis: Sequence[str], decoder: Decoder) -> Scored:
    found = edits.alignment(reference, hypothesis)
    wer_edits = found.substitutions + found.insertions + found.deletions
    text = " ".join(reference)
    hypotheses = {PUBLISHED: decoder.published_text(hypothesis), COMPLETE: " ".join(hypothesis)}
    line: dict[str, Any] = {
        protocol: {"hypothesis": spoken, "cer_edits": edits.characters(text, spoken), "wer_edits": wer_edits}
        for protocol, spoken in hypotheses.items()
    }
    line.update(
        {
            "id": utterance,
            "reference": text,
            "phones": len(reference),
            "wer_counts": {
                "substitutions": found.substitutions,
                "insertions": found.insertions,
                "deletions": found.deletions,
            },
        }
    )
    return Scored(line, found.confusions)


class _Pool:
    """What a protocol pools of its utterances: four integers each, and no strings."""

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self._phones, self._characters = array.array("q"), array.array("q")
        self._cer_edits, self._wer_edits = array.array("q"), array.array("q")
        self._counts = dict.fromkeys(("substitutions", "insertions", "deletions"), 0)
        self._confusions: collections.Counter[tuple[str, str]] = collections.Counter()

    def add(self, scored: Scored) -> None:
        score = scored.line
        self._phones.append(score["phones"])
        self._characters.append(len(score["reference"]))
        self._cer_edits.append(score[self._protocol]["cer_edits"])
        self._wer_edits.append(score[self._protocol]["wer_edits"])
        for kind, count in score["wer_counts"].items():
            self._counts[kind] += count
        self._confusions.update(scored.confusions)

    def summary(self) -> dict[str, Any]:
        """The protocol's entry in score.json; rates are null where no utterance is scored."""
        phones, characters = sum(self._phones), sum(self._characters)
        cer = edits.percent(sum(self._cer_edits), characters)
        wer = edits.percent(sum(self._wer_edits), phones)
        cer_interval, wer_interval = edits.intervals_95(
            [(self._cer_edits, self._characters), (self._wer_edits, self._phones)]
        )
        return {
            "utterances": len(self._phones),
            "phones": phones,
            "characters": characters,
            "cer_percent": cer,
            "wer_percent": wer,
            "cer_printed": None if cer is None else "{:.4f}".format(cer),
            "wer_printed": None if wer is None else "{:.4f}".format(wer),
            "edits": {"cer": sum(self._cer_edits), "wer": sum(self._wer_edits)},
            "wer_counts": self._counts,
            "interval_95": {
                "cer_percent": cer_interval,
                "wer_percent": wer_interval,
                "method": edits.INTERVAL_METHOD,
            },
            "confusions": [
                {"reference": reference, "hypothesis": hypothesis, "count": count}
                for (reference, hypothesis), count in sorted(
                    self._confusions.items(), key=lambda item: (-item[1], item[0])
                )
            ],
        }


def _outputs(path: str, batch_size: int, classes: int) -> np.ndarray:
    """One batch's outputs, (195, batch_size, classes) floating point."""
    try:
        outputs = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StageError("cannot read the outputs {}: {}".format(path, error), "Run the stage infer again.")
    expected = (FRAMES, batch_size, classes)
    if outputs.shape != expected or outputs.dtype.kind != "f":
        raise StageError(
            "{} holds {} {}, not floating point {}".format(path, outputs.dtype, outputs.shape, expected),
            "The outputs must come from these batches, and the model must have as many classes as units + 2.",
        )
    return outputs


def _labels(path: str) -> dict[str, str]:
    """Utterance id -> its phones in one string: a list of them for every utterance would be most of the memory."""
    labels = {}
    for line in read_lines(path):
        utterance, _, phones = line.partition(" ")
        labels[utterance] = phones.strip()
    return labels


if __name__ == "__main__":
    run(main)
