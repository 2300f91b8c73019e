"""From features to the model's inputs: stacked, padded, and gathered into batches of B utterances.

Stacking: row t becomes rows t, t+1, t+2 side by side (the last one repeated past the end), every second of these is
kept, one zero row is added where their number is odd, and zero rows fill up to 390. The reference's files are the whole
batches alone (`bins/`); what it drops is one more batch, filled up with zero utterances, in `tail/`.
"""

import argparse
import os

import numpy

from stages import _kaldi_io
from stages._labels import each_entry
from stages._stage import Progress, StageError, atomic_file, parser, run, write_json

RIGHT_CONTEXT = 2
KEEP_EVERY = 2
MAX_ROWS = 390  # 780 frames: 7.825 s
MAX_LABELS = 74
FEATURES = 81
COLUMNS = FEATURES * (1 + RIGHT_CONTEXT)
SPLITS = ("train", "dev", "test")


def main(arguments):
    options = parser(__doc__)
    options.add_argument("--features", required=True, metavar="DIR", help="the features stage's results")
    options.add_argument("--corpus", required=True, metavar="DIR", help="the corpus stage's results")
    options.add_argument("--bs", required=True, type=_positive, metavar="B", help="utterances a batch")
    options.add_argument("--split", choices=SPLITS, default="dev", help="default: %(default)s")
    options.add_argument(
        "--skip-bad", action="store_true", help="leave bad utterances out, listed, in place of failing"
    )
    options = options.parse_args(arguments)

    labels_path = os.path.join(options.corpus, options.split, "phn_text")
    archive = os.path.join(options.features, options.split, "fbank.ark")
    excluded = []
    # Twice over the labels: that they are not sorted is said before anything that follows from it.
    total = sum(1 for _ in _sorted(each_entry(labels_path), labels_path))
    progress = Progress("batches of {}".format(options.bs), total)
    writer = BatchWriter(options.out, options.bs)
    labels = each_entry(labels_path)
    for utterance, features, phones in matched(_kaldi_io.read_archive(archive), labels, archive, labels_path):
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


def matched(archive, labels, archive_path, labels_path):
    """Yield (id, features or None, phones or None) in the labels' order; None where a side lacks the utterance.

    Args:
        archive, labels: iterables of (id, features) and (id, phones); both must be sorted by id, so that one pass over
            them is enough, and neither is held in memory.
    """
    labels = _sorted(labels, labels_path)
    following = next(labels, None)
    for utterance, features in _sorted(archive, archive_path):
        while following and following[0] < utterance:
            yield following[0], None, following[1]
            following = next(labels, None)
        if following and following[0] == utterance:
            yield utterance, features, following[1]
            following = next(labels, None)
        else:
            yield utterance, features, None
    while following:
        yield following[0], None, following[1]
        following = next(labels, None)


def _sorted(entries, path):
    """Yield the entries as they are, or refuse the first that does not come after the one before it."""
    previous = ""
    for entry in entries:
        if entry[0] == previous:
            raise StageError("{}: {} stands there twice".format(path, previous))
        if entry[0] < previous:
            raise StageError("{}: {} after {}, not sorted".format(path, entry[0], previous))
        previous = entry[0]
        yield entry


def checked(features, phones):
    """The stacked rows of one utterance, or StageError where the model or the scoring could not take it."""
    if features is None:
        raise StageError("it has labels, but no features")
    if not phones:
        raise StageError("it has features, but no labels")
    if features.shape[1] != FEATURES:
        raise StageError("{} features a frame, not {}".format(features.shape[1], FEATURES))
    if not len(features):
        raise StageError("it has no frame")
    if not numpy.isfinite(features).all():
        raise StageError("its features are not finite")
    if len(phones) > MAX_LABELS:
        raise StageError("{} labels, over {}".format(len(phones), MAX_LABELS))
    rows = stack(features)
    if len(rows) > MAX_ROWS:
        raise StageError("{} frames, over {}".format(len(features), MAX_ROWS * KEEP_EVERY))
    return rows


def stack(features):
    """(num_frames, 81) float32 -> (even number of rows, 243) float64, as the module's description says."""
    frames = numpy.arange(0, len(features), KEEP_EVERY)[:, numpy.newaxis] + numpy.arange(1 + RIGHT_CONTEXT)
    kept = features.astype(numpy.float64)[numpy.minimum(frames, len(features) - 1)]
    rows = kept.reshape(len(frames), -1)
    return numpy.vstack([rows, numpy.zeros((len(rows) % 2, rows.shape[1]))])


class BatchWriter:
    """Writes batches as they fill; holds one at a time."""

    def __init__(self, out, batch_size):
        self._out = out
        self._batch = numpy.zeros((batch_size, MAX_ROWS, COLUMNS))
        self._filled = 0
        self.num_batches = 0
        self.num_tail_batches = 0
        self.utterances = []
        for name in ("bins", "tail"):
            os.mkdir(os.path.join(out, name))

    def add(self, utterance, rows):
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

    def finish(self):
        """Write what is left as the one tail batch."""
        if self._filled:
            self._write("tail")
            self.num_tail_batches = 1

    def _write(self, folder):
        path = os.path.join(self._out, folder, "inputs_{}.bin".format(self.num_batches))
        with atomic_file(path) as stream:
            stream.write(self._batch.astype("<f4").tobytes())
        self._batch[:] = 0.0
        self._filled = 0


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("{} is no batch size".format(value))
    return value


if __name__ == "__main__":
    run(main)
