"""What tasks.py needs to be thin: errors turned into messages and exit codes, options turned into requests."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from repro.base.errors import EXIT_NOT_REPRODUCED
from repro.base.utf8 import insist_on_utf8
from repro.cli.ending import insist_on_streams, tell

HELP = {
    "bs": "batch size: one number, a list (1,8,64), or all (1,4,8,16,32,64, the published table's)",
    "data": "TIMIT's folder or data.zip, or the word demo; left out: data/data.zip, data/TIMIT, else the demo corpus",
    "checkpoint": "the model's .pth file, or the word demo; left out: the one in data/, else the demo's",
    "engine": "docker, podman, sandbox (embedded: no daemon, no root), or auto: the first of these that works here",
    "toolchain": "pinned (the compatibility table to the letter), portable, or auto: pinned on an Ascend host that has "
    "its sources, else portable; the report lists every deviation",
    "device": "what converts, infers and is timed: cpu, or npu (an Ascend 310P3, with CANN from data/sources)",
    "devices": "NPU device numbers (0 or 0,1) that share the batches; left out: the first idle chip",
    "precision": "number format on the CPU: fp32, the model's own, or bf16: 2.5 times as fast or more on a processor "
    "with AMX, for a few digits less; shown in the report, and never compared with the table",
    "precision-mode": "atc's --precision_mode; left out: the vendor's default, as in the published table",
    "decode": "Greedy (the published table's) or Beam",
    "beam-width": "hypotheses kept by Beam (10)",
    "lm-alpha": "NUMBER: weight of the bigram language model in Beam (0.1)",
    "split": "dev (the published table's) or test",
    "loop": "timed executions for throughput and latency (100, the published table's)",
    "skip-bad": "leave out utterances that cannot be used, listed and counted in the report, instead of stopping",
    "force": "run again what is stored already; the result must come out the same",
    "plan": "say what would run and why, and run nothing",
    "offline": "use no network: what is not fetched is an error",
    "arch": "amd64, arm64 or both, separated by a comma; left out: this machine's",
}


def help_for(*names: str) -> dict[str, str]:
    """The help texts of some options, in Invoke's form."""
    return {name: HELP[name] for name in names}


def reporting(task: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors into a message on stderr and an exit code, as README's table says."""

    @functools.wraps(task)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        insist_on_streams()
        insist_on_utf8()
        try:
            return task(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, it gets its message and its exit code
            sys.exit(tell(error))
        except KeyboardInterrupt as error:
            sys.exit(tell(error))

    return wrapped


def exit_with_verdict(document: dict[str, Any]) -> None:
    """Exit 1 when a comparison was made and contradicts; otherwise the run is a success."""
    if document["verdict"]["outcome"] == "not-reproduced":
        sys.exit(EXIT_NOT_REPRODUCED)
