"""What the task `invoke explore` does: read a run, and another beside it, and write the pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from repro.audit.commands import run_folder
from repro.audit.evidence import Evidence, open_run
from repro.base.errors import UsageError
from repro.base.paths import Paths, given_path
from repro.explore.media import Sounds, Spectrograms
from repro.explore.page import Explored, write_pages
from repro.explore.utterances import Source, Utterance, scored
from repro.record import Record
from repro.record.scores import Result
from repro.report.parts import interval, mark, number
from repro.run.inputs import DEMO, find_data

_OURS = (
    "Made from a data set of yours: this page holds what was said, as phones and words. Keep it where the data may be."
)
_OURS_WITH_SOUND = (
    "Not to be passed on: this page holds speech of a data set of yours, as sound and spectrograms, with what was said."
)


@dataclass(frozen=True)
class Wanted:
    """Options of `invoke explore`; '' and 0 for what is not given."""

    run: str
    against: str = ""
    bs: int = 0
    with_audio: bool = False
    data: str = ""
    to: str = ""


@dataclass(frozen=True)
class _Side:
    """A run and the batch size that is shown of it."""

    evidence: Evidence
    result: Result

    @property
    def name(self) -> str:
        return self.evidence.run.name

    @property
    def record(self) -> Record:
        return self.evidence.record


def explore(paths: Paths, wanted: Wanted) -> Path:
    """Write the pages of a run; returns the one to open.

    Raises:
        UsageError: there is no such run or batch size, or the data set that --with-audio needs is not here.
        CouldNotVerify: the scores of the run are not here.
        VerificationFailed: a stored result is not the record's, or a wave is not the run's.
    """
    one = _side(paths, wanted.run, wanted.bs)
    other = _side(paths, wanted.against, wanted.bs) if wanted.against else None
    sides = [one, other] if other is not None else [one]
    source = _source(paths, one, wanted)
    heard = None
    if other is not None:
        lines = scored(other.evidence, other.result.batch_size)
        heard = {line.id: tuple(line.complete.hypothesis.split()) for line in lines}
    utterances = source.utterances(heard)
    explored = Explored(
        title=f"Explorer: {' beside '.join(side.name for side in sides)}",
        notice=_notice(one.record, wanted),
        names=[side.name for side in sides],
        facts=_facts(sides),
        changes=_changes(one, other, utterances) if other is not None else [],
        classes=source.classes(),
        greedy=one.record.request.decode.type == "Greedy",
        utterances=utterances,
    )
    folder = given_path("--to", wanted.to) if wanted.to else paths.results / "explore" / one.name
    return write_pages(explored, source.details(), folder)


def _side(paths: Paths, run: str, batch_size: int) -> _Side:
    evidence = open_run(run_folder(paths, run), paths)
    results = evidence.record.results
    found = evidence.record.result(batch_size) if batch_size else next(iter(results), None)
    if found is None:
        sizes = ", ".join(str(result.batch_size) for result in results) or "none"
        raise UsageError(f"the run {evidence.run.name} has no result of batch size {batch_size or 'any'}",
                         hint=f"--bs takes one of its sizes: {sizes}")  # fmt: skip
    return _Side(evidence, found)


def _source(paths: Paths, side: _Side, wanted: Wanted) -> Source:
    split, demo = side.record.request.split, side.record.data.kind == DEMO
    if wanted.data and not wanted.with_audio:
        raise UsageError("--data is read for its sound only", hint="add --with-audio, or leave --data out")
    data: Optional[Path] = None
    if wanted.with_audio and not demo:
        data = find_data(paths, wanted.data)
        if data is None:
            raise UsageError("--with-audio: the data set of the run is not here", hint="name it with --data")
    shown = demo or wanted.with_audio
    return Source(
        evidence=side.evidence,
        batch_size=side.result.batch_size,
        spectra=Spectrograms(side.evidence, split) if shown else None,
        sounds=Sounds(side.evidence, split, data) if shown else None,
    )


def _notice(record: Record, wanted: Wanted) -> str:
    if record.data.kind == DEMO:
        return "This is a demo: synthetic speech. Its figures say nothing about TIMIT or the published model."
    return _OURS_WITH_SOUND if wanted.with_audio else _OURS


def _facts(sides: Sequence[_Side]) -> list[tuple[str, list[str]]]:
    """What the heads of the runs say, a value for each run."""

    def each(side: _Side) -> dict[str, str]:
        record, complete = side.record, side.result.complete
        counts, demo = complete.wer_counts, mark(record)
        return {
            "WER, every utterance": f"{number(complete.wer_percent, 4, ' %')}{demo}",
            "95 %": interval(complete.interval_95.wer_percent, " %"),
            "CER": f"{number(complete.cer_percent, 4, ' %')}{demo}",
            "utterances": f"{complete.utterances} ({record.request.split})",
            "substitutions, insertions, deletions": f"{counts.substitutions}, {counts.insertions}, {counts.deletions}",
            "batch size": str(side.result.batch_size),
            "decoder": record.request.decode.type,
            "data, checkpoint": f"{record.data.kind}, {record.checkpoint.kind}",
            "device, toolchain": f"{record.request.device}, {record.request.toolchain}",
            "started": record.observations.started_at,
            "identity": record.identity.sha256[:16],
        }

    columns = [each(side) for side in sides]
    return [(name, [column[name] for column in columns]) for name in columns[0]]


def _changes(one: _Side, other: _Side, utterances: Sequence[Utterance]) -> list[str]:
    """What differs between two runs of the same utterances, the most important first."""
    both = [each for each in utterances if each.other is not None]
    changed = sum(each.hypothesis != each.other for each in both)
    said = [f"{changed} of {len(both)} utterances are recognised otherwise."]
    rates = [side.result.complete.wer_percent for side in (one, other)]
    if rates[0] is not None and rates[1] is not None:
        said.append(f"WER {rates[0]:.4f} % beside {rates[1]:.4f} %: {rates[0] - rates[1]:+.4f} percentage points.")
    speeds = [side.result.throughput_utterances_per_s for side in (one, other)]
    said.append(f"Throughput {speeds[0]:.2f} beside {speeds[1]:.2f} utterances/s.")
    if len(both) < len(utterances):
        said.append(f"{len(utterances) - len(both)} utterances are in {one.name} only.")
    differing = [
        what
        for what, ours, theirs in (
            ("data", one.record.data.fingerprint, other.record.data.fingerprint),
            ("checkpoint", one.record.checkpoint.sha256, other.record.checkpoint.sha256),
            ("images", one.record.images, other.record.images),
            ("request", one.record.request, other.record.request),
        )
        if ours != theirs
    ]
    said.append(
        f"Different: {', '.join(differing)}." if differing else "Data, checkpoint, images and request are equal."
    )
    return said
