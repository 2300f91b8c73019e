"""Pure inference speed on the NPU: `python3 -m ais_bench` with the guide's arguments and without --input.

ais_bench runs zeros: one warm-up, then `--loop` executions, copies not counted. Its two lines are read by pattern;
they hold no list of times, so the 90th percentile is not known. ais_bench only scales its figure by --batchsize, so
the model's own is read from the runtime first. obs/measure.json: throughput in utterances a second as ais_bench's
formula has it, latency of one execution in ms; with several chips the throughputs' sum, and the first one's latency.
out/summary.json says what was measured and holds no time.
"""

import os
import re

from stages.npu import ascend
from stages.npu.parallel import in_parallel
from stages.shared import runtime_arguments, stage

FORMULA = "1000*batchsize/NPU_compute_time.mean"
WARM_UPS = 1
_TIMES = re.compile(
    r"NPU_compute_time \(ms\): min = (?P<min>[\d.e+-]+), max = (?P<max>[\d.e+-]+), mean = (?P<mean>[\d.e+-]+), "
    r"median = (?P<median>[\d.e+-]+), percentile\(99%\) = (?P<p99>[\d.e+-]+)"
)
_THROUGHPUT = re.compile(
    r"throughput 1000\*batchsize(?:\.mean)?\((?P<batch>[\d.]+)\)/NPU_compute_time\.mean\((?P<mean>[\d.e+-]+)\): "
    r"(?P<value>[\d.e+-]+)"
)


def measure_words(batch_size, loop, device=None):
    """The guide's arguments, in its order; --device is added only where several chips were given."""
    words = [
        "--model=lstm_ctc_bs{}.om".format(batch_size),
        "--loop={}".format(loop),
        "--batchsize={}".format(batch_size),
    ]
    return words + ([] if device is None else ["--device={}".format(device)])


def read_figures(lines, batch_size):
    """(throughput in utterances a second, latencies in ms) from ais_bench's output, held against its own formula."""
    text = "\n".join(lines)
    times, throughput = _TIMES.search(text), _THROUGHPUT.search(text)
    if times is None or throughput is None:
        raise stage.StageError("ais_bench printed no figures", "see its log: this may be another ais_bench than 0.0.2")
    latency_ms = {name: float(value) for name, value in times.groupdict().items()}
    value = float(throughput.group("value"))
    if float(throughput.group("batch")) != batch_size or not _near(value, 1000.0 * batch_size / latency_ms["mean"]):
        raise stage.StageError(
            "ais_bench's throughput {} is not 1000 * {} / {}".format(value, batch_size, latency_ms["mean"]),
            "this is another ais_bench than 0.0.2",
        )
    latency_ms.update({"p50": latency_ms["median"], "p90": None})
    return value, latency_ms


def _near(value, expected):
    return abs(value - expected) <= 1e-6 * expected


def main(arguments):
    parser = stage.parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="the convert_npu stage's results")
    runtime_arguments.batch_size(parser)
    parser.add_argument("--loop", type=int, default=100, metavar="N", help="timed executions (default: 100)")
    runtime_arguments.devices(parser)
    options = parser.parse_args(arguments)
    if options.loop < 1:
        parser.error("at least one execution must be timed")
    summary = stage.read_json(os.path.join(options.model, "summary.json"))
    model = "lstm_ctc_bs{}.om".format(options.bs)
    commands = ascend.Commands(options.obs)
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
    several = options.num_devices > 1
    figures = {}

    def measure(device):
        words = measure_words(options.bs, options.loop, device if several else None)
        name = "ais_bench_measure" + (".device{}".format(device) if several else "")
        figures[device] = read_figures(commands.ais_bench(name, words), options.bs)

    in_parallel(measure, list(range(options.num_devices)))
    stage.write_json(
        os.path.join(options.obs, "measure.json"),
        {
            "batch_size": options.bs,
            "devices": options.num_devices,
            "formula": FORMULA,
            "latency_ms": figures[0][1],
            "loop": options.loop,
            "provider": "CANN " + ascend.toolkit_version(),
            "simulator": ascend.is_simulator(),
            "throughput_utterances_per_s": sum(value for value, _ in figures.values()),
            "times_ms": [],
        },
    )
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
