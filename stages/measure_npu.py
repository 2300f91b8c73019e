"""Pure inference speed on the NPU: `python3 -m ais_bench` with the guide's arguments and without --input.

ais_bench runs zeros: one warm-up, then `--loop` executions, copies not counted. Its two lines are read by pattern;
they hold no list of times, so the 90th percentile is not known. ais_bench only scales its figure by --batchsize, so
the model's own is read from the runtime first. obs/measure.json: throughput in utterances per second as ais_bench's
formula has it, latency of one execution in ms; with several chips the throughputs' sum, and the first one's latency.
That is the guide's command, and the published table's condition. Where its executions take less than 10 s, which is too
short for a figure, the command runs again, at most nine times, until all runs together took as long.
obs/sustained.json: the figures of all runs together, and each one's throughput; it is the one that an audit holds to
its rule. A run of fewer than 100 executions is a quick look.

out/summary.json says what was measured and holds no time.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from typing import Any, NamedTuple, Sequence

from stages.npu import ascend
from stages.npu.parallel import in_parallel
from stages.shared import runtime_arguments, stage

FORMULA = "1000*batchsize/NPU_compute_time.mean"
WARM_UPS = 1
LEAST_EXECUTIONS = 100  # of a figure: as many as the published table's are averaged over
LEAST_SECONDS = 10.0  # of timed work in a figure, as an audit asks for
FIGURES = {
    "measure.json": "the guide's command: the published table's condition",
    "sustained.json": "all runs, of 10 s or more where 100 executions or more were asked for",
}
_MARGIN = 1.1  # later executions may be a little faster than those that the runs were sized by
_MOST_RUNS = 9  # after the first: each start of ais_bench loads the model again
_TIMES = re.compile(
    r"NPU_compute_time \(ms\): min = (?P<min>[\d.e+-]+), max = (?P<max>[\d.e+-]+), mean = (?P<mean>[\d.e+-]+), "
    r"median = (?P<median>[\d.e+-]+), percentile\(99%\) = (?P<p99>[\d.e+-]+)"
)
_THROUGHPUT = re.compile(
    r"throughput 1000\*batchsize(?:\.mean)?\((?P<batch>[\d.]+)\)/NPU_compute_time\.mean\((?P<mean>[\d.e+-]+)\): "
    r"(?P<value>[\d.e+-]+)"
)


class Figures(NamedTuple):
    """What ais_bench printed for one chip: throughput in utterances per second, and latencies in ms by name."""

    throughput: float
    latency_ms: dict[str, float | None]
    mean_ms: float


def measure_words(batch_size: int, loop: int, device: int | None = None) -> list[str]:
    """The guide's arguments, in its order; --device is added only where several chips were given."""
    words = [
        "--model=lstm_ctc_bs{}.om".format(batch_size),
        "--loop={}".format(loop),
        "--batchsize={}".format(batch_size),
    ]
    return words + ([] if device is None else ["--device={}".format(device)])


def read_figures(lines: Sequence[str], batch_size: int) -> Figures:
    """The figures in ais_bench's output, held against its own formula."""
    text = "\n".join(lines)
    times, throughput = _TIMES.search(text), _THROUGHPUT.search(text)
    if times is None or throughput is None:
        raise stage.StageError("ais_bench printed no figures", "see its log: this may be another ais_bench than 0.0.2")
    printed = {name: float(value) for name, value in times.groupdict().items()}
    value, mean_ms = float(throughput.group("value")), printed["mean"]
    expected = 1000.0 * batch_size / mean_ms if mean_ms > 0 else math.inf
    if float(throughput.group("batch")) != batch_size or not abs(value - expected) <= 1e-6 * expected < math.inf:
        raise stage.StageError(
            "ais_bench's throughput {} is not 1000 * {} / {}".format(value, batch_size, mean_ms),
            "this is another ais_bench than 0.0.2",
        )
    return Figures(value, dict(printed, p50=printed["median"], p90=None), mean_ms)


def further_runs(loop: int, mean_ms: float) -> list[int]:
    """Executions, multiples of `loop`, of the runs after the first that make LEAST_SECONDS; none where it is enough."""
    timed_s = loop * mean_ms / 1000.0
    if loop < LEAST_EXECUTIONS or timed_s >= LEAST_SECONDS:
        return []
    loops = math.ceil(_MARGIN * (LEAST_SECONDS - timed_s) / timed_s)
    runs = min(loops, _MOST_RUNS)
    return [loop * math.ceil(loops / runs)] * runs


