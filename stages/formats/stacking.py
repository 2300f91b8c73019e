"""From features to the rows of the model's input: stacked with context, every second one kept, the number made even."""

from __future__ import annotations

from typing import Sequence

import numpy

from stages.shared.stage import StageError

RIGHT_CONTEXT = 2
KEEP_EVERY = 2
MAX_ROWS = 390  # 780 frames: 7.825 s
MAX_LABELS = 74
FEATURES = 81
COLUMNS = FEATURES * (1 + RIGHT_CONTEXT)


def checked(features: numpy.ndarray | None, phones: Sequence[str] | None) -> numpy.ndarray:
    """The stacked rows of one utterance, or StageError where the model or the scoring could not take it."""
    if features is None:
        raise StageError("it has labels, but no features")
    if not phones:
        raise StageError("it has features, but no labels")
    if features.shape[1] != FEATURES:
        raise StageError("{} features per frame, not {}".format(features.shape[1], FEATURES))
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


def stack(features: numpy.ndarray) -> numpy.ndarray:
    """(num_frames, 81) float32 -> (even number of rows, 243) float64, as the batches stage's description says."""
    frames = numpy.arange(0, len(features), KEEP_EVERY)[:, numpy.newaxis] + numpy.arange(1 + RIGHT_CONTEXT)
    kept = features.astype(numpy.float64)[numpy.minimum(frames, len(features) - 1)]
    rows = kept.reshape(len(frames), -1)
    return numpy.vstack([rows, numpy.zeros((len(rows) % 2, rows.shape[1]))])
