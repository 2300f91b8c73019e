"""Commands of this checkout as a machine of the other architecture would run them, its images under QEMU's user mode.

    python -m tests.integration._other_machine arm64 reproduce --bs 8 --loop 2
    python -m tests.integration._other_machine arm64 audit.rerun RUN --engine sandbox

The host's own Python and the sandbox stay this machine's; every stage runs in the other architecture's image. Records
name the emulated machine as their host, so audits treat the pair as two machines.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest.mock import patch

from repro.audit import rerun
from repro.audit.claims import Outcome
from repro.cli.main import main
from repro.graph import pipeline
from repro.machine import facts
from repro.run.session import Session

_SLOWER = 10  # an emulator, at the least: so much longer may a stage take


@contextmanager
def machine_of(architecture: str) -> Iterator[None]:
    """Sessions of this process take an architecture's images, and its records name it."""
    told, begin = facts.facts(), Session.__post_init__
    emulated = {
        "architecture": architecture,
        "cpu": f"{architecture}, emulated by QEMU's user mode on {told['cpu']}",
        "instruction_set": f"{architecture} emulated",
    }

    def begun(session: Session) -> None:
        begin(session)
        session.architecture = architecture

    def no_speeds(outcome: Outcome, *_: object) -> None:
        outcome.fact("speeds of this machine", "not examined: it is emulated")

    slower = {name: replace(stage, timeout_s=_SLOWER * stage.timeout_s) for name, stage in pipeline.STAGES.items()}
    with ExitStack() as patches:
        patches.enter_context(patch.object(Session, "__post_init__", begun))
        patches.enter_context(patch.object(facts, "facts", lambda: {**told, **emulated}))
        patches.enter_context(patch.object(facts, "instruction_set", lambda: emulated["instruction_set"]))
        patches.enter_context(patch.dict(pipeline.STAGES, slower))
        patches.enter_context(patch.object(rerun, "examine_speeds", no_speeds))
        yield


def run_as(architecture: str, words: Sequence[str]) -> None:
    """Run one command; it ends the process as the command does."""
    with machine_of(architecture):
        sys.argv = ["invoke", *words]
        main()


if __name__ == "__main__":
    run_as(sys.argv[1], sys.argv[2:])
