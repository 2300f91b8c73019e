"""A record's figures, recomputed: error rates from the network's stored outputs, speeds from the raw times."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from repro.audit import arithmetic, beam, scoring
from repro.audit.claims import ATTESTED, Examination, Outcome
from repro.audit.evidence import Evidence, Stored, parse_json
from repro.audit.leaves import differences
from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.base.files import sha256_bytes

PRINTED = 1e-6  # relative: what a tool rounds away when it prints
ROUNDING = 1e-9  # relative: two orders of summation, or two ways to write a percentile
LEAST_EXECUTIONS = 100  # as many as the published table's figures are averaged over
LEAST_DURATION_S = 10.0  # timed; a tenth of it is the worst that one interruption of a second can add
MOST_UNCERTAINTY = 0.05  # half a 95 % interval of the mean, relative: the tolerance of the published throughput


def examine_results(outcome: Outcome, evidence: Evidence) -> None:
    """Claims for each batch size: symbols, scores, agreement, speed, and whether the speed is a valid figure."""
    record = evidence.record
    with outcome.examine("results", "there is one result for each batch size asked for") as it:
        sizes = [result["batch_size"] for result in record["results"]]
        if sizes != record["request"]["batch_sizes"]:
            it.wrong.append(f"results are of batch sizes {sizes}, asked for were {record['request']['batch_sizes']}")
        it.evidence.append(f"batch sizes {sizes}")
    for position, result in enumerate(record["results"]):
        size, path = result["batch_size"], f"results[{position}]"
        heard: dict[str, tuple[str, ...]] = {}
        text = f"batch size {size}: the hypotheses are what the network's stored outputs decode to"
        with outcome.examine(f"symbols@{size}", text) as it:
            heard = _examine_symbols(it, evidence, size)
        text = f"batch size {size}: CER, WER, counts and intervals follow from the hypotheses"
        with outcome.examine(f"score@{size}", text) as it:
            _examine_score(it, evidence, result, path, heard)
        text = f"batch size {size}: the rates follow from the counts, and the counts are the stage's"
        with outcome.examine(f"rates@{size}", text) as it:
            _examine_rates(it, evidence, result, path)
        text = f"batch size {size}: the agreement of PyTorch, ONNX and the converted model is the stage's"
        with outcome.examine(f"agreement@{size}", text) as it:
            expected = evidence.json(_stage(evidence, f"compare@{size}"), "compare.json")
            it.wrong += differences(result["comparison"], expected, f"{path}.comparison")
            it.evidence.append("compare.json, by digest; `invoke audit.rerun` computes it again")
        text = f"batch size {size}: throughput and latency follow from the raw times"
        with outcome.examine(f"speed@{size}", text) as it:
            _examine_speed(it, evidence, result, path)
        text = f"batch size {size}: the throughput is averaged over enough executions and time to be a figure"
        with outcome.examine(f"speed-valid@{size}", text) as it:
            _examine_validity(it, evidence, size)


def _stage(evidence: Evidence, key: str) -> Mapping[str, Any]:
    for stage in evidence.record["stages"]:
        if stage["key"] == key:
            return dict(stage)
    raise VerificationFailed(f"the record has no stage {key}")


def _examine_symbols(it: Examination, evidence: Evidence, size: int) -> dict[str, tuple[str, ...]]:
    """Decode what `infer` stored; the names heard by utterance, to score from."""
    lines = _lines(evidence, size)
    claimed = {line["id"]: tuple(line[scoring.COMPLETE]["hypothesis"].split()) for line in lines}
    units = _units(evidence)
    decoder = _decoder(evidence, units, claimed)
    batches, infer = _stage(evidence, f"batches@{size}"), _stage(evidence, f"infer@{size}")
    manifest = evidence.json(batches, "manifest.json")
    outputs: dict[int, tuple[tuple[int, ...], array[float]]] = {}
    for number in sorted({entry["batch"] for entry in manifest["utterances"]}):
        folder = "result" if number < manifest["num_batches"] else "tail"
        name = f"{folder}/inputs_{number}_0.npy"
        outputs[number] = scoring.read_npy(evidence.file(infer, name), f"infer@{size}: {name}")
    heard = scoring.heard_in(outputs, manifest, units, decoder)
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
    it.evidence.append(f"{len(heard)} utterances of {len(outputs)} batches decoded again by {how}")
    return heard


def _decoder(evidence: Evidence, units: list[str], claimed: Mapping[str, Sequence[str]]) -> scoring.Decoder:
    asked = evidence.record["request"]["decode"]
    if asked["type"] == "Greedy":
        return scoring.Greedy()
    language = _language(evidence, units)
    classes = {name: number for number, name in enumerate(scoring.class_names(units))}
    named = {
        name: tuple(classes[phone] for phone in phones)
        for name, phones in claimed.items()
        if classes.keys() >= set(phones)
    }
    return scoring.Beam(language, asked["beam_width"], named)


def _language(evidence: Evidence, units: list[str]) -> beam.Language:
    data = evidence.file(_stage(evidence, "lm"), "lm_phone_bg.arpa")
    weight = evidence.record["request"]["decode"]["lm_alpha"]
    return beam.read_language(data, units, weight, "lm: lm_phone_bg.arpa")


def _examine_search(it: Examination, evidence: Evidence, size: int, units: list[str], decoder: scoring.Beam) -> None:
    """What score.json says of the search: its width and weight, and where the reference would have failed."""
    asked = evidence.record["request"]["decode"]
    stored = evidence.json(_stage(evidence, f"score@{size}"), "score.json")["decode"]
    failing = stored["reference_would_fail"]
    found = {
        "beam_width": stored["beam_width"],
        "lm_alpha": stored["lm_alpha"],
        "empty_labelling_survived": failing["empty_labelling_survived"]["utterances"],
        "probability_underflowed_to_zero": failing["probability_underflowed_to_zero"]["utterances"],
        "symbols_missing_in_language_model": failing["symbols_missing_in_language_model"]["symbols"],
    }
    expected = {
        "beam_width": asked["beam_width"],
        "lm_alpha": asked["lm_alpha"],
        "empty_labelling_survived": decoder.empty,
        "probability_underflowed_to_zero": decoder.underflowed,
        "symbols_missing_in_language_model": _language(evidence, units).missing,
    }
    it.wrong += differences(found, expected, "score.json: decode")
    if decoder.ties:
        it.evidence.append(f"as good as the best within rounding, and taken as claimed: {', '.join(decoder.ties)}")


def _units(evidence: Evidence) -> list[str]:
    return _text(evidence, "units").split()


def _text(evidence: Evidence, name: str) -> str:
    return evidence.file(_stage(evidence, "corpus"), name).decode("utf-8")


def _lines(evidence: Evidence, size: int) -> list[dict[str, Any]]:
    what = f"score@{size}: utterances.jsonl"
    data = evidence.file(_stage(evidence, f"score@{size}"), "utterances.jsonl")
    return [parse_json(line, what) for line in data.splitlines()]


def _examine_score(
    it: Examination, evidence: Evidence, result: Mapping[str, Any], path: str, heard: Mapping[str, tuple[str, ...]]
) -> None:
    size, request = result["batch_size"], evidence.record["request"]
    if not heard:
        raise CouldNotVerify("the hypotheses are not known: see the claim before this one")
    manifest = evidence.json(_stage(evidence, f"batches@{size}"), "manifest.json")
    labels = {}
    for line in _text(evidence, f"{request['split']}/phn_text").splitlines():
        name, *phones = line.split()
        labels[name] = tuple(phones)
    order = [entry["id"] for entry in manifest["utterances"]]
    in_published = (len(order) - 1) // size * size
    scored = scoring.score(
        [
            scoring.Utterance(name, labels[name], heard[name], position < in_published)
            for position, name in enumerate(order)
        ],
        request["decode"]["type"],
    )
    stored = evidence.json(_stage(evidence, f"score@{size}"), "score.json")
    for protocol, expected in scored.protocols.items():
        it.wrong += differences(result[protocol], expected, f"{path}.{protocol}")
        it.wrong += differences(stored["protocols"][protocol], expected, f"score.json: {protocol}")
    it.wrong += differences(result["decode"], stored["decode"], f"{path}.decode")
    it.wrong += differences(result["excluded"], manifest["excluded"], f"{path}.excluded")
    if result["decode"]["type"] != request["decode"]["type"]:
        it.wrong.append(f"{path}.decode.type is not request.decode.type")
    it.wrong += differences(_lines(evidence, size), scored.lines, "utterances.jsonl")
    whole = scored.protocols[scoring.COMPLETE]
    it.evidence.append(
        f"{whole['utterances']} utterances, {whole['phones']} phones, {whole['edits']['wer']} phone and "
        f"{whole['edits']['cer']} character edits, by code that shares nothing with the stage"
    )


def _examine_rates(it: Examination, evidence: Evidence, result: Mapping[str, Any], path: str) -> None:
    """What remains where outputs and labels were withheld: rates from counts, and the counts by digest."""
    for protocol in (scoring.PUBLISHED, scoring.COMPLETE):
        found = result[protocol]
        rates = {}
        for name, length in (("cer", "characters"), ("wer", "phones")):
            rate = arithmetic.percent(found["edits"][name], found[length])
            rates.update({f"{name}_percent": rate, f"{name}_printed": None if rate is None else f"{rate:.4f}"})
        it.wrong += differences({name: found[name] for name in rates}, rates, f"{path}.{protocol}")
        if sum(found["wer_counts"].values()) != found["edits"]["wer"]:
            it.wrong.append(f"{path}.{protocol}.wer_counts do not add up to {found['edits']['wer']} edits")
        confused = sum(entry["count"] for entry in found["confusions"])
        if confused != found["wer_counts"]["substitutions"]:
            it.wrong.append(f"{path}.{protocol}.confusions are {confused}, not as many as the substitutions")
        it.evidence.append(f"{protocol}: {found['edits']['cer']} / {found['characters']} characters, "
                           f"{found['edits']['wer']} / {found['phones']} phones")  # fmt: skip
    stored = evidence.json(_stage(evidence, f"score@{result['batch_size']}"), "score.json")
    for protocol, expected in stored["protocols"].items():
        it.wrong += differences(result[protocol], expected, f"{path}.{protocol}")


def _times(evidence: Evidence, size: int) -> tuple[dict[str, Any], list[float]]:
    """measure.json as the record's own run left it, and its times.

    Raises:
        CouldNotVerify: it is not here, or a later run of the same measurement has taken its place.
        VerificationFailed: its bytes are not those that its digest names.
    """
    stage = _stage(evidence, f"measure@{size}")
    stored: Stored = evidence.stored(stage["fingerprint"])
    try:
        data = (stored.obs / "measure.json").read_bytes()
    except FileNotFoundError:
        raise CouldNotVerify(f"measure@{size}: the raw times are not here") from None
    own = stored.document.get("observations", {})
    named = own.get("files", {}).get("measure.json")
    if named is not None and named != sha256_bytes(data):
        raise VerificationFailed(f"measure@{size}: measure.json has sha256 {sha256_bytes(data)}, not {named}")
    if own != stage["observations"]:
        raise CouldNotVerify(
            f"measure@{size}: the store holds the observations of another run: this run's raw times are not here"
        )
    measured = parse_json(data, f"measure@{size}: measure.json")
    times = measured["times_ms"]
    if not times and evidence.record["request"]["device"] != "cpu":
        return measured, []  # the vendor's tool prints statistics, and no list
    if not times or any(isinstance(t, bool) or not isinstance(t, (int, float)) or t <= 0 for t in times):
        raise VerificationFailed(f"measure@{size}: measure.json holds times that no execution can take")
    return measured, times


def _examine_speed(it: Examination, evidence: Evidence, result: Mapping[str, Any], path: str) -> None:
    size = result["batch_size"]
    measured, times = _times(evidence, size)
    own = {name: value for name, value in measured.items() if name not in ("latency_ms", "times_ms")}
    it.wrong += differences(result["measured"], own, f"{path}.measured")
    throughput = "throughput_utterances_per_s"
    found = {throughput: result[throughput], **result["latency_ms"]}
    stored = {throughput: measured[throughput], **measured["latency_ms"]}
    it.if_it_holds = ATTESTED
    if not times:
        _examine_statistics(it, found, stored, measured, path)
        return
    if len(times) != evidence.record["request"]["loop"] or measured["loop"] != len(times):
        it.wrong.append(f"{len(times)} executions were timed; request.loop is {evidence.record['request']['loop']}")
    if measured["batch_size"] != size:
        it.wrong.append(f"the times are of batch size {measured['batch_size']}")
    expected = arithmetic.speeds(times, size)
    it.wrong += _not_near(found, expected, path)
    it.wrong += _not_near(stored, expected, "measure.json")
    it.evidence.append(
        f"{len(times)} raw times; the arithmetic is proven, the times themselves only the machine of the run could see"
    )


def _examine_statistics(
    it: Examination, found: Mapping[str, Any], stored: Mapping[str, Any], measured: Mapping[str, Any], path: str
) -> None:
    """Figures of the vendor's tool, which keeps no list of times: what it printed, held to its own formula."""
    it.wrong += differences(found, stored, path)
    throughput, mean = stored["throughput_utterances_per_s"], stored["mean"]
    expected = 1000.0 * measured["batch_size"] / mean
    if measured.get("devices", 1) == 1 and not math.isclose(throughput, expected, rel_tol=PRINTED):
        it.wrong.append(f"measure.json: throughput {throughput} is not 1000 * batch size / mean = {expected}")
    it.evidence.append("statistics of the vendor's tool; it keeps no list of times, so only their formula is proven")


