"""The demo training's recipe as pure functions: the learning rate, the help of the alignment, the batches."""

from __future__ import annotations

import math
from typing import Sequence

import numpy as np

from stages.shared import architecture

_WARM_UP_STEPS = 60
_ALIGNED_SHARE = 0.4  # of all steps, over which the weight of the frame cross-entropy goes from 1 to 0
_LENGTH_NOISE_ROWS = 8
_MOST_EXTRA_ROWS = 60  # beyond the longest utterance of the set


def learning_rate(step: int, num_steps: int, peak: float) -> float:
    """Linear from 0 to `peak` over the first 60 steps (a tenth, in a short training), then a cosine to 0."""
    warm_up = min(_WARM_UP_STEPS, max(1, num_steps // 10))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, num_steps - warm_up)))


def alignment_weight(step: int, num_steps: int) -> float:
    """Of the frame cross-entropy: 1 at the start, 0 after two fifths of all steps."""
    return max(0.0, 1.0 - step / (_ALIGNED_SHARE * num_steps))


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[tuple[np.ndarray, int]]:
    """Indices in batches of similar length, the batches shuffled: a pure function of its arguments.

    Args:
        lengths: rows of each example.

    Returns:
        list of (indices (<= batch_size,), extra zero rows to pad the batch with, even).
    """
    random = np.random.RandomState((seed * 1000003 + epoch) % 2**32)
    # A little noise on the lengths, so that an epoch's batches are not the last one's.
    order = np.argsort(
        np.asarray(lengths) + random.uniform(-_LENGTH_NOISE_ROWS, _LENGTH_NOISE_ROWS, len(lengths)), kind="stable"
    )
    count = math.ceil(len(order) / batch_size)
    groups = [order[index * batch_size : (index + 1) * batch_size] for index in range(count)]
    longest = max(lengths)
    result = []
    for group in random.permutation(count):
        room = max(
            0, min(architecture.ROWS, longest + _MOST_EXTRA_ROWS) - max(lengths[index] for index in groups[group])
        )
        # Squared: mostly little padding, which costs time, sometimes much, as at inference.
        extra = int(room * random.uniform() ** 2) // 2 * 2
        result.append((groups[group], extra))
    return result
