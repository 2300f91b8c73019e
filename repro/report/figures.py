"""The report's sections of figures: against the table, error rates, speed, agreement, confusions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repro.guide.verdict import NOT_COMPARABLE
from repro.report.parts import NAMES, Section, interval, mark, number, status, table

TOP_CONFUSIONS = 15
_PROTOCOLS = ("complete", "published")
_LATENCIES = ("mean", "median", "p90", "p99", "min", "max")
_AGREEMENT = {
    "max_abs": "max abs",
    "cosine": "cosine",
    "relative_euclidean": "rel. Euclidean",
    "kl": "KL",
    "rmse": "RMSE",
    "mean_relative": "mean rel.",
}
_PAIRS = {
    "torch_onnx": "PyTorch and ONNX",
    "torch_converted": "PyTorch and the converted model",
    "onnx_converted": "ONNX and the converted model",
}


def sections(record: Mapping[str, Any]) -> list[Section]:
    """The sections, in order; those that the record has nothing for are left out."""
    made = [_against_table(record), _error_rates(record), _speed(record), _agreement(record), _confusions(record)]
    return [section for section in made if section is not None]


def _against_table(record: Mapping[str, Any]) -> Section:
    demo = mark(record)
    rows = []
    for check in record["verdict"]["checks"]:
        allowed = number(check["tolerance"], 4)
        rows.append(
            [
                check["batch_size"],
                NAMES[check["metric"]],
                check["unit"],
                number(check["published"], 4),
                number(check["found"], 4, demo),
                "not compared" if check["status"] == NOT_COMPARABLE else f"{check['difference']:+.4f}{demo}",
                allowed if allowed == "none" else f"± {allowed} {check.get('tolerance_unit', '')}",
                status(check["status"]),
            ]
        )
    sentences = [
        "Published rates are held against the published protocol: whole batches only, and with Greedy a leading "
        "space that costs one character edit an utterance. The difference is shown of what was compared like for like."
    ]
    reasons = dict.fromkeys(
        f"Tolerance of {NAMES[check['metric']]}: {check['tolerance_reason']}"
        for check in record["verdict"]["checks"]
        if check.get("tolerance_reason")
    )
    columns = ["#B", "metric", "unit", "#published", "#found", "#difference", "tolerance", "status"]
    return Section(
        "The published table", sentences, plots=["errors"], tables=[table(columns, rows)], notes=list(reasons)
    )


def _error_rates(record: Mapping[str, Any]) -> Section:
    demo = mark(record)
    rows = []
    for protocol in _PROTOCOLS:
        for result in record["results"]:
            found = result[protocol]
            counts = found["wer_counts"]
            rows.append(
                [
                    protocol,
                    result["batch_size"],
                    found["utterances"],
                    found["phones"],
                    _rate(found, "wer_percent", demo),
                    _rate(found, "cer_percent", demo),
                    f"{found['edits']['wer']} = {counts['substitutions']} + {counts['insertions']} + "
                    f"{counts['deletions']}{demo}",
                ]
            )
    columns = ["protocol", "#B", "#utterances", "#phones", "#WER, 95 % interval", "#CER, 95 % interval", "#S + I + D"]
    sentences = [
        "The complete protocol scores every utterance, with clean strings: quote its figures. The published protocol "
        "leaves out the last batch: (N - 1) // B batches of N utterances are scored, which is why rates move with B. "
        "WER is the phone error rate.",
        *_reference_failures(record),
    ]
    excluded = [
        [result["batch_size"], entry["utterance"], entry["reason"]]
        for result in record["results"]
        for entry in result.get("excluded", [])
    ]
    tables = [table(columns, rows)]
    if excluded:
        sentences.append(f"{len(excluded)} exclusions, listed below: these utterances are in no figure.")
        tables.append(table(["#B", "excluded utterance", "reason"], excluded))
    return Section("Error rates", sentences, tables=tables)


def _rate(found: Mapping[str, Any], metric: str, demo: str) -> str:
    """A rate with its interval, as in '4.1456 % [2.65 to 5.65]'."""
    if found[metric] is None:
        return number(None, 4)
    return f"{number(found[metric], 4, ' %')} [{interval(found['interval_95'][metric])}]{demo}"


def _reference_failures(record: Mapping[str, Any]) -> list[str]:
    """Where the reference's beam search would have raised an exception, and what was done instead."""
    said = []
    for result in record["results"]:
        for name, situation in sorted(result.get("decode", {}).get("reference_would_fail", {}).items()):
            met = situation.get("utterances") or situation.get("symbols")
            if met:
                said.append(
                    f"Batch size {result['batch_size']}: the reference would have stopped with an error "
                    f"({name.replace('_', ' ')}: {', '.join(met)}); here {situation['handled']}."
                )
    return said


def _speed(record: Mapping[str, Any]) -> Section:
    demo = mark(record)
    rows = [
        [
            result["batch_size"],
            number(result["throughput_utterances_per_s"], 4, demo),
            *(number(result["latency_ms"][name], 2, demo) for name in _LATENCIES),
        ]
        for result in record["results"]
    ]
    columns = ["#B", "#utterances/s", *(f"#{name} ms" for name in _LATENCIES)]
    sentence = (
        f"Pure inference on the {record['request']['device'].upper()}, inputs of zeros, copies not counted. "
        "Another machine's speed is no claim about this one's."
    )
    return Section("Speed", [sentence], plots=["speed"], tables=[table(columns, rows)])


def _agreement(record: Mapping[str, Any]) -> Section | None:
    demo = mark(record)
    rows = []
    for result in record["results"]:
        comparison = result.get("comparison")
        for name, title in _PAIRS.items() if comparison else ():
            pair = comparison[name]
            rows.append(
                [
                    result["batch_size"],
                    title,
                    *(f"{pair[key]:.3g}{demo}" for key in _AGREEMENT),
                    f"{pair['symbols_changed']}{demo}",
                    pair["utterances"],
                    "yes" if comparison["within_thresholds"] else "no",
                ]
            )
    if not rows:
        return None
    columns = ["#B", "pair", *(f"#{title}" for title in _AGREEMENT.values()), "#symbols changed"]
    sentence = "The same real inputs through each form of the network; the limits are the chip vendor's."
    return Section("Numeric agreement", [sentence], tables=[table([*columns, "#utterances", "within limits"], rows)])


def _confusions(record: Mapping[str, Any]) -> Section | None:
    demo = mark(record)
    if not record["results"]:
        return None
    first = record["results"][0]
    rows = [
        [entry["reference"], entry["hypothesis"], f"{entry['count']}{demo}"]
        for entry in first["complete"]["confusions"][:TOP_CONFUSIONS]
    ]
    sentence = (
        f"The {len(rows)} most frequent substitutions of the complete protocol at batch size {first['batch_size']}; "
        "all are in the record."
    )
    columns = ["phone", "recognised as", "#times"]
    return Section("Confused phones", [sentence], plots=["confusions"], tables=[table(columns, rows)], folded=True)