def measure(commands: ascend.Commands, options: argparse.Namespace, loop: int, name: str) -> list[Figures]:
    """Run ais_bench on every chip at once; `name` is that of its logs."""
    several = options.num_devices > 1
    figures: dict[int, Figures] = {}

    def one(device: int) -> None:
        words = measure_words(options.bs, loop, device if several else None)
        log_name = name + (".device{}".format(device) if several else "")
        figures[device] = read_figures(commands.ais_bench(log_name, words), options.bs)

    in_parallel(one, list(range(options.num_devices)))
    return [figures[device] for device in sorted(figures)]


def result(options: argparse.Namespace, figures: Sequence[Figures], loop: int) -> dict[str, Any]:
    """What measure.json holds of a run with `loop` executions per chip."""
    return {
        "batch_size": options.bs,
        "devices": options.num_devices,
        "formula": FORMULA,
        "latency_ms": figures[0].latency_ms,
        "loop": loop,
        "provider": "CANN " + ascend.toolkit_version(),
        "simulator": ascend.is_simulator(),
        "throughput_utterances_per_s": sum(each.throughput for each in figures),
        "times_ms": [],
    }


def sustained(options: argparse.Namespace, runs: Sequence[tuple[int, Sequence[Figures]]]) -> dict[str, Any]:
    """What sustained.json holds of all runs, each with its executions per chip."""
    executions = sum(loop for loop, _ in runs)
    throughputs = [sum(each.throughput for each in figures) for _, figures in runs]
    together = throughputs[0]
    if len(runs) > 1:
        together = executions / math.fsum(loop / throughput for (loop, _), throughput in zip(runs, throughputs))
    return {
        "batch_size": options.bs,
        "each": [
            {"loop": loop, "throughput_utterances_per_s": throughput}
            for (loop, _), throughput in zip(runs, throughputs)
        ],
        "figures": FIGURES,
        "formula": FORMULA,
        "latency_ms": _latency_of_all(runs) if len(runs) > 1 else runs[0][1][0].latency_ms,
        "least_seconds": LEAST_SECONDS,
        "loop": options.loop,
        "loops": executions // options.loop,
        "throughput_utterances_per_s": together,
        "times_ms": [],
    }


def _latency_of_all(runs: Sequence[tuple[int, Sequence[Figures]]]) -> dict[str, float | None]:
    """The first chip's latencies over all runs.

    ais_bench keeps no list of times. The mean is that of all executions; median and 99th percentile are those of the
    run with the middle median.
    """
    by_median = sorted((figures[0].latency_ms["median"] or 0.0, number) for number, (_, figures) in enumerate(runs))
    every = [figures[0].latency_ms for _, figures in runs]
    total = math.fsum(loop * figures[0].mean_ms for loop, figures in runs)
    return dict(
        every[by_median[len(by_median) // 2][1]],
        mean=total / sum(loop for loop, _ in runs),
        min=min(each["min"] or 0.0 for each in every),
        max=max(each["max"] or 0.0 for each in every),
    )


def linked_model(commands: ascend.Commands, options: argparse.Namespace) -> None:
    """Make the converted model the guide's, and refuse it where it has another batch size."""
    model = "lstm_ctc_bs{}.om".format(options.bs)
    if not os.path.isfile(os.path.join(options.model, model)):
        raise stage.StageError("{} holds no {}".format(options.model, model), "run convert_npu with the same --bs")
    commands.link(model, os.path.join(options.model, model))
    found = commands.model_batch_size(model)
    if found != options.bs:
        raise stage.StageError(
            "{} takes batches of {}, not {}: ais_bench would scale its figure by the wrong number".format(
                model, found, options.bs
            ),
            "run the stage convert_npu with --bs {}".format(options.bs),
        )


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="the convert_npu stage's results")
    runtime_arguments.batch_size(parser)
    runtime_arguments.cann(parser)
    runtime_arguments.loop(parser)
    runtime_arguments.devices(parser)
    options = parser.parse_args(arguments)
    summary = stage.read_json(os.path.join(options.model, "summary.json"))
    commands = ascend.Commands(options.obs, options.cann)
    linked_model(commands, options)
    loop = options.loop
    figures = measure(commands, options, loop, "ais_bench_measure")
    stage.write_json(os.path.join(options.obs, "measure.json"), result(options, figures, loop))
    runs = [(loop, figures)]
    for number, more in enumerate(further_runs(loop, min(each.mean_ms for each in figures)), 1):
        runs.append((more, measure(commands, options, more, "ais_bench_sustained{}".format(number))))
    stage.write_json(os.path.join(options.obs, "sustained.json"), sustained(options, runs))
    stage.write_json(
        os.path.join(options.out, "summary.json"),
        {
            "batch_size": options.bs,
            "devices": options.num_devices,
            "formula": FORMULA,
            "input": "zeros",
            "loop": options.loop,
            "model_sha256": summary["model_sha256"],
            "warm_ups": WARM_UPS,
        },
    )


if __name__ == "__main__":
    stage.run(main)
