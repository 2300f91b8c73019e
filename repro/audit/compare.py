"""Two runs held against each other, output by output: `invoke audit.compare`, and the end of `invoke audit.rerun`.

Of two records alone nothing is proven: equal digests are claimed by both until the bytes of both were read here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec import UNSET

from repro.audit.agreement import DIFFERENT, IDENTICAL, OPEN, closeness, compare_bytes
from repro.audit.claims import ATTESTED, CLAIMED, RECOMPUTED, RUN_AGAIN, Examination, Outcome
from repro.audit.evidence import Evidence
from repro.audit.leaves import differences
from repro.audit.places import Utterances, first_place
from repro.audit.results import read_manifest
from repro.base.errors import BundleError, CouldNotVerify
from repro.graph.pipeline import EXACT, STAGES
from repro.images.definition import load_definition
from repro.record.document import Record
from repro.record.scores import Comparison
from repro.record.stages import Stage

_OF_THE_DEVICE = ("convert", "infer", "measure", "compare")
_ASKED = ("batch_sizes", "decode", "split", "skip_bad", "precision", "loop")


@dataclass
class Sides:
    """Two runs, and what they are called in the claims.

    Attributes:
        first: the run that is held to.
        second: the run that is held against it.
        here, there: what the two are called.
        run_again: whether the second was made by this audit from the first's request.
        unread: outputs whose bytes were not here to read, by stage.
        first_difference: the first stage, file and place that differ though they must not; '' where there is none.
    """

    first: Evidence
    second: Evidence
    here: str = "A"
    there: str = "B"
    run_again: bool = False
    unread: dict[str, list[str]] = field(default_factory=dict)
    first_difference: str = ""

    @property
    def one(self) -> Record:
        return self.first.record

    @property
    def two(self) -> Record:
        return self.second.record

    @property
    def kind(self) -> str:
        """How far a claim is known that follows from the two records."""
        return RUN_AGAIN if self.run_again else CLAIMED

    def key(self, stage: Stage) -> str:
        """The key of the claim that both gave a stage's outputs."""
        return f"{'made' if self.run_again else 'stage'}:{stage.key}"

    @property
    def other(self) -> str:
        """Why outputs need not have equal bytes: another device or toolchain; '' where they must."""
        devices = [record.request.device for record in (self.one, self.two)]
        if devices[0] != devices[1]:
            return f"made on the devices {devices[0]} and {devices[1]}"
        pinned = [", ".join(sorted(record.request.pinned or ())) or "none" for record in (self.one, self.two)]
        if pinned[0] != pinned[1]:
            return f"made with other toolchains: in their pinned images ran {pinned[0]}, and {pinned[1]}"
        canns = [record.request.cann or "the table's" for record in (self.one, self.two)]
        if canns[0] != canns[1]:
            return f"made with other versions of CANN: {canns[0]} and {canns[1]}"
        return ""

    @property
    def one_architecture(self) -> bool:
        return self.one.host.architecture == self.two.host.architecture

    def why_equal(self, stage: Stage) -> str:
        """Why a stage's bytes must be equal; '' where they may differ between these two machines."""
        definition = STAGES.get(stage.name)
        if definition is None or definition.exactness == EXACT:
            return "this stage's bytes must be equal on every machine"
        if self.one.host.instruction_set == self.two.host.instruction_set and not self.other:
            return "this stage's bytes must be equal on one instruction set"
        return ""


def compare_runs(outcome: Outcome, sides: Sides) -> None:
    """Add a claim for what both were asked, for each image and each stage, for the symbols and for the speeds."""
    here, there, one, two = sides.here, sides.there, sides.one, sides.two
    text = f"{here} and {there} were asked the same, of the same data and weights"
    with outcome.examine("same-question", text, sides.kind) as it:
        asked = [{name: value for name in _ASKED if (value := getattr(record.request, name)) is not UNSET}
                 for record in (one, two)]  # fmt: skip
        it.wrong += differences(asked[1], asked[0], "request")
        it.wrong += differences(two.data.fingerprint, one.data.fingerprint, "data.fingerprint")
        it.wrong += differences(two.checkpoint.sha256, one.checkpoint.sha256, "checkpoint.sha256")
        it.evidence.append(f"data {one.data.fingerprint}, checkpoint {one.checkpoint.sha256}")
    with outcome.examine("same-environment", f"{here} and {there} ran in the same images", sides.kind) as it:
        _examine_images(it, sides)
    compare_stages(outcome, sides, one.stages)
    for stage in two.stages:
        if one.stage(stage.key) is None:
            with outcome.examine(sides.key(stage), f"{stage.key}: {here} gave the outputs of {there}"):
                raise CouldNotVerify(f"{here} has no stage {stage.key}")
    text = f"{here} and {there} decoded the same symbols, and have the same error rates"
    with outcome.examine("figures", text, sides.kind) as it:
        _examine_figures(it, sides)
        _leave_open(it, sides.other)
    if not sides.run_again:
        with outcome.examine("bytes", f"the outputs of {here} and {there} were read by this audit") as it:
            it.missing += [f"{key}: {_few(names)} of one of them is not here" for key, names in sides.unread.items()]
            it.evidence.append(f"{len(one.stages) - len(sides.unread)} stages read whole")
    with outcome.examine("speeds", f"the speeds of {here} and {there}, side by side", ATTESTED) as it:
        it.evidence += _speeds(sides)


