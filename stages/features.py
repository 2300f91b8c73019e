"""Kaldi's filter-bank features of all splits, normalised by the mean and variance of train (global CMVN).

The features are those of compute-fbank-feats, dither included: made by kaldi-native-fbank with Kaldi's noise added
before it, or with `--implementation kaldi` by Kaldi's own programs. The statistics pass through Kaldi's text form, as
in the reference, and are read back for apply-cmvn's formula. One utterance at a time is held in memory; a split's
archive is written raw and normalised in place.
"""

import collections
import concurrent.futures
import os

import numpy

from stages import _audio, _dither, _fbank, _fbank_kaldi, _kaldi_io
from stages._labels import read_lines
from stages._source import open_source
from stages._stage import Progress, StageError, atomic_file, parser, run, write_json

SPLITS = ("train", "dev", "test")
CMVN = "global_fbank_cmvn.txt"
PORTABLE = "kaldi-native-fbank"
KALDI = "kaldi"
_COMPILED_IN = "compiled into Kaldi"
_MIN_VARIANCE = 1e-20  # Kaldi's floor
_MAX_WORKERS = 4

Row = collections.namedtuple("Row", "utterance path container rate_hz num_samples")


def parse(arguments):
    """The command line, checked."""
    options = parser(__doc__)
    options.add_argument("--data", required=True, metavar="PATH", help="what the corpus was read from")
    options.add_argument("--corpus", required=True, metavar="DIR", help="the corpus stage's results")
    options.add_argument("--conf", required=True, metavar="DIR", help="holds fbank.conf")
    options.add_argument(
        "--dither-draw-order",
        choices=_dither.DRAW_ORDERS,
        help="which uniform of a noise sample is drawn first: a matter of the compiler that Kaldi was built with "
        "(default: u1-first, as g++ has it; not with --implementation kaldi)",
    )
    options.add_argument(
        "--implementation",
        choices=(PORTABLE, KALDI),
        default=PORTABLE,
        help="what computes the features (default: kaldi-native-fbank)",
    )
    options = options.parse_args(arguments)
    if options.implementation == KALDI and options.dither_draw_order:
        raise StageError("--dither-draw-order is compiled into Kaldi", "Leave it out.")
    return options


def main(arguments):
    options = parse(arguments)
    fbank_options = _fbank.read_options(os.path.join(options.conf, "fbank.conf"))
    rows = {split: read_audio_index(os.path.join(options.corpus, split, "audio.tsv")) for split in SPLITS}
    if not rows["train"]:
        raise StageError("{}: train is empty, so there are no statistics".format(options.corpus))
    for split in SPLITS:
        os.mkdir(os.path.join(options.out, split))
    if options.implementation == KALDI:
        draw_order = _COMPILED_IN
        frames = make_by_kaldi(options, fbank_options, rows)
    else:
        draw_order = options.dither_draw_order or _dither.U1_FIRST
        frames = make_portable(options.out, RawFeatures(options.data, fbank_options, draw_order), rows)

    write_json(
        os.path.join(options.out, "summary.json"),
        {
            "dither_draw_order": draw_order,
            "frames": frames,
            "implementation": options.implementation,
            "options": fbank_options,
        },
    )


def make_portable(out, raw_features, rows):
    """Write all splits' archives, indexes and the statistics into `out`; returns the frames by split."""
    frames = {}
    norm = None
    for split in SPLITS:  # train first: its statistics normalise all
        path = os.path.join(out, split, "fbank.ark")
        with atomic_file(path, "w+b") as stream:
            progress = Progress("features " + split, len(rows[split]))
            offsets, stats = write_raw(stream, raw_features.of_split(rows[split]), progress)
            if split == "train":
                cmvn_path = os.path.join(out, CMVN)
                with atomic_file(cmvn_path, "w") as text:
                    _kaldi_io.write_text_matrix(text, stats.astype(numpy.float32))
                norm = normalisation(_kaldi_io.read_text_matrix(cmvn_path))
            frames[split] = normalise(stream, offsets, norm)
        with atomic_file(os.path.join(out, split, "fbank.scp"), "w") as index:
            index.writelines("{} {}/fbank.ark:{}\n".format(key, split, offset) for key, offset in offsets)
    return frames


def make_by_kaldi(options, fbank_options, rows):
    """The same files as `make_portable`, by Kaldi's programs; returns the frames by split."""
    config = os.path.join(options.conf, "fbank.conf")
    kaldi = _fbank_kaldi.KaldiFeatures(options.out, options.obs, config, fbank_options)
    waves = Waves(options.data, fbank_options)
    frames = {}
    for split in SPLITS:
        if not rows[split]:
            frames[split] = kaldi.empty(split)  # Kaldi's programs end with an error where there is nothing to do
            continue
        kaldi.raw(split, rows[split], waves.read, Progress("features " + split, len(rows[split])))
        if split == "train":
            kaldi.statistics(split, CMVN)
        frames[split] = kaldi.normalised(split, rows[split], CMVN)
    return frames


