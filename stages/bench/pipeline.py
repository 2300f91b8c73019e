"""Computes the batches that the stage infer is given, from memory, for the bench alone: what the stage cannot go below.

The same streams, and no file is read or written once the clock runs. Batches may be links to a few
different files: each file is read once. out/result/: the output of each different file, computed before the clock runs
and held to every timed one byte by byte. obs/times.json: {"batches", "seconds", "rounds"}.
"""

from __future__ import annotations

import json
import os
from typing import Callable, Iterable, Iterator, Sequence

import numpy

from stages.bench import speech
from stages.formats import bins
from stages.model import network as model_network
from stages.shared import runtime_arguments, stage


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="the convert stage's results")
    parser.add_argument("--batches", required=True, metavar="DIR", help="the batches stage's results")
    parser.add_argument("--count", required=True, type=int, help="how many batches are computed against the clock")
    runtime_arguments.batch_size(parser)
    options = parser.parse_args(arguments)
    manifest = bins.read_manifest(options.batches, options.bs)
    network = model_network.Network(os.path.join(options.model, "model.onnx"))
    batches, expected = [], []
    bins.make_output_folders(options.out, [])
    for batch in _different(bins.list_batches(options.batches, manifest)):
        batches.append(bins.read_batch(batch, options.bs))
        expected.append(network.run(batches[-1]))
        bins.write_output(options.out, batch, expected[-1])
    runners = [_held_to(stream, batches, expected) for stream in network.streams(options.bs)]
    speech.timed(runners, list(range(min(len(batches), len(runners)))))
    seconds, equal = speech.timed(runners, [number % len(batches) for number in range(options.count)])
    if not all(equal):
        raise stage.StageError("{} of {} outputs have other bytes than before".format(equal.count(False), len(equal)))
    with open(os.path.join(options.obs, "times.json"), "w", encoding="utf-8") as stream:
        json.dump({"batches": options.count, "seconds": seconds}, stream)


def _different(batches: Iterable[bins.Batch]) -> Iterator[bins.Batch]:
    """Batches whose files are not links to one that came before."""
    seen = set()
    for batch in batches:
        inode = os.stat(batch.source).st_ino
        if inode not in seen:
            seen.add(inode)
            yield batch


def _held_to(
    stream: model_network.Network, batches: Sequence[numpy.ndarray], expected: Sequence[numpy.ndarray]
) -> Callable[[int], bool]:
    """A function of a batch's number: whether its output has the expected bytes; comparing takes 0.1 % of the time."""

    def run(number: int) -> bool:
        return stream.run(batches[number]).tobytes() == expected[number].tobytes()

    return run


if __name__ == "__main__":
    stage.run(main)
