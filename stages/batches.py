"""From features to the model's inputs: stacked, padded, and gathered into batches of B utterances.

Stacking: row t becomes rows t, t+1, t+2 side by side (the last one repeated past the end), every second of these is
kept, one zero row is added where their number is odd, and zero rows fill up to 390. The reference's files are the whole
batches alone (`bins/`); what it drops is one more batch, filled up with zero utterances, in `tail/`.
"""

from __future__ import annotations

import os
from typing import Any, Sequence

import numpy

from stages.formats import kaldi_io
from stages.formats.labels import each_entry
from stages.formats.matching import in_order, matched
from stages.formats.stacking import COLUMNS, MAX_ROWS, checked
from stages.shared import runtime_arguments
from stages.shared.stage import Progress, StageError, atomic_file, parser, run, write_json

SPLITS = ("train", "dev", "test")


def main(arguments: Sequence[str]) -> None:
    command = parser(__doc__)
    command.add_argument("--features", required=True, metavar="DIR", help="the features stage's results")
    command.add_argument("--corpus", required=True, metavar="DIR", help="the corpus stage's results")
    runtime_arguments.batch_size(command)
    command.add_argument("--split", choices=SPLITS, default="dev", help="default: %(default)s")
    command.add_argument(
        "--skip-bad", action="store_true", help="leave bad utterances out, listed, in place of failing"
    )
    options = command.parse_args(arguments)

    labels_path = os.path.join(options.corpus, options.split, "phn_text")
    archive = os.path.join(options.features, options.split, "fbank.ark")
    excluded: list[dict[str, str]] = []
    # Twice over the labels: that they are not sorted is said before anything that follows from it.
    total = sum(1 for _ in in_order(each_entry(labels_path), labels_path))
    progress = Progress("batches of {}".format(options.bs), total)
    writer = BatchWriter(options.out, options.bs)
    labels = each_entry(labels_path)
    for utterance, features, phones in matched(kaldi_io.read_archive(archive), labels, archive, labels_path):
        progress.advance()
        try:
            writer.add(utterance, checked(features, phones))
        except StageError as error:
            if not options.skip_bad:
                raise StageError(
                    "{}: {}".format(utterance, error.message), "Leave such utterances out with --skip-bad."
                ) from error
            excluded.append({"utterance": utterance, "reason": error.message})
    writer.finish()
    if not writer.utterances:
        raise StageError("{}: no utterance of {} can be used".format(archive, options.split))
    write_json(
        os.path.join(options.out, "manifest.json"),
        {
            "batch_size": options.bs,
            "columns": COLUMNS,
            "excluded": excluded,
            "num_batches": writer.num_batches,
            "num_tail_batches": writer.num_tail_batches,
            "rows": MAX_ROWS,
            "split": options.split,
            "utterances": writer.utterances,
        },
    )


class BatchWriter:
    """Writes batches as they fill; holds one at a time."""

    def __init__(self, out: str, batch_size: int) -> None:
        self._out = out
        self._batch = numpy.zeros((batch_size, MAX_ROWS, COLUMNS))
        self._filled = 0
        self.num_batches = 0
        self.num_tail_batches = 0
        self.utterances: list[dict[str, Any]] = []
        for name in ("bins", "tail"):
            os.mkdir(os.path.join(out, name))

    def add(self, utterance: str, rows: numpy.ndarray) -> None:
        """Put one utterance's rows (even, 243) into the next place."""
        self._batch[self._filled, : len(rows)] = rows
        self.utterances.append(
            {
                "batch": self.num_batches,
                "id": utterance,
                "output_frames": len(rows) // 2,  # the second convolution's stride
                "row": self._filled,
                "stacked_frames": len(rows),
            }
        )
        self._filled += 1
        if self._filled == len(self._batch):
            self._write("bins")
            self.num_batches += 1

    def finish(self) -> None:
        """Write what is left as the one tail batch."""
        if self._filled:
            self._write("tail")
            self.num_tail_batches = 1

    def _write(self, folder: str) -> None:
        path = os.path.join(self._out, folder, "inputs_{}.bin".format(self.num_batches))
        with atomic_file(path) as stream:
            stream.write(self._batch.astype("<f4").tobytes())
        self._batch[:] = 0.0
        self._filled = 0


if __name__ == "__main__":
    run(main)
