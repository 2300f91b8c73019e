"""Two runs held against each other, output by output: `invoke audit.compare`, and the end of `invoke audit.rerun`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from repro.audit.agreement import Compared, closeness, compare_file
from repro.audit.claims import ATTESTED, Examination, Outcome
from repro.audit.evidence import Evidence
from repro.audit.leaves import differences
from repro.base.errors import BundleError

_OF_THE_DEVICE = ("convert", "infer", "measure", "compare")
_ASKED = ("batch_sizes", "decode", "split", "skip_bad")


def compare_runs(outcome: Outcome, first: Evidence, second: Evidence, words: tuple[str, str] = ("A", "B")) -> None:
    """Add a claim for what both were asked, for each image and each stage, for the symbols and for the speeds.

    Args:
        outcome: takes the claims.
        first: the run that is held to.
        second: the run that is held against it.
        words: what the two are called in the claims.
    """
    here, there = words
    one, two = first.record, second.record
    text = f"{here} and {there} were asked the same, of the same data and weights"
    with outcome.examine("same-question", text) as it:
        for name in _ASKED:
            it.wrong += differences(two["request"].get(name), one["request"].get(name), f"request.{name}")
        it.wrong += differences(two["data"]["fingerprint"], one["data"]["fingerprint"], "data.fingerprint")
        it.wrong += differences(two["checkpoint"]["sha256"], one["checkpoint"]["sha256"], "checkpoint.sha256")
        it.evidence.append(f"data {one['data']['fingerprint']}, checkpoint {one['checkpoint']['sha256']}")
    other = _made_otherwise(one, two)
    with outcome.examine("same-environment", f"{here} and {there} ran in the same images") as it:
        _examine_images(it, one, two, other)
    stages = {stage["key"]: stage for stage in two["stages"]}
    for stage in one["stages"]:
        key = stage["key"]
        text = f"{key}: {there} gave the outputs of {here}"
        with outcome.examine(f"stage:{key}", text) as it:
            if key not in stages:
                it.missing.append(f"{there} has no stage {key}")
            elif other and (_is_of_the_device(stage) or stage["image"] != stages[key]["image"]):
                _examine_elsewhere(it, first, second, stage, stages, other)
            elif stage["name"] == "probe" and _architecture(one) != _architecture(two):
                it.if_it_holds = ATTESTED
                it.evidence.append("a probe describes the image of its own architecture")
            else:
                _examine_stage(it, first, second, stage, stages[key], other)
    text = f"{here} and {there} decoded the same symbols, and have the same error rates"
    with outcome.examine("figures", text) as it:
        _examine_figures(it, one, two, stages)
        _leave_open(it, other)
    with outcome.examine("speeds", f"the speeds of {here} and {there}, side by side") as it:
        it.if_it_holds = ATTESTED
        it.evidence += _speeds(one, two, words)


def _made_otherwise(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    """Why outputs of two runs need not have equal bytes: another device or toolchain; '' where they must."""
    devices = [record["request"]["device"] for record in (one, two)]
    if devices[0] != devices[1]:
        return f"made on the devices {devices[0]} and {devices[1]}"
    pinned = [", ".join(sorted(record["request"].get("pinned", ()))) or "none" for record in (one, two)]
    if pinned[0] != pinned[1]:
        return f"made with other toolchains: in their pinned images ran {pinned[0]}, and {pinned[1]}"
    return ""


def _leave_open(it: Examination, other: str) -> None:
    """What differs because one machine lacks the other's device or toolchain refutes nothing."""
    if other and it.wrong:
        it.missing += [f"{other}; {it.wrong[0]}", *it.wrong[1:]]
        it.wrong.clear()


def _architecture(record: Mapping[str, Any]) -> str:
    return str(record["host"].get("architecture", ""))


def _examine_images(it: Examination, one: Mapping[str, Any], two: Mapping[str, Any], other: str) -> None:
    for name in sorted({*one["images"], *two["images"]}):
        ours, theirs = one["images"].get(name), two["images"].get(name)
        if ours == theirs:
            it.evidence.append(f"{name}: {ours}")
        elif other and not (ours and theirs):
            it.missing.append(f"{name}: {ours or 'absent'} and {theirs or 'absent'}; {other}")
        elif _architecture(one) != _architecture(two):
            layers = [[layer["name"] for layer in record["image_layers"].get(name, [])] for record in (one, two)]
            if layers[0] == layers[1]:
                it.evidence.append(f"{name}: siblings of the same locks for {_architecture(one)}, {_architecture(two)}")
                it.if_it_holds = ATTESTED
            else:
                it.wrong.append(f"{name}: made of {layers[0]} and of {layers[1]}")
        else:
            it.wrong.append(f"{name}: {ours or 'absent'} and {theirs or 'absent'}")


