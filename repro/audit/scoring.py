"""The scores of a batch size, recomputed from the network's stored outputs."""

from __future__ import annotations

import ast
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from repro.audit import arithmetic, beam
from repro.base.errors import VerificationFailed

FRAMES = 195
PUBLISHED, COMPLETE = "published", "complete"
INTERVAL_METHOD = (
    f"percentile bootstrap of the pooled rate: {arithmetic.RESAMPLES} resamples of whole utterances with replacement, "
    f"numpy RandomState seed {arithmetic.BOOTSTRAP_SEED}, 2.5 % and 97.5 % by nearest rank"
)
_NPY_MAGIC = b"\x93NUMPY\x01\x00"


def read_npy(data: bytes, what: str) -> tuple[tuple[int, ...], array[float]]:
    """Shape and values of a float32 array in NumPy's format 1.0, C order.

    Raises:
        VerificationFailed: it is anything else.
    """
    try:
        if data[:8] != _NPY_MAGIC:
            raise ValueError("it is not of NumPy's format 1.0")
        (size,) = struct.unpack("<H", data[8:10])
        header = ast.literal_eval(data[10 : 10 + size].decode("latin-1"))
        if header["descr"] != "<f4" or header["fortran_order"]:
            raise ValueError(f"it holds {header['descr']}, not little-endian float32 in C order")
        shape = tuple(int(length) for length in header["shape"])
        values = array("f", data[10 + size :])
        expected = 1
        for length in shape:
            expected *= length
        if len(values) != expected:
            raise ValueError(f"{len(values)} values do not fill {shape}")
    except (ValueError, KeyError, TypeError, SyntaxError, struct.error) as error:
        raise VerificationFailed(f"{what}: {error}") from error
    if sys.byteorder == "big":
        values.byteswap()
    return shape, values


@dataclass(frozen=True)
class Utterance:
    """One utterance's score. `phones_heard` are the decoded symbols' names."""

    name: str
    reference: tuple[str, ...]
    phones_heard: tuple[str, ...]
    in_published: bool


def class_names(units: Sequence[str]) -> list[str]:
    """The classes' names in order: the blank (empty), UNK, the phones."""
    return ["", "UNK", *units]


def published_text(heard: Sequence[str], decode: str) -> str:
    """A hypothesis as the published protocol writes it: Greedy's starts with a space."""
    return "".join(" " + phone for phone in heard) if decode == "Greedy" else " ".join(heard)


class Decoder(Protocol):
    """Turns one utterance's frames into symbols: `Greedy` or `Beam`."""

    def symbols(self, name: str, frames: Sequence[Sequence[float]], /) -> Sequence[int]:
        """Class ids of an utterance's labelling; `frames` are natural logarithms, one a class."""


class Greedy:
    """CTC's best path."""

    def symbols(self, _name: str, frames: Sequence[Sequence[float]], /) -> Sequence[int]:
        return arithmetic.greedy_symbols(frames)


class Beam:
    """Prefix beam search with the record's bigram.

    Attributes:
        empty: utterances whose last labellings held the empty one.
        underflowed: utterances with a probability of 0 in a frame that is searched.
        ties: utterances where the claimed labelling scores as high as the best one, within rounding.

    Args:
        language: the bigram, weighted.
        width: labellings kept a frame.
        claimed: by utterance, the class ids that the record claims: they count where they are as good as the best.
    """

    def __init__(self, language: beam.Language, width: int, claimed: Mapping[str, tuple[int, ...]]) -> None:
        self._language, self._width, self._claimed = language, width, claimed
        self.empty: list[str] = []
        self.underflowed: list[str] = []
        self.ties: list[str] = []

    def symbols(self, name: str, frames: Sequence[Sequence[float]], /) -> Sequence[int]:
        found = beam.search(frames, self._language, self._width)
        if found.empty_survived:
            self.empty.append(name)
        if found.underflowed:
            self.underflowed.append(name)
        claimed = self._claimed.get(name)
        if claimed is not None and claimed != found.best and claimed in found.contenders:
            self.ties.append(name)
            return claimed
        return found.best


