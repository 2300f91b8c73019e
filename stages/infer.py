"""Runs every batch through the converted model, with ais_bench's file names and summary.

out/result/inputs_{i}_0.npy for the whole batches, out/tail/ for the last, incomplete one: float32 (195, B, 41).
obs/result_summary.json and obs/tail_summary.json: ais_bench's schema; compute times in ms. Several batches go through
side by side, each on one core, or on two where that is faster, and while they are computed another is read or written:
memory holds one batch per core and one more. The outputs are the same bytes for any number of cores.
"""

from __future__ import annotations

import concurrent.futures
import os
import queue
import time
from typing import Iterable, NamedTuple, Sequence

from stages.formats import bins
from stages.model import precision
from stages.model.network import Network
from stages.shared import runtime_arguments, stage
from stages.shared.threads import in_order


class Done(NamedTuple):
    """A batch that was computed: where its output lies, and the compute time in ms."""

    batch: bins.Batch
    path: str
    time_ms: float


class _Streams:
    """Networks that run side by side."""

    def __init__(self, networks: Iterable[Network], out: str, batch_size: int) -> None:
        self._idle: queue.Queue[Network] = queue.Queue()
        for network in networks:
            self._idle.put(network)
        self._out = out
        self._batch_size = batch_size

    def run(self, batch: bins.Batch) -> Done:
        """Read, compute and write one batch."""
        rows = bins.read_batch(batch, self._batch_size)
        network = self._idle.get()
        try:
            start_s = time.perf_counter()
            output = network.run(rows)
            time_ms = (time.perf_counter() - start_s) * 1000.0
        finally:
            self._idle.put(network)
        return Done(batch, bins.write_output(self._out, batch, output), time_ms)


def main(arguments: Sequence[str]) -> None:
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
    runs: dict[str, list[Done]] = {"result": [], "tail": []}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for done in in_order(pool, streams.run, batches, 2 * workers):
            runs[done.batch.folder].append(done)
            progress.advance()
    for folder, finished in sorted(runs.items()):
        if folder == "tail" and not finished:
            continue
        stage.write_json(
            os.path.join(options.obs, folder + "_summary.json"),
            bins.summary(
                [done.batch.source for done in finished],
                [done.path for done in finished],
                [done.time_ms for done in finished],
                options.bs,
                ["stages.infer", *arguments],
                streams=len(networks),
            ),
        )


if __name__ == "__main__":
    stage.run(main)
