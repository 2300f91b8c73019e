"""Times the model beside its peers on the same batches, for the bench alone: in turn, and with every output checked.

Ours and the peers run in two ways: 'side by side', one batch per core, each on one thread (ours as the stage infer runs
it, which may give a small batch two); and 'one at a time', all cores on one batch. The matrix peak is taken between
them: one large product per core.
out/checks.json: differences found. obs/times.json: seconds of every round, by batch size and candidate.
"""

from __future__ import annotations

import os
from typing import Sequence

from stages.bench import candidates
from stages.shared import stage


def main(arguments: Sequence[str]) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--onnx", required=True, metavar="DIR", help="the export stage's results")
    parser.add_argument("--model", required=True, metavar="DIR", help="the convert stage's results")
    parser.add_argument("--batches", required=True, metavar="DIR", help="the batches stage's results")
    parser.add_argument("--reference", required=True, metavar="DIR", help="the reference stage's, of the same batches")
    parser.add_argument("--sizes", required=True, metavar="B,B,…", help="batch sizes")
    parser.add_argument("--rounds", required=True, metavar="N,N,…", help="rounds at each of these sizes, at most")
    parser.add_argument("--seconds", required=True, type=float, help="after which a size begins no more than 3 rounds")
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.sizes.split(",")]
    rounds = [int(number) for number in options.rounds.split(",")]
    times, checks = candidates.measure(options, dict(zip(sizes, rounds)))
    stage.write_json(os.path.join(options.obs, "times.json"), times)
    stage.write_json(os.path.join(options.out, "checks.json"), checks)


if __name__ == "__main__":
    stage.run(main)