def heard_in(
    outputs: Mapping[int, tuple[tuple[int, ...], array[float]]],
    manifest: Mapping[str, Any],
    units: Sequence[str],
    decoder: Decoder,
) -> dict[str, tuple[str, ...]]:
    """Decode every utterance's symbols, in the manifest's order.

    Args:
        outputs: each batch's shape and values.
        manifest: of the stage batches.
        units: the phones, in class order.
        decoder: how.

    Raises:
        VerificationFailed: an array has another shape than its batch.
    """
    names = class_names(units)
    batch_size = manifest["batch_size"]
    found = {}
    for entry in manifest["utterances"]:
        shape, values = outputs[entry["batch"]]
        if shape != (FRAMES, batch_size, len(names)) or not 0 <= entry["row"] < batch_size:
            raise VerificationFailed(f"the outputs of batch {entry['batch']} are {shape}")
        if not 0 < entry["output_frames"] <= FRAMES:
            raise VerificationFailed(f"the manifest gives {entry['id']} {entry['output_frames']} output frames")
        step = batch_size * len(names)
        first = entry["row"] * len(names)
        places = range(first, first + entry["output_frames"] * step, step)
        symbols = decoder.symbols(entry["id"], [values[place : place + len(names)] for place in places])
        found[entry["id"]] = tuple(names[symbol] for symbol in symbols)
    return found


@dataclass(frozen=True)
class Scored:
    """What `score` gives: utterances.jsonl's objects in order, and score.json's two protocols."""

    lines: list[dict[str, Any]]
    protocols: dict[str, dict[str, Any]]


def score(utterances: Sequence[Utterance], decode: str) -> Scored:
    """Score every utterance and pool them by both protocols."""
    lines: list[dict[str, Any]] = []
    confusions: list[Counter[tuple[str, str]]] = []
    for utterance in utterances:
        heard = list(utterance.phones_heard)
        substitutions, insertions, deletions, confused = arithmetic.alignment(utterance.reference, heard)
        reference = " ".join(utterance.reference)
        wer_edits = arithmetic.distance(utterance.reference, heard)
        texts = {PUBLISHED: published_text(heard, decode), COMPLETE: " ".join(heard)}
        confusions.append(confused)
        lines.append(
            {
                "id": utterance.name,
                "in_published": utterance.in_published,
                "reference": reference,
                "phones": len(utterance.reference),
                "wer_counts": {"substitutions": substitutions, "insertions": insertions, "deletions": deletions},
                **{
                    protocol: {
                        "hypothesis": text,
                        "cer_edits": arithmetic.distance(reference, text),
                        "wer_edits": wer_edits,
                    }
                    for protocol, text in texts.items()
                },
            }
        )
    pairs = list(zip(lines, confusions))
    protocols = {
        PUBLISHED: _pooled([pair for pair in pairs if pair[0]["in_published"]], PUBLISHED),
        COMPLETE: _pooled(pairs, COMPLETE),
    }
    return Scored(lines, protocols)


def _pooled(pairs: Sequence[tuple[Mapping[str, Any], Counter[tuple[str, str]]]], protocol: str) -> dict[str, Any]:
    lines = [line for line, _ in pairs]
    phones = [line["phones"] for line in lines]
    characters = [len(line["reference"]) for line in lines]
    cer_edits = [line[protocol]["cer_edits"] for line in lines]
    wer_edits = [line[protocol]["wer_edits"] for line in lines]
    cer = arithmetic.percent(sum(cer_edits), sum(characters))
    wer = arithmetic.percent(sum(wer_edits), sum(phones))
    cer_interval, wer_interval = arithmetic.intervals_95([cer_edits, wer_edits], [characters, phones])
    confusions: Counter[tuple[str, str]] = Counter()
    for _, confused in pairs:
        confusions.update(confused)
    kinds = ("substitutions", "insertions", "deletions")
    return {
        "utterances": len(lines),
        "phones": sum(phones),
        "characters": sum(characters),
        "cer_percent": cer,
        "wer_percent": wer,
        "cer_printed": None if cer is None else f"{cer:.4f}",
        "wer_printed": None if wer is None else f"{wer:.4f}",
        "edits": {"cer": sum(cer_edits), "wer": sum(wer_edits)},
        "wer_counts": {kind: sum(line["wer_counts"][kind] for line in lines) for kind in kinds},
        "interval_95": {"cer_percent": cer_interval, "wer_percent": wer_interval, "method": INTERVAL_METHOD},
        "confusions": [
            {"reference": reference, "hypothesis": hypothesis, "count": count}
            for (reference, hypothesis), count in sorted(confusions.items(), key=lambda item: (-item[1], item[0]))
        ],
    }
