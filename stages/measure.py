"""Pure inference speed, as ais_bench measures it without --input: zeros in, one warm-up, then N timed executions.

Copies are not counted (a CPU has none). obs/measure.json: throughput in utterances a second, by ais_bench's formula
1000 * batch size / mean time in ms, and the latency of one execution in ms; percentiles by linear interpolation.
out/summary.json says what was measured and holds no time. The batch size must be the model's own: ais_bench only
scales its figure by what it is told.
"""

import argparse
import hashlib
import os
import time

import numpy

from stages.model import precision
from stages.shared import architecture, runtime_arguments, stage

FORMULA = "1000*batchsize/mean(times_ms)"
WARM_UPS = 1


def time_executions(run, rows, loop, progress):
    """Milliseconds of each of `loop` calls of `run(rows)`, after one that is not counted."""
    for _ in range(WARM_UPS):
        run(rows)
    times_ms = []
    for _ in range(loop):
        start_s = time.perf_counter()
        run(rows)
        times_ms.append((time.perf_counter() - start_s) * 1000.0)
        progress.advance()
    return times_ms


def statistics(times_ms, batch_size):
    """Throughput (utterances a second) and latency (ms) of the executions."""
    times = numpy.asarray(times_ms, dtype=numpy.float64)
    p50, p90, p99 = (float(value) for value in numpy.percentile(times, [50, 90, 99]))
    return {
        "batch_size": batch_size,
        "formula": FORMULA,
        "latency_ms": {
            "mean": float(times.mean()),
            "median": float(numpy.median(times)),
            "min": float(times.min()),
            "max": float(times.max()),
            "p50": p50,
            "p90": p90,
            "p99": p99,
        },
        "loop": len(times_ms),
        "throughput_utterances_per_s": 1000.0 * batch_size / float(times.mean()),
        "times_ms": [float(value) for value in times_ms],
    }


def _loop(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least one execution must be timed")
    return value


def main(arguments):
    parser = stage.parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="the convert stage's results")
    runtime_arguments.batch_size(parser)
    precision.argument(parser)
    parser.add_argument("--loop", type=_loop, default=100, metavar="N", help="timed executions (default: 100)")
    options = parser.parse_args(arguments)
    path = os.path.join(options.model, "model.onnx")
    graph = precision.open_network(path, options.precision)
    graph.require_batch_size(options.bs)
    with open(path, "rb") as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    rows = numpy.zeros(architecture.input_shape(options.bs), dtype=numpy.float32)
    progress = stage.Progress("measure", options.loop)
    result = statistics(time_executions(graph.run, rows, options.loop, progress), options.bs)
    result.update({"provider": graph.description, "threads": graph.threads})
    stage.write_json(os.path.join(options.obs, "measure.json"), result)
    stage.write_json(
        os.path.join(options.out, "summary.json"),
        {
            "batch_size": options.bs,
            "formula": FORMULA,
            "input": "zeros",
            "loop": options.loop,
            "model_sha256": digest,
            "warm_ups": WARM_UPS,
        },
    )


if __name__ == "__main__":
    stage.run(main)
