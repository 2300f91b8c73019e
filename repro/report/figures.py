"""The report's sections of figures: against the table, error rates, speed, agreement, confusions."""

from __future__ import annotations

from repro.guide.verdict import NOT_COMPARABLE
from repro.record import Record
from repro.record.judgement import MetricName
from repro.record.scores import Pair, Protocol
from repro.report import measuring
from repro.report.parts import (
    NAMES,
    Cell,
    Section,
    Table,
    interval,
    mark,
    number,
    origin,
    rates,
    status,
    table,
)

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


def sections(record: Record) -> list[Section]:
    """The sections, in order; those that the record has nothing for are left out."""
    made = [
        _confusions(record),
        _against_table(record),
        _error_rates(record),
        _speed(record),
        measuring.section(record),
        _agreement(record),
    ]
    return [section for section in made if section is not None]


def key_figures(record: Record) -> Table:
    """The first screen's table: the published protocol's rates and the speed, each above what is published."""
    demo = mark(record)
    published = {(check.batch_size, check.metric): check.published for check in record.verdict.checks}
    rows = []
    for result in record.results:
        size = result.batch_size
        cells = [(name, number(rate, 4), interval(bounds)) for name, rate, bounds in rates(result.published)]
        speed: MetricName = "throughput_utterances_per_s"
        cells.append((speed, number(result.throughput_utterances_per_s, 4), ""))
        row = [Cell(str(size), below=[origin(record, f"score@{size}", f"measure@{size}")])]
        for metric, found, bounds in cells:
            claimed = published.get((size, metric))
            row.append(Cell(found, below=[f"{demo} {bounds}".strip(), f"published {number(claimed, 4)}"]))
        rows.append(row)
    return table(["B", "#WER %, 95 %", "#CER %, 95 %", "#utterances/s"], rows)


def _against_table(record: Record) -> Section:
    demo = mark(record)
    rows = []
    for check in record.verdict.checks:
        compared = check.status != NOT_COMPARABLE and check.difference is not None
        rows.append(
            [
                check.batch_size,
                NAMES[check.metric],
                check.unit,
                number(check.published, 4),
                number(check.found, 4, demo),
                f"{check.difference:+.4f}{demo}" if compared else "not compared",
                "none" if check.tolerance is None else f"± {check.tolerance:.4f} {check.tolerance_unit}",
                status(check.status),
            ]
        )
    sentences = [
        "Published rates are held against the published protocol: whole batches only, and with Greedy a leading "
        "space that costs one character edit an utterance. The difference is shown of what was compared like for like."
    ]
    reasons = dict.fromkeys(
        f"Tolerance of {NAMES[check.metric]}: {check.tolerance_reason}" for check in record.verdict.checks
    )
    columns = ["#B", "metric", "unit", "#published", "#found", "#difference", "tolerance", "status"]
    return Section(
        "The published table", sentences, tables=[table(columns, rows)], notes=list(reasons), lead=_held(record)
    )


def _held(record: Record) -> str:
    checks = record.verdict.checks
    compared = sum(check.status != NOT_COMPARABLE for check in checks)
    return f"{compared} of {len(checks)} figures compared"