def compare_stages(outcome: Outcome, sides: Sides, stages: Iterable[Stage]) -> None:
    """Add a claim for each of these stages of the first run."""
    for stage in stages:
        with outcome.examine(sides.key(stage), f"{stage.key}: {sides.there} gave the outputs of {sides.here}") as it:
            _examine_stage(it, sides, stage)
    if sides.first_difference:
        outcome.fact("first difference", sides.first_difference)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _leave_open(it: Examination, other: str) -> None:
    """What differs because one machine lacks the other's device or toolchain refutes nothing."""
    if other and it.wrong:
        it.missing += [f"{other}; {it.wrong[0]}", *it.wrong[1:]]
        it.wrong.clear()


def _examine_images(it: Examination, sides: Sides) -> None:
    one, two = sides.one, sides.two
    for name in sorted({*one.images, *two.images}):
        ours, theirs = one.images.get(name), two.images.get(name)
        if ours == theirs:
            it.evidence.append(f"{name}: {ours}")
        elif sides.other and not (ours and theirs):
            it.missing.append(f"{name}: {ours or 'absent'} and {theirs or 'absent'}; {sides.other}")
        elif not sides.one_architecture:
            layers = [[layer.name for layer in record.image_layers.get(name, ())] for record in (one, two)]
            if layers[0] == layers[1] or layers == [_defined(sides.first, name), _defined(sides.second, name)]:
                it.evidence.append(
                    f"{name}: siblings of the same locks for {one.host.architecture}, {two.host.architecture}"
                )
                it.kind = ATTESTED
            else:
                it.wrong.append(f"{name}: made of {layers[0]} and of {layers[1]}")
        else:
            it.wrong.append(f"{name}: {ours or 'absent'} and {theirs or 'absent'}")


def _defined(evidence: Evidence, name: str) -> list[str]:
    """The layers of an image as this checkout defines it for a run's architecture: one may have layers of its own."""
    definition = load_definition(evidence.paths.docker, name).of(evidence.record.host.architecture)
    return [layer.name for layer in definition.layers]


def _examine_stage(it: Examination, sides: Sides, stage: Stage) -> None:
    """Hold outputs to each other; what another device or toolchain made cannot be made again here."""
    again = sides.two.stage(stage.key)
    if again is None:
        it.missing.append(f"{sides.there} has no stage {stage.key}")
    elif sides.other and (_is_of_the_device(stage) or stage.image != again.image):
        it.missing.append(sides.other)
        if stage.key.startswith("infer@"):
            _hold_to_thresholds(it, sides, stage, again)
    elif stage.name == "probe" and not sides.one_architecture:
        it.kind = ATTESTED
        it.evidence.append("a probe describes the image of its own architecture")
    else:
        _examine_outputs(it, sides, stage, again)
        _leave_open(it, sides.other)


def _is_of_the_device(stage: Stage) -> bool:
    """Whether a stage runs on the NPU where there is one."""
    return stage.name.partition("_")[0] in _OF_THE_DEVICE


def _examine_outputs(it: Examination, sides: Sides, one: Stage, two: Stage) -> None:
    it.kind = RUN_AGAIN if sides.run_again else RECOMPUTED
    unread, equal = [], 0
    for name in sorted({*one.outputs.files, *two.outputs.files}):
        ours, theirs = one.outputs.files.get(name), two.outputs.files.get(name)
        if ours is None or theirs is None:
            it.wrong.append(f"{name} is an output of one of them only")
            continue
        read = [_was_read(it, evidence, stage, name) for evidence, stage in ((sides.first, one), (sides.second, two))]
        if ours == theirs:
            equal += 1
            if not (read[1] and (read[0] or sides.run_again)):
                unread.append(name)
        elif all(read):
            _note(it, sides, one, two, name)
        else:
            it.missing.append(f"{name}: the bytes differ, and one of them is not here to say by how much")
    if unread:
        sides.unread[one.key] = unread
        it.kind = CLAIMED
        it.evidence.append(f"{len(unread)} files were not here to read: {_few(unread)}")
    it.evidence.append(f"{equal} files of equal digests; outputs {one.outputs.digest}")


