"""A record's figures, recomputed: symbols, scores and agreement from the network's stored outputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from msgspec import UNSET

from repro.audit import arithmetic, beam, parity, scoring, times
from repro.audit.claims import ATTESTED, Examination, Outcome
from repro.audit.evidence import Evidence
from repro.audit.leaves import differences
from repro.audit.stage_files import (
    COLUMNS,
    Outputs,
    read_labels,
    read_outputs,
    read_units,
    read_utterances,
)
from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.graph.pipeline import reference_batch_size
from repro.record.document import Record
from repro.record.scores import Comparison, Protocol, Result
from repro.record.stage_files import FRAMES, ROWS, Manifest, ScoreFile

Heard = dict[str, tuple[str, ...]]


def examine_results(outcome: Outcome, evidence: Evidence) -> None:
    """Claims for each batch size: symbols, scores, agreement, speed, and whether the speed is a valid figure."""
    record = evidence.record
    with outcome.examine("results", "there is one result for each batch size asked for") as it:
        sizes = tuple(result.batch_size for result in record.results)
        if sizes != record.request.batch_sizes:
            it.wrong.append(f"results are of batch sizes {sizes}, asked for were {record.request.batch_sizes}")
        it.evidence.append(f"batch sizes {sizes}")
    for position, result in enumerate(record.results):
        _examine_result(outcome, evidence, result, f"results[{position}]")


def _examine_result(outcome: Outcome, evidence: Evidence, result: Result, path: str) -> None:
    size = result.batch_size
    heard: Heard = {}
    text = f"batch size {size}: the hypotheses are what the network's stored outputs decode to"
    with outcome.examine(f"symbols@{size}", text) as it:
        heard = _examine_symbols(it, evidence, size)
    text = f"batch size {size}: CER, WER, counts and intervals follow from the hypotheses and the stored labels"
    with outcome.examine(f"score@{size}", text) as it:
        _examine_score(it, evidence, result, path, heard)
    text = f"batch size {size}: the rates follow from the counts, and the counts are the stage's"
    with outcome.examine(f"rates@{size}", text) as it:
        _examine_rates(it, evidence, result, path)
    text = f"batch size {size}: the agreement of PyTorch, ONNX and the converted model is the stage's"
    with outcome.examine(f"agreement@{size}", text) as it:
        told = evidence.read(evidence.stage(f"compare@{size}"), "compare.json", Comparison)
        it.wrong += differences(result.comparison, told, f"{path}.comparison")
        it.evidence.append("compare.json, by digest")
    text = f"batch size {size}: PyTorch's and the converted model's stored outputs agree as far as is claimed"
    with outcome.examine(f"outputs-agree@{size}", text) as it:
        _examine_agreement(it, evidence, result)
    text = f"batch size {size}: throughput and latency follow from the raw times"
    with outcome.examine(f"speed@{size}", text, ATTESTED) as it:
        times.examine_speed(it, evidence, result, path)
    text = f"batch size {size}: the throughput is averaged over enough executions and time to be a figure"
    with outcome.examine(f"speed-valid@{size}", text, ATTESTED) as it:
        times.examine_validity(it, evidence, size)


def read_manifest(evidence: Evidence, size: int) -> Manifest:
    """The manifest of a batch size, held to what was asked."""
    stage = evidence.stage(f"batches@{size}")
    manifest = evidence.read(stage, "manifest.json", Manifest)
    asked = (size, evidence.record.request.split, ROWS, COLUMNS)
    if (manifest.batch_size, manifest.split, manifest.rows, manifest.columns) != asked:
        raise VerificationFailed(
            f"{stage.key}: manifest.json is of batch size {manifest.batch_size}, split {manifest.split}, rows of "
            f"{manifest.rows} x {manifest.columns}; asked for were {asked}"
        )
    return manifest


def _each_output(evidence: Evidence, key: str, manifest: Manifest, classes: int) -> Iterator[Outputs]:
    """The outputs of a stage, batch by batch: one of them is held at a time."""
    stage = evidence.stage(key)
    for number in manifest.batches:
        name = manifest.output_name(number)
        yield read_outputs(evidence.file(stage, name), manifest.batch_size, classes, f"{key}: {name}")


def _each_utterance(evidence: Evidence, key: str, manifest: Manifest, classes: int) -> Iterator[parity.Frames]:
    """The outputs of a stage, utterance by utterance in the manifest's order."""
    entries = iter(manifest.utterances)
    for outputs in _each_output(evidence, key, manifest, classes):
        for entry in itertools.islice(entries, manifest.batch_size):
            yield outputs.frames(entry.row, FRAMES)


