"""Times the model in bfloat16 beside float32 on the same batches, for the bench alone, side by side on all cores.

out/checks.json: whether every timed output in bfloat16 has the bytes that one utterance alone, on one thread, gives.
obs/times.json: seconds of every round, by batch size and number format.
"""

from __future__ import annotations

import os
from typing import Any, Sequence

import numpy

from stages.bench import speech as dev_speech
from stages.model import precision
from stages.shared import runtime_arguments, stage


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="the convert stage's results")
    parser.add_argument("--batches", required=True, metavar="DIR", help="the batches stage's results")
    parser.add_argument("--sizes", required=True, metavar="B,B,…", help="batch sizes")
    parser.add_argument("--rounds", required=True, type=int)
    options = parser.parse_args(arguments)
    path = os.path.join(options.model, "model.onnx")
    cores = runtime_arguments.available_threads()
    speech = dev_speech.Speech(options.batches)
    networks = {name: precision.open_network(path, name, threads=cores) for name in precision.PRECISIONS}
    alone = networks[precision.BFLOAT16].stream()
    expected = [alone.run(speech.rows[number : number + 1])[:, 0].tobytes() for number in range(len(speech.rows))]
    compared, unequal = 0, 0
    sizes: dict[str, Any] = {}
    for size in [int(text) for text in options.sizes.split(",")]:
        count = dev_speech.batches_in_a_round(size, cores, side_by_side=True)
        picked = speech.picked(size, count)
        batches = [numpy.ascontiguousarray(speech.rows[numbers]) for numbers in picked]
        runners = {name: [stream.run for stream in network.streams(size)] for name, network in networks.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        for number in range(-1, options.rounds):  # the first round warms up
            for name in sorted(runners, reverse=number % 2 == 0):
                taken_s, outputs = dev_speech.timed(runners[name], batches)
                if number >= 0:
                    seconds[name].append(taken_s)
                if name == precision.BFLOAT16:
                    for numbers, values in zip(picked, outputs):
                        for row, utterance in enumerate(numbers):
                            compared += 1
                            unequal += values[:, row].tobytes() != expected[utterance]
        sizes[str(size)] = {"utterances": size * count, "seconds": seconds}
    together = networks[precision.BFLOAT16].run(speech.rows[:7])
    unequal += sum(together[:, row].tobytes() != expected[row] for row in range(7))
    stage.write_json(os.path.join(options.out, "checks.json"), {"compared": compared + 7, "unequal": unequal})
    stage.write_json(
        os.path.join(options.obs, "times.json"),
        {"arithmetic": networks[precision.BFLOAT16].description, "cores": cores, "sizes": sizes},
    )


if __name__ == "__main__":
    stage.run(main)
