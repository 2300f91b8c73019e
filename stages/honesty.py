"""Whether a speed is honest: the checks of MLPerf's audits, fitted to a network that is timed on its own.

A throughput says something only if what is timed is the network that the error rates are of, and does its work on
every execution. So the converted model is timed again, in rounds of three executions in changing order:

zeros       the input that the stage measure times
fresh       a batch of real speech, another one each round
repeated    one batch of real speech, the same in every round

accuracy    every output of a timed execution on real speech equals, byte by byte, what the stage infer stored: the
            network that is timed is the one that is scored (MLPerf's TEST01: accuracy sampled in a performance run).
caching     repeated input is not faster than fresh input: no result is looked up (TEST04).
content     zeros take as long as speech: no work is skipped for an input that is easy to recognise (TEST05).

A ratio of two times is taken within each round, so that a drift of the machine cancels; its median over the rounds has
a distribution-free 95 % interval (order statistics of the binomial distribution). A ratio is honest where the whole
interval lies within LIMIT of 1, dishonest where it lies outside, and undecided in between: a noisy machine accuses
nobody. Repeated input may be slower than fresh: only faster is suspect.

out/accuracy.json: how many outputs were compared, and whether they are equal; no times. obs/honesty.json: the raw
times, the ratios and what was found.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any, Callable, Sequence

import numpy

from stages.formats import bins
from stages.model import precision
from stages.shared import architecture, runtime_arguments, stage

Run = Callable[[numpy.ndarray], numpy.ndarray]

LIMIT = 0.10  # several times what one processor's executions of one network differ by, far less than a cache gains
LEAST_ROUNDS = 10
HONEST, DISHONEST, UNDECIDED = "honest", "dishonest", "undecided"


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(low, median, high): the median and its distribution-free interval of at least 95 %, by order statistics."""
    ordered = sorted(values)
    count = len(ordered)
    tail, rank = 0.0, 0
    while rank < count // 2:
        tail += math.exp(math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1)
                         - count * math.log(2.0))  # fmt: skip
        if tail > 0.025:
            break
        rank += 1
    low = max(rank - 1, 0)
    return ordered[low], float(numpy.median(ordered)), ordered[count - 1 - low]


def judge(ratios: Sequence[float], *, only_faster: bool, decidable: bool = True) -> dict[str, Any]:
    """A ratio's interval held against 1 +- LIMIT; `only_faster` accuses only a ratio below.

    Not `decidable` is caching where the corpus fills one batch alone: there is no fresh input then.
    """
    low, median, high = median_interval(ratios)
    if not decidable:
        verdict = UNDECIDED
    elif high < 1.0 - LIMIT or (low > 1.0 + LIMIT and not only_faster):
        verdict = DISHONEST
    elif low >= 1.0 - LIMIT and (high <= 1.0 + LIMIT or only_faster):
        verdict = HONEST
    else:
        verdict = UNDECIDED
    return {"interval_95": [low, high], "limit": LIMIT, "median": median, "verdict": verdict}


def time_rounds(
    run: Run,
    zeros: numpy.ndarray,
    batches: Sequence[numpy.ndarray],
    rounds: int,
    progress: stage.Progress,
    look: Callable[[int, numpy.ndarray], None],
) -> dict[str, list[float]]:
    """Time `rounds` rounds; `look(number, output)` is given every output on real speech, outside the timed part.

    Returns:
        {"zeros": [ms], "fresh": [ms], "repeated": [ms]}, one time per round each.
    """
    order = ["zeros", "fresh", "repeated"]
    times_ms: dict[str, list[float]] = {kind: [] for kind in order}
    for kind in order:  # a warm-up of each kind, as the stage measure has one
        run(zeros if kind == "zeros" else batches[0])
    for number in range(rounds):
        chosen: dict[str, int | None] = {
            "zeros": None,
            "fresh": 1 + number % (len(batches) - 1) if len(batches) > 1 else 0,
            "repeated": 0,
        }
        for kind in order[number % 3 :] + order[: number % 3]:
            picked = chosen[kind]
            rows = zeros if picked is None else batches[picked]
            start_s = time.perf_counter()
            output = run(rows)
            times_ms[kind].append((time.perf_counter() - start_s) * 1000.0)
            if picked is not None:
                look(picked, output)
        progress.advance()
    return times_ms


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="the convert stage's results")
    parser.add_argument("--batches", required=True, metavar="DIR", help="the batches stage's results")
    parser.add_argument("--outputs", required=True, metavar="DIR", help="the infer stage's results")
    runtime_arguments.batch_size(parser)
    precision.argument(parser)
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="timed rounds (default: 30)")
    options = parser.parse_args(arguments)
    if options.rounds < LEAST_ROUNDS:
        parser.error("--rounds is {} or more: an interval of the median needs as many".format(LEAST_ROUNDS))
    manifest = bins.read_manifest(options.batches, options.bs)
    listed = bins.list_batches(options.batches, manifest)
    # At most as many batches as there are rounds: each is used once before one is used twice.
    listed = listed[: options.rounds + 1]
    batches = [bins.read_batch(batch, options.bs) for batch in listed]
    stored = [bins.read_output(options.outputs, batch, options.bs) for batch in listed]
    graph = precision.open_network(os.path.join(options.model, "model.onnx"), options.precision)
    graph.require_batch_size(options.bs)
    zeros = numpy.zeros(architecture.input_shape(options.bs), dtype=numpy.float32)
    unequal: set[str] = set()
    compared = [0]

    def look(number: int, output: numpy.ndarray) -> None:
        compared[0] += 1
        if output.astype("<f4").tobytes() != stored[number].astype("<f4").tobytes():
            unequal.add(listed[number].key)

    progress = stage.Progress("honesty", options.rounds)
    times_ms = time_rounds(graph.run, zeros, batches, options.rounds, progress, look)
    stage.write_json(
        os.path.join(options.out, "accuracy.json"),
        {
            "batch_size": options.bs,
            "batches": [batch.key for batch in listed],
            "equal": not unequal,
            "outputs_compared": compared[0],
            "unequal": sorted(unequal),
        },
    )
    pairs = list(zip(times_ms["zeros"], times_ms["fresh"], times_ms["repeated"]))
    stage.write_json(
        os.path.join(options.obs, "honesty.json"),
        {
            "batch_size": options.bs,
            "caching": judge(
                [repeated / fresh for _, fresh, repeated in pairs], only_faster=True, decidable=len(batches) > 1
            ),
            "content": judge([zero / fresh for zero, fresh, _ in pairs], only_faster=False),
            "fresh_batches": len(batches) - 1,
            "rounds": options.rounds,
            "times_ms": times_ms,
        },
    )


if __name__ == "__main__":
    stage.run(main)
