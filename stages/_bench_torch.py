"""Times PyTorch running the model as it is, for the bench alone; see `_bench_inference`.

obs/times.json: {"sizes": {B: {"utterances", "seconds"}}}. out/checks.json: the largest difference of any timed output
from the stage reference's.
"""

import os

import numpy

from stages import _bench_speech, _checkpoint, _runtime_arguments, _stage


def main(arguments):
    parser = _stage.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="a .pth file")
    parser.add_argument("--batches", required=True, metavar="DIR", help="the batches stage's results")
    parser.add_argument("--reference", required=True, metavar="DIR", help="the reference stage's, of the same batches")
    parser.add_argument("--sizes", required=True, metavar="B,B,…", help="batch sizes")
    parser.add_argument("--rounds", required=True, type=int)
    options = parser.parse_args(arguments)
    import torch

    cores = _runtime_arguments.available_threads()
    torch.set_num_threads(cores)
    speech = _bench_speech.Speech(options.batches, options.reference)
    model = _checkpoint.load_model(options.checkpoint)
    largest = 0.0
    by_size = {}
    with torch.no_grad():
        for size in [int(size) for size in options.sizes.split(",")]:
            count = _bench_speech.batches_in_a_round(size, cores, side_by_side=False)
            picked = speech.picked(size, count)
            batches = [torch.from_numpy(speech.rows[numbers]) for numbers in picked]
            model(batches[0])
            entry = by_size[str(size)] = {"utterances": size * count, "seconds": []}
            for _ in range(options.rounds):
                seconds, outputs = _bench_speech.timed([model], batches)
                entry["seconds"].append(seconds)
                for numbers, values in zip(picked, outputs):
                    found = numpy.abs(values.numpy().swapaxes(0, 1) - speech.expected[numbers]).max()
                    largest = max(largest, float(found))
    _stage.write_json(os.path.join(options.obs, "times.json"), {"sizes": by_size})
    _stage.write_json(os.path.join(options.out, "checks.json"), {"largest_from_reference": largest})


if __name__ == "__main__":
    _stage.run(main)
