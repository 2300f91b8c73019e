"""Runs every batch through the converted model on the NPU: `python3 -m ais_bench` with the guide's arguments.

out/result/inputs_{i}_0.npy for the whole batches, and out/tail/ for the last, incomplete one, which the guide leaves
out: float32 (195, B, 41), the very bytes that ais_bench wrote. Every output is counted and checked. With several
chips, each has a process, a part of the batches and a folder of its own. obs/result_summary.json: ais_bench's own
(result_summary.device0.json and so on with several), obs/*.log, obs/commands.json.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
from typing import Sequence

from stages.formats import bins
from stages.npu import ascend
from stages.npu.parallel import in_parallel
from stages.shared import runtime_arguments, stage


def infer_words(batch_size: int, inputs: str, output_name: str, device: int | None = None) -> list[str]:
    """The guide's arguments, in its order; --device is added only where several chips were given."""
    words = [
        "--model=lstm_ctc_bs{}.om".format(batch_size),
        "--input={}".format(inputs),
        "--output=result",
        "--output_dirname={}".format(output_name),
        "--outfmt=NPY",
    ]
    return words + ([] if device is None else ["--device={}".format(device)])


class _Part:
    """One process of ais_bench: its batches, where they lie and where its results come out."""

    def __init__(self, folder: str, batches: Sequence[bins.Batch], batch_size: int, device: int | None = None) -> None:
        suffix = "" if device is None else "_device{}".format(device)
        kind = "" if folder == "result" else folder + "_"
        self.folder = folder
        self.batches = batches
        self.device = device
        self.inputs = "lstm_bin_{}bs{}{}".format(kind, batch_size, suffix)
        self.output_name = "{}bs{}{}".format(kind, batch_size, suffix)
        self.log_name = "ais_bench_" + folder + suffix
        self.summary_name = folder + "_summary" + suffix.replace("_", ".") + ".json"


def parts_of(batches: Sequence[bins.Batch], batch_size: int, num_devices: int) -> list[_Part]:
    """The processes to run: one per folder, and for the whole batches one per chip, in runs of consecutive batches."""
    whole = [batch for batch in batches if batch.folder == "result"]
    tail = [batch for batch in batches if batch.folder == "tail"]
    parts: list[_Part] = []
    if num_devices == 1 or len(whole) < num_devices:
        parts += [_Part("result", whole, batch_size)] if whole else []
    else:
        share, rest = divmod(len(whole), num_devices)
        start = 0
        for device in range(num_devices):
            end = start + share + (1 if device < rest else 0)
            parts.append(_Part("result", whole[start:end], batch_size, device))
            start = end
    return parts + ([_Part("tail", tail, batch_size)] if tail else [])


def run_part(commands: ascend.Commands, part: _Part, options: argparse.Namespace) -> None:
    """Run one process, check what it says and what it made, and move that into place."""
    result = commands.path(os.path.join("result", part.output_name))
    if os.path.exists(result):
        raise stage.StageError("{} is there before the run: its files could be taken for results".format(result))
    if part.device is None:
        commands.link(part.inputs, os.path.dirname(part.batches[0].source))
    else:
        for batch in part.batches:
            commands.link(os.path.join(part.inputs, os.path.basename(batch.source)), batch.source)
    words = infer_words(options.bs, part.inputs, part.output_name, part.device)
    lines = commands.ais_bench(part.log_name, words)
    check_batch_size(lines, options.bs)
    collect(result, part.batches, options.out, options.bs)
    shutil.copyfile(result + "_summary.json", os.path.join(options.obs, part.summary_name))


def check_batch_size(lines: Sequence[str], batch_size: int) -> None:
    """ais_bench tells the model's own batch size; it must be the one asked for."""
    for line in lines:
        found = re.search(r"try get model batchsize:(\d+)", line)
        if found and int(found.group(1)) != batch_size:
            raise stage.StageError(
                "the model takes batches of {}, not {}".format(found.group(1), batch_size),
                "run the stage convert_npu with --bs {}".format(batch_size),
            )


def collect(result: str, batches: Sequence[bins.Batch], out: str, batch_size: int) -> None:
    """Copy exactly the expected outputs; a missing, surplus or odd one is refused by name."""
    found = sorted(os.listdir(result) if os.path.isdir(result) else [], key=bins.natural_key)
    expected = [batch.output for batch in batches]
    if found != sorted(expected, key=bins.natural_key):
        odd = sorted(set(found).symmetric_difference(expected), key=bins.natural_key)
        raise stage.StageError(
            "ais_bench made {} outputs for {} inputs (first difference: {})".format(len(found), len(expected), odd[0]),
            "see its log: a full disk is the usual cause",
        )
    for batch in batches:
        shutil.copyfile(os.path.join(result, batch.output), os.path.join(out, batch.folder, batch.output))
        bins.read_output(out, batch, batch_size)


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="the convert_npu stage's results")
    parser.add_argument("--batches", required=True, metavar="DIR", help="the batches stage's results")
    runtime_arguments.batch_size(parser)
    runtime_arguments.cann(parser)
    runtime_arguments.devices(parser)
    options = parser.parse_args(arguments)
    model = "lstm_ctc_bs{}.om".format(options.bs)
    if not os.path.isfile(os.path.join(options.model, model)):
        raise stage.StageError("{} holds no {}".format(options.model, model), "run convert_npu with the same --bs")
    manifest = bins.read_manifest(options.batches, options.bs)
    batches = bins.list_batches(options.batches, manifest)
    bins.make_output_folders(options.out, batches)
    commands = ascend.Commands(options.obs, options.cann)
    commands.link(model, os.path.join(options.model, model))
    parts = parts_of(batches, options.bs, options.num_devices)
    progress = stage.Progress("infer", len(batches))
    together = [part for part in parts if part.device is not None]
    for part in parts:
        if part.device is None:
            run_part(commands, part, options)
            progress.advance(len(part.batches))
    if together:
        in_parallel(lambda part: run_part(commands, part, options), together)
        progress.advance(sum(len(part.batches) for part in together))


if __name__ == "__main__":
    stage.run(main)