def _examine_stage(
    it: Examination, first: Evidence, second: Evidence, one: Mapping[str, Any], two: Mapping[str, Any], other: str = ""
) -> None:
    """Hold outputs to each other byte by byte; where `other` says why they may differ, what does is left open."""
    if one["outputs"]["files"] == two["outputs"]["files"]:
        it.evidence.append(f"{len(one['outputs']['files'])} files, identical bytes: {one['outputs']['digest']}")
        return
    processors = [evidence.record["host"].get("instruction_set") for evidence in (first, second)]
    files_one, files_two = one["outputs"]["files"], two["outputs"]["files"]
    for name in sorted({*files_one, *files_two}):
        if name not in files_one or name not in files_two:
            it.wrong.append(f"{name} is an output of one of them only")
            continue
        compared = compare_file(
            name,
            one["name"],
            _file(first, one, name),
            _file(second, two, name),
            files_one[name]["sha256"] == files_two[name]["sha256"],
            processors[0] == processors[1] and not other,
        )
        _note(it, compared)
    _leave_open(it, other)


def _is_of_the_device(stage: Mapping[str, Any]) -> bool:
    """Whether a stage runs on the NPU where there is one."""
    return stage["name"].partition("_")[0] in _OF_THE_DEVICE


def _examine_elsewhere(
    it: Examination,
    first: Evidence,
    second: Evidence,
    one: Mapping[str, Any],
    stages: Mapping[str, Mapping[str, Any]],
    other: str,
) -> None:
    """What another device or toolchain made cannot be made again here; a network's outputs are held to the vendor's
    thresholds."""
    key = one["key"]
    it.missing.append(other)
    if not key.startswith("infer@"):
        return
    two, compared = stages[key], stages[key.replace("infer@", "compare@")]
    thresholds = second.json(compared, "compare.json")["thresholds"]
    for name in sorted(one["outputs"]["files"]):
        found = closeness(name, first.file(one, name), second.file(two, name))
        for figure, limit in thresholds["at_least"].items():
            if figure in found and found[figure] < limit:
                it.wrong.append(f"{name}: {figure} {found[figure]:.6f}, the vendor's threshold is at least {limit}")
        for figure, limit in thresholds["at_most"].items():
            if figure in found and found[figure] > limit:
                it.wrong.append(f"{name}: {figure} {found[figure]:.6f}, the vendor's threshold is at most {limit}")
        figures = ", ".join(f"{figure} {value:.6f}" for figure, value in sorted(found.items()))
        it.evidence.append(f"{name}: {figures}, against the other run's processor")


def _note(it: Examination, compared: Compared) -> None:
    line = f"{compared.name}: {compared.verdict}" + (f": {compared.detail}" if compared.detail else "")
    if compared.verdict == "different":
        it.wrong.append(line)
    elif compared.verdict == "not here":
        it.missing.append(line)
    else:
        it.evidence.append(line)


def _file(evidence: Evidence, stage: Mapping[str, Any], name: str) -> Optional[Path]:
    """Where an output lies, if its bytes are here and are the record's."""
    try:
        evidence.file(stage, name)
    except BundleError:
        return None
    return evidence.stored(stage["fingerprint"]).out / name


def _examine_figures(
    it: Examination, one: Mapping[str, Any], two: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]
) -> None:
    hypotheses = {stage["key"]: stage["outputs"]["files"].get("utterances.jsonl") for stage in one["stages"]}
    results = {result["batch_size"]: result for result in two["results"]}
    for result in one["results"]:
        size = result["batch_size"]
        if size not in results:
            it.missing.append(f"one of them has no result of batch size {size}")
            continue
        for protocol in ("published", "complete"):
            it.wrong += differences(
                results[size][protocol], result[protocol], f"{protocol} at batch size {size}"
            )  # fmt: skip
        key = f"score@{size}"
        other = stages.get(key, {}).get("outputs", {}).get("files", {}).get("utterances.jsonl")
        if hypotheses.get(key) != other:
            it.wrong.append(f"{key}: the hypotheses differ (utterances.jsonl)")
        it.evidence.append(
            f"batch size {size}: CER {result['complete']['cer_printed']} %, WER {result['complete']['wer_printed']} % "
            "(complete protocol)"
        )


def _speeds(one: Mapping[str, Any], two: Mapping[str, Any], words: tuple[str, str]) -> list[str]:
    results = {result["batch_size"]: result for result in two["results"]}
    lines = []
    for result in one["results"]:
        other = results.get(result["batch_size"])
        if other is not None:
            ours, theirs = (item["throughput_utterances_per_s"] for item in (result, other))
            lines.append(
                f"batch size {result['batch_size']}: {words[0]} {ours:.4f}, {words[1]} {theirs:.4f} utterances/s "
                f"({100 * (theirs / ours - 1):+.1f} %)"
            )
    return lines