class Waves:
    """The samples of a corpus's rows."""

    def __init__(self, data, options):
        self._options = options
        self._source = open_source(data)

    def read(self, row):
        """int16 samples (num_samples,); StageError where the wave is not the one of the audio index."""
        name = "{}: {}".format(row.utterance, row.path)
        if row.rate_hz != self._options["sample-frequency"]:
            raise StageError("{}: {} Hz, not {:g}".format(name, row.rate_hz, self._options["sample-frequency"]))
        if not _fbank.num_frames(row.num_samples, self._options):
            raise StageError("{}: {} samples hold no frame".format(name, row.num_samples))
        data = self._source.read(row.path)
        wave = _audio.parse(data, name)
        if (wave.container, wave.rate_hz, wave.num_samples) != (row.container, row.rate_hz, row.num_samples):
            raise StageError("{}: not the wave that the corpus stage saw".format(name), "Run the corpus stage again.")
        return _audio.samples(data, wave)


class RawFeatures:
    """Features before normalisation, a split at a time, by kaldi-native-fbank."""

    def __init__(self, data, options, draw_order):
        self._options = options
        self._waves = Waves(data, options)
        self._filter_bank = _fbank.FilterBank(options, draw_order)

    def of_split(self, rows):
        """Yield (utterance id, (num_frames, num_features) float32) in the order of `rows`.

        Threads share the work (NumPy and the library leave the interpreter free for most of it). What they make does
        not depend on their number: an utterance's noise follows from the frames before it, counted here.
        """
        seeds = _dither.SeedStream()  # each split is a process of its own in the reference
        workers = min(_MAX_WORKERS, len(os.sched_getaffinity(0)))
        pending = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            for row in rows:
                # Read here, in order: an archive has one position. At most a few waves wait at a time.
                samples = self._waves.read(row)
                task = pool.submit(
                    self._filter_bank.compute, samples, seeds.take(_fbank.num_frames(row.num_samples, self._options))
                )
                pending.append((row.utterance, task))
                if len(pending) > workers:
                    yield self._finished(*pending.popleft())
            while pending:
                yield self._finished(*pending.popleft())

    @staticmethod
    def _finished(utterance, task):
        features = task.result()
        if not numpy.isfinite(features).all():
            raise StageError("{}: its features are not finite".format(utterance))
        return utterance, features


def read_audio_index(path):
    """The rows of an audio.tsv."""
    rows = []
    for line in read_lines(path):
        try:
            utterance, name, container, rate_hz, num_samples = line.split("\t")
            rows.append(Row(utterance, name, container, int(rate_hz), int(num_samples)))
        except ValueError:
            raise StageError("{}: not a line of an audio index: {!r}".format(path, line)) from None
    return rows


def write_raw(stream, features, progress):
    """Write an archive; returns ([(id, offset)], statistics (2, dimensions + 1) float64 as Kaldi's AccCmvnStats).

    Row 0 holds sums and, last, the number of frames; row 1 sums of squares and 0. Products are float32 and sums
    float64, added frame by frame in order, as in Kaldi.
    """
    offsets = []
    stats = None
    for utterance, matrix in features:
        offsets.append((utterance, _kaldi_io.write_matrix(stream, utterance, matrix)))
        if stats is None:
            stats = numpy.zeros((2, matrix.shape[1] + 1))
        stats[0, :-1] = _add_in_order(stats[0, :-1], matrix)
        stats[1, :-1] = _add_in_order(stats[1, :-1], matrix * matrix)
        stats[0, -1] += matrix.shape[0]
        progress.advance()
    return offsets, stats


def _add_in_order(start, rows):
    # Along the first of two axes NumPy adds row after row; it never sums in pairs there.
    return numpy.add.reduce(numpy.vstack([start[numpy.newaxis], rows.astype(numpy.float64)]), axis=0)


def normalisation(stats):
    """(scale, offset), each (num_features,) float32, of apply-cmvn --norm-vars=true: f * 1/sigma + -mu/sigma."""
    mean = stats[0, :-1] / stats[0, -1]
    variance = numpy.maximum(stats[1, :-1] / stats[0, -1] - mean * mean, _MIN_VARIANCE)
    scale = 1.0 / numpy.sqrt(variance)
    return scale.astype(numpy.float32), (-(mean * scale)).astype(numpy.float32)


def normalise(stream, offsets, norm):
    """Normalise every matrix of an open archive in place; returns the number of frames."""
    scale, offset = norm
    frames = 0
    for utterance, position in offsets:
        stream.seek(position)
        matrix = _kaldi_io.read_matrix(stream, utterance)
        stream.seek(position - len(utterance.encode("utf-8")) - 1)
        _kaldi_io.write_matrix(stream, utterance, matrix * scale + offset)
        frames += matrix.shape[0]
    return frames


if __name__ == "__main__":
    run(main)