def _error_rates(record: Record) -> Section:
    demo = mark(record)
    rows = []
    for protocol in _PROTOCOLS:
        for result in record.results:
            found: Protocol = getattr(result, protocol)
            counts = found.wer_counts
            rows.append(
                [
                    protocol,
                    result.batch_size,
                    found.utterances,
                    found.phones,
                    *_rates(found, demo),
                    f"{found.edits.wer} = {counts.substitutions} + {counts.insertions} + {counts.deletions}{demo}",
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
        [result.batch_size, entry.utterance, entry.reason] for result in record.results for entry in result.excluded
    ]
    tables = [table(columns, rows)]
    if excluded:
        sentences.append(f"{len(excluded)} exclusions, listed below: these utterances are in no figure.")
        tables.append(table(["#B", "excluded utterance", "reason"], excluded))
    lead = ", ".join(f"B = {result.batch_size}: {_rates(result.complete, demo)[0]}" for result in record.results[:1])
    return Section("Error rates", sentences, tables=tables, lead=f"WER of every utterance, {lead}" if lead else "")


def _rates(found: Protocol, demo: str) -> list[str]:
    """The rates with their intervals, as in '4.1456 % [2.65 to 5.65]'."""
    return [
        number(None, 4) if rate is None else f"{number(rate, 4, ' %')} [{interval(bounds)}]{demo}"
        for _, rate, bounds in rates(found)
    ]


def _reference_failures(record: Record) -> list[str]:
    """Where the reference's beam search would have raised an exception, and what was done instead."""
    said = []
    for result in record.results:
        failures = result.decode.reference_would_fail
        if not failures:
            continue
        empty, underflow = failures.empty_labelling_survived, failures.probability_underflowed_to_zero
        missing = failures.symbols_missing_in_language_model
        for name, met, handled in (
            ("empty labelling survived", empty.utterances, empty.handled),
            ("probability underflowed to zero", underflow.utterances, underflow.handled),
            ("symbols missing in language model", missing.symbols, missing.handled),
        ):
            if met:
                said.append(
                    f"Batch size {result.batch_size}: the reference would have stopped with an error "
                    f"({name}: {', '.join(met)}); here {handled}."
                )
    return said


def _speed(record: Record) -> Section:
    demo = mark(record)
    rows = [
        [
            result.batch_size,
            number(result.throughput_utterances_per_s, 4, demo),
            *(number(getattr(result.latency_ms, name), 2, demo) for name in _LATENCIES),
            origin(record, f"measure@{result.batch_size}"),
        ]
        for result in record.results
    ]
    columns = ["#B", "#utterances/s", *(f"#{name} ms" for name in _LATENCIES), "measured in"]
    sentence = (
        f"Pure inference on the {record.request.device.upper()}, inputs of zeros, copies not counted. "
        "Another machine's speed is no claim about this one's."
    )
    lead = ", ".join(f"B = {row[0]}: {row[1]} utterances/s" for row in rows[:1])
    return Section("Speed", [sentence], tables=[table(columns, rows)], lead=lead)


def _agreement(record: Record) -> Section | None:
    demo = mark(record)
    rows = []
    for result in record.results:
        for name, title in _PAIRS.items():
            pair: Pair = getattr(result.comparison, name)
            rows.append(
                [
                    result.batch_size,
                    title,
                    *(f"{getattr(pair, key):.3g}{demo}" for key in _AGREEMENT),
                    f"{pair.symbols_changed}{demo}",
                    pair.utterances,
                    "yes" if result.comparison.within_thresholds else "no",
                ]
            )
    if not rows:
        return None
    columns = ["#B", "pair", *(f"#{title}" for title in _AGREEMENT.values()), "#symbols changed"]
    sentence = "The same real inputs through each form of the network; the limits are the chip vendor's."
    within = sum(result.comparison.within_thresholds for result in record.results)
    return Section(
        "Numeric agreement",
        [sentence],
        tables=[table([*columns, "#utterances", "within limits"], rows)],
        lead=f"{within} of {len(record.results)} batch sizes within the vendor's limits",
    )


def _confusions(record: Record) -> Section | None:
    demo = mark(record)
    if not record.results:
        return None
    first = record.results[0]
    rows = [
        [entry.reference, entry.hypothesis, f"{entry.count}{demo}"]
        for entry in first.complete.confusions[:TOP_CONFUSIONS]
    ]
    sentence = (
        f"The {len(rows)} most frequent substitutions of the complete protocol at batch size {first.batch_size}; "
        "all are in the record."
    )
    columns = ["phone", "recognised as", "#times"]
    return Section(
        "Confused phones",
        [sentence],
        plots=["confusions"],
        tables=[table(columns, rows)],
        caption="A row is the phone that was said, a column what was recognised; the darker, the more often.",
        folded=False,
    )
