"""A run in a bundle: record, reports and RO-Crate, and as much of its results as was chosen to be given away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import CouldNotRun, UsageError
from repro.base.files import pretty_json
from repro.base.paths import Paths
from repro.packing.writer import Item
from repro.record import Record, read_record
from repro.record.reading import FILE
from repro.report.crate import crate_files, described_files

DETAILS = ("full", "scores", "none")
RECEIVED = "artifacts/received"
MEANING = {
    "full": "every output of every stage: features, model inputs, labels and transcripts among them",
    "scores": "summaries, rates, confusion counts, times and comparisons; no features, no model inputs or outputs, no "
    "labels, no transcripts, no language model, no weights",
    "none": "the record, the reports and the RO-Crate alone: digests, rates and times",
}
# What `scores` gives: numbers over whole splits. Everything else of a stage can be turned back into speech or labels.
_SCORES = {"compare.json", "measure.json", "probe.json", "result.json", "result_summary.json", "score.json",
           "summary.json", "tail_summary.json", "verification.json"}  # fmt: skip
_WEIGHTS = ("export", "convert")


@dataclass(frozen=True)
class PackedRun:
    """The items of a run, and what of it was left out, for the list and for people."""

    name: str
    record: Record
    items: tuple[Item, ...]
    left_out: tuple[dict[str, str], ...]


def find_run(paths: Paths, name: str) -> Path:
    """A folder of artifacts/runs; 'latest' is the newest one.

    Raises:
        UsageError: there is no such run.
    """
    folder = (paths.runs / name).resolve()
    if not name or folder.parent != paths.runs.resolve() or not (folder / FILE).is_file():
        known = ", ".join(sorted(path.parent.name for path in paths.runs.glob(f"*/{FILE}")))
        raise UsageError(f"there is no run {name!r} in {paths.runs}", hint=f"known: {known or 'none'}")
    return folder


def pack_run(paths: Paths, name: str, detail: str, *, with_weights: bool) -> PackedRun:
    """Choose what of a run goes into a bundle.

    Args:
        paths: of the checkout.
        name: as `find_run`.
        detail: 'full', 'scores', 'none', or '' for full where the run was of the demo, which is nobody's property.
        with_weights: whether a user's checkpoint, and so the models made of it, may be given away.

    Raises:
        UsageError: no such run; a detail that is unknown, or not chosen where it matters.
        CouldNotRun: a result of the run is no longer in the store.
    """
    folder = find_run(paths, name)
    described = described_files(folder)
    record = read_record(described[FILE], f"run {folder.name}: {FILE}")
    users_data, users_weights = record.data.kind != "demo", record.checkpoint.kind != "demo"
    if not detail:
        if users_data:
            raise UsageError(
                f"run {folder.name} was made of {record.data.kind} data: say what of it to give away",
                detail="\n".join(f"--run-detail {key}: {text}" for key, text in MEANING.items()),
            )
        detail = "full"
    if detail not in DETAILS:
        raise UsageError(f"--run-detail {detail!r} is not known", hint=", ".join(DETAILS))
    place = f"tree/{RECEIVED}/{folder.name}"
    itself = {**described, **crate_files(record, described)}  # a run of before there were crates has one here, too
    items = [Item.of_bytes(f"{place}/{file}", data) for file, data in itself.items()]
    left_out: list[dict[str, str]] = []
    for stage in record.stages if detail != "none" else ():
        result = paths.store / stage.fingerprint[:2] / stage.fingerprint
        if not (result / "result.json").is_file():
            raise CouldNotRun(
                f"the result of {stage.key} is no longer in the store",
                hint="run `invoke reproduce` with the same options again, or pack with --run-detail none",
            )
        for path in sorted(path for path in result.rglob("*") if path.is_file()):
            inside = path.relative_to(result).as_posix()
            why = _withheld(stage.name, inside, detail, weights_are_private=users_weights and not with_weights)
            if why:
                left_out.append({"stage": stage.key, "file": inside, "reason": why})
            else:
                items.append(Item.of_file(f"{place}/results/{stage.key.replace(':', '-')}/{inside}", path))
    about = {"run": folder.name, "detail": detail, "meaning": MEANING[detail], "left_out": left_out}
    items.append(Item.of_bytes(f"{place}/contents.json", pretty_json(about)))
    return PackedRun(folder.name, record, tuple(items), tuple(left_out))


def _withheld(stage: str, inside: str, detail: str, *, weights_are_private: bool) -> str:
    """Why a file of a result stays here; '' for one that goes."""
    if detail == "scores" and inside.rpartition("/")[2] not in _SCORES:
        return "could be turned back into speech, labels or weights"
    if weights_are_private and stage in _WEIGHTS and inside.endswith((".onnx", ".om")):
        return "holds the checkpoint's weights"
    return ""


def describe(packed: Sequence[PackedRun], carried: Sequence[str]) -> list[str]:
    """What a person should know before the file leaves the house; `carried`: architectures whose images go along."""
    lines = []
    for run in packed:
        machine = run.record.host.architecture
        lines.append(f"run {run.name}: {len(run.items)} files; {len(run.left_out)} withheld")
        if run.record.data.kind != "demo":
            lines.append(f"  made of {run.record.data.kind} data: check its licence before you pass this on")
        if machine not in carried:
            lines.append(
                f"  made on {machine}, whose images are not carried: an audit cannot verify what it says of them; "
                f"--arch {','.join(sorted({machine, *carried}))} carries them"
            )
    return lines
