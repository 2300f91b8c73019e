"""Times PyTorch running the model as it is, for the bench alone; see `stages.bench.inference`.

obs/times.json: {"sizes": {B: {"utterances", "seconds"}}}. out/checks.json: the largest difference of any timed output
from the stage reference's.
"""

from __future__ import annotations

import os
from typing import Any, Sequence

import numpy

from stages.bench import speech as dev_speech
from stages.model import checkpoint
from stages.shared import runtime_arguments, stage


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="a .pth file")
    parser.add_argument("--batches", required=True, metavar="DIR", help="the batches stage's results")
    parser.add_argument("--reference", required=True, metavar="DIR", help="the reference stage's, of the same batches")
    parser.add_argument("--sizes", required=True, metavar="B,B,…", help="batch sizes")
    parser.add_argument("--rounds", required=True, type=int)
    options = parser.parse_args(arguments)
    import torch

    cores = runtime_arguments.available_threads()
    torch.set_num_threads(cores)
    speech = dev_speech.Speech(options.batches, options.reference)
    model = checkpoint.load_model(options.checkpoint)
    largest = 0.0
    by_size: dict[str, Any] = {}
    with torch.no_grad():
        for size in [int(size) for size in options.sizes.split(",")]:
            count = dev_speech.batches_in_a_round(size, cores, side_by_side=False)
            picked = speech.picked(size, count)
            batches = [torch.from_numpy(speech.rows[numbers]) for numbers in picked]
            model(batches[0])
            seconds_of: list[float] = []
            by_size[str(size)] = {"utterances": size * count, "seconds": seconds_of}
            for _ in range(options.rounds):
                seconds, outputs = dev_speech.timed([model], batches)
                seconds_of.append(seconds)
                for numbers, values in zip(picked, outputs):
                    found = numpy.abs(values.numpy().swapaxes(0, 1) - speech.expected[numbers]).max()
                    largest = max(largest, float(found))
    stage.write_json(os.path.join(options.obs, "times.json"), {"sizes": by_size})
    stage.write_json(os.path.join(options.out, "checks.json"), {"largest_from_reference": largest})


if __name__ == "__main__":
    stage.run(main)
