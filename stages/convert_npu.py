"""Converts the exported graph for the NPU, for one batch size: atc with the guide's arguments.

It needs no device. out/lstm_ctc_bsB.om: what ais_bench runs. out/summary.json: batch size, chip, precision mode and
the command. obs/atc.log, obs/commands.json.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import Sequence

from stages.npu import ascend
from stages.shared import architecture, runtime_arguments, stage

# --precision_mode of atc; left out, the vendor's default holds, which is force_fp16 on a 310P.
PRECISION_MODES = ("force_fp16", "allow_fp32_to_fp16", "must_keep_origin_dtype", "allow_mix_precision", "force_fp32")
DEFAULT_PRECISION = "the vendor's default"


def atc_words(batch_size: int, soc_version: str, precision_mode: str = "") -> list[str]:
    """The guide's arguments, in its order; --precision_mode is added only where one is asked for."""
    shape = ",".join(str(size) for size in architecture.input_shape(batch_size))
    words = [
        "--input_format=ND",
        "--framework=5",
        "--model=lstm_ctc.onnx",
        "--input_shape={}:{}".format(architecture.INPUT_NAME, shape),
        "--output=lstm_ctc_bs{}".format(batch_size),
        "--log=info",
        "--soc_version={}".format(soc_version),
    ]
    return words + (["--precision_mode={}".format(precision_mode)] if precision_mode else [])


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--onnx", required=True, metavar="DIR", help="the export stage's results")
    runtime_arguments.batch_size(parser)
    runtime_arguments.cann(parser)
    parser.add_argument("--soc-version", required=True, metavar="NAME", help="the chip, such as Ascend310P3")
    parser.add_argument("--precision-mode", choices=PRECISION_MODES, default="", help="default: the vendor's")
    options = parser.parse_args(arguments)
    source = os.path.join(options.onnx, "lstm_ctc.onnx")
    if not os.path.isfile(source):
        raise stage.StageError("{} is not there".format(source), "run the stage export")
    commands = ascend.Commands(options.obs, options.cann)
    commands.link("lstm_ctc.onnx", source)
    words = atc_words(options.bs, options.soc_version, options.precision_mode)
    commands.atc(words)
    name = "lstm_ctc_bs{}.om".format(options.bs)
    made = commands.path(name)
    if not os.path.isfile(made) or not os.path.getsize(made):
        raise stage.StageError("atc ended well, but wrote no {}".format(name), "see obs/atc.log")
    target = os.path.join(options.out, name)
    shutil.copyfile(made, target)
    with open(target, "rb") as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    stage.write_json(
        os.path.join(options.out, "summary.json"),
        {
            "batch_size": options.bs,
            "cann": ascend.toolkit_version(),
            "command": ["atc", *words],
            "model_sha256": digest,
            "precision_mode": options.precision_mode or DEFAULT_PRECISION,
            "simulator": ascend.is_simulator(),
            "soc_version": options.soc_version,
        },
    )


if __name__ == "__main__":
    stage.run(main)
