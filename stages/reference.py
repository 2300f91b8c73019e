"""PyTorch's own log-probabilities for every batch: what the exported and the converted graph are compared with.

out/result and out/tail: inputs_{i}_0.npy, float32 (195, B, 41), for the same batches as the stage infer. Batches are
computed side by side, one per core with one thread each, and at most 8 utterances at a time: threads that share the
small products of a recurrent step mostly wait for each other, and memory does not grow with the batch.
"""

from __future__ import annotations

import concurrent.futures
import os
from typing import Sequence

import numpy

from stages.formats import bins
from stages.model import checkpoint
from stages.shared import runtime_arguments, stage
from stages.shared.threads import in_order

_TOGETHER = 8


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="a .pth file")
    parser.add_argument("--batches", required=True, metavar="DIR", help="the batches stage's results")
    options = parser.parse_args(arguments)
    # Of every thread of this process; read when PyTorch is loaded, hence the import here.
    os.environ.update({"MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})
    import torch

    torch.set_num_threads(1)
    manifest = bins.read_manifest(options.batches)
    batches = bins.list_batches(options.batches, manifest)
    model = checkpoint.load_model(options.checkpoint)
    bins.make_output_folders(options.out, batches)

    def compute(batch: bins.Batch) -> None:
        rows = torch.from_numpy(bins.read_batch(batch, manifest.batch_size))
        with torch.no_grad():  # each thread has its own
            outputs = [model(some).numpy() for some in rows.split(_TOGETHER)]
        bins.write_output(options.out, batch, numpy.concatenate(outputs, axis=1))

    cores = runtime_arguments.available_threads()
    progress = stage.Progress("reference", len(batches))
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        for _ in in_order(pool, compute, batches, 2 * cores):
            progress.advance()


if __name__ == "__main__":
    stage.run(main)