def _not_near(found: Mapping[str, Any], expected: Mapping[str, float], path: str) -> list[str]:
    wrong = [f"{path}: {name} is missing or not known" for name in sorted(set(found) ^ set(expected))]
    for name in sorted(set(found) & set(expected)):
        value = found[name]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isclose(value, expected[name], rel_tol=ROUNDING):
            wrong.append(f"{path}: {name} is {value!r}; recomputed: {expected[name]!r}")
    return wrong


def _examine_validity(it: Examination, evidence: Evidence, size: int) -> None:
    measured, times = _times(evidence, size)
    if times:
        lacks, facts = validity(times)
    else:
        lacks, facts = _enough(measured["loop"], measured["loop"] * measured["latency_ms"]["mean"] / 1000.0)
    it.missing += lacks
    it.evidence += facts
    it.if_it_holds = ATTESTED


def _enough(count: int, total_s: float) -> tuple[list[str], list[str]]:
    lacks = []
    if count < LEAST_EXECUTIONS:
        lacks.append(f"{count} executions are too few for a figure: at least {LEAST_EXECUTIONS} (--loop)")
    if total_s < LEAST_DURATION_S:
        lacks.append(f"{total_s:.1f} s of timed work are too short for a figure: at least {LEAST_DURATION_S:.0f} s")
    return lacks, [f"{count} executions in {total_s:.1f} s"]


def validity(times_ms: Sequence[float]) -> tuple[list[str], list[str]]:
    """What keeps these times from being a figure, and what was looked at.

    Args:
        times_ms: of every execution, in order.
    """
    count, total_s = len(times_ms), math.fsum(times_ms) / 1000.0
    mean = math.fsum(times_ms) / count
    lacks, facts = _enough(count, total_s)
    if count > 1:
        deviation = math.sqrt(math.fsum((time - mean) ** 2 for time in times_ms) / (count - 1))
        uncertainty = 1.96 * deviation / math.sqrt(count) / mean
        facts.append(f"mean {mean:.3f} ms, its 95 % interval +- {100 * uncertainty:.2f} %")
        if uncertainty > MOST_UNCERTAINTY:
            lacks.append(
                f"the mean is uncertain by {100 * uncertainty:.1f} %, over {100 * MOST_UNCERTAINTY:.0f} %: the machine "
                "was disturbed"
            )
    return lacks, facts
