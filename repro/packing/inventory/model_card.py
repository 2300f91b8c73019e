"""The card of the model that a run used: every figure as its record has it."""

from __future__ import annotations

from repro.packing.inventory.facts import Metric, ModelCard
from repro.record import Record
from repro.record.document import Metric as Formula
from repro.record.scores import Interval, Result

_TASK = "phoneme recognition: speech to a sequence of phones"
_ARCHITECTURE = "two convolutions, four bidirectional LSTM layers with batch normalisation, a linear layer, CTC"
_LINEAGE = ("export", "convert", "convert_npu")
_TRAINING = {
    "demo": "trained by `invoke demo.train` on the training split of the demo corpus; recipe in stages/demo_train.py",
    "user": "trained elsewhere by whoever gave it; nothing of its training is known here",
}
_LIMITATIONS = {
    "demo": "The demo: trained and tested on synthetic speech. Its error rates say nothing about TIMIT or real speech.",
    "user": "Error rates hold for the data set and the protocol that the record names, and for no other speech.",
}


def model_card(record: Record) -> ModelCard:
    """The card.

    Args:
        record: of the run that the bundle carries.
    """
    kind = record.checkpoint.kind
    return ModelCard(
        model="model:demo" if kind == "demo" else "model:published",
        task=_TASK,
        architecture=_ARCHITECTURE,
        trained_on="data:demo" if kind == "demo" else "",
        tested_on=f"data:{record.data.kind}",
        training=_TRAINING[kind],
        metrics=tuple(metric for result in record.results for metric in _metrics(record, result)),
        lineage=(
            ("checkpoint", record.checkpoint.sha256),
            *((stage.key, stage.outputs.digest) for stage in record.stages if stage.name in _LINEAGE),
        ),
        limitations=(
            _LIMITATIONS[kind],
            f"Verdict of the run against the published table: {record.verdict.outcome}.",
        ),
    )


def _metrics(record: Record, result: Result) -> list[Metric]:
    size = result.batch_size
    found: list[Metric] = []
    for name, protocol in (("published", result.published), ("complete", result.complete)):
        rates: list[tuple[str, float | None, Interval | None]] = [
            ("cer_percent", protocol.cer_percent, protocol.interval_95.cer_percent),
            ("wer_percent", protocol.wer_percent, protocol.interval_95.wer_percent),
        ]
        for metric, value, interval in rates:
            if value is not None:
                lower, upper = interval or (None, None)
                scope = f"{name} protocol, batch size {size}, {protocol.utterances} utterances"
                found.append(Metric(metric, value, scope, lower, upper, _formula(record.metrics.get(metric))))
    speed = "throughput_utterances_per_s"
    scope = f"batch size {size}, {result.measured.provider}"
    found.append(Metric(speed, result.throughput_utterances_per_s, scope, formula=_formula(record.metrics.get(speed))))
    for word, latency in (("mean", result.latency_ms.mean), ("p99", result.latency_ms.p99)):
        formula = _formula(record.metrics.get("latency_ms"))
        found.append(Metric("latency_ms", latency, f"{word}, {scope}", formula=formula))
    return found


def _formula(metric: Formula | None) -> str:
    return f"{metric.formula} [{metric.unit}]" if metric else ""
