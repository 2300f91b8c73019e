"""The dev set in memory, cut into batches of any size, for the bench's programs."""

import threading
import time

import numpy

from stages.formats import bins
from stages.shared import architecture

AT_LEAST = 8  # utterances that each core computes in a round: below that, a round is too short to be timed


class Speech:
    """Every utterance of a batches stage, with PyTorch's outputs where they are given.

    Attributes:
        rows: (utterances, 390, 243) float32.
        frames: frames of the model's output that belong to each utterance; the rest is padding.
        expected: (utterances, 195, 41) float32, or None.
    """

    def __init__(self, folder, reference=None):
        manifest = bins.read_manifest(folder)
        size = manifest["batch_size"]
        batches = bins.list_batches(folder, manifest)
        places = [(item["batch"], item["row"]) for item in manifest["utterances"]]
        inputs = [bins.read_batch(batch, size) for batch in batches]
        self.rows = numpy.stack([inputs[batch][row] for batch, row in places])
        self.frames = [item["output_frames"] for item in manifest["utterances"]]
        self.expected = None
        if reference is not None:
            outputs = [bins.read_output(reference, batch, size) for batch in batches]
            self.expected = numpy.stack([outputs[batch][:, row] for batch, row in places])

    def picked(self, size, count):
        """`count` lists of `size` utterances' numbers, one after the other; after the last comes the first."""
        return [[(number * size + row) % len(self.rows) for row in range(size)] for number in range(count)]

    def symbols(self, outputs):
        """The likeliest class of every frame that is no padding, an utterance after the other."""
        return [values[:frames].argmax(axis=1) for values, frames in zip(outputs, self.frames)]


def batches_in_a_round(size, cores, side_by_side):
    """How many batches of `size` a round has, so that every core computes at least AT_LEAST utterances."""
    if side_by_side:
        return cores * max(1, AT_LEAST // size)
    return max(1, cores * AT_LEAST // size)


def timed(runners, items):
    """(seconds, outputs) of all items: each runner has a thread and takes the next item when it has done one."""
    outputs = [None] * len(items)
    if len(runners) == 1:
        began_s = time.perf_counter()
        for index, item in enumerate(items):
            outputs[index] = runners[0](item)
        return time.perf_counter() - began_s, outputs
    numbers = iter(range(len(items)))
    lock = threading.Lock()
    failures = []

    def work(runner):
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


def flop_an_utterance():
    """Floating-point operations that the model asks for: products and convolutions, a multiply-add being two."""
    frames, hidden, channels = architecture.OUTPUT_FRAMES, architecture.HIDDEN, architecture.CHANNELS
    middle = (architecture.COLUMNS + 1) // 2
    convolutions = architecture.ROWS * middle * channels * 9
    convolutions += frames * architecture.CONV_FEATURES * channels * channels * 9
    widths = [channels * architecture.CONV_FEATURES] + [2 * hidden] * (architecture.LAYERS - 1)
    layers = sum(2 * frames * 4 * hidden * (width + hidden) for width in widths)
    return 2 * (convolutions + layers + frames * 2 * hidden * architecture.CLASSES)