def _was_read(it: Examination, evidence: Evidence, stage: Stage, name: str) -> bool:
    """Whether the bytes are here and the record's; bytes that are others refute."""
    try:
        found = evidence.stored(stage).outputs.get(name)
    except CouldNotVerify:
        return False
    told = stage.outputs.files[name]
    if found is None:
        return False
    if (found.sha256, found.size_bytes) != (told.sha256, told.size_bytes):
        it.wrong.append(f"{name} has sha256 {found.sha256}; its own record says {told.sha256}")
        return False
    return True


def _note(it: Examination, sides: Sides, one: Stage, two: Stage, name: str) -> None:
    compared = compare_bytes(name, sides.first.file(one, name), sides.second.file(two, name), sides.why_equal(one))
    line = f"{name}: {compared.verdict}" + (f": {compared.detail}" if compared.detail else "")
    if compared.verdict == DIFFERENT:
        place = first_place(
            name, sides.first.file(one, name), sides.second.file(two, name), utterances_of(sides.first, one)
        )
        line += f"; first at {place}"
        sides.first_difference = sides.first_difference or f"{one.key}, {name}, {place}"
    kinds = {DIFFERENT: it.wrong, OPEN: it.missing, IDENTICAL: it.evidence}
    kinds.get(compared.verdict, it.evidence).append(line)


def utterances_of(evidence: Evidence, stage: Stage) -> Utterances:
    """The names in the batches that a stage made or took; none where they are not known here."""
    size = stage.key.partition("@")[2]
    if not size:
        return {}
    try:
        manifest = read_manifest(evidence, int(size))
    except (BundleError, ValueError):
        return {}
    return {(entry.batch, entry.row): entry.id for entry in manifest.utterances}


def _hold_to_thresholds(it: Examination, sides: Sides, one: Stage, two: Stage) -> None:
    """Hold another device's outputs to the vendor's thresholds."""
    compared = sides.second.stage(one.key.replace("infer@", "compare@"))
    thresholds = sides.second.read(compared, "compare.json", Comparison).thresholds
    for name in sorted(one.outputs.files):
        found = closeness(name, sides.first.file(one, name), sides.second.file(two, name))
        for figure, limit in thresholds.at_least.items():
            if figure in found and found[figure] < limit:
                it.wrong.append(f"{name}: {figure} {found[figure]:.6f}, the vendor's threshold is at least {limit}")
        for figure, limit in thresholds.at_most.items():
            if figure in found and found[figure] > limit:
                it.wrong.append(f"{name}: {figure} {found[figure]:.6f}, the vendor's threshold is at most {limit}")
        figures = ", ".join(f"{figure} {value:.6f}" for figure, value in sorted(found.items()))
        it.evidence.append(f"{name}: {figures}, against the other run's processor")


def _examine_figures(it: Examination, sides: Sides) -> None:
    one, two = sides.one, sides.two
    for result in one.results:
        size = result.batch_size
        other = two.result(size)
        if other is None:
            it.missing.append(f"one of them has no result of batch size {size}")
            continue
        for protocol in ("published", "complete"):
            it.wrong += differences(
                getattr(other, protocol), getattr(result, protocol), f"{protocol} at batch size {size}"
            )
        key = f"score@{size}"
        heard = [stage.outputs.files.get("utterances.jsonl") if stage is not None else None
                 for stage in (one.stage(key), two.stage(key))]  # fmt: skip
        if heard[0] != heard[1] or heard[0] is None:
            it.wrong.append(f"{key}: the hypotheses differ (utterances.jsonl)")
        it.evidence.append(
            f"batch size {size}: CER {result.complete.cer_printed} %, WER {result.complete.wer_printed} % "
            "(complete protocol)"
        )
    it.missing += [f"{sides.here} has no result of batch size {result.batch_size}"
                   for result in two.results if one.result(result.batch_size) is None]  # fmt: skip


def _speeds(sides: Sides) -> list[str]:
    lines = []
    for result in sides.one.results:
        other = sides.two.result(result.batch_size)
        if other is not None:
            ours, theirs = (item.throughput_utterances_per_s for item in (result, other))
            ratio = f" ({100 * (theirs / ours - 1):+.1f} %)" if ours else ""
            lines.append(
                f"batch size {result.batch_size}: {sides.here} {ours:.4f}, {sides.there} {theirs:.4f} "
                f"utterances/s{ratio}"
            )
    return lines


def machine_of(record: Record) -> str:
    """The processor and engine of a run, for the page's head."""
    return f"{record.host.cpu}, {record.host.cores} cores, {record.engine.name}"
