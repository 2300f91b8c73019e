"""What stages write, as strict types: every file of a stage that an audit reads is read here and nowhere else.

Whatever is wrong with a file raises VerificationFailed with the file and the place in it: a member that is missing or
not known, a number that is not finite, text that is not UTF-8, an utterance that stands twice, a shape that no batch
has.
"""

from __future__ import annotations

import math
import re
import sys
from array import array
from dataclasses import dataclass
from typing import Annotated, Union

from msgspec import UNSET, Meta, UnsetType

from repro.base import typed_json
from repro.base.errors import VerificationFailed
from repro.base.foreign import shown
from repro.base.values import Amount, Count, Name, Positive, RelativePath, Sha256, Strict
from repro.record.scores import WerCounts
from repro.record.stage_files import FRAMES, MOST_TIMES, Milliseconds
from repro.record.stages import OutputFile, StageObservations

COLUMNS = 243  # of the network's input
_MOST_LOGPROB = 1.0  # 0 but for rounding, with room for half precision
Text = Annotated[str, Meta(max_length=1_000_000)]


class StoredKey(Strict, frozen=True):
    """What a stored result says it was made of; the last four where the stage depends on them."""

    format: Count
    stage: Name
    image: str
    code: Sha256
    argv: tuple[str, ...]
    env: dict[str, str]
    inputs: dict[str, Sha256]
    instruction_set: Union[str, UnsetType] = UNSET
    host: Union[str, UnsetType] = UNSET
    accelerator: Union[str, UnsetType] = UNSET
    sample: Union[str, UnsetType] = UNSET


class StoredResult(Strict, frozen=True):
    """A stored result's result.json."""

    key: StoredKey
    outputs: dict[RelativePath, OutputFile]
    observations: StageObservations


class Spoken(Strict, frozen=True):
    """One protocol's view of an utterance."""

    hypothesis: Text
    cer_edits: Count
    wer_edits: Count


class ScoredUtterance(Strict, frozen=True):
    """The stage score: a line of utterances.jsonl."""

    id: str
    in_published: bool
    reference: Text
    phones: Count
    wer_counts: WerCounts
    published: Spoken
    complete: Spoken


class MeasureSummary(Strict, frozen=True):
    """The stage measure: out/summary.json."""

    batch_size: Positive
    formula: str
    input: str
    loop: Positive
    model_sha256: Sha256
    warm_ups: Count
    devices: Union[Positive, UnsetType] = UNSET


class ComputeTimes(Strict, frozen=True, rename={"p99": "percentile(99%)"}):
    """Statistics of a list of times in ms, as ais_bench names them."""

    min: Amount
    max: Amount
    mean: Amount
    median: Amount
    p99: Amount
    count: Count


class FilesInfo(Strict, frozen=True):
    """A batch's files."""

    infiles: tuple[str, ...]
    outfiles: tuple[str, ...]


class InferSummary(
    Strict, frozen=True, rename={"compute": "NPU_compute_time", "h2d": "H2D_latency", "d2h": "D2H_latency"}
):
    """The stage infer on a CPU: obs/result_summary.json."""

    filesinfo: dict[str, FilesInfo]
    args: tuple[str, ...]
    compute: ComputeTimes
    h2d: ComputeTimes
    d2h: ComputeTimes
    throughput: Amount
    npu_compute_time_list: Annotated[tuple[Amount, ...], Meta(max_length=MOST_TIMES)]
    pid: Count
    streams: Positive


class Accuracy(Strict, frozen=True):
    """The stage honesty: out/accuracy.json."""

    batch_size: Positive
    batches: tuple[str, ...]
    equal: bool
    outputs_compared: Count
    unequal: tuple[str, ...]


class Judged(Strict, frozen=True):
    """A ratio of times: its median and interval, and what follows."""

    interval_95: tuple[Amount, Amount]
    limit: Amount
    median: Amount
    verdict: str


class HonestyTimes(Strict, frozen=True):
    """Times in ms of each round."""

    zeros: tuple[Milliseconds, ...]
    fresh: tuple[Milliseconds, ...]
    repeated: tuple[Milliseconds, ...]