def _examine_symbols(it: Examination, evidence: Evidence, size: int) -> Heard:
    """Decode what `infer` stored; the names heard by utterance, to score from."""
    data = evidence.file(evidence.stage(f"score@{size}"), "utterances.jsonl")
    lines = read_utterances(data, f"score@{size}: utterances.jsonl")
    claimed = {line.id: tuple(line.complete.hypothesis.split()) for line in lines}
    units = _units(evidence)
    names = scoring.class_names(units)
    decoder = _decoder(evidence, units, claimed)
    manifest = read_manifest(evidence, size)
    heard: Heard = {}
    for number, outputs in enumerate(_each_output(evidence, f"infer@{size}", manifest, len(names))):
        for entry in manifest.utterances[number * size : (number + 1) * size]:
            heard[entry.id] = scoring.heard(entry, outputs, names, decoder)
    for name in sorted({*heard, *claimed}):
        if heard.get(name) != claimed.get(name):
            it.wrong.append(
                f"{name}: utterances.jsonl has {' '.join(claimed.get(name, ('nothing',)))!r}; the stored outputs "
                f"decode to {' '.join(heard.get(name, ('nothing',)))!r}"
            )
    how = "CTC's best path"
    if isinstance(decoder, scoring.Beam):
        how = "a beam search of its own, with the stage lm's bigram"
        _examine_search(it, evidence, size, units, decoder)
    it.evidence.append(f"{len(heard)} utterances of {len(manifest.batches)} batches decoded again by {how}")
    return heard


def _decoder(evidence: Evidence, units: list[str], claimed: Mapping[str, Sequence[str]]) -> scoring.Decoder:
    asked = evidence.record.request.decode
    if asked.type == "Greedy":
        return scoring.Greedy()
    classes = {name: number for number, name in enumerate(scoring.class_names(units))}
    named = {
        name: tuple(classes[phone] for phone in phones)
        for name, phones in claimed.items()
        if classes.keys() >= set(phones)
    }
    return scoring.Beam(_language(evidence, units), asked.beam_width, named)


def _language(evidence: Evidence, units: list[str]) -> beam.Language:
    data = evidence.file(evidence.stage("lm"), "lm_phone_bg.arpa")
    return beam.read_language(data, units, evidence.record.request.decode.lm_alpha, "lm: lm_phone_bg.arpa")


def _examine_search(it: Examination, evidence: Evidence, size: int, units: list[str], decoder: scoring.Beam) -> None:
    """What score.json says of the search: its width and weight, and where the reference would have failed."""
    asked = evidence.record.request.decode
    stored = evidence.read(evidence.stage(f"score@{size}"), "score.json", ScoreFile).decode
    failing = stored.reference_would_fail
    if not failing:
        raise VerificationFailed(f"score@{size}: score.json does not describe its search")
    found = {
        "beam_width": stored.beam_width,
        "lm_alpha": stored.lm_alpha,
        "empty_labelling_survived": failing.empty_labelling_survived.utterances,
        "probability_underflowed_to_zero": failing.probability_underflowed_to_zero.utterances,
        "symbols_missing_in_language_model": failing.symbols_missing_in_language_model.symbols,
    }
    expected = {
        "beam_width": asked.beam_width,
        "lm_alpha": asked.lm_alpha,
        "empty_labelling_survived": tuple(decoder.empty),
        "probability_underflowed_to_zero": tuple(decoder.underflowed),
        "symbols_missing_in_language_model": tuple(_language(evidence, units).missing),
    }
    it.wrong += differences(found, expected, "score.json: decode")
    if decoder.ties:
        it.evidence.append(f"as good as the best within rounding, and taken as claimed: {', '.join(decoder.ties)}")


def _units(evidence: Evidence) -> list[str]:
    return read_units(evidence.file(evidence.stage("corpus"), "units"), "corpus: units")


def _examine_score(it: Examination, evidence: Evidence, result: Result, path: str, heard: Heard) -> None:
    size, request = result.batch_size, evidence.record.request
    if not heard:
        raise CouldNotVerify("the hypotheses are not known: see the claim before this one")
    manifest = read_manifest(evidence, size)
    name = f"{request.split}/phn_text"
    labels = read_labels(evidence.file(evidence.stage("corpus"), name), f"corpus: {name}")
    order = [entry.id for entry in manifest.utterances]
    unlabelled = [utterance for utterance in order if utterance not in labels]
    if unlabelled:
        raise VerificationFailed(f"batches@{size}: manifest.json: corpus has no labels of {unlabelled[0]}")
    left_out = sorted(set(labels) - set(order) - {item.utterance for item in manifest.excluded})
    it.wrong += [f"{utterance} has labels, and stands neither among the batches nor among the excluded"
                 for utterance in left_out]  # fmt: skip
    in_published = (len(order) - 1) // size * size
    scored = scoring.score(
        [
            scoring.Utterance(utterance, labels[utterance], heard[utterance], position < in_published)
            for position, utterance in enumerate(order)
        ],
        request.decode.type,
    )
    stage = evidence.stage(f"score@{size}")
    stored = evidence.read(stage, "score.json", ScoreFile)
    for protocol, expected, told, claimed in (
        ("published", scored.published, stored.protocols.published, result.published),
        ("complete", scored.complete, stored.protocols.complete, result.complete),
    ):
        it.wrong += differences(claimed, expected, f"{path}.{protocol}")
        it.wrong += differences(told, expected, f"score.json: {protocol}")
    _examine_account(it, evidence.record, stored, manifest, result, path)
    lines = read_utterances(evidence.file(stage, "utterances.jsonl"), f"{stage.key}: utterances.jsonl")
    it.wrong += differences(lines, scored.lines, "utterances.jsonl")
    whole = scored.complete
    it.evidence.append(
        f"{whole.utterances} utterances, {whole.phones} phones, {whole.edits.wer} phone and "
        f"{whole.edits.cer} character edits, by code that shares nothing with the stage"
    )
    it.open_to.append(
        "labels that the data set does not give: found from the data set (see the claim 'labels'), or by a rerun"
    )


