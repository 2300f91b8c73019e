"""Options, and a check, that stages with and without ONNX Runtime share."""

from __future__ import annotations

import argparse
import os

from stages.shared.stage import StageError


def batch_size(parser: argparse.ArgumentParser) -> None:
    """Add the option --bs, a whole number from 1."""
    parser.add_argument("--bs", required=True, type=positive, metavar="B", help="utterances in a batch")


def available_threads() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def require_batch_size(path: str, has: int | None, wanted: int) -> None:
    """Refuse a model that is fixed to another batch size than the one wanted; `has` is None where it takes any."""
    if has not in (None, wanted):
        raise StageError(
            "{} takes batches of {}, not {}".format(path, has, wanted),
            "run the stage convert with --bs {}".format(wanted),
        )


def devices(parser: argparse.ArgumentParser) -> None:
    """Add the option --num-devices: how many chips the container was given; the runtime numbers them from 0."""
    parser.add_argument("--num-devices", type=positive, default=1, metavar="N", help="NPU chips given (default: 1)")


def cann(parser: argparse.ArgumentParser) -> None:
    """Add the option --cann: what the host's own CANN says of itself, where the image has none."""
    parser.add_argument("--cann", default="", metavar="IDENTITY", help="of the host's CANN, which must be the one here")


def loop(parser: argparse.ArgumentParser) -> None:
    """Add the option --loop: how many executions are timed."""
    parser.add_argument("--loop", type=positive, default=100, metavar="N", help="timed executions (default: 100)")


def positive(text: str) -> int:
    """A whole number from 1, as argparse's type."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1: " + text)
    return value
