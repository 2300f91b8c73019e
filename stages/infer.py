"""Runs every batch through the converted model, with ais_bench's file names and summary.

out/result/inputs_{i}_0.npy for the whole batches, out/tail/ for the last, incomplete one: float32 (195, B, 41).
obs/result_summary.json and obs/tail_summary.json: ais_bench's schema; compute times in ms. Several batches go through
side by side, each on one core, or on two where that is faster, and while they are computed another is read or written:
memory holds one batch a core and one more. The outputs are the same bytes for any number of cores.
"""

import concurrent.futures
import itertools
import os
import queue
import time

from stages.formats import bins
from stages.model import precision
from stages.shared import runtime_arguments, stage


class _Streams:
    """Networks that run side by side."""

    def __init__(self, networks, out, batch_size):
        self._idle = queue.Queue()
        for network in networks:
            self._idle.put(network)
        self._out = out
        self._batch_size = batch_size

    def run(self, batch):
        """Read, compute and write one batch; returns (batch, the output's path, compute time in ms)."""
        rows = bins.read_batch(batch, self._batch_size)
        network = self._idle.get()
        try:
            start_s = time.perf_counter()
            output = network.run(rows)
            time_ms = (time.perf_counter() - start_s) * 1000.0
        finally:
            self._idle.put(network)
        return batch, bins.write_output(self._out, batch, output), time_ms


def _in_order(pool, function, items, ahead):
    """`function` of every item, on the pool, in the items' order; at most `ahead` are under way or waiting."""
    items = iter(items)
    pending = [pool.submit(function, item) for item in itertools.islice(items, ahead)]
    try:
        while pending:
            result = pending.pop(0).result()
            pending.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
            yield result
    finally:
        for future in pending:
            future.cancel()


def main(arguments):
    parser = stage.parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="the convert stage's results")
    parser.add_argument("--batches", required=True, metavar="DIR", help="the batches stage's results")
    runtime_arguments.batch_size(parser)
    precision.argument(parser)
    options = parser.parse_args(arguments)
    manifest = bins.read_manifest(options.batches, options.bs)
    batches = bins.list_batches(options.batches, manifest)
    network = precision.open_network(os.path.join(options.model, "model.onnx"), options.precision)
    network.require_batch_size(options.bs)
    bins.make_output_folders(options.out, batches)
    progress = stage.Progress("infer", len(batches))
    networks = network.streams(options.bs)[: len(batches)]
    streams = _Streams(networks, options.out, options.bs)
    workers = len(networks) + 1  # so that one batch is read or written while the others are computed
    runs = {"result": ([], [], []), "tail": ([], [], [])}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for batch, path, time_ms in _in_order(pool, streams.run, batches, 2 * workers):
            infiles, outfiles, times_ms = runs[batch.folder]
            infiles.append(batch.source)
            outfiles.append(path)
            times_ms.append(time_ms)
            progress.advance()
    for folder, (infiles, outfiles, times_ms) in sorted(runs.items()):
        if folder == "tail" and not infiles:
            continue
        stage.write_json(
            os.path.join(options.obs, folder + "_summary.json"),
            bins.summary(
                infiles, outfiles, times_ms, options.bs, ["stages.infer"] + list(arguments), streams=len(networks)
            ),  # fmt: skip
        )


if __name__ == "__main__":
    stage.run(main)
