"""Runs every batch through the converted model, with ais_bench's file names and summary.

out/result/inputs_{i}_0.npy for the whole batches, out/tail/ for the last, incomplete one: float32 (195, B, 41).
obs/result_summary.json and obs/tail_summary.json: ais_bench's schema; compute times in ms. One batch is in memory at
a time. In float32 the outputs are the same bytes for any number of threads.
"""

import os
import time

from stages import _bins, _runtime, _stage


def main(arguments):
    parser = _stage.parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="the convert stage's results")
    parser.add_argument("--batches", required=True, metavar="DIR", help="the batches stage's results")
    _runtime.batch_size_argument(parser)
    options = parser.parse_args(arguments)
    manifest = _bins.read_manifest(options.batches, options.bs)
    batches = _bins.list_batches(options.batches, manifest)
    graph = _runtime.Graph(os.path.join(options.model, "model.onnx"))
    graph.require_batch_size(options.bs)
    _bins.make_output_folders(options.out, batches)
    progress = _stage.Progress("infer", len(batches))
    runs = {"result": ([], [], []), "tail": ([], [], [])}
    for batch in batches:
        rows = _bins.read_batch(batch, options.bs)
        start_s = time.perf_counter()
        output = graph.run(rows)
        time_ms = (time.perf_counter() - start_s) * 1000.0
        infiles, outfiles, times_ms = runs[batch.folder]
        infiles.append(batch.source)
        outfiles.append(_bins.write_output(options.out, batch, output))
        times_ms.append(time_ms)
        progress.advance()
    for folder, (infiles, outfiles, times_ms) in sorted(runs.items()):
        if folder == "tail" and not infiles:
            continue
        _stage.write_json(
            os.path.join(options.obs, folder + "_summary.json"),
            _bins.summary(infiles, outfiles, times_ms, options.bs, ["stages.infer"] + list(arguments)),
        )


if __name__ == "__main__":
    _stage.run(main)
