"""The pieces a report is made of, and how numbers are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from repro.record import Record
from repro.record.judgement import Check, MetricName
from repro.record.scores import Protocol

NAMES = {"cer_percent": "CER", "wer_percent": "WER", "throughput_utterances_per_s": "throughput"}
NONE = "none"


@dataclass(frozen=True)
class Bullet:
    """A line of a list, with what it concerns."""

    text: str
    about: str = ""


@dataclass(frozen=True)
class Group:
    """Lines of a list under one heading, with what all of them concern."""

    title: str
    about: str
    bullets: Sequence[Bullet]


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        full: the long form of a shortened digest.
        tone: 'good', 'bad', 'open' or nothing.
        below: lines in small letters under the text.
    """

    text: str
    full: str = ""
    tone: str = ""
    below: Sequence[str] = ()

    def __str__(self) -> str:
        return self.full or self.text


@dataclass(frozen=True)
class Table:
    """Columns whose name starts with '#' hold numbers, and are set to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def headers(self) -> list[str]:
        return [name.lstrip("#") for name in self.columns]

    @property
    def numeric(self) -> list[bool]:
        return [name.startswith("#") for name in self.columns]


@dataclass(frozen=True)
class Section:
    """A heading with sentences, lists, plots by name, tables, and notes below.

    Attributes:
        lead: the section in a few words, beside its heading.
        caption: how to read its plots; only a page has them.
        folded: on a page it opens on demand; heading and lead stay in sight.
    """

    title: str
    sentences: Sequence[str] = ()
    bullets: Sequence[Bullet] = ()
    groups: Sequence[Group] = ()
    plots: Sequence[str] = ()
    tables: Sequence[Table] = field(default_factory=tuple)
    notes: Sequence[str] = ()
    lead: str = ""
    caption: str = ""
    folded: bool = True


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table of cells or of anything that str() makes one of."""
    cells = [[value if isinstance(value, Cell) else Cell(str(value)) for value in row] for row in rows]
    return Table(columns, cells)


def digest(value: str) -> Cell:
    """A digest, short to look at and whole where there is room."""
    return Cell(value.partition(":")[2][:12] or value[:12], full=value)


def status(value: str) -> Cell:
    """A status in words, coloured where there is colour; the word alone says it."""
    good, bad = ("reproduced", "same", "consistent"), ("not-reproduced", "deviates", "inconsistent")
    tones = {**dict.fromkeys(good, "good"), **dict.fromkeys(bad, "bad")}
    return Cell(value.replace("-", " "), tone=tones.get(value, "open"))


def mark(record: Record) -> str:
    """What every number of a demo carries."""
    return " (demo)" if record.is_demo else ""


def engine_name(record: Record) -> str:
    """The engine of the run; one that took every result from the store chose none, and then the makers' are named."""
    name = record.engine.name
    return f"none, since every result was stored (made with {', '.join(makers(record))})" if name == NONE else name


def makers(record: Record) -> list[str]:
    """The engines that made the results, of this run and of the earlier ones that stored results are from."""
    return sorted({stage.observations.engine for stage in record.stages})


def made_and_stored(record: Record) -> str:
    """How many results this run made and how many it took from the store."""
    stored = sum(stage.cached for stage in record.stages)
    return f"{len(record.stages) - stored} made in this run, {stored} from the store"


def origin(record: Record, *keys: str) -> str:
    """Whether this run made the results of these stages or took them from the store; unknown stages are left out."""
    stored = {stage.cached for key in keys if (stage := record.stage(key)) is not None}
    if len(stored) == 2:
        return "partly from the store"
    return "from the store" if True in stored else "this run" if stored else ""


def number(value: float | None, decimals: int, suffix: str = "") -> str:
    """A number with its unit and mark; a missing one says so."""
    return NONE if value is None else f"{value:.{decimals}f}{suffix}"


def rates(found: Protocol) -> list[tuple[MetricName, float | None, Sequence[float] | None]]:
    """The error rates of a protocol, WER first: metric, value and 95 % interval; none where nothing was scored."""
    return [
        ("wer_percent", found.wer_percent, found.interval_95.wer_percent),
        ("cer_percent", found.cer_percent, found.interval_95.cer_percent),
    ]


def interval(bounds: Sequence[float] | None, suffix: str = "") -> str:
    """Low and high, two decimals."""
    return NONE if bounds is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}{suffix}"


def size(count_bytes: int) -> str:
    """Bytes in decimal units."""
    if count_bytes < 1000:
        return f"{count_bytes} B"
    return f"{count_bytes / 1e3:.1f} kB" if count_bytes < 10**6 else f"{count_bytes / 1e6:.1f} MB"


def claims_of(checks: Sequence[Check], record: Record) -> str:
    """Which figures these checks are of, in a few words."""
    metrics = list(dict.fromkeys(check.metric for check in checks))
    of_metrics = [check for check in record.verdict.checks if check.metric in metrics]
    what = "every figure" if len(metrics) == len(NAMES) else " and ".join(NAMES[metric] for metric in metrics)
    if len(of_metrics) == len(checks):
        return what
    sizes = list(dict.fromkeys(str(check.batch_size) for check in checks))
    return f"{what} at batch size {', '.join(sizes)}"
