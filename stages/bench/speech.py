"""The dev set in memory, cut into batches of any size, for the bench's programs."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Sequence

import numpy

from stages.formats import bins
from stages.shared import architecture

AT_LEAST = 8  # utterances that each core computes in a round: below that, a round is too short to be timed


class Speech:
    """Every utterance of a batches stage, with PyTorch's outputs where they are given.

    Attributes:
        rows: (utterances, 390, 243) float32.
        frames: frames of the model's output that belong to each utterance; the rest is padding.
        expected: (utterances, 195, 41) float32; empty without `reference`.
    """

    def __init__(self, folder: str, reference: str | None = None) -> None:
        manifest = bins.read_manifest(folder)
        size = manifest.batch_size
        batches = bins.list_batches(folder, manifest)
        places = [(placed.batch, placed.row) for placed in manifest.utterances]
        inputs = [bins.read_batch(batch, size) for batch in batches]
        self.rows = numpy.stack([inputs[batch][row] for batch, row in places])
        self.frames = [placed.output_frames for placed in manifest.utterances]
        self.expected = numpy.empty((0, *architecture.output_shape(1)[::2]), numpy.float32)
        if reference is not None:
            outputs = [bins.read_output(reference, batch, size) for batch in batches]
            self.expected = numpy.stack([outputs[batch][:, row] for batch, row in places])

    def picked(self, size: int, count: int) -> list[list[int]]:
        """`count` lists of `size` utterances' numbers, one after the other; after the last comes the first."""
        return [[(number * size + row) % len(self.rows) for row in range(size)] for number in range(count)]

    def symbols(self, outputs: numpy.ndarray) -> list[numpy.ndarray]:
        """The likeliest class of every frame that is no padding, an utterance after the other."""
        return [values[:frames].argmax(axis=1) for values, frames in zip(outputs, self.frames)]


def batches_in_a_round(size: int, cores: int, *, side_by_side: bool) -> int:
    """How many batches of `size` a round has, so that every core computes at least AT_LEAST utterances."""
    if side_by_side:
        return cores * max(1, AT_LEAST // size)
    return max(1, cores * AT_LEAST // size)


def timed(runners: Sequence[Callable[[Any], Any]], items: Sequence[Any]) -> tuple[float, list[Any]]:
    """(seconds, outputs) of all items: each runner has a thread and takes the next item when it has done one."""
    outputs: list[Any] = [None] * len(items)
    if len(runners) == 1:
        began_s = time.perf_counter()
        for index, item in enumerate(items):
            outputs[index] = runners[0](item)
        return time.perf_counter() - began_s, outputs
    numbers = iter(range(len(items)))
    lock = threading.Lock()
    failures = []

    def work(runner: Callable[[Any], Any]) -> None:
        try:
            while True:
                with lock:
                    index = next(numbers, None)
                if index is None:
                    return
                outputs[index] = runner(items[index])
        except BaseException as error:  # noqa: BLE001 - raised again where the thread is joined
            failures.append(error)

    threads = [threading.Thread(target=work, args=(runner,)) for runner in runners]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began_s
    if failures:
        raise failures[0]
    return seconds, outputs


def flop_an_utterance() -> int:
    """Floating-point operations that the model asks for: products and convolutions, a multiply-add being two."""
    frames, hidden, channels = architecture.OUTPUT_FRAMES, architecture.HIDDEN, architecture.CHANNELS
    middle = (architecture.COLUMNS + 1) // 2
    convolutions = architecture.ROWS * middle * channels * 9
    convolutions += frames * architecture.CONV_FEATURES * channels * channels * 9
    widths = [channels * architecture.CONV_FEATURES] + [2 * hidden] * (architecture.LAYERS - 1)
    layers = sum(2 * frames * 4 * hidden * (width + hidden) for width in widths)
    return 2 * (convolutions + layers + frames * 2 * hidden * architecture.CLASSES)