def _examine_account(
    it: Examination, record: Record, stored: ScoreFile, manifest: Manifest, result: Result, path: str
) -> None:
    """What score.json says of itself: batch size, split, decoder, and what was left out."""
    it.wrong += differences(result.decode, stored.decode, f"{path}.decode")
    it.wrong += differences(result.excluded, manifest.excluded, f"{path}.excluded")
    it.wrong += differences(stored.excluded, manifest.excluded, "score.json: excluded")
    asked = {"batch_size": result.batch_size, "split": record.request.split, "decode": record.request.decode.type}
    told = {"batch_size": stored.batch_size, "split": stored.split, "decode": stored.decode.type}
    it.wrong += differences(told, asked, "score.json")


def _examine_rates(it: Examination, evidence: Evidence, result: Result, path: str) -> None:
    """What remains where outputs and labels were withheld: rates from counts, and the counts by digest."""
    stored = evidence.read(evidence.stage(f"score@{result.batch_size}"), "score.json", ScoreFile)
    for name, found, told in (
        ("published", result.published, stored.protocols.published),
        ("complete", result.complete, stored.protocols.complete),
    ):
        it.wrong += differences(found, told, f"{path}.{name}")
        _examine_counts(it, found, f"{path}.{name}")
        it.evidence.append(f"{name}: {found.edits.cer} / {found.characters} characters, "
                           f"{found.edits.wer} / {found.phones} phones")  # fmt: skip


def _examine_counts(it: Examination, found: Protocol, path: str) -> None:
    cer, wer = (
        arithmetic.percent(found.edits.cer, found.characters),
        arithmetic.percent(found.edits.wer, found.phones),
    )
    rates = {
        "cer_percent": cer,
        "cer_printed": None if cer is None else f"{cer:.4f}",
        "wer_percent": wer,
        "wer_printed": None if wer is None else f"{wer:.4f}",
    }
    it.wrong += differences({name: getattr(found, name) for name in rates}, rates, path)
    counts = found.wer_counts
    if counts.substitutions + counts.insertions + counts.deletions != found.edits.wer:
        it.wrong.append(f"{path}.wer_counts do not add up to {found.edits.wer} edits")
    confused = sum(entry.count for entry in found.confusions)
    if confused != counts.substitutions:
        it.wrong.append(f"{path}.confusions are {confused}, not as many as the substitutions")


def _examine_agreement(it: Examination, evidence: Evidence, result: Result) -> None:
    size = result.batch_size
    told = evidence.read(evidence.stage(f"compare@{size}"), "compare.json", Comparison)
    classes = len(scoring.class_names(_units(evidence)))
    manifest = read_manifest(evidence, size)
    once = reference_batch_size(evidence.record.request.batch_sizes)
    of_torch = manifest if once == size else read_manifest(evidence, once)
    if [entry.id for entry in of_torch.utterances] != [entry.id for entry in manifest.utterances]:
        it.wrong.append(f"batches@{once}, which PyTorch was given, and batches@{size} are not of the same utterances")
        return
    found = parity.agreement(
        manifest,
        _each_utterance(evidence, f"reference@{once}", of_torch, classes),
        _each_utterance(evidence, f"infer@{size}", manifest, classes),
    )
    it.wrong += parity.contradictions(told, found)
    if told.batch_size != size:
        it.wrong.append(f"compare.json is of batch size {told.batch_size}")
    if told.reference_batch_size not in (UNSET, once):
        it.wrong.append(
            f"compare.json tells of PyTorch's outputs in batches of {told.reference_batch_size}, not {once}"
        )
    it.evidence.append(
        f"{found.utterances} utterances of both outputs: largest difference {found.max_abs:.3g}, cosine "
        f"{found.cosine:.6f}, {found.symbols_changed} frames with another best class"
    )
    it.open_to.append("outputs of `infer` and `reference` that were changed together: a rerun finds them")