class Honesty(Strict, frozen=True):
    """The stage honesty: obs/honesty.json."""

    batch_size: Positive
    caching: Judged
    content: Judged
    fresh_batches: Count
    rounds: Positive
    times_ms: HonestyTimes


def read_lines(data: bytes, what: str) -> list[str]:
    """The lines of a text, blank ones left out.

    Raises:
        VerificationFailed: it is not UTF-8.
    """
    try:
        return [line.strip() for line in data.decode("utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise VerificationFailed(f"{what}: it is not UTF-8 (byte {error.start})") from error


def read_units(data: bytes, what: str) -> list[str]:
    """The phones in class order, one per line.

    Raises:
        VerificationFailed: there is none, one stands twice, or a line holds several.
    """
    units = read_lines(data, what)
    if not units or len(set(units)) != len(units) or any(len(unit.split()) != 1 for unit in units):
        raise VerificationFailed(f"{what}: one phone per line, each once, is needed")
    return units


def read_labels(data: bytes, what: str) -> dict[str, tuple[str, ...]]:
    """The phones of each utterance, from lines `ID PHONE...`.

    Raises:
        VerificationFailed: an utterance stands twice.
    """
    labels: dict[str, tuple[str, ...]] = {}
    for line in read_lines(data, what):
        name, *phones = line.split()
        if name in labels:
            raise VerificationFailed(f"{what}: utterance {shown(name)} stands there twice")
        labels[name] = tuple(phones)
    return labels


def read_utterances(data: bytes, what: str) -> tuple[ScoredUtterance, ...]:
    """The lines of utterances.jsonl."""
    return tuple(
        typed_json.read(line, ScoredUtterance, what=f"{what}, line {number}")
        for number, line in enumerate(data.splitlines(), 1)
    )


@dataclass(frozen=True)
class Outputs:
    """A batch's log-probabilities: `values` in C order, (195, batch_size, classes)."""

    values: array[float]
    batch_size: int
    classes: int

    def frames(self, row: int, count: int) -> list[array[float]]:
        """The first `count` frames of a row, one array of all classes each."""
        step, first = self.batch_size * self.classes, row * self.classes
        return [self.values[place : place + self.classes] for place in range(first, first + count * step, step)]


_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_HEADER = re.compile(
    r"\{'descr': '<f4', 'fortran_order': False, 'shape': \((?P<shape>(?:\d{1,9}, ?)*(?:\d{1,9},?)?)\), *\} *\n"
)


def read_npy(data: bytes, what: str) -> tuple[tuple[int, ...], array[float]]:
    """Shape and values of a float32 array in NumPy's format 1.0, C order.

    Raises:
        VerificationFailed: it is anything else.
    """
    size = int.from_bytes(data[8:10], "little")
    header = _NPY_HEADER.fullmatch(data[10 : 10 + size].decode("latin-1"))
    if data[:8] != _NPY_MAGIC or header is None:
        raise VerificationFailed(f"{what}: it is not a little-endian float32 array in NumPy's format 1.0, C order")
    shape = tuple(int(length) for length in header["shape"].replace(" ", "").split(",") if length)
    if len(data) - 10 - size != 4 * math.prod(shape):
        raise VerificationFailed(f"{what}: {len(data) - 10 - size} bytes are not the values of shape {shape}")
    values = array("f", data[10 + size :])
    if sys.byteorder == "big":
        values.byteswap()
    return shape, values


def read_outputs(data: bytes, batch_size: int, classes: int, what: str) -> Outputs:
    """The network's outputs of one batch: natural logarithms of probabilities.

    Raises:
        VerificationFailed: they have another shape, are not finite, or are no such logarithms.
    """
    shape, values = read_npy(data, what)
    if shape != (FRAMES, batch_size, classes):
        raise VerificationFailed(f"{what}: its shape is {shape}, not {(FRAMES, batch_size, classes)}")
    odd = next((place for place, value in enumerate(values) if not -math.inf < value <= _MOST_LOGPROB), None)
    if odd is not None:
        raise VerificationFailed(f"{what}: value {odd} is {values[odd]}, no logarithm of a probability")
    return Outputs(values, batch_size, classes)
