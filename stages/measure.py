"""Pure inference speed, as ais_bench measures it without --input: zeros in, one warm-up, then N timed executions.

Copies are not counted (a CPU has none). obs/measure.json: throughput in utterances per second, by ais_bench's formula
1000 * batch size / mean time in ms, and the latency of one execution in ms; percentiles by linear interpolation. These
N executions are the published table's condition. Where they take less than 10 s, which is too short for a figure (one
interruption of a second would be a tenth of it), more loops of N follow until all together took as long.
obs/sustained.json: the same figures of all loops together, and each loop's throughput; it is the one that an audit
holds to its rule. A run with fewer than 100 executions is a quick look, and no loop is added. obs/load.json: what
others took of the cores meanwhile, read between executions once a second.

out/summary.json says what was measured and holds no time. The batch size must be the model's own: ais_bench only scales
its figure by what it is told. The time limit follows the first executions: the rest may take ten times as long.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import threading
import time
from typing import Any, Callable, Sequence

import numpy

from stages.model import precision
from stages.shared import architecture, runtime_arguments, stage
from stages.shared.load import Load

FORMULA = "1000*batchsize/mean(times_ms)"
WARM_UPS = 1
LEAST_EXECUTIONS = 100  # of a figure: as many as the published table's are averaged over
LEAST_SECONDS = 10.0  # of timed work in a figure, as an audit asks for
FIGURES = {
    "measure.json": "the first loop: the published table's condition",
    "sustained.json": "all loops, of 10 s or more where 100 executions or more were asked for",
}
_FIRST_EXECUTIONS = 3  # that the time limit follows
_LIMIT_FACTOR = 10.0
_LEAST_LIMIT_S = 600.0

Run = Callable[[numpy.ndarray], Any]


class Limit:
    """Ends the process with a message where executions take far longer than the first ones did.

    The compiled kernels cannot be interrupted, so it is a thread that waits, and no signal.
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def follow(self, first_ms: Sequence[float], remaining: int) -> float:
        """Begin, or begin anew, to wait for `remaining` executions; returns the limit in seconds."""
        self.stop()
        longest_s = max(first_ms) / 1000.0
        limit_s = max(_LEAST_LIMIT_S, _LIMIT_FACTOR * longest_s * remaining)
        self._timer = threading.Timer(limit_s, self._end, (longest_s, remaining, limit_s))
        self._timer.daemon = True
        self._timer.start()
        return limit_s

    def stop(self) -> None:
        """No limit any more."""
        if self._timer is not None:
            self._timer.cancel()

    @staticmethod
    def _end(longest_s: float, remaining: int, limit_s: float) -> None:
        print("hint: something disturbs this machine: run again when it is idle, or with a smaller --loop",
              file=sys.stderr)  # fmt: skip
        print(
            "error: the first executions took up to {:.3f} s each; {} more did not end within {:.0f} s".format(
                longest_s, remaining, limit_s
            ),
            file=sys.stderr,
            flush=True,
        )
        os._exit(stage.EXIT_REFUSED)


def time_executions(
    run: Run, rows: numpy.ndarray, loop: int, progress: stage.Progress, limit: Limit, between: Callable[[int], None]
) -> list[float]:
    """Milliseconds of each of `loop` calls of `run(rows)`; `between` is told how many are done, between the calls."""
    times_ms: list[float] = []
    for number in range(loop):
        start_s = time.perf_counter()
        run(rows)
        times_ms.append((time.perf_counter() - start_s) * 1000.0)
        if number + 1 == min(_FIRST_EXECUTIONS, loop):
            limit.follow(times_ms, loop - number)
        progress.advance()
        between(number + 1)
    limit.stop()
    return times_ms


def time_loops(run: Run, rows: numpy.ndarray, loop: int, load: Load | None = None) -> list[list[float]]:
    """Milliseconds of every execution, loop by loop: the first, and those that make the figure long enough."""
    limit = Limit()
    loops: list[list[float]] = []
    for _ in range(WARM_UPS):
        run(rows)
    if load is not None:
        load.note(0)

    def time_one(what: str) -> None:
        before = sum(len(times_ms) for times_ms in loops)

        def between(done: int) -> None:
            if load is not None:
                (load.note if done == loop else load.note_now_and_then)(before + done)

        loops.append(time_executions(run, rows, loop, stage.Progress(what, loop), limit, between))

    time_one("measure")
    while loop >= LEAST_EXECUTIONS:
        timed_s = math.fsum(value for times_ms in loops for value in times_ms) / 1000.0
        if timed_s >= LEAST_SECONDS:
            break
        time_one("measure, {:.0f} of {:.0f} s timed".format(timed_s, LEAST_SECONDS))
    return loops


def statistics(times_ms: Sequence[float], batch_size: int) -> dict[str, Any]:
    """Throughput (utterances per second) and latency (ms) of the executions."""
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


def sustained(loops: Sequence[Sequence[float]], batch_size: int) -> dict[str, Any]:
    """The same figures of all loops together, and which figure is which."""
    result = statistics([value for times_ms in loops for value in times_ms], batch_size)
    each = [statistics(times_ms, batch_size) for times_ms in loops]
    names = ("loop", "throughput_utterances_per_s")
    result.update({"figures": FIGURES, "least_seconds": LEAST_SECONDS, "loop": len(loops[0]), "loops": len(loops)})
    result["each"] = [{name: figures[name] for name in names} for figures in each]
    return result


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="the convert stage's results")
    runtime_arguments.batch_size(parser)
    precision.argument(parser)
    runtime_arguments.loop(parser)
    options = parser.parse_args(arguments)
    path = os.path.join(options.model, "model.onnx")
    graph = precision.open_network(path, options.precision)
    graph.require_batch_size(options.bs)
    with open(path, "rb") as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    rows = numpy.zeros(architecture.input_shape(options.bs), dtype=numpy.float32)
    load = Load()
    loops = time_loops(graph.run, rows, options.loop, load)
    result = statistics(loops[0], options.bs)
    result.update({"provider": graph.description, "threads": graph.threads})
    stage.write_json(os.path.join(options.obs, "measure.json"), result)
    stage.write_json(os.path.join(options.obs, "sustained.json"), sustained(loops, options.bs))
    stage.write_json(os.path.join(options.obs, "load.json"), load.document())
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
