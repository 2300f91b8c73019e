"""The figures of pure inference, by hand-computed cases."""

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from stages import measure
from stages.shared.stage import Progress


def test_throughput_and_percentiles_follow_the_formula():
    result = measure.statistics([10.0] * 9 + [110.0], 8)
    assert result["throughput_utterances_per_s"] == 1000 * 8 / 20.0
    assert result["formula"] == "1000*batchsize/mean(times_ms)"
    latency = result["latency_ms"]
    assert (latency["p50"], latency["median"], latency["min"], latency["max"]) == (10.0, 10.0, 10.0, 110.0)
    assert latency["p90"] == pytest.approx(20.0)
    assert latency["p99"] == pytest.approx(101.0)


def test_the_warm_up_is_not_counted():
    calls = []
    times = measure.time_executions(calls.append, np.zeros(1), 5, Progress("test", 5))
    assert (len(calls), len(times)) == (6, 5)
