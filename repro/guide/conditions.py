"""The conditions of the published table: why a figure of a run does not compare with it, every reason in words."""

from __future__ import annotations

from repro.base import versions
from repro.guide.published import THROUGHPUT, WER, Published, Row, edits_allowed
from repro.record.document import Findings, Host, Request, ToolchainRow
from repro.record.judgement import MetricName
from repro.record.scores import Result


def machine_reasons(record: Findings, published: Published) -> list[str]:
    """Why nothing of this run compares: another device or toolchain."""
    wanted, request = published.preconditions, record.request
    reasons = [*_device_reasons(request, published), *_precision_reasons(request)]
    if request.cann:
        reasons.append(
            f"toolchain: CANN {request.cann}, as was asked for; the table's is installed from its own packages"
        )
    if request.toolchain != wanted.toolchain:
        reasons.append(f"toolchain: {request.toolchain}; the table's is {wanted.toolchain}")
    for row in record.toolchain:
        if row.status != "same" and row.kind == "table" and not is_excepted(row, record.host, published):
            found = f"found {row.found}" if row.found else "absent"
            reasons.append(f"toolchain: {row.component}: required {row.required}, {found}")
    if request.device == wanted.device and not any(
        row.component == "chip" and row.found == wanted.chip for row in record.toolchain
    ):
        reasons.append(f"chip: {wanted.chip} was not identified by a probe")
    return list(dict.fromkeys(reasons))


def _device_reasons(request: Request, published: Published) -> list[str]:
    wanted = published.preconditions
    reasons = []
    if request.device != wanted.device:
        reasons.append(
            f"device: ran on the {request.device.upper()}; the table is of the {wanted.device.upper()} {wanted.chip}"
        )
    chips = request.num_devices or 1
    if chips > 1:
        reasons.append(f"device: the batches were shared by {chips} chips; the table is of one")
    return reasons


def _precision_reasons(request: Request) -> list[str]:
    reasons = []
    if request.precision:
        reasons.append(f"precision: {request.precision}, as was asked for; the table's is the vendor's default")
    if request.precision_mode:
        reasons.append(f"precision: atc's {request.precision_mode}; the table's is the vendor's default")
    return reasons


def is_excepted(row: ToolchainRow, host: Host, published: Published) -> bool:
    """Whether the table's footnote about this host's card covers a component that is not as required."""
    return any(
        exception.card in (host.card or "")
        and row.component == exception.component
        and any(versions.same(row.found, accepted) for accepted in exception.accepts)
        for exception in published.card_exceptions
    )


def accuracy_reasons(record: Findings, published: Published) -> list[str]:
    """Why no error rate of this run compares: other data, another checkpoint, another decoder."""
    wanted, request = published.preconditions, record.request
    data, checkpoint = record.data, record.checkpoint
    reasons = []
    if data.kind != wanted.data:
        what = "the demo corpus (synthetic speech)" if data.kind == "demo" else "a corpus of the user's"
        reasons.append(f"data: {what}, not TIMIT")
    elif not data.timit_counts_match:
        reasons.append("data: the counts of speakers and utterances are not TIMIT's")
    if checkpoint.kind != wanted.checkpoint:
        reasons.append(f"checkpoint: the {checkpoint.kind} checkpoint, not the published one")
    if request.split != wanted.split:
        reasons.append(f"split: {request.split}; the table is of the {wanted.split} set")
    else:
        for what, counts, needed in (
            ("utterances", data.utterances, wanted.utterances),
            ("phones", data.phones, wanted.phones),
        ):
            found = getattr(counts, request.split)
            if found != needed:
                reasons.append(f"data: {request.split} has {found} {what}; TIMIT's has {needed}")
    if request.decode.type != wanted.decode:
        reasons.append(f"decoder: {request.decode.type}; the table is of {wanted.decode}")
    return reasons


def speed_reasons(record: Findings, published: Published) -> list[str]:
    """Why no speed of this run compares. Data and weights do not enter: it is measured on zeros."""
    loop = record.request.loop
    if loop != published.preconditions.loop:
        return [f"throughput: averaged over {loop} executions, not {published.preconditions.loop}"]
    return []


def own_reasons(result: Result, metric: MetricName, row: Row | None) -> list[str]:
    """Why this figure of this batch size does not compare."""
    size, found = result.batch_size, result.published
    if row is None:
        return [f"batch size {size} is not in the table"]
    if metric == THROUGHPUT:
        seen = result.while_measuring
        return [f"throughput: batch size {size}: {reason}" for reason in seen.disturbances] if seen else []
    if found.utterances != row.utterances:
        return [f"batch size {size}: {found.utterances} utterances scored; the table's figure is of {row.utterances}"]
    length_name, length = ("phones", found.phones) if metric == WER else ("characters", found.characters)
    if not edits_allowed(row.printed[metric], length):
        return [
            f"batch size {size}: the references have {length} {length_name}, of which no whole number of edits is "
            f"the published {row.printed[metric]} %: they are not the references that it was scored with"
        ]
    return []
