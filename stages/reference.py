"""PyTorch's own log-probabilities for every batch: what the exported and the converted graph are compared with.

out/result and out/tail: inputs_{i}_0.npy, float32 (195, B, 41), for the same batches as the stage infer.
"""

from __future__ import annotations

import os
from typing import Sequence

from stages.formats import bins
from stages.model import checkpoint
from stages.shared import stage


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="a .pth file")
    parser.add_argument("--batches", required=True, metavar="DIR", help="the batches stage's results")
    options = parser.parse_args(arguments)
    # Threads that wait must sleep: spinning ones make this stage several times slower on a busy machine. OpenMP reads
    # this when PyTorch is loaded, hence the import here.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    manifest = bins.read_manifest(options.batches)
    batches = bins.list_batches(options.batches, manifest)
    model = checkpoint.load_model(options.checkpoint)
    bins.make_output_folders(options.out, batches)
    progress = stage.Progress("reference", len(batches))
    with torch.no_grad():
        for batch in batches:
            rows = torch.from_numpy(bins.read_batch(batch, manifest.batch_size))
            bins.write_output(options.out, batch, model(rows).numpy())
            progress.advance()


if __name__ == "__main__":
    stage.run(main)
